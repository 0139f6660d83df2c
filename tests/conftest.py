"""For every test: the smallest preset, no network, one thread, and a cache that is removed at the end."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Set before facelab is imported, so that no test can reach the user's cache.
SCRATCH = tempfile.mkdtemp(prefix="facelab-tests-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
os.environ.setdefault("FACELAB_PRESET", "ci")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FACELAB_DEVICE", "cpu")
os.environ |= {"FACELAB_OFFLINE": "1", "FACELAB_CACHE": f"{SCRATCH}/cache"}
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{SCRATCH}/hypothesis")

ROOT = Path(__file__).resolve().parents[1]
# Scripts that tests import.
sys.path += [str(ROOT / folder) for folder in ("data/make", "notebooks", "tests/benchmarks")]
pytest.register_assert_rewrite("oracle")

import torch  # noqa: E402
from here_only import TRIED, here_only, no_connections  # noqa: E402
from hypothesis import settings  # noqa: E402

here_only(TRIED.append)


@pytest.fixture(autouse=True)
def stays_here():
    """A test that tries to reach another machine fails, even where the refusal was caught."""
    with no_connections():
        yield


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """Neither FACELAB_DATA nor anything in the cache, whose folder it is."""
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


torch.set_num_threads(1)
settings.register_profile("facelab", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("facelab")
