"""How often the verdict's interval holds the truth: `python tests/benchmarks/verdicts.py`. About a minute.

Gaussians in 16 dimensions, 500 pictures each of the real ones and of two models; in 1,000 draws, how often the interval of the
difference of two distances holds the expected difference at this count, how wide it is beside the truth (3.92 standard
deviations of the difference over the draws), and what the rule says.
"""

import os
import sys
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from facelab.scores import verdict

DRAWS, DIMENSIONS, COUNT = 1000, 16, 500
# Each model: how far its mean lies aside in every dimension, and its standard deviations, first to last dimension.
WORLDS = {
    "models alike": ((0.0, 1.0, 1.0), (0.0, 1.0, 1.0)),
    "alike, both off": ((0.2, 1.0, 1.0), (0.2, 1.0, 1.0)),
    "off to two sides": ((0.2, 1.0, 1.0), (-0.2, 1.0, 1.0)),
    "B a little farther": ((0.1, 1.0, 1.0), (0.15, 1.0, 1.0)),
    "B much farther": ((0.0, 1.0, 1.0), (0.3, 1.0, 1.0)),
    "A narrow, B wide": ((0.0, 0.8, 0.8), (0.0, 1.2, 1.2)),
    "B has lost dimensions": ((0.0, 1.0, 1.0), (0.0, 1.0, 0.1)),
}


class Tried(NamedTuple):
    """Of `draws` intervals, how many held the expectation, how wide they were on average, and the three verdicts."""

    draws: int
    expected: float
    holds: int
    width: float
    a_better: int
    b_better: int
    inconclusive: int


def tried(world: str, draws: int = DRAWS, dimensions: int = DIMENSIONS, count: int = COUNT) -> Tried:
    """The rule in one of `WORLDS`. The expectation is the mean over the draws themselves."""
    generator, found = torch.Generator().manual_seed(0), []
    sets = [(0.0, 1.0, 1.0), *WORLDS[world]]
    for _ in range(draws):
        real, a, b = (
            torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
            * torch.linspace(first, last, dimensions)
            + aside
            for aside, first, last in sets
        )
        found.append(verdict(real, a, b))
    values = torch.tensor([one.difference.value for one in found], dtype=torch.float64)
    expected, words = values.mean().item(), [one.word for one in found]
    holds = sum(one.difference.low <= expected <= one.difference.high for one in found)
    width = sum(one.difference.high - one.difference.low for one in found) / draws / (3.92 * values.std().item())
    return Tried(draws, expected, holds, width, *map(words.count, ("A better", "B better", "inconclusive")))


def main():
    torch.set_num_threads(1)
    print(f"Gaussians in {DIMENSIONS} dimensions, {COUNT} pictures each, {DRAWS:,} draws")
    print(f"{'world':24}{'expected':>10}{'held':>7}{'width':>8}{'A better':>10}{'B better':>10}{'inconclusive':>14}")
    for world in WORLDS:
        one = tried(world)
        verdicts = f"{one.a_better:>10}{one.b_better:>10}{one.inconclusive:>14}"
        print(f"{world:24}{one.expected:>10.3f}{one.holds:>7}{one.width:>8.2f}{verdicts}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
