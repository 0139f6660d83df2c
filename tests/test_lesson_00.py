"""The first notebook works with other conditions and seeds than its own, and names only attributes that exist."""

import ast
import re
from pathlib import Path

import nbformat

from facelab.attributes import CELEBA

BOOK = nbformat.read(Path(__file__).resolve().parents[1] / "notebooks/00_start_here.ipynb", 4)
_, *CELLS = (cell for cell in BOOK.cells if cell.cell_type == "code")  # the first is the setup


def test_the_attributes_that_it_names_exist():
    text = "\n".join(cell.source for cell in BOOK.cells)
    named = re.findall(r'"(\w+)": (?:True|False)', text)
    assert len(named) > 10 and CELEBA.encode(**dict.fromkeys(named, True)).sum() == len(set(named))


def test_other_conditions_and_fewer_steps_work():
    source = CELLS[0].source.replace('{"Smiling": True}', '{"Male": True, "Smiling": False}').replace("n=5", "n=2")
    known = {}
    lines = ast.parse(source.replace("seed=1", "seed=7, steps=2"))
    last = lines.body.pop()
    exec(compile(lines, "cell", "exec"), known)
    assert eval(compile(ast.Expression(last.value), "cell", "eval"), known).png.startswith(b"\x89PNG")
    assert known["smiling"].shape == (2, 3, 64, 64) and known["smiling"].abs().max() <= 1
