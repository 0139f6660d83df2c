"""Measuring what was made: is what was asked what is read back? (lessons 02 and 05)"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.guidance import classifier_free
from facelab.sample import DDIM, noise, sample


class Proportion(NamedTuple):
    """A share of `count` trials, with its 95 % interval."""

    share: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion(hits: int, count: int, z: float = 1.96) -> Proportion:
    """The share hits / count and its interval: Wilson 1927, which holds near 0 and 1 and at small counts too.

    Raises:
        ValueError: unless 0 <= hits <= count and count > 0.
    """
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"hits must be from 0 to count, and count above 0; got {hits} of {count}.")
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # At 0 and at `count` hits the interval ends exactly there, which rounding would miss.
    return Proportion(share, 0.0 if hits == 0 else middle - half, 1.0 if hits == count else middle + half, count)


def asked_is_read(pictures: Tensor, cond: Tensor, judge) -> Proportion:
    """How many of the pictures (B, C, H, W) the judge reads as the one attribute that cond (B, K) asks for."""
    if not judge.attributes.exclusive:
        raise ValueError("asked_is_read takes a judge whose attributes exclude each other, such as the digits'.")
    hits = (judge.read(pictures) == cond.argmax(1).cpu()).sum()
    return proportion(int(hits), len(pictures))


def asked_of_each(attributes, each: int) -> Tensor:
    """(each * K, K): the same number of requests for each attribute alone, in turn."""
    return torch.eye(len(attributes)).repeat(each, 1)


def read_back(net, judge, scale: float, each: int, steps: int = 10, seed: int = 1) -> Proportion:
    """Ask a Denoiser for `each` of every attribute alone, draw with DDIM, let the judge read: what share is obeyed."""
    where = next(net.parameters()).device
    cond, x_T = (
        asked_of_each(net.attributes, each).to(where),
        noise(each * len(net.attributes), net.shape, seed).to(where),
    )
    parts = zip(x_T.split(100), cond.split(100), strict=True)
    drawn = [sample(classifier_free(net, scale), x, c, DDIM(net.schedule), steps) for x, c in parts]
    return asked_is_read(torch.cat(drawn).cpu(), cond, judge)
