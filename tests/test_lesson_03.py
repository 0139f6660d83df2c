"""Lesson 03 on both of its data sets: every cell that only one of them reaches is executed, here or by nbval itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_celeba import official_folder

from facelab import data

ROOT = Path(__file__).resolve().parents[1]
LESSON = "notebooks/03_celeba_attributes.ipynb"


def run(folder, cache):
    env = os.environ | {"FACELAB_DATA": str(folder), "FACELAB_CACHE": str(cache)}
    env.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", LESSON, "-q", "-n", "0", "-p", "no:cacheprovider"]
    told = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout[-3000:]


def test_lesson_03_runs_on_a_folder_in_the_official_layout(tmp_path):
    run(official_folder(tmp_path / "celeba"), tmp_path / "cache")


def test_lesson_03_runs_on_drawn_faces(tmp_path):
    if data.which_faces() == "drawn":
        pytest.skip("no CelebA is at hand, so that is what nbval runs")
    run("", tmp_path / "cache")
