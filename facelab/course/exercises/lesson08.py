"""Lesson 08: a second-order step without a further function evaluation."""

from facelab.course.exercises import add, randn


@add(
    lambda: [(randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)), (randn(1, 1, 2, 2), randn(1, 1, 2, 2))],
    """From `before` to `now` the direction changed by now - before, over one step.
    Half a step further it changes by half of that, from `now` on.""",
    ("that is the middle of the previous step: extrapolate from `now`.", lambda n, b: (n + b) / 2),
    ("that is a whole step further: the middle of the next step is half of it.", lambda n, b: 2 * n - b),
    ("that is the change alone: add it to `now`.", lambda n, b: (n - b) / 2),
)
def adams_bashforth_step(now, before):
    return now + (now - before) / 2
