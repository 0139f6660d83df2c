"""A dataset of one's own: a CSV table of numbers and yes/no values beside a folder of images (lesson 07).

    number v of a column from `low` to `high` -> (cos a, sin a), a = pi (v - low) / (high - low)

A condition of 0 means "unspecified", so a number cannot be scaled to [-1, 1]: its middle would be unspecified. On a half circle
no value is at the origin, and neighbours stay neighbours. Yes and no are +1 and -1, as everywhere.
"""

import csv
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor

from facelab.attributes import Attributes
from facelab.data.dataset import AttributeDataset
from facelab.images import open_image, to_uint8

WORDS = {"yes": 1.0, "true": 1.0, "no": -1.0, "false": -1.0}


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table in its own units: `ranges` has (low, high) of a number, None for yes or no."""

    ranges: dict[str, tuple[float, float] | None]

    @property
    def attributes(self) -> Attributes:
        """One name for a yes/no column; for a number `name` and `name'`, cosine and sine."""
        names = {name: [name, f"{name}'"] if ends else [name] for name, ends in self.ranges.items()}
        return Attributes([entry for entries in names.values() for entry in entries], names)

    def encode(self, **values) -> Tensor:
        """The condition (K,) of values in the table's units: `columns.encode(angle=30, held=True)`; others unspecified."""
        if unknown := [name for name in values if name not in self.ranges]:
            raise ValueError(f"there is no column {unknown[0]!r}: the columns are {', '.join(self.ranges)}.")
        row = [math.nan if values.get(name) is None else float(values[name]) for name in self.ranges]
        return self.encode_many(torch.tensor([row], dtype=torch.float64))[0]

    def encode_many(self, table: Tensor) -> Tensor:
        """(N, K) conditions of rows (N, columns) in the table's units; NaN is unspecified, 0 and -1 in yes/no columns are no."""
        if table.ndim != 2 or table.shape[1] != len(self.ranges):
            raise ValueError(f"rows must be (N, {len(self.ranges)}), one value a column, got {tuple(table.shape)}.")
        entries = []
        for (name, ends), values in zip(self.ranges.items(), table.double().T, strict=True):
            low, high = ends or (-1, 1)
            slack = max(abs(low), abs(high)) * 2**-23  # a range's end, rounded to float32
            wrong = (values < low - slack) | (values > high + slack) | ((ends is None) & (values != values.round()))
            if (wrong := values[wrong & ~values.isnan()]).numel():
                kind = f"a number from {low:g} to {high:g}" if ends else "yes (1, True) or no (0, -1, False)"
                raise ValueError(f"{name} is {kind}, got {wrong[0]:g}.")
            angle = math.pi * ((values - low) / (high - low)).clamp(0, 1)
            entries += [angle.cos(), angle.sin()] if ends else [torch.where(values == 0, -1.0, values)]
        return torch.stack(entries, 1).nan_to_num(0.0).float()


def from_csv(table, folder, side: int = 32, grey: bool = False) -> tuple[AttributeDataset, Columns]:
    """(images with conditions, the columns) from a UTF-8 table and the folder of its images.

    The first column names the image file; each other one holds numbers, or yes and no (yes/no, true/false, 1/0, 1/-1). An empty
    cell is unspecified. Fields are separated by commas, semicolons or tabs. Images are cropped to the central square and resized
    to `side` pixels. One error names every row that cannot be used; the header is row 1.
    """
    table = Path(table)
    names, rows = _read_table(table)
    images, values, errors, seen = [], [], [], {}
    for number, (file, *cells) in rows:
        try:
            if len(cells) != len(names):
                raise ValueError(f"must have {len(names) + 1} fields")
            if seen.setdefault(file, number) != number:
                raise ValueError(f"{file} is in row {seen[file]} already")
            values.append(list(map(_number, names, cells)))
            images.append(_image(Path(folder), file, side, grey))
        except ValueError as error:
            errors.append(f"row {number}: {error}")
    if errors:
        more = f"; and {len(errors) - 10} more" if errors[10:] else ""
        raise ValueError(f"{table.name}: {'; '.join(errors[:10])}{more}.")
    numbers = torch.tensor(values, dtype=torch.float64)
    columns = Columns({name: _range(name, column) for name, column in zip(names, numbers.T, strict=True)})
    groups = [i for i, ends in enumerate(columns.ranges.values()) for _ in ends or (None,)]
    source = f"{len(images):,} images of {table.name}: {', '.join(names)}"
    images, conds = torch.cat(images), columns.encode_many(numbers)
    return AttributeDataset(images, conds, columns.attributes, source, "csv", columns=groups), columns


def _read_table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns after the first, and for each row its number and its cells."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} cannot be read as a CSV table in UTF-8 ({error}).") from None
    reader = csv.reader(lines, delimiter=max(",;\t", key="".join(lines[:1]).count), skipinitialspace=True)
    (_, names), *rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row] or [(1, [])]
    if len(names) < 2 or not all(names) or len({*names}) < len(names) or not rows:
        raise ValueError(f"{file.name} needs a header of different names (file, ...) and a row for each image.")
    return names[1:], rows


def _number(name: str, cell: str) -> float:
    try:
        value = WORDS.get(cell.lower()) or float(cell or "nan")
        if math.isfinite(value) or not cell:
            return value
    except ValueError:
        pass
    raise ValueError(f"{name} is {cell!r}, which is not a number")


def _image(folder: Path, file: str, side: int, grey: bool) -> Tensor:
    try:
        return to_uint8(open_image(folder / file, side, grey))
    except ValueError:
        problem = "cannot be read as an image" if (folder / file).is_file() else "is not in the folder"
        raise ValueError(f"{file} {problem}") from None


def _range(name: str, column: Tensor) -> tuple[float, float] | None:
    """(low, high) of a number, None for yes and no."""
    found = column[~column.isnan()].unique().tolist()
    if len(found) < 2:
        raise ValueError(f"the column {name} does not vary: leave it out.")
    if found == [-1.0, 0.0, 1.0]:
        raise ValueError(f"the column {name} mixes ways to write yes and no: use 1 and 0, or yes and no.")
    return None if found in ([0.0, 1.0], [-1.0, 1.0]) else (found[0], found[-1])
