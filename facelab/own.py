"""Your own condition: a table of names and numbers beside a folder of pictures (lesson 07).

    number v of a column from `low` to `high` -> (cos a, sin a), a = pi (v - low) / (high - low)

A condition of 0 is one that is not said, so a number cannot simply be stretched over [-1, 1]: the one in the middle could
not be said. On half a circle none is at the origin, and neighbours stay neighbours. Yes and no are +1 and -1, as everywhere.
"""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from facelab.attributes import Attributes
from facelab.data import Pictures

SHOWN = 10  # wrong rows that are named; of the others only the number is told
YES_NO = {"yes": 1.0, "true": 1.0, "no": -1.0, "false": -1.0}


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a table tells of each picture, in its own units: `ranges` holds (low, high) of a number, None for yes or no."""

    ranges: dict[str, tuple[float, float] | None]

    @property
    def attributes(self) -> Attributes:
        """A name for each entry of a condition: one for a yes or no; for a number `name` and `name'`, cosine and sine."""
        names = {name: [name] if ends is None else [name, f"{name}'"] for name, ends in self.ranges.items()}
        return Attributes([entry for entries in names.values() for entry in entries], names)

    def encode(self, **wishes) -> Tensor:
        """(K,) the condition of what is wished, in the table's units: `columns.encode(angle=30, held=True)`.

        Raises:
            ValueError: for an unknown column, a number outside its range, or a yes-or-no that is neither.
        """
        attributes, cond = self.attributes, torch.zeros(len(self.attributes))
        for name, wish in wishes.items():
            if name not in self.ranges:
                raise ValueError(f"there is no column {name!r}: there are {', '.join(self.ranges)}.")
            at = attributes.index(name)
            if self.ranges[name] is None:
                cond[at] = attributes.encode(**{name: wish})[at]
            else:
                cond[at : at + 2] = torch.tensor(self._on_half_a_circle(name, wish))
        return cond

    def encode_many(self, table: Tensor) -> Tensor:
        """(N, K) conditions of rows (N, columns) in the table's units, columns in their order; NaN is not said."""
        parts = []
        for name, values in zip(self.ranges, table.double().T, strict=True):
            if self.ranges[name] is None:
                parts.append(values.nan_to_num(0.0)[:, None])
                continue
            low, high = self.ranges[name]
            angle = math.pi * (values - low) / (high - low)
            parts.append(torch.stack([angle.cos(), angle.sin()], 1).nan_to_num(0.0))
        return torch.cat(parts, 1).float()

    def _on_half_a_circle(self, name: str, value) -> tuple[float, float]:
        low, high = self.ranges[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"{name} is a number from {low:g} to {high:g}, got {value!r}.")
        angle = math.pi * (value - low) / (high - low)
        return math.cos(angle), math.sin(angle)


def from_csv(table, folder, side: int = 32, grey: bool = False) -> tuple[Pictures, Columns]:
    """Pictures with their conditions, from any table of names and numbers and the folder where the pictures lie.

    The first column names the picture's file; each other one is a number, or yes and no (0 and 1, -1 and 1, yes and no, true
    and false). An empty cell is not said. Fields are parted by commas, semicolons or tabs, the text is UTF-8. Pictures are
    cut to a square from the middle and brought to `side` pixels.

    Returns:
        (the pictures, what the columns are)

    Raises:
        ValueError: for a table that cannot be read, has no row or no column of numbers, or holds a column that is the same
            throughout; and for wrong rows, each by its number (the head is row 1) with what is wrong: another number of
            fields, a picture that is missing, is named twice, lies outside the folder or cannot be opened, or a cell that
            is no number.
    """
    table, folder = Path(table), Path(folder)
    head, rows = _rows(table)
    wrong, files, values, seen = [], [], [], {}
    for number, row in rows:
        complaints = [_wrong_file(row[0] if row else "", folder, seen, number)] if len(row) == len(head) else []
        if len(row) != len(head):
            complaints.append(f"has {len(row)} fields, and should have {len(head)}")
        numbers = [_number(cell) for cell in row[1:]]
        complaints += [
            f"{name} is {cell!r}, which is no number"
            for name, cell, value in zip(head[1:], row[1:], numbers, strict=False)
            if value is None
        ]
        complaints = [complaint for complaint in complaints if complaint]
        wrong += [f"row {number}: {complaint}" for complaint in complaints]
        if not complaints:
            files.append(folder / row[0])
            values.append(numbers)
    if not wrong:
        images, spoilt = _pictures(files, [number for number, _ in rows], side, grey)
        wrong += spoilt
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(f"{table.name}: {'; '.join(wrong[:SHOWN])}{more}.")
    numbers = torch.tensor(values, dtype=torch.float64)
    columns = _columns(head[1:], numbers, table.name)
    yes_no = torch.tensor([ends is None for ends in columns.ranges.values()])
    # Written as 0 and 1 or as -1 and 1, no is -1 from here on.
    numbers = torch.where(yes_no & (numbers == 0), -1.0, numbers)
    source = f"{len(files):,} pictures of your own, {table.name}: {', '.join(columns.ranges)}"
    return Pictures(images, columns.encode_many(numbers), columns.attributes, source), columns


