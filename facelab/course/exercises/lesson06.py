"""Lesson 06: the repairs of published lines."""

import torch

from facelab.course.exercises import add, randn


@add(
    lambda: [(torch.tensor([-3.0, -1.0, 0.0, 1.0]),), (randn(2, 1, 3, 3),)],
    """The images were right, and then came x * 2 - 1. Undo that, last operation first.
    Add 1, then halve: -3 becomes -1, and 1 stays 1.""",
    ("clipping turns all dark grey black: undo the scaling.", lambda x: x.clamp(-1, 1)),
    ("that scales them a third time: undo x * 2 - 1, do not repeat it.", lambda x: x * 2 - 1),
    ("the operations are undone in the wrong order: first add 1, then halve.", lambda x: x / 2 + 1),
)
def undo_double_scaling(x):
    return (x + 1) / 2


@add(
    lambda: [(torch.tensor([0.0, 0.0004, 0.25, 0.5004, 0.9985, 0.9995, 0.99999]), 1000)],
    """There are T timesteps from 0 to T - 1, equally likely: how wide is the part of [0, 1) that each one gets?
    Each gets 1 / T, so u * T runs from 0 to just below T, and the timestep is its whole part.
    .long() cuts off the fraction.""",
    ("the last timestep, where sampling starts, is never trained.", lambda u, n: (u * (n - 1)).long()),
    ("rounding makes 0 half as likely, and can return T: use .long().", lambda u, n: (u * n).round().long()),
    ("these run from 1 to T: the first timestep is 0, and T is too large.", lambda u, n: (u * n).long() + 1),
)
def sample_timesteps(u, num_timesteps):
    return (u * num_timesteps).long()


@add(
    lambda: [(5.268, 4.356), (10.0, 5.0), (4.0, 5.0)],
    """A distance is better if it is smaller, so the improvement is before minus after.
    As a share of the start: divided by `before`.""",
    ("the sign says that larger is better: a distance improves by falling.", lambda b, a: (a - b) / b),
    ("it is a share of the start, `before`, not of the end.", lambda b, a: (b - a) / a),
    ("that is the difference, in the units of the distance: divide by `before`.", lambda b, a: b - a),
)
def relative_improvement(before, after):
    return (before - after) / before


_RATES = ((0.6, 0.8, 0.0), (0.6, 0.8, 0.5), (0.8, 0.6, 0.6))


@add(
    lambda: [(randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), *rates) for rates in _RATES],
    """The noise of x_s has variance sigma_s squared. Fresh noise of standard deviation noise_std is added afterwards.
    So the predicted noise may have the variance sigma_s**2 - noise_std**2. Its factor is the square root of that.""",
    ("that is the factor of the fresh noise: at 0 all noise would be gone.", lambda x, e, a, s, f: a * x + f * e),
    ("with the fresh noise on top there is too much noise.", lambda x, e, a, s, f: a * x + s * e),
    ("variances add up, so subtract the squares.", lambda x, e, a, s, f: a * x + (s - f) * e),
)
def ddim_step_eta(x_0_hat, eps_hat, signal_s, sigma_s, noise_std):
    return signal_s * x_0_hat + (sigma_s**2 - noise_std**2) ** 0.5 * eps_hat
