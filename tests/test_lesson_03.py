"""Lesson 03 on both of its data sets: nbval runs the notebook on one of them, this test on the other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_celeba import official_folder

from facelab.data.synthetic_faces import default_face_name

ROOT = Path(__file__).resolve().parents[1]
LESSON = "notebooks/03_celeba_attributes.ipynb"


def run(folder, cache):
    env = os.environ | {"FACELAB_DATA": str(folder), "FACELAB_CACHE": str(cache)}
    env.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", LESSON, "-q", "-n", "0", "-p", "no:cacheprovider"]
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