def _rows(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The head, and each row that is not empty, with its number."""
    if not table.is_file():
        raise ValueError(f"there is no table {table}: name a CSV file, its first column the pictures' file names.")
    try:
        lines = table.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as failed:
        number = table.read_bytes()[: failed.start].count(b"\n") + 1
        raise ValueError(f"{table.name}: row {number}: is not UTF-8; save the table anew, as CSV in UTF-8.") from None
    first = lines[0] if lines else ""
    parted = max(",;\t", key=first.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=parted)]
    rows = [(number, row) for number, row in enumerate(rows, 1) if any(row)]
    if len(rows) < 2:
        raise ValueError(f"{table.name} has no row: the first names the columns, each other one a picture.")
    head = rows[0][1]
    if len(head) < 2 or not all(head[1:]) or len(set(head)) < len(head):
        raise ValueError(
            f"{table.name}: row 1: needs a column of file names and others with a name each, got {', '.join(head)}."
        )
    return head, rows[1:]


def _wrong_file(name: str, folder: Path, seen: dict[str, int], number: int) -> str:
    """What is wrong with a picture's name, "" if nothing is."""
    before = seen.setdefault(name, number)
    if not name:
        return "names no picture"
    if before != number:
        return f"{name} stands in row {before} already"
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        return f"{name} lies outside the folder"
    return "" if (folder / name).is_file() else f"{name} is not in the folder"


def _number(cell: str) -> float | None:
    """The number in a cell, NaN for an empty one, None for what is none."""
    if not cell:
        return math.nan
    if cell.lower() in YES_NO:
        return YES_NO[cell.lower()]
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _columns(names: list[str], values: Tensor, table: str) -> Columns:
    ranges: dict[str, tuple[float, float] | None] = {}
    for name, column in zip(names, values.T, strict=True):
        said = column[~column.isnan()]
        found = said.unique().tolist()
        if len(found) < 2:
            what = f"is {found[0]:g} in every row" if found else "is empty in every row"
            raise ValueError(f"{table}: the column {name} {what}, so it tells no picture from another: leave it out.")
        ranges[name] = None if found in ([0.0, 1.0], [-1.0, 1.0]) else (found[0], found[-1])
    return Columns(ranges)


def _pictures(files: list[Path], numbers: list[int], side: int, grey: bool) -> tuple[Tensor | None, list[str]]:
    """(N, 1 or 3, side, side) uint8, and what is wrong where one cannot be opened."""
    images, wrong = [], []
    for file, number in zip(files, numbers, strict=True):
        try:
            with Image.open(file) as opened:
                picture = ImageOps.fit(ImageOps.exif_transpose(opened).convert("L" if grey else "RGB"), (side, side))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            wrong.append(f"row {number}: {file.name} cannot be opened as a picture")
            continue
        images.append(np.asarray(picture).reshape(side, side, -1).transpose(2, 0, 1))
    return (torch.from_numpy(np.stack(images)) if images and not wrong else None), wrong
