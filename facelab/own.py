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
from PIL import Image, ImageOps
from torch import Tensor

from facelab.attributes import Attributes
from facelab.attributes import number as single_number
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

        Yes is True or 1; no is False, 0 or -1, as in a table. Not said is None, or left out.

        Raises:
            ValueError: for an unknown column, a number outside its range, or a yes-or-no that is neither.
        """
        row = dict.fromkeys(self.ranges, math.nan)
        for name, wish in wishes.items():
            if name not in self.ranges:
                raise ValueError(f"there is no column {name!r}: there are {', '.join(self.ranges)}.")
            row[name] = math.nan if wish is None else self._value(name, wish)
        return self.encode_many(torch.tensor([list(row.values())], dtype=torch.float64))[0]

    def encode_many(self, table: Tensor) -> Tensor:
        """(N, K) conditions of rows (N, columns) in the table's units, columns in their order; NaN is not said.

        Raises:
            ValueError: for another number of columns, a number outside its range, or a yes-or-no that is neither.
        """
        if table.ndim != 2 or table.shape[1] != len(self.ranges):
            raise ValueError(
                f"rows must be (N, {len(self.ranges)}): {', '.join(self.ranges)}; got {tuple(table.shape)}."
            )
        parts = []
        for name, values in zip(self.ranges, table.double().T, strict=True):
            if self.ranges[name] is None:
                self._refuse(name, values[~torch.isin(values, YES_OR_NO) & ~values.isnan()])
                parts.append(torch.where(values == 0, -1.0, values).nan_to_num(0.0)[:, None])
                continue
            low, high = self.ranges[name]
            # In float32 an end may come to lie a rounding further out.
            slack = max(abs(low), abs(high)) * 2**-23
            self._refuse(name, values[(values < low - slack) | (values > high + slack)])
            angle = math.pi * ((values - low) / (high - low)).clamp(0, 1)
            parts.append(torch.stack([angle.cos(), angle.sin()], 1).nan_to_num(0.0))
        return torch.cat(parts, 1).float()

    def _value(self, name: str, wish) -> float:
        value = wish.item() if getattr(wish, "ndim", None) == 0 else wish
        value = float(value) if isinstance(value, bool) and self.ranges[name] is None else single_number(value)
        if math.isnan(value):
            self._refuse(name, [wish])
        return value

    def _refuse(self, name: str, wrong) -> None:
        if len(wrong) > 0:
            got = f"{wrong[0]:g}" if isinstance(wrong, Tensor) else repr(wrong[0])
            ends = self.ranges[name]
            kind = f"a number from {ends[0]:g} to {ends[1]:g}" if ends else "yes (True or 1) or no (False, 0 or -1)"
            raise ValueError(f"{name} is {kind}, got {got}.")


YES_OR_NO = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)


def from_csv(table, folder, side: int = 32, grey: bool = False) -> tuple[Pictures, Columns]:
    """Pictures with their conditions, from any table of names and numbers and the folder where the pictures lie.

    The first column names the picture's file; each other one is a number, or yes and no (0 and 1, -1 and 1, yes and no, true
    and false). An empty cell is not said. Fields are parted by commas, semicolons or tabs, the text is UTF-8. Pictures are
    cut to a square from the middle and brought to `side` pixels.

    Returns:
        (the pictures, what the columns are)

    Raises:
        ValueError: for a table that cannot be read or has no row or no column of numbers, no such folder, or no pixels;
            and, all at once, for wrong rows, each by its number (the head is row 1) with what is wrong (another number of
            fields, a picture that is missing, is named twice, lies outside the folder or cannot be opened, a cell that is no
            number, a word in a column of numbers), and for columns that are the same throughout.
    """
    table, folder = Path(table), Path(folder)
    if side < 1:
        raise ValueError(f"pictures need a side of at least 1 pixel, got {side}.")
    head, rows = _rows(table)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name the one where the pictures of {table.name} lie.")
    wrong, images, values, seen = {number: [] for number, _ in rows}, [], [], {}
    for number, row in rows:
        if len(row) != len(head):
            wrong[number].append(f"has {len(row)} fields, and should have {len(head)}")
            continue
        file, complaint = _file(row[0], folder, seen, number)
        picture, complaint = (None, complaint) if complaint else _picture(file, side, grey)
        wrong[number] += [complaint] if complaint else []
        images.append(picture)
        values.append([_number(cell) for cell in row[1:]])
    whole = [(number, row[1:]) for number, row in rows if len(row) == len(head)]
    for name, *column in zip(head[1:], *(row for _, row in whole), strict=True):
        for (number, _), complaint in zip(whole, _wrong_cells(name, column), strict=True):
            wrong[number] += [complaint] if complaint else []
    told = [f"row {number}: {complaint}" for number, complaints in wrong.items() for complaint in complaints]
    shown = told[:SHOWN] + [f"and {len(told) - SHOWN} more"] * (len(told) > SHOWN)
    # A column of which a row is wrong may yet become one that tells something.
    constant = _constant(head[1:], values) if len(whole) == len(rows) else []
    if told or constant:
        raise ValueError(f"{table.name}: {'; '.join(shown + constant)}.")
    numbers = torch.tensor(values, dtype=torch.float64)
    columns = _columns(head[1:], numbers)
    source = f"{len(images):,} pictures of your own, {table.name}: {', '.join(columns.ranges)}"
    pictures = torch.from_numpy(np.stack(images))
    return Pictures(pictures, columns.encode_many(numbers), columns.attributes, source), columns


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


def _file(name: str, folder: Path, seen: dict[Path, int], number: int) -> tuple[Path, str]:
    """The file that a row names, and what is wrong with it, "" if nothing is."""
    if not name:
        return folder, "names no picture"
    try:
        # One file may be written in two ways: 0.png and ./0.png.
        file = (folder / name).resolve()
        there = file.is_file()
    except (OSError, ValueError):
        return folder, f"{name!r} cannot be the name of a file"
    if not file.is_relative_to(folder.resolve()):
        return file, f"{name} lies outside the folder"
    before = seen.setdefault(file, number)
    if before != number:
        return file, f"{name} stands in row {before} already"
    return file, "" if there else f"{name} is not in the folder"


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


def _wrong_cells(name: str, cells: list[str]) -> list[str]:
    """What is wrong with each cell of a column, "" if nothing is: no number, or written in the way of the fewer."""
    words = [cell.lower() in YES_NO for cell in cells]
    digits = [_number(cell) is not None and bool(cell) and not word for cell, word in zip(cells, words, strict=True)]
    odd, others = (words, "a number") if sum(words) <= sum(digits) else (digits, "a word, yes or no")
    odd = odd if any(words) and any(digits) else [False] * len(cells)
    return [
        f"{name} is {cell!r}, which is no number"
        if _number(cell) is None
        else f"{name} is {cell!r}, where other rows have {others}"
        if strange
        else ""
        for cell, strange in zip(cells, odd, strict=True)
    ]


def _constant(names: list[str], values: list[list[float | None]]) -> list[str]:
    """A sentence on each column that tells no picture from another."""
    told = []
    for name, *column in zip(names, *values, strict=True):
        found = {value for value in column if value is None or not math.isnan(value)}
        if len(found) < 2 and None not in found:
            what = f"is {found.pop():g} in every row" if found else "is empty in every row"
            told.append(f"the column {name} {what}, so it tells no picture from another: leave it out")
    return told


def _columns(names: list[str], values: Tensor) -> Columns:
    ranges: dict[str, tuple[float, float] | None] = {}
    for name, column in zip(names, values.T, strict=True):
        found = column[~column.isnan()].unique().tolist()
        ranges[name] = None if found in ([0.0, 1.0], [-1.0, 1.0]) else (found[0], found[-1])
    return Columns(ranges)


def _picture(file: Path, side: int, grey: bool) -> tuple[np.ndarray | None, str]:
    """(1 or 3, side, side) uint8, and what is wrong where it cannot be opened."""
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode[0] in "IF":
                picture = _from_16_bits(picture)
            if picture is None:
                return None, f"{file.name} does not tell which of its numbers is white: save it with 8 bits"
            picture = ImageOps.fit(picture.convert("L" if grey else "RGB"), (side, side))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None, f"{file.name} cannot be opened as a picture"
    return np.asarray(picture).reshape(side, side, -1).transpose(2, 0, 1), ""


def _from_16_bits(picture: Image.Image) -> Image.Image | None:
    """Grey with 8 bits, for Pillow would cut off all that is lighter than 255 of 65,535; None where white is not known."""
    levels = np.asarray(picture)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65_535:
        return None
    return Image.fromarray((levels.astype(np.int64) / 257).round().astype(np.uint8))
