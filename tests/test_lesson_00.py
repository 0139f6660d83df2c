"""The first notebook: five cells, three pictures, and whatever words a reader puts in are drawn and read back."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from facelab.attributes import CELEBA

BOOK = nbformat.read(Path(__file__).resolve().parents[1] / "notebooks/00_start_here.ipynb", 4)
_, *CELLS = (cell for cell in BOOK.cells if cell.cell_type == "code")  # the first is the setup


def test_it_is_five_cells_and_three_pictures():
    shown = [output for cell in CELLS for output in cell.outputs if "text/html" in output.get("data", {})]
    assert len(CELLS) == 5 and len(shown) == 3
    assert max(len(cell.source.splitlines()) for cell in CELLS) <= 12


def test_the_words_it_tells_are_known():
    prose = "\n".join(cell.source for cell in BOOK.cells if cell.cell_type == "markdown")
    told = re.findall(r"`(\w+)=(?:True|False)`", prose)
    assert len(told) >= 3 and CELEBA.encode(**dict.fromkeys(told, True)).sum() == len(set(told))


def test_other_words_are_drawn_and_read_back(capsys):
    known, alts = {}, []
    for cell in CELLS:
        lines = ast.parse(re.sub(r"encode\(.+?\)", "encode(Male=True, Smiling=False)", cell.source))
        last = lines.body.pop() if isinstance(lines.body[-1], ast.Expr) else None
        exec(compile(lines, "cell", "exec"), known)
        alts += [eval(compile(ast.Expression(last.value), "cell", "eval"), known).alt] if last else []
    assert len(alts) == 3 and alts[0] == "Five generated faces, asked for: Male, no Smiling."
    told = dict(re.findall(r"(\w+): asked [+-]1, read in (\d) of 5", capsys.readouterr().out))
    assert list(told) == ["Male", "Smiling"] and int(told["Male"]) >= 4 and int(told["Smiling"]) <= 1
    assert known["ticks"][-1] == len(known["faces"].schedule) - 1

    with pytest.raises(ValueError, match="did you mean 'Smiling'"):
        known["faces"].attributes.encode(Smilng=True)
