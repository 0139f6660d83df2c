"""Intervals: published values, coverage in simulations, and the table that shows them."""

import json
import math
from typing import NamedTuple

import pytest
import torch

from facelab.evaluation.statistics import Interval, Table, average, difference, mean_interval, to_jsonable, wilson


def test_difference_of_proportions_as_published():
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10.
    for (a, m), (b, n), low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ]:
        found = difference(wilson(a, m), wilson(b, n))
        assert found.value == pytest.approx(a / m - b / n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_equals_scipys_and_ends_at_0_and_1():
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (10, 10), (3, 7), (81, 263)):
        scipys = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n)[1:] == (pytest.approx(scipys.low, abs=1e-4), pytest.approx(scipys.high, abs=1e-4), n)
    assert wilson(0, 10).low == 0 and wilson(10, 10).high == 1
    for hits, n in ((4, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match="hits must lie between 0 and n"):
            wilson(hits, n)


def test_average_by_hand():
    a, b = wilson(56, 70), wilson(48, 80)
    found = average([a, b])
    assert found.value == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - math.hypot(0.8 - a.low, 0.6 - b.low) / 2)
    assert found.high == pytest.approx(0.7 + math.hypot(a.high - 0.8, b.high - 0.6) / 2)


@pytest.mark.parametrize(
    ("p", "q", "m", "n"), [(0.95, 0.7, 30, 200), (0.99, 0.99, 200, 200), (0.5, 0.5, 40, 40), (1, 0.9, 20, 60)]
)
def test_intervals_cover_the_truth(p, q, m, n):
    """95 % intervals of the mean of two proportions, and of the difference of two such means, in 1,000 experiments."""
    generator, covered, covered_difference = torch.Generator().manual_seed(0), 0, 0

    def experiment():
        samples = [(torch.rand(k, generator=generator) < rate, k) for rate, k in ((p, m), (q, n))]
        return average([wilson(int(hits.sum()), k) for hits, k in samples])

    for _ in range(1000):
        one, two = experiment(), experiment()
        covered += one.low <= (p + q) / 2 <= one.high
        covered_difference += difference(one, two).low <= 0 <= difference(one, two).high
    assert 930 <= covered <= 990 and covered_difference >= 930


def test_mean_interval():
    found = mean_interval(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    error = math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    assert found == (3, pytest.approx(3 - 1.96 * error), pytest.approx(3 + 1.96 * error), 4)
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_interval(torch.ones(1))


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.9716, 0.9633, 0.9781, 2000), "0.972 [0.963, 0.978]"),
        (Interval(82.12, 77.5, 86.7), "82.1 [77.5, 86.7]"),
        (Interval(0.00031, -0.0002, 0.0008), "0.0003 [-0.0002, 0.0008]"),
        (Interval(math.nan, math.nan, math.nan), "-"),
    ],
)
def test_an_interval_as_text(interval, text):
    assert str(interval) == text


class Row(NamedTuple):
    name: str
    true_rate: Interval
    other: Interval | None


def test_a_table_as_text_html_and_json():
    table = Table((Row("Hat & tie", Interval(0.5, 0.4, 0.6, 9), None),), {"caption": "what is measured", "seed": 3})
    assert str(table).splitlines() == [
        "what is measured",
        "name       true rate             other",
        "Hat & tie  0.500 [0.400, 0.600]  -",
    ]
    assert table._repr_html_().count("<th>") == 3 and "Hat &amp; tie" in table._repr_html_()
    found = json.loads(json.dumps(table.to_json(), allow_nan=False))
    row = {"name": "Hat & tie", "true_rate": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}, "other": None}
    assert found == {"about": {"caption": "what is measured", "seed": 3}, "rows": [row]}
    nan = Interval(math.nan, 0.0, 1.0)
    found = to_jsonable({"a": nan, 2: torch.ones(2), "b": torch.tensor(3.0)})
    assert found == {"a": {"value": None, "low": 0, "high": 1}, "2": [1, 1], "b": 3}
