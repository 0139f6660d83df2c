"""The project around the package: metadata, weights and records, saved notebooks, generated parts, links, spelling."""

import ast
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import external_links
import make
import nbformat
import pytest
from breame.data.spelling_constants import BRITISH_ENGLISH_SPELLINGS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from oracle import serving
from PIL import Image
from spellchecker import SpellChecker
from test_layout import PACKAGE, imports

import facelab
from facelab.attributes import CELEBA
from facelab.denoiser import Denoiser
from facelab.pretrained import Pretrained

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", "data/README.md")]
PAGES += [ROOT / "tests/benchmarks/README.md", *sorted((ROOT / "notebooks").glob("*.md"))]

NOTEBOOKS = make.notebooks(ROOT)


def in_git() -> list[Path]:
    """The files that are in git, or would be if they were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    # A checkout may belong to another user, as in a container.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def package(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_dependencies_are_what_the_package_imports():
    names = {"pillow": "PIL", "ipython": "IPython"}  # where a package is not imported under its own name
    used = set().union(*(imports(path.read_text("utf-8"))[1] for path in PACKAGE.rglob("*.py")))
    used -= set(sys.stdlib_module_names)
    core = {names.get(name, name.replace("-", "_")) for name in map(package, PROJECT["dependencies"])}
    assert used - core <= set(map(package, PROJECT["optional-dependencies"]["mirror"])), "imported, but no dependency"
    assert core <= used, "a dependency, but nothing imports it"


def test_only_ipywidgets_has_an_upper_bound_and_conda_and_changelog_say_what_pyproject_does():
    every = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    assert {package(one) for one in every if re.search(r"<|~=|(?<!!)==|@", one)} == {"ipywidgets"}
    lines = re.findall(r"^ *- (.+)$", (ROOT / "environment.yml").read_text("utf-8"), re.MULTILINE)
    assert lines == ["conda-forge", f"python{PROJECT['requires-python']}", "pip", "pip:", "-e .[lab,dev]"]
    assert facelab.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_ci_runs_the_commands_of_the_readme():
    script, readme = ((ROOT / name).read_text("utf-8") for name in (".ci/run", "README.md"))
    assert os.access(ROOT / ".ci/run", os.X_OK)
    commands = re.findall(r"^python -m .+$", script, re.MULTILINE)
    assert commands == ['python -m pip install -e ".[lab,dev]"', "python -m pytest --nbval-lax"]
    assert [command for command in commands if command not in readme] == []
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert "run: .ci/run" in workflow and "pull_request:" in workflow and "push:" in workflow


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--output-format=concise"]
    done = subprocess.run([*ruff, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_repository_is_small_and_self_contained():
    files, neighbour = in_git(), b"../" + b"shared"
    assert sum(path.stat().st_size for path in files) < 50_000_000
    assert {str(path.relative_to(ROOT)) for path in files if neighbour in path.read_bytes()} == {".ci/run"}


def test_the_address_is_edited_by_hand_only_in_pyproject():
    address = PROJECT["urls"]["Repository"].encode()
    files = [path for path in in_git() if ROOT / "tests" not in path.parents]
    files = {path.relative_to(ROOT).as_posix() for path in files if address in path.read_bytes()}
    files -= {f"notebooks/{path.name}" for path in NOTEBOOKS}
    assert files == {"pyproject.toml", "README.md", "CITATION.cff", "notebooks/README.md"}


def test_the_readme_is_short_and_complete():
    text = (ROOT / "README.md").read_text("utf-8")
    prose = text.partition(make.MARKERS[0])[0] + text.partition(make.MARKERS[1])[2]
    assert len(re.sub(r"\]\([^)]*\)", "]", prose).split()) <= 700
    for words in ("--torch-backend=auto", 'class_embed_type="identity"', "colab-badge", "open-in-kaggle", "nbviewer"):
        assert words in text


def test_every_record_is_of_weights_that_are_shipped():
    for file in (ROOT / "data/results").glob("*.json"):
        for name, digest in re.findall(r'"([\w-]+), sha256 ([0-9a-f]+)"', file.read_text("utf-8")):
            card = ROOT / "data/pretrained" / name / "card.json"
            same = card.is_file() and json.loads(card.read_text("utf-8"))["sha256"].startswith(digest)
            assert same, f"{file.name} was recorded with other weights: record it again"
        for digest in re.findall(r'"classifier": "([0-9a-f]{16})"', file.read_text("utf-8")):
            cards = [card.read_text("utf-8") for card in ROOT.glob("data/pretrained/*-classifier/card.json")]
            assert any(f'"sha256": "{digest}' in card for card in cards), f"{file.name}: of another classifier"


NO_LINK_ONWARD = {"attribute_explorer"}
MAIN_PATH = {f"0{i}": (2000, 45) for i in range(6)} | {"02": (2400, 52)}  # most words, most cells
IMAGE = {"text/html": '<img src="data:image/png;base64,/tmp/AAAA" alt="A seven.">', "image/png": "/tmp/AAAA"}


def saved(*outputs, source="show(seven)", count=2):
    """A good notebook with one more cell, which has these outputs."""
    cells = [
        new_markdown_cell("# A title\n\nWhat it is about."),
        new_code_cell("1 + 1", execution_count=1, outputs=[displayed({"text/plain": "2"})]),
        new_code_cell(source, execution_count=count, outputs=list(outputs)),
        new_markdown_cell("**You now can** show it. Go on with [the next](02_b.ipynb)."),
    ]
    return new_notebook(cells=cells)


def displayed(data):
    return new_output("display_data", data=data)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def code_of(cell) -> ast.Module:
    return ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", cell.source, flags=re.MULTILINE))


def lesson_complaints(path: Path, book, every: list[Path]) -> list[str]:
    """What in a lesson is too long, leads nowhere, or has no answer; the first code cell is generated and does not count."""
    first, *code = [cell for cell in book.cells if cell.cell_type == "code"]
    names = [target.id for cell in code for node in ast.walk(code_of(cell)) if isinstance(node, ast.Assign)
             and re.match(r"(predict|choose)\(", ast.unparse(node.value)) for target in node.targets]  # fmt: skip
    answers = Counter(re.findall(r"\b(\w+)\.truth\(", "\n".join(cell.source for cell in code)))
    imports = sum(bool(re.match(r"(import|from) ", line)) for cell in code for line in cell.source.splitlines())
    text, cells = counted(book)
    words, (most_words, most_cells) = len(text.split()), MAIN_PATH.get(path.stem[:2], (10**6, 10**6))
    last = book.cells[-1]
    onward = re.findall(r"\]\([^)]*?([\w-]+)\.ipynb\)", last.source) if last.cell_type == "markdown" else []
    ends = {*NO_LINK_ONWARD, max(other.stem for other in every if other.stem[:1].isdigit())}
    dead_end = not set(onward) - {path.stem} and path.stem not in ends
    wrong = [(cell.source.count("\n") > 24, f"a cell has {len(cell.source.splitlines())} lines") for cell in code]
    wrong += [(True, f"the prediction {name!r} has no answer") for name in (Counter(names) - answers)]
    wrong += [
        (imports > 8, f"{imports} lines of imports"),
        (make.FOLDED != {key: first.metadata.get(key) for key in make.FOLDED}, "the first cell is not folded"),
        (words > most_words, f"{words} words"),
        (cells > most_cells, f"{cells} cells"),
        (path.stem[0] == "0" and "**You now can**" not in last.source, "it does not say what **You now can** do"),
        (dead_end, "it does not end with a link to another notebook"),
    ]
    return [what for found, what in wrong if found]


def counted(book) -> tuple[str, int]:
    """(prose, number of cells) without solutions and answers to warm-up questions, which are folded."""
    cells = [cell for cell in book.cells if not cell.get("id", "").startswith("solution-")]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    prose = re.sub(r"<details><summary>(Solution|Answer)s?</summary>.*?</details>", "", prose, flags=re.DOTALL)
    return prose, len(cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_notebooks_are_short_lead_on_and_are_complete_and_clean(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert lesson_complaints(path, book, NOTEBOOKS) == []
    if all(cell.execution_count is None for cell in book.cells if cell.cell_type == "code"):
        pytest.skip(f"saved without outputs: python notebooks/make.py run {path.stem}")
    assert make.complaints(book) == []


def test_saved_notebooks_are_small_together_and_store_no_image_twice():
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= make.MAX_BYTES_TOGETHER
    images = [image for path in NOTEBOOKS for image in re.findall(r"base64,([\w+/=]{54000,})", path.read_text("utf-8"))]
    # The last row of a training and the figure after it are the same image in lesson 03, and one is repeated in 05.
    assert len(images) == len(set(images)), "an image of more than 40 kB is stored twice"


@pytest.mark.parametrize(
    ("book", "wrong"),
    [
        (saved(displayed(IMAGE), printed("https://host/home/page and/or/tmp are no folders of anybody")), None),
        (saved(count=None), "execution count None, not 2"),
        (saved(count=3), "execution count 3, not 2"),
        (saved(new_output("error", ename="ValueError", evalue="no", traceback=[])), "failed: ValueError: no"),
        (saved(displayed({make.WIDGET: {"model_id": "a"}, "text/plain": "IntSlider()"})), "view of a widget"),
        (saved(displayed({"image/png": "AAAA"})), "without alt text"),
        (saved(displayed({"text/html": '<img src="a.png">'})), "without alt text"),
        (saved(displayed({"text/html": '<img src="a.png" alt="">'})), "without alt text"),
        (saved(printed("x" * make.MAX_BYTES)), "over 2,000,000"),
        *((saved(printed(f"in {path}")), "shows a path") for path in ("/home/ann/a.py:3", "'/tmp/ipykernel_7/a.py'")),
        *((saved(printed(f"in {path}")), "shows a path") for path in (r"C:\Users\ann", "file:///Users/ann/a", ROOT)),
        (saved(displayed({"text/plain": f"PosixPath('{Path.home()}')"})), "shows a path"),
        (saved(displayed({"application/json": {"file": "/root/a"}})), "shows a path"),
        (saved(printed("hf_" + "a1B2" * 9)), "looks like a secret"),
        (saved(source="token = 'abcdef0123456789'"), "looks like a secret"),
    ],
)
def test_a_faulty_notebook_is_found(book, wrong):
    found = make.complaints(book)
    assert found == [] if wrong is None else len(found) == 1 and wrong in found[0]
    book.metadata.widgets = {}
    assert "widget state" in " ".join(make.complaints(book))


def test_the_explorers_page_is_one_folded_cell_with_an_image():
    book = nbformat.read(ROOT / "notebooks/attribute_explorer.ipynb", 4)
    (cell,) = (cell for cell in book.cells if cell.cell_type == "code")
    assert cell.source.startswith("# @title ") and make.setup_cell(make.project(ROOT)) in cell.source
    assert cell.outputs[-1].data["text/html"].count("<img ") == 1


@pytest.fixture
def tree(tmp_path):
    """A small project: pyproject.toml, README, CITATION.cff, one notebook as its author left it."""
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").write_text("# facelab\n", "utf-8")
    nbformat.write(saved(), tmp_path / "notebooks/01_a.ipynb")
    return tmp_path


def test_generated_parts_are_up_to_date(capsys):
    assert make.address(check=True) == 0, f"run `python notebooks/make.py address`: {capsys.readouterr().out[:2000]}"


def test_address_rewrites_everything_once(tree, capsys):
    path, readme = tree / "notebooks/01_a.ipynb", tree / "README.md"
    assert make.address(tree, check=True) == 1 and "01_a.ipynb differs" in capsys.readouterr().out
    make.address(tree)
    assert "holds the placeholder YOUR_ACCOUNT" in capsys.readouterr().out
    book, text = nbformat.read(path, 4), path.read_text("utf-8")
    assert [cell.source for cell in book.cells if cell.cell_type == "code"][1:] == ["1 + 1", "show(seven)"]
    assert book.cells[0].source.split("\n\n")[::2] == ["# A title", "What it is about."]
    make.address(tree)
    assert path.read_text("utf-8") == text and make.address(tree, check=True) == 0

    # The publisher enters an account and a version.
    links = (
        "https://github.com/{0}, [a](https://github.com/{0}/blob/{1}/LICENSE), `git clone https://github.com/{0}.git`, "
        "[b](https://colab.research.google.com/github/{0}/blob/{1}/x), git+https://github.com/{0}@{1}, "
        "https://nbviewer.org/github/{0}/blob/{1}/x. Not ours: https://github.com/ann/facelab-data/blob/v0.1.0/a\n"
    )
    readme.write_text(links.format("ann/facelab", "v0.0.9"))
    old = make.project(tree)
    text = (tree / "pyproject.toml").read_text("utf-8").replace(old.place, "ann-b/faces")
    (tree / "pyproject.toml").write_text(text.replace(f'"{old.version}"', '"0.3.0rc1"'), "utf-8")
    make.address(tree)
    assert readme.read_text("utf-8") == links.format("ann-b/faces", "v0.3.0rc1")
    head, setup = nbformat.read(path, 4).cells[:2]
    assert head.source.count("Open in Colab") == 1
    assert "/github/ann-b/faces/blob/v0.3.0rc1/notebooks/01_a.ipynb)" in head.source
    assert '"git+https://github.com/ann-b/faces@v0.3.0rc1"' in setup.source
    assert old.place not in path.read_text("utf-8") and make.address(tree, check=True) == 0
    cited = "\nversion: 0.3.0rc1\nrepository-code: https://github.com/ann-b/faces\n"
    assert cited in (tree / "CITATION.cff").read_text()


def test_the_first_cell_replaces_an_old_one_and_leaves_the_code_around_it(tree):
    path, cell = tree / "notebooks/01_a.ipynb", make.setup_cell(make.project(tree))
    for old in ("# Setup, of old\n1 / 0\nplan = setup()", cell.replace("v0", "v1")):
        book = saved()
        book.cells[1].source = f"# @title A tool\n{old}\n\nshow(seven)"
        nbformat.write(book, path)
        make.address(tree)
        code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert code == [f"# @title A tool\n{cell}\n\nshow(seven)", "show(seven)"]
    assert len(cell.splitlines()) <= 8


def test_a_folded_solution_stands_under_each_exercise(tree):
    from facelab.course.lesson import solution

    book = saved(source="def add_noise(): ...\n\n\nadd_noise = check(add_noise)")
    for _ in range(2):  # the second time it replaces the first
        book = make.with_generated_parts(book, "01_a.ipynb", make.project(tree))
    (cell,) = (cell for cell in book.cells if cell.id.startswith("solution-"))
    assert book.cells.index(cell) == 4 and cell.source.startswith("<details><summary>Solution</summary>\n\n```python\n")
    assert solution("add_noise").strip() in cell.source and counted(book)[1] == len(book.cells) - 1


def test_tidy_removes_bars_and_widget_state():
    bar = displayed({make.WIDGET: {"model_id": "bar"}, "text/plain": "  0%|          | 0/3 [00:00<?, ?step/s]"})
    fallback = displayed({make.WIDGET: {"model_id": "none"}, "text/html": "<p>still</p>", "text/plain": "VBox()"})
    progress = printed("\r99%|##| 2/3 [00:01<00:01, 1.00it/s]\r100%|##| 3/3 [00:02<00:00, 1.00it/s]\nnext\n", "stderr")
    gone = printed("\rgone\r     \r")
    book = saved(progress, gone, bar, fallback, displayed({make.WIDGET: {"model_id": "x"}}))
    book.cells[2].metadata.execution = {"iopub.execute_input": "2000-01-01"}
    book.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {}}
    make.tidy(book)
    assert [output.get("text") or output.data for output in book.cells[2].outputs] == [
        "next\n",
        {"text/html": "<p>still</p>", "text/plain": "VBox()"},
    ]
    assert "widgets" not in book.metadata and "execution" not in book.cells[2].metadata


def test_run_saves_good_notebooks_and_refuses_others(tree, monkeypatch, capsys):
    light = tree / "light/facelab"  # in place of facelab, which takes long to load
    light.mkdir(parents=True)
    (light / "__init__.py").touch()
    (light / "course.py").write_text(
        "import os\ndef setup():\n    return {k[8:]: v for k, v in os.environ.items() if k.startswith('FACELAB_')}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(light.parent))
    for name in ("PRESET", "DEVICE", "OFFLINE", "PRECISION"):
        monkeypatch.delenv(f"FACELAB_{name}", raising=False)
    monkeypatch.setenv("FACELAB_DATA", "nowhere")
    monkeypatch.setenv("FACELAB_CACHE", "the caller's")
    path, stops, leaks = (tree / f"notebooks/{name}.ipynb" for name in ("01_a", "02_b", "03_c"))
    nbformat.write(saved(source="preset | {'here': __import__('os').getcwd()[-9:]}"), path)
    nbformat.write(saved(source="1 / 0"), stops)
    nbformat.write(saved(source="print('/home/ann')"), leaks)
    before = stops.read_bytes(), leaks.read_bytes()

    assert make.run([], tree) == 1
    out = capsys.readouterr().out
    assert "01_a.ipynb ... saved" in out and "cell 4 (1 / 0) failed: ZeroDivisionError: division by zero" in out
    assert "cell 4 (print('/home/ann')) shows a path of the machine" in out
    assert (stops.read_bytes(), leaks.read_bytes()) == before and not list(tree.rglob("*.part"))

    book = nbformat.read(path, 4)
    assert make.complaints(book) == [] and [c.execution_count for c in book.cells if c.cell_type == "code"] == [1, 2, 3]
    wanted = {"PRESET": "laptop", "DEVICE": "cpu", "OFFLINE": "1", "CACHE": "the caller's", "here": "notebooks"}
    assert ast.literal_eval(book.cells[3].outputs[0].data["text/plain"]) == wanted
    assert set(book.metadata) == {"kernelspec", "language_info"} and book.metadata.language_info == {"name": "python"}
    with pytest.raises(SystemExit, match="no notebook 07_none: there are 01_a, 02_b, 03_c"):
        make.run(["07_none.ipynb"], tree)


def test_the_results_table_agrees_with_the_records(capsys):
    assert make.results(check=True) == 0, capsys.readouterr().out + "run `python notebooks/make.py results`"
    rows = (ROOT / "README.md").read_text("utf-8").partition(make.MARKERS[0])[2].partition(make.MARKERS[1])[0]
    assert rows.count("\n") >= 4 and sum("[" in row and "]" in row for row in rows.splitlines()) >= 2
    assert [link for link in re.findall(r"\]\(([^)]+)\)", rows) if not (ROOT / link).is_file()] == []


def test_a_table_that_differs_from_its_records_is_found(tmp_path, monkeypatch, capsys):
    rows = (("share", "{rows>0>share>1}", "others {b:name}, {n}", "a"), ("the same", "{n}", "", "missing"))
    monkeypatch.setattr(make, "ROWS", rows)
    share = {"value": 1, "low": 0.5, "high": 1.25}
    page, record = tmp_path / "README.md", {"rows": [{"share": share}], "n": 1200, "about": {"count": 7, "steps": 10}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.json").write_text(json.dumps(record))
    (tmp_path / "data/b.json").write_text('{"name": "x"}')
    page.write_text("# facelab\n")
    with pytest.raises(SystemExit, match="needs the lines <!-- results --> and <!-- end of results -->"):
        make.results(tmp_path)
    page.write_text("# facelab\n" + "old\n".join(make.MARKERS))
    assert make.results(tmp_path, check=True) == 1 and "differs from the records" in capsys.readouterr().out
    row = "| share | 1.0 [0.5, 1.2] | others x, 1,200 | 7 images, 10 steps ([record](data/a.json)) |\n<!-- end"
    assert make.results(tmp_path) == 0 and row in page.read_text()
    share["value"] = 1.125
    (tmp_path / "data/a.json").write_text(json.dumps(record))
    assert make.results(tmp_path, check=True) == 1


def test_the_readmes_animation_shows_every_change_and_the_reverse_process(tmp_path, monkeypatch, capsys):
    net = Denoiser((3, 8, 8), CELEBA.names, block_out_channels=(32,), attention=(False,)).eval()
    monkeypatch.setattr(facelab, "load", lambda name: Pretrained(name, CELEBA, net.shape, {}, denoiser=net))
    (tmp_path / "data/results").mkdir(parents=True)
    assert make.figure(tmp_path) == 0
    with Image.open(tmp_path / "data/results/faces.png") as moving:
        assert moving.n_frames == 1 + 4 * (len(make.CHANGES) - 1) + 11 and moving.info["loop"] == 0
    assert "3 generated faces, conditioned on no Male, Young, then Smiling, then Blond_Hair" in capsys.readouterr().out


def texts(page: Path, strings: bool = True) -> list[str]:
    """The text of a page; of a notebook its Markdown, and the strings in its code."""
    if page.suffix != ".ipynb":
        return [page.read_text("utf-8")]
    cells = nbformat.read(page, 4).cells
    nodes = [node for cell in cells if cell.cell_type == "code" for node in ast.walk(code_of(cell))] if strings else []
    found = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return found + [node.value for node in nodes if isinstance(getattr(node, "value", None), str)]


def dead_links(page: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|\b(?:src|href)=\"([^\"#]+)", "\n".join(texts(page)))
    links = [a or b for a, b in links]
    return [link for link in links if not re.match(r"https?://|data:", link) and not (page.parent / link).exists()]


class Server(http.server.BaseHTTPRequestHandler):
    requests: Counter

    def do_GET(self):
        self.requests[self.path, self.headers["User-Agent"]] += 1
        code = {"/here": 200, "/old": 301, "/no-robots": 403}.get(self.path, 404)
        self.send_response(code)
        if code == 301:
            self.send_header("Location", "/here")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_external_links_are_requested_once_and_dead_ones_are_reported(tmp_path, capsys):
    Server.requests = Counter()
    (tmp_path / "notebooks").mkdir()
    with serving(Server) as server:
        host = f"http://127.0.0.1:{server.server_port}"
        page = f"[a]({host}/here), [a]({host}/here#part), <{host}/old>. `{host}/none`; {host}/no-robots."
        (tmp_path / "README.md").write_text(page + " https://b.example/YOUR_ACCOUNT/facelab https://a.example/{}")
        book = {"cells": [{"cell_type": "markdown", "source": [f"[b]({host}/lost_(page)) and", f" {host}/here"]}]}
        (tmp_path / "notebooks/01_a.ipynb").write_text(json.dumps(book))
        assert external_links.main(tmp_path, timeout=10) == 1
    out = capsys.readouterr().out
    assert f"DEAD: {host}/none (404), in README.md\n" in out and "5 links requested, 2 dead\n" in out
    assert f"DEAD: {host}/lost_(page) (404), in notebooks/01_a.ipynb\n" in out
    assert f"refused: {host}/no-robots (403), in README.md\n" in out and out.count("\n") == 4
    assert sorted(Server.requests.values()) == [1, 1, 1, 1, 2]  # /here also because /old redirects there
    (tmp_path / "README.md").write_text(f"{host}/here")
    (tmp_path / "notebooks/01_a.ipynb").unlink()
    assert external_links.main(tmp_path) == 1 and f"DEAD: {host}/here (" in capsys.readouterr().out
    assert "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html" in external_links.collect()


def test_the_glossary_is_sorted_and_names_a_lesson_for_each_term():
    text = (ROOT / "notebooks/glossary.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    terms = [term for term, *_ in rows[1:]]
    assert len(terms) > 30 and terms == sorted(terms, key=lambda term: term.lower().replace("-", " "))
    assert all(len(row) == 4 and re.search(r"\[0\d\]|lesson 0\d", row[3]) for row in rows[1:])


# What is not prose: code blocks, formulas, inline code, link targets, tables of measurements, HTML, quotations.
NO_PROSE = [
    r"^```.*?^```$", r"\$\$.*?\$\$", r"(?<!\\)\$[^$\n]+\$", r"`[^`\n]+`", r"(?<=\])\([^)\n]*\)", r"https?://\S+",
    r"<!-- table -->.*?<!-- end -->", r"<!--.*?-->", r"<[^>]+>", r'"[^"\n]+"',
]  # fmt: skip


@pytest.fixture(scope="module")
def known() -> set[str]:
    ours = (ROOT / "tests/words.txt").read_text("utf-8").split("\n")[:-1]
    assert ours == sorted(set(ours))
    return {*SpellChecker(language="en").word_frequency.words(), *BRITISH_ENGLISH_SPELLINGS, *ours}


def misspelt(text: str, known: set[str]) -> list[str]:
    for pattern in NO_PROSE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    words = {word.replace("’", "'") for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text) if len(word) > 1}
    return sorted(word for word in words if not {word.lower(), word.lower().removesuffix("'s")} & known)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_to_one_and_words_are_spelt_correctly(page, known):
    assert dead_links(page) == []
    wrong = misspelt("\n\n".join(texts(page, strings=False)), known)
    assert wrong == [], "correct them, or add them to tests/words.txt"


def test_a_long_lesson_a_dead_end_and_an_unanswered_prediction_are_found(tmp_path):
    every = [tmp_path / f"{name}.ipynb" for name in ("01_a", "02_b", "03_c", "attribute_explorer")]
    book = saved(source="%time\nguess = predict('?', 1)\nguess.truth(2)")
    book.cells[1].metadata.update(make.FOLDED)
    assert [lesson_complaints(path, book, every) for path in (every[0], every[3])] == [[], []]
    assert lesson_complaints(every[1], book, every) == ["it does not end with a link to another notebook"]
    book.cells[2].source = "\n".join(["a = choose('?', [], 1)", *["from a import b"] * 9, *["1"] * 16])
    book.cells[0].source += " word" * 2000 + "<details><summary>Answers</summary>" + " word" * 2000 + "</details>"
    book.cells[1].metadata.clear()
    book.cells[1:1] = [new_markdown_cell()] * 42
    assert lesson_complaints(every[0], book, every) == [
        "a cell has 26 lines", "the prediction 'a' has no answer", "9 lines of imports", "the first cell is not folded",
        "2017 words", "46 cells",
    ]  # fmt: skip


def test_a_dead_link_is_found(tmp_path):
    page = '[a](page.md) [b](none.md#part) [c](https://host/none) [d](page.md#part) <img src="none.png" alt="x">'
    (tmp_path / "page.md").write_text(page)
    assert dead_links(tmp_path / "page.md") == ["none.md", "none.png"]
    cells = [new_markdown_cell("[a](b.ipynb) [b](none.ipynb)"), new_code_cell("%time\nMarkdown('[c](nor_this.md)')")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "b.ipynb")
    assert dead_links(tmp_path / "b.ipynb") == ["none.ipynb", "nor_this.md"]


def test_a_misspelling_is_found(known):
    good = 'An image’s colour, x_0 and 64x64. "the colr", `colr` and $colr$; [here](colr.md).\n```python\ncolr\n```\n'
    assert misspelt(good, known) == []
    assert misspelt("The denoiser recieves a smilling face.", known) == ["recieves", "smilling"]
