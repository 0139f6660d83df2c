"""95 % intervals of what is measured on samples, and the tables that show them.

(p + z^2/2n ± z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)          (the score interval of a proportion: Wilson 1927)
"""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


def as_cell(value) -> str:
    """A value, with its interval if it has one, as the cell of a table; "-" where there is none."""
    number = getattr(value, "value", value)
    if number is None or (isinstance(number, float) and math.isnan(number)):
        return "-"
    if not hasattr(value, "low"):
        return f"{value:.3f}" if isinstance(value, float) else str(value)
    largest = max(abs(value.value), abs(value.high))
    digits = 1 if largest >= 10 else 3 if largest >= 0.1 else 4
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


class Interval(NamedTuple):
    """A value with its 95 % interval, and the number of trials or values behind it where there is one."""

    value: float
    low: float
    high: float
    n: int | None = None

    __str__ = as_cell


NOT_AVAILABLE = Interval(math.nan, math.nan, math.nan)


def wilson(hits: float, n: int) -> Interval:
    """The proportion hits / n; hits may be fractional, as weighted ones are."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"hits must lie between 0 and n, and n above 0; got {hits} of {n}.")
    z = 1.96  # 95 %
    p, scale = hits / n, 1 + z**2 / n
    center, half = (p + z**2 / (2 * n)) / scale, z / scale * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At 0 and n hits the interval ends exactly there, which rounding would miss.
    return Interval(p, 0.0 if p == 0 else center - half, 1.0 if p == 1 else center + half, n)


def difference(a, b) -> Interval:
    """a - b of two independent values that have `value`, `low` and `high`.

    Squared distances to the ends add up: Newcombe 1998, method 10, for proportions; Zou and Donner 2008 for any intervals.
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    return Interval(value, low, value + math.hypot(a.high - a.value, b.value - b.low))


def average(values: Sequence) -> Interval:
    """The mean of independent values that have `value`, `low` and `high`; distances add up as in `difference`."""
    value, n = sum(v.value for v in values) / len(values), len(values)
    low = value - math.hypot(*(v.value - v.low for v in values)) / n
    return Interval(value, low, value + math.hypot(*(v.high - v.value for v in values)) / n)


def mean_interval(values: Tensor) -> Interval:
    """The mean of values (N,), N at least 2, plus or minus 1.96 standard errors."""
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a mean with its interval needs at least 2 values (N,), got shape {tuple(values.shape)}.")
    value, half = values.double().mean().item(), 1.96 * values.double().std().item() / math.sqrt(len(values))
    return Interval(value, value - half, value + half, len(values))


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text with aligned columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def to_jsonable(value):
    """Named tuples as dictionaries, tensors as lists, NaN as None."""
    value = value.tolist() if isinstance(value, Tensor) else value
    if hasattr(value, "_asdict"):
        value = {key: part for key, part in value._asdict().items() if key != "n" or part is not None}
    if isinstance(value, dict):
        return {str(key): to_jsonable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows, each a named tuple, and what they are about, with a `caption`; shown as text or HTML, written as JSON."""

    rows: tuple
    about: dict

    def cells(self) -> list[tuple[str, ...]]:
        """The header and the rows as strings."""
        head = tuple(name.replace("_", " ") for name in self.rows[0]._fields)
        return [head, *(tuple(map(as_cell, row)) for row in self.rows)]

    def to_json(self) -> dict:
        return {"about": to_jsonable(self.about), "rows": to_jsonable(self.rows)}

    def __str__(self) -> str:
        return f"{self.about['caption']}\n{as_text(self.cells())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.cells()]
        rows = [head.replace("td>", "th>"), *rows]
        return f"<p>{html.escape(self.about['caption'])}</p><table><tr>{'</tr><tr>'.join(rows)}</tr></table>"
