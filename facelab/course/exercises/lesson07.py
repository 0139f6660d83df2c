"""Lesson 07: a number as a condition, and combinations that are held out of the training."""

import torch

from facelab.course.exercises import add


@add(
    lambda: [(torch.tensor([-60.0, -15.0, 0.0, 60.0]), -60.0, 60.0), (torch.tensor([1.0, 2.5, 3.0]), 1.0, 5.0)],
    """Where is the value between low and high, from 0 to 1?
    That share of half a turn, torch.pi, is the angle.
    Its cosine and its sine, side by side: torch.stack([...], 1).""",
    (
        "scaled to -1 .. 1, the middle value is 0, which means unspecified.",
        lambda v, a, b: torch.stack([2 * (v - a) / (b - a) - 1] * 2, 1),
    ),
    (
        "on a whole circle both ends are one point: half a turn.",
        lambda v, a, b: half_circle_encoding(v, a, (a + b) / 2),
    ),
    ("cosine and sine are swapped.", lambda v, a, b: half_circle_encoding(v, a, b).flip(1)),
)
def half_circle_encoding(value, low, high):
    angle = torch.pi * (value - low) / (high - low)
    return torch.stack([angle.cos(), angle.sin()], 1)


@add(
    lambda: [(torch.tensor([20.0, 20, 0, 0, 15, -20, 20]), torch.tensor([30.0, 0, 30, 0, 30, -30, 20]))],
    """Each of the two holds often on its own; both at once are held out.
    & is true where both boolean tensors are; put each comparison in brackets.""",
    ("that holds out either beyond its limit: hold out both at once.", lambda h, t: (h > 15) | (t > 20)),
    ("those are the images for training.", lambda h, t: ~held_out_combination(h, t)),
    ("the limits themselves belong to the training images: beyond means >.", lambda h, t: (h >= 15) & (t >= 20)),
)
def held_out_combination(hand, tool):
    return (hand > 15) & (tool > 20)
