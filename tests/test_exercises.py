"""The exercises' checks: what is right is right however it is written."""

import math

import pytest
import torch
from torch.nn import functional as F

from facelab.exercises import EXERCISES
from facelab.metrics import proportion
from facelab.own import Columns
from facelab.schedule import Schedule


def wilson(hits, count):
    # The two roots of (share - p)^2 = z^2 p (1 - p) / count, which is what the formula solves.
    z, share = 1.96, hits / count
    a, b, c = 1 + z * z / count, -(2 * share + z * z / count), share * share
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return torch.tensor([(-b - root) / (2 * a), (-b + root) / (2 * a)])


def forgotten_whole(cond, luck, p):
    cond = cond.clone()
    cond[luck < p] = 0
    return cond


# Right answers, written another way than the reference.
OTHERWISE = {
    "every_tick": lambda u, ticks: torch.floor(u.double() * ticks).clamp(0, ticks - 1).to(torch.int32),
    "gain": lambda before, after: 1 - after / before,
    "scaled_once": lambda x: torch.lerp(x, torch.ones_like(x), 0.5),
    "carried_on": lambda x_0_hat, eps_hat, signal_s, sigma_s, fresh: x_0_hat.mul(signal_s).add(
        eps_hat, alpha=math.sqrt((sigma_s - fresh) * (sigma_s + fresh))
    ),
    "forgotten_whole": forgotten_whole,
    "zero_terminal": lambda signal: torch.lerp(
        torch.zeros(1), signal[:1], (signal - signal[-1]) / (signal[0] - signal[-1])
    ),
    "moving_average": lambda kept, new, decay: kept.lerp(new, 1 - decay),
    "wilson": wilson,
    "amplified": lambda cond: F.normalize(cond, dim=1) * math.sqrt(cond.shape[1]),
    "on_half_a_circle": lambda value, low, high: torch.view_as_real(
        torch.polar(torch.ones_like(value), math.pi * (value - low) / (high - low))
    ),
    "never_together": lambda hand, tool: torch.minimum(hand - 15, tool - 20) > 0,
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_right_in_another_way_is_right(name):
    assert EXERCISES[name].verdict(OTHERWISE[name]) == ""
    assert OTHERWISE[name] is not EXERCISES[name].reference


def test_the_references_are_what_the_package_does():
    assert EXERCISES["wilson"].reference(45, 50).tolist() == pytest.approx(proportion(45, 50)[1:3])
    signal = torch.tensor([0.99, 0.9, 0.75, 0.6], dtype=torch.float64)
    cured = Schedule(signal, (1 - signal**2).sqrt()).zero_terminal_snr().signal[:-1]
    torch.testing.assert_close(EXERCISES["zero_terminal"].reference(signal), cured)
    degrees = torch.tensor([-60.0, 0.0, 45.0])
    ours = Columns({"hand": (-60.0, 60.0)}).encode_many(degrees[:, None])
    torch.testing.assert_close(EXERCISES["on_half_a_circle"].reference(degrees, -60.0, 60.0), ours)
