"""What else moves when one thing is asked for, and whom that hits (lesson 05).

    leak(i, j) = (j read of those asked for i - j read of those asked for no i)  -  the same among real faces with and without i

A request for a beard may bring men, as beards do; what it brings beyond that is the model's own. Both sides are readings of one
judge, whose errors are then in both, and only requests that say one attribute alone count: whatever else moves was not asked.
"""

import dataclasses
import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.control import plain
from facelab.data import Pictures
from facelab.metrics import Difference, Proportion, as_html, as_text, difference, proportion

PEOPLE = ("Male", "Young", "Pale_Skin")  # sex, age, skin: as far as the forty names tell of them


class Leak(NamedTuple):
    """Asked for `asked`, by how much more did `moved` move than in the data; `sure` where that is no luck of so many cells."""

    asked: str
    moved: str
    drawn: Difference
    real: Difference
    more: Difference
    sure: bool


@dataclasses.dataclass(frozen=True)
class Leakage:
    """Every cell of the matrix, row by row: asked attributes against all; on the diagonal, how far asking itself reaches."""

    cells: tuple[Leak, ...]
    asked: tuple[str, ...]
    names: tuple[str, ...]

    def matrix(self, part: str = "more") -> Tensor:
        """(asked, names) of `more`, `drawn` or `real`, float64; NaN where the data or the requests have no such answer."""
        found = [getattr(cell, part).value for cell in self.cells]
        return torch.tensor(found, dtype=torch.float64).reshape(len(self.asked), len(self.names))

    def strongest(self, count: int = 10) -> list[Leak]:
        """The leaks that are sure, the largest first; nothing on the diagonal."""
        found = [cell for cell in self.cells if cell.sure and cell.asked != cell.moved]
        return sorted(found, key=lambda cell: -abs(cell.more.value))[:count]

    def to_json(self) -> dict:
        """The three matrices and the ends of the intervals, rounded to four digits; null where not known."""

        def rounded(values):
            lines = values.reshape(len(self.asked), len(self.names)).tolist()
            return [[None if math.isnan(value) else round(value, 4) for value in line] for line in lines]

        ends = {end: torch.tensor([getattr(cell.more, end) for cell in self.cells]).double() for end in ("low", "high")}
        parts = {part: rounded(self.matrix(part)) for part in ("drawn", "real", "more")}
        strongest = [plain(cell) for cell in self.strongest(40)]
        ends = {f"more, {end}": rounded(values) for end, values in ends.items()}
        return {"asked": list(self.asked), "moved": list(self.names)} | parts | ends | {"strongest": strongest}

    def _cells(self) -> list[tuple[str, ...]]:
        head = ("asked", "moved", "drawn", "real", "more than in the data")
        return [head, *(tuple(map(str, cell[:5])) for cell in self.strongest())]

    def __str__(self) -> str:
        return as_text(self._cells())

    def _repr_html_(self) -> str:
        return as_html(self._cells())


def leakage(seen: Tensor, cond: Tensor, seen_real: Tensor, real: Pictures) -> Leakage:
    """The matrix of leaks, of requests that say one attribute alone; others do not count.

    Intervals are of 95 % each. Of 1,560 of them some 78 miss zero by luck, so that a leak is called sure only where an
    interval so much wider that hardly one of all would does not hold zero (Bonferroni).

    Args:
        seen: (B, K) readings of what was drawn for cond (B, K).
        seen_real: (N, K) the same judge's readings of the real pictures.

    Raises:
        ValueError: where no request says one attribute alone, or shapes do not fit.
    """
    _fits(seen, cond, seen_real, real)
    names, alone = real.attributes.names, _alone(cond)
    columns = [i for i in range(len(names)) if (cond[alone, i] != 0).any()]
    if not columns:
        raise ValueError("leakage takes requests that say one attribute alone, and none of these does.")
    wide, cells = NormalDist().inv_cdf(1 - 0.025 / (len(columns) * max(1, len(names) - 1))), []
    for i in columns:
        drawn = {sign: seen[alone & (cond[:, i].sign() == sign)] for sign in (1, -1)}
        with_it = {sign: seen_real[real.conds[:, i] == sign] for sign in (1, -1)}
        for j, moved in enumerate(names):
            cells.append(_leak(names[i], moved, drawn, with_it, j, wide))
    return Leakage(tuple(cells), tuple(names[i] for i in columns), names)


def _leak(asked: str, moved: str, drawn: dict, real: dict, j: int, wide: float) -> Leak:
    def moves(rows, z):
        if not all(len(some) for some in rows.values()):
            return Difference(math.nan, math.nan, math.nan)
        return difference(*(proportion(int((some[:, j] > 0).sum()), len(some), z) for some in rows.values()))

    (by, in_data), (surely, truly) = ((moves(drawn, z), moves(real, z)) for z in (1.96, wide))
    apart = difference(surely, truly)
    return Leak(asked, moved, by, in_data, difference(by, in_data), apart.low > 0 or apart.high < 0)


class Amplified(NamedTuple):
    """Among faces drawn for one answer, the share read as `people`, beside that of real faces with this answer.

    `beyond` is positive where the drawn share lies further than the real one on the side to which the data lean: where
    three in four who wear a hat are men, that all are.
    """

    asked: str
    people: str
    drawn: Proportion
    real: Proportion
    beyond: Difference


def amplification(seen: Tensor, cond: Tensor, seen_real: Tensor, real: Pictures, people=PEOPLE) -> list[Amplified]:
    """Does a request for one thing bring the people it mostly goes with even more often than the data do? Zhao et al. 2017.

    Args:
        seen, cond, seen_real, real: as for `leakage`.
        people: the attributes that say who it is; those that `real` does not know are left out.

    Raises:
        ValueError: for shapes that do not fit.
    """
    _fits(seen, cond, seen_real, real)
    names, alone, rows = real.attributes.names, _alone(cond), []
    for j in (names.index(name) for name in people if name in names):
        usual = (seen_real[:, j] > 0).double().mean().item()
        for i in (i for i in range(len(names)) if i != j):
            for sign, word in ((1, names[i]), (-1, f"no {names[i]}")):
                found, with_it = seen[alone & (cond[:, i].sign() == sign)], seen_real[real.conds[:, i] == sign]
                if len(found) and len(with_it):
                    drawn, told = (proportion(int((x[:, j] > 0).sum()), len(x)) for x in (found, with_it))
                    beyond = difference(drawn, told) if told.share >= usual else difference(told, drawn)
                    rows.append(Amplified(word, names[j], drawn, told, beyond))
    return rows


def mean_amplification(rows: list[Amplified]) -> dict[str, Difference]:
    """{people: the mean of `beyond`}, its interval as if the answers had been drawn and read independently."""
    found = {}
    for people in dict.fromkeys(row.people for row in rows):
        some = [row.beyond for row in rows if row.people == people]
        value = sum(one.value for one in some) / len(some)
        below, above = (math.hypot(*(one.value - one[end] for one in some)) / len(some) for end in (1, 2))
        found[people] = Difference(value, value - below, value + above)
    return found


def _alone(cond: Tensor) -> Tensor:
    return (cond != 0).sum(1) == 1


def _fits(seen: Tensor, cond: Tensor, seen_real: Tensor, real: Pictures) -> None:
    if seen.shape != cond.shape or seen_real.shape != real.conds.shape or seen.shape[1:] != seen_real.shape[1:]:
        found = ", ".join(str(tuple(x.shape)) for x in (seen, cond, seen_real, real.conds))
        raise ValueError(
            f"readings and requests must be (B, {len(real.attributes)}), real ones (N, ...) alike, got {found}."
        )
