"""What `pip install` gives without a clone: the wheel is built, put into an empty folder, and draws a digit."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from facelab.plots import GAP

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {"data/pretrained": "facelab/_pretrained", "data/results": "facelab/_results"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs Python on the installed facelab, in an empty folder and an empty home: (the folders, what is printed)."""
    top = tmp_path_factory.mktemp("installed")
    site, here, home = (top / name for name in ("site", "here", "home"))
    here.mkdir()
    home.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True)
    # PYTHONPATH stands before the path to the clone that an editable install adds.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FACELAB_", "XDG_"))}
    env |= {"PYTHONPATH": str(site), "HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"FACELAB_DEVICE": "cpu", "FACELAB_OFFLINE": "1"}

    def run(*command):
        done = subprocess.run([sys.executable, *command], cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    run.site, run.here, run.home = site, here, home
    return run


def test_the_wheel_holds_the_package_and_the_weights(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {f"facelab/{path.name}" for path in (ROOT / "facelab").iterdir() if path.suffix in (".py", ".css")}
    for source, target in SHIPPED.items():
        files = (path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.is_file())
        wanted |= {f"{target}/{path.as_posix()}" for path in files}
    assert names == wanted
    assert {"facelab/_pretrained/digits/config.json", "facelab/_pretrained/digits/card.json"} <= names


def test_the_installed_facelab_draws_a_digit(python):
    def files(folder):
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = files(python.site)
    assert python("-c", "import facelab; print(facelab.__file__)") == str(python.site / "facelab/__init__.py")
    assert python("-m", "facelab", "sample", "7", "--out", "seven.png") == "16 of 7, written to seven.png"
    drawn = Image.open(python.here / "seven.png")
    assert drawn.format == "PNG" and drawn.size == (4 * 112 + 3 * GAP,) * 2
    low, high = drawn.convert("L").getextrema()
    assert high - low > 100
    assert files(python.site) == before, "it wrote into the folder it is installed in"
    assert [path.name for path in python.here.iterdir()] == ["seven.png"]
    assert not (python.home / ".cache/facelab").exists()
