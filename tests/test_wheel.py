"""What `pip install` gives without a clone: the wheel's content and metadata, an image from it, and the notebooks' first cell."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import make
import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {"data/pretrained": "facelab/_pretrained", "data/results": "facelab/_results"}
LIGHT = {  # a small package called facelab, which needs no torch
    "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    '[project]\nname = "facelab"\nversion = "1"\n',
    "facelab/__init__.py": "",
    "facelab/course.py": "def setup():\n    return __file__\n",
}
# Finds facelab only in the folder $SITE, into which pip puts it.
ONLY_IN_SITE = """
import os, sys
from importlib.machinery import PathFinder
class OnlyInSite(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return super().find_spec(name, [os.environ["SITE"]] if name == "facelab" else path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyInSite
"""


def build(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs Python with the installed facelab, in an empty folder and an empty home; gives what is printed."""
    top = tmp_path_factory.mktemp("installed")
    site, here, home = (top / name for name in ("site", "here", "home"))
    here.mkdir()
    home.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True)
    # PYTHONPATH stands before the path to the clone that an editable install adds.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FACELAB_", "XDG_"))}
    env |= {"PYTHONPATH": str(site), "HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"FACELAB_DEVICE": "cpu", "FACELAB_OFFLINE": "1", "PYTHONUTF8": "1"}

    def run(*command):
        done = subprocess.run([sys.executable, *command], cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    run.site, run.here, run.home = site, here, home
    return run


def test_the_wheel_holds_the_package_its_data_and_the_weights(wheel):
    archive = zipfile.ZipFile(wheel)
    names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "facelab").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    for source, target in SHIPPED.items():
        shipped = (path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.is_file())
        wanted |= {f"{target}/{path.as_posix()}" for path in shipped}
    assert names == wanted
    assert {"facelab/data/mnist_5000.npz", "facelab/widgets/explorer.css"} <= names
    assert "facelab/_pretrained/mnist/card.json" in names
    (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("dist-info/METADATA"))
    licences = "MIT AND CC-BY-4.0 AND CC-BY-SA-3.0 AND LicenseRef-CelebA-NonCommercial"
    assert f"License-Expression: {licences}\nLicense-File: LICENSE\n" in metadata


def test_the_installed_package_generates_a_digit(python):
    def files(folder):
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = files(python.site)
    assert python("-c", "import facelab; print(facelab.__file__)") == str(python.site / "facelab/__init__.py")
    assert "seven.png" in python("-m", "facelab", "sample", "7", "--out", "seven.png")
    image = Image.open(python.here / "seven.png")
    low, high = image.convert("L").getextrema()
    assert image.format == "PNG" and min(image.size) > 100 and high - low > 100
    assert files(python.site) == before, "it wrote into the folder where it is installed"
    assert [path.name for path in python.here.iterdir()] == ["seven.png"]
    assert not (python.home / ".cache/facelab").exists()


def first_cell() -> str:
    return make.setup_cell(make.project(ROOT))


def test_the_first_cell_installs_facelab_where_it_is_missing(tmp_path, monkeypatch):
    for name, content in (LIGHT | {"path/sitecustomize.py": ONLY_IN_SITE}).items():
        (tmp_path / "light" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "light" / name).write_text(content)
    for folder in ("alone", "site"):
        (tmp_path / folder).mkdir()
    address = first_cell().partition('else "')[2].partition('"')[0]
    assert address.startswith("git+https://github.com/") and "@v" in address
    wheel, site = build(tmp_path / "light", tmp_path / "wheel"), tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path / "light/path", site))))
    for name, value in {"SITE": site, "PIP_TARGET": site, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}.items():
        monkeypatch.setenv(name, str(value))
    for _ in range(2):  # the second time it is there
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(first_cell().replace(address, str(wheel)))])
        book.cells.append(nbformat.v4.new_code_cell("preset"))
        NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "alone")}}).execute()
        assert book.cells[1].outputs[0].data["text/plain"] == repr(str(site / "facelab/course.py"))
        monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")


def test_the_first_cell_prefers_the_clone_beside_it(tmp_path):
    (tmp_path / "notebooks").mkdir()
    code = first_cell().replace("import facelab", "import no_such_package")
    code = code.replace("%pip install -q {source}", "print(source); exit()")
    for source in ("git+https://github.com/", ".."):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "notebooks", capture_output=True, text=True)
        assert done.stdout.startswith(source), done.stderr
        (tmp_path / "pyproject.toml").touch()
