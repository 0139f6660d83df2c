"""Lesson 00 with other conditions than its own; lesson 03 on both of its data sets, of which nbval runs one."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from make_celeba import official_folder

from facelab.attributes import CELEBA
from facelab.data.synthetic_faces import default_face_name

ROOT = Path(__file__).resolve().parents[1]
BOOK = nbformat.read(ROOT / "notebooks/00_start_here.ipynb", 4)
_, *CELLS = (cell for cell in BOOK.cells if cell.cell_type == "code")  # the first is the setup


def test_the_attributes_that_lesson_00_names_exist():
    text = "\n".join(cell.source for cell in BOOK.cells)
    named = re.findall(r'"(\w+)": (?:True|False)', text)
    assert len(named) > 10 and CELEBA.encode(**dict.fromkeys(named, True)).sum() == len(set(named))


def test_lesson_00_works_with_other_conditions_and_fewer_steps():
    source = CELLS[0].source.replace('{"Smiling": True}', '{"Male": True, "Smiling": False}').replace("n=5", "n=2")
    known = {}
    lines = ast.parse(source.replace("seed=1", "seed=7, steps=2"))
    last = lines.body.pop()
    exec(compile(lines, "cell", "exec"), known)
    assert eval(compile(ast.Expression(last.value), "cell", "eval"), known).png.startswith(b"\x89PNG")
    assert known["smiling"].shape == (2, 3, 64, 64) and known["smiling"].abs().max() <= 1


LESSON_03 = "notebooks/03_celeba_attributes.ipynb"


def run(folder, cache):
    env = os.environ | {"FACELAB_DATA": str(folder), "FACELAB_CACHE": str(cache)}
    env.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", LESSON_03, "-q", "-n", "0", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.slow
def test_lesson_03_runs_on_a_folder_in_the_official_layout(tmp_path):
    run(official_folder(tmp_path / "celeba"), tmp_path / "cache")


@pytest.mark.slow
def test_lesson_03_runs_on_synthetic_faces(tmp_path):
    if default_face_name() == "synthetic":
        pytest.skip("CelebA is not available, so nbval runs this")
    run("", tmp_path / "cache")
