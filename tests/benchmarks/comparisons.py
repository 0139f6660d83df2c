"""How often the interval of a comparison of two models holds the true difference: `python tests/benchmarks/comparisons.py`.

Gaussians in 16 dimensions, 500 samples each of the real distribution and of two models, 1,000 trials: how often the interval of
the difference of two Fréchet distances holds its expectation at this count, how wide it is relative to the true width (3.92
standard deviations of the difference over the trials), and the results of the rule. About a minute.
"""

import os
import sys
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from facelab.evaluation.report import compare

TRIALS, DIMENSIONS, COUNT = 1000, 16, 500
# Each model: the offset of its mean in every dimension, and its standard deviations in the first and the last dimension.
CASES = {
    "equal models": ((0.0, 1.0, 1.0), (0.0, 1.0, 1.0)),
    "equal, both off": ((0.2, 1.0, 1.0), (0.2, 1.0, 1.0)),
    "off to two sides": ((0.2, 1.0, 1.0), (-0.2, 1.0, 1.0)),
    "b a little farther": ((0.1, 1.0, 1.0), (0.15, 1.0, 1.0)),
    "b much farther": ((0.0, 1.0, 1.0), (0.3, 1.0, 1.0)),
    "a narrow, b wide": ((0.0, 0.8, 0.8), (0.0, 1.2, 1.2)),
    "b has lost dimensions": ((0.0, 1.0, 1.0), (0.0, 1.0, 0.1)),
}


class Outcome(NamedTuple):
    """Of `trials` intervals: how many held the expectation, their mean relative width, and the results of the rule."""

    trials: int
    expected: float
    holds: int
    width: float
    a_nearer: int
    b_nearer: int
    inconclusive: int


def run(case: str, trials: int = TRIALS, dimensions: int = DIMENSIONS, count: int = COUNT) -> Outcome:
    """The rule in one of `CASES`. The expectation is the mean over the trials themselves."""
    generator, found = torch.Generator().manual_seed(0), []
    sets = [(0.0, 1.0, 1.0), *CASES[case]]
    for _ in range(trials):
        real, a, b = (
            torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
            * torch.linspace(first, last, dimensions)
            + offset
            for offset, first, last in sets
        )
        found.append(compare(real, a, b))
    values = torch.tensor([one.difference.value for one in found], dtype=torch.float64)
    expected, results = values.mean().item(), [one.result for one in found]
    holds = sum(one.difference.low <= expected <= one.difference.high for one in found)
    width = sum(one.difference.high - one.difference.low for one in found) / trials / (3.92 * values.std().item())
    counts = (results.count(result) for result in ("a is nearer", "b is nearer", "inconclusive"))
    return Outcome(trials, expected, holds, width, *counts)


def main():
    torch.set_num_threads(1)
    print(f"Gaussians in {DIMENSIONS} dimensions, {COUNT} samples each, {TRIALS:,} trials")
    print(f"{'case':24}{'expected':>10}{'held':>7}{'width':>8}{'a nearer':>10}{'b nearer':>10}{'inconclusive':>14}")
    for case in CASES:
        one = run(case)
        results = f"{one.a_nearer:>10}{one.b_nearer:>10}{one.inconclusive:>14}"
        print(f"{case:24}{one.expected:>10.3f}{one.holds:>7}{one.width:>8.2f}{results}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
