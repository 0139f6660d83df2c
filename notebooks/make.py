"""Run and save the notebooks, and write what is generated in them and in the README.

    python notebooks/make.py run [NAME ...]      runs the notebooks, all or the named ones, and saves them
    python notebooks/make.py address [--check]   writes the first cell, the folded solutions, badges, links and versions, from
                                                 pyproject.toml and facelab.course.exercises; --check only reports differences
    python notebooks/make.py results [--check]   writes the README's table of results from data/results and the cards
    python notebooks/make.py figure              generates the animation at the top of the README
    python notebooks/make.py site DIR            builds the site from the saved notebooks (extra `site`, and npm)
    python notebooks/make.py film DIR            records the explorer's page of that site, for browsers that cannot run it
    python notebooks/make.py hub DIR             a folder for each denoiser that can be uploaded to the Hugging Face hub

A notebook is saved only if every cell ran, every image has alt text, no output names a folder of this machine, and the file
is small enough.
"""

import argparse
import difflib
import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import tomllib
from collections import namedtuple
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES, MAX_BYTES_TOGETHER = 2_000_000, 10_000_000
PLACEHOLDER = "YOUR_ACCOUNT"  # no GitHub account can have this name, because of its underscore
WIDGET = "application/vnd.jupyter.widget-view+json"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab
SETUP = """\
try:
    import facelab
except ModuleNotFoundError:
    import os
    source = ".." if os.path.exists("../pyproject.toml") else "git+https://github.com/{place}@v{version}"
    %pip install -q {{source}}
from facelab.course import setup
preset = setup()"""
# The first cell, also one of an older version. The explorer's page has more code around it.
SETUP_PART = re.compile(
    r"^(?:# Setup, |try:\n    import facelab$).*?(?:^\w+ = setup\(\)$|\Z)", re.MULTILINE | re.DOTALL
)
EXERCISE = re.compile(r"^(\w+) = check\(\1\)$", re.MULTILINE)
SOLUTION = "<details><summary>Solution</summary>\n\n```python\n{}\n```\n\n</details>"
# Folders that identify a machine, on any system.
FOLDERS = r"/(?:home|root|Users|tmp|var|opt|mnt|srv|usr|work|workspaces?|content|private)/|[A-Za-z]:\\+Users\b"
# Keys in the form in which providers issue them, and words that precede one.
SECRETS = re.compile(
    r"\b(hf_\w{30,}|gh[pousr]_\w{30,}|github_pat_\w{40,}|sk-[\w-]{32,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[baprs]-[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|(?i:\b(api_?key|token|password|secret))\\?[\"']?\s*[=:]\s*\\?[\"'][^\"'\s]{8,}|://\w+:\w+@"
)


Project = namedtuple("Project", "name version place")  # from pyproject.toml; place is ACCOUNT/NAME on GitHub


def project(root: Path) -> Project:
    about = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    address = about["urls"]["Repository"]
    if not (found := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", address)):
        raise SystemExit(f"Repository must be https://github.com/ACCOUNT/NAME for Colab, not {address}.")
    return Project(about["name"], about["version"], found[1])


def notebooks(root: Path) -> list[Path]:
    return sorted((root / "notebooks").glob("*.ipynb"))


def write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, "utf-8", newline="\n")
    os.replace(beside, path)


# Generated cells and links


def setup_cell(about: Project) -> str:
    """The source of every notebook's first code cell."""
    return SETUP.format(place=about.place, version=about.version)


def relink(text: str, about: Project) -> str:
    """Every link to the project, under whatever account, with the account, name and version of today."""
    names = "|".join(map(re.escape, {about.name, about.place.split("/")[1]}))
    hosts = r"https://(?:(?:raw\.githubusercontent|github)\.com|(?:colab\.research\.google\.com|nbviewer\.org)/github)/"
    text = re.sub(rf"({hosts})[\w.-]+/(?:{names})((?:\.git)?(?![\w-]))", rf"\g<1>{about.place}\g<2>", text)
    before_tag = rf"{hosts}{re.escape(about.place)}(?:\.git)?(?:@|/(?:(?:blob|tree|raw)/)?)"
    return re.sub(rf"({before_tag})v\d+(?:\.\w+)*", rf"\g<1>v{about.version}", text)


def solution_cells(source: str) -> list:
    """A folded solution for each exercise that a code cell checks."""
    from facelab.course.lesson import solution

    texts = {name: SOLUTION.format(solution(name).strip()) for name in EXERCISE.findall(source)}
    return [nbformat.v4.new_markdown_cell(text, id=f"solution-{name}"[:64]) for name, text in texts.items()]


def with_generated_parts(book, name: str, about: Project):
    """The notebook with its badge, its links, its first cell, and a folded solution under each exercise."""
    head = book.cells[0]
    if head.cell_type != "markdown":
        raise SystemExit(f"{name} must begin with a markdown cell that holds its title.")
    badge = f"{BADGE}(https://colab.research.google.com/github/{about.place}/blob/v{about.version}/notebooks/{name})"
    lines = [line for line in head.source.split("\n") if not line.startswith(BADGE)]
    head.source = re.sub(r"\n{3,}", "\n\n", "\n".join([lines[0], "", badge, "", *lines[1:]]).strip())
    first = next((cell for cell in book.cells if cell.cell_type == "code"), None)
    if first is None or not SETUP_PART.search(first.source):
        first = nbformat.v4.new_code_cell("# Setup, ", id="setup")
        book.cells.insert(1, first)
    first.source = SETUP_PART.sub(lambda _: setup_cell(about), first.source, count=1)
    first.metadata.update(FOLDED)
    cells = []
    for cell in book.cells:
        if cell.cell_type == "code":
            cells += [cell, *solution_cells(cell.source)]
        elif not cell.get("id", "").startswith("solution-"):
            cell.source = relink(cell.source, about)
            cells.append(cell)
    book.cells = cells
    return book


def address(root: Path = ROOT, check: bool = False) -> int:
    """Rewrite pages and notebooks; with `check` only report what differs, and return 1 if anything does."""
    about, differs = project(root), 0
    pages = [root / name for name in ("README.md", "CITATION.cff", "notebooks/README.md") if (root / name).exists()]
    for path in [*pages, *notebooks(root)]:
        old = path.read_text("utf-8")
        if path in pages:
            new = re.sub(r"^version: .*$", f"version: {about.version}", relink(old, about), flags=re.MULTILINE)
        else:
            book = with_generated_parts(nbformat.reads(old, 4), path.name, about)
            # Where only the layout of the JSON would change, the file stays as it is.
            new = old if book == nbformat.reads(old, 4) else nbformat.writes(book) + "\n"
        if new == old:
            continue
        differs = 1
        changes = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        lines = [f"  {line[:160]}" for line in list(changes)[2:]]
        print(f"{path.relative_to(root)} {'differs' if check else 'rewritten'}:", *lines, sep="\n")
        if not check:
            write(path, new)
    if PLACEHOLDER in about.place:
        print(f"pyproject.toml still holds the placeholder {PLACEHOLDER}: put your GitHub account there.")
    return differs if check else 0


# Running and saving


def run(names: list[str], root: Path = ROOT) -> int:
    """Run and save the named notebooks, or all; 1 if one of them was not saved."""
    known, failed = {path.stem: path for path in notebooks(root)}, 0
    names = [Path(name).name.removesuffix(".ipynb") for name in names] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"there is no notebook {', '.join(unknown)}: there are {', '.join(known) or 'none'}.")
    for path in (known[name] for name in names):
        print(f"{path.name} ...", end=" ", flush=True)
        book = with_generated_parts(nbformat.read(path, 4), path.name, project(root))
        wrong = execute(book, path.parent)
        tidy(book)
        wrong = wrong or complaints(book, root)
        text = nbformat.writes(book) + "\n"
        if len(text.encode()) + sum(p.stat().st_size for p in known.values() if p != path) > MAX_BYTES_TOGETHER:
            wrong.append(f"all notebooks together would exceed {MAX_BYTES_TOGETHER:,} bytes")
        if not wrong:
            write(path, text)
        failed |= bool(wrong)
        print(*(["not saved:", *wrong] if wrong else [f"saved, {len(text.encode()):,} bytes"]), sep="\n  ")
    return failed


def execute(book, folder: Path) -> list[str]:
    """Run the cells in a new kernel, as on a laptop without network or data; the failure, if there is one."""
    env = {name: value for name, value in os.environ.items() if name != "FACELAB_DATA"}
    env |= {"FACELAB_PRESET": "laptop", "FACELAB_OFFLINE": "1", "FACELAB_DEVICE": "cpu"}
    started, options = [], {"kernel_name": "python3", "timeout": None, "record_timing": False}
    options["on_cell_start"] = lambda cell, cell_index: started.append(cell_name(cell_index, cell))
    try:
        NotebookClient(book, resources={"metadata": {"path": str(folder)}}, **options).execute(env=env)
    except (CellExecutionError, DeadKernelError) as stop:
        message = f"{stop.ename}: {stop.evalue}" if isinstance(stop, CellExecutionError) else str(stop)
        return [f"{started[-1] if started else 'the kernel'} failed: {message}"]
    return []


def tidy(book) -> None:
    """Remove what belongs to this run or this machine only: widget state, progress bars, timings."""
    book.metadata.pop("widgets", None)
    book.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata.language_info = {"name": "python"}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        outputs = []
        for output in cell.outputs:
            if outputs and output.output_type == "stream" and output.get("name") == outputs[-1].get("name"):
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        cell.outputs = list(filter(final_state, outputs))


def final_state(output) -> bool:
    """Reduce an output to its last state: no progress bar, a widget's fallback. False if nothing remains."""
    bar = re.compile(r"\[(?:\d+:)?\d\d:\d\d(?:<|, )")  # of tqdm
    if output.output_type == "stream":
        # A carriage return starts the line again, so a reader sees what follows the last one.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n")]
        output.text = "\n".join(line for line in lines if not bar.search(line))
        return bool(output.text.strip())
    if WIDGET in output.get("data", {}):
        del output.data[WIDGET]
        return any(output.data.values()) and not bar.search(output.data.get("text/plain", ""))
    return True


def complaints(book, root: Path = ROOT) -> list[str]:
    """Why a notebook should not be saved as it is, a line each; none for a good one."""
    size, count, wrong = len(nbformat.writes(book).encode()) + 1, 0, []
    if size > MAX_BYTES:
        wrong.append(f"it has {size:,} bytes, over {MAX_BYTES:,}")
    if "widgets" in book.metadata:
        wrong.append("it holds widget state, which GitHub shows as an invalid notebook")
    for at, cell in enumerate(book.cells):
        if SECRETS.search("\n".join([cell.source, *map(output_text, cell.get("outputs", []))])):
            wrong.append(f"cell {at + 1} shows what looks like a secret")
        if cell.cell_type == "code":
            count += 1
            wrong += [f"{cell_name(at, cell)} {what}" for what in cell_complaints(cell, count, root)]
    return wrong


def cell_complaints(cell, count: int, root: Path) -> list[str]:
    here = root, Path.home(), Path(tempfile.gettempdir())
    here = "|".join(re.escape(str(folder)) for folder in here if len(folder.parts) > 1)
    private = re.compile(rf"(?<![\w.-])(?:{FOLDERS}|(?:{here})(?![\w-]))")
    wrong = [] if cell.execution_count == count else [f"has execution count {cell.execution_count}, not {count}"]
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "error":
            wrong.append(f"failed: {output.ename}: {output.evalue}")
        if WIDGET in data:
            wrong.append("holds the view of a widget that no reader has")
        if found := private.search(output_text(output)):
            wrong.append(f"shows a path of the machine that ran it: {found.string[found.start() :][:60]!r}")
        images = re.findall(r"<img\b[^>]*>", data.get("text/html", ""))
        bare = [image for image in images if not re.search(r'\balt="[^"]*\w[^"]*"', image)]
        if bare or (not images and any(mime.startswith("image/") for mime in data)):
            wrong.append("shows an image without alt text")
    return wrong


def cell_name(at: int, cell) -> str:
    """The cell as a reader finds it: its number, from 1, and its first words."""
    return f"cell {at + 1} ({cell.source.strip().partition(chr(10))[0][:40]})"


def output_text(output) -> str:
    """All text of an output, without encoded images."""
    parts = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
    for mime, value in output.get("data", {}).items():
        if not mime.startswith("image/"):
            parts.append(value if isinstance(value, str) else json.dumps(value))
    return re.sub(r"base64,[\w+/=]+", "base64,", "\n".join(parts))


# The README's table of results. All its values come from records, so that they cannot differ from what was measured.
MARKERS = ("<!-- results -->\n", "<!-- end of results -->")
HEAD = "| measured | facelab | for comparison | on |\n|---|---|---|---|\n"
# What is measured, facelab's value, others, and the record (or card) under data/. {PATH} is a value of that record, with its
# interval where there is one, to as many digits as a last number says; {FILE:PATH} a value of another.
ROWS = (
    ("class accuracy of generated digits, unguided", "{scores>guidance_scale_1>class_accuracy}",
     "chance 0.1; real digits {pretrained/mnist-classifier/card:scores>accuracy}", "pretrained/mnist/card"),
    ("the same, guidance scale 2", "{scores>guidance_scale_2>class_accuracy}", "the same", "pretrained/mnist/card"),
    ("the same, noise prediction (DDPM), guidance scale 2", "{scores>guidance_scale_2>class_accuracy}", "the same",
     "pretrained/mnist-ddpm/card"),
    ("Fréchet distance of faces, unguided", "{rows>0>frechet_distance>1}",
     "two sets of real faces {about>real_images>frechet_distance>1}", "results/celeba_guidance"),
    ("the same, guidance scale {rows>1>guidance_scale>0}", "{rows>1>frechet_distance>1}", "the same", "results/celeba_guidance"),
    ("the same, autoguidance, scale {rows>2>weak_scale>2}", "{rows>2>frechet_distance>1}", "the same", "results/celeba_guidance"),
    ("the same, both, scales {rows>3>guidance_scale>0} and {rows>3>weak_scale>2}", "{rows>3>frechet_distance>1}", "the same",
     "results/celeba_guidance"),
    ("attribute accuracy of these faces, all 40 specified, unguided", "{rows>0>attribute_accuracy}",
     "chance 0.5; real faces {pretrained/celeba-classifier/card:scores>mean_balanced_accuracy}", "results/celeba_guidance"),
    ("the same, guidance scale {rows>1>guidance_scale>0}", "{rows>1>attribute_accuracy}", "the same", "results/celeba_guidance"),
    ("share of faces nearer to a training face than to as many held-out faces, in features",
     "{rows>EfficientNet-Lite0>generated}", "chance 0.5; copies {rows>EfficientNet-Lite0>these training images (copies)>2}",
     "results/celeba_memorization"),
    ("Fréchet distance of faces, unguided, in table 1 of lesson 05", "{scores>0>rows>3>frechet_distance>1}",
     "the report's network {scores>0>rows>1>frechet_distance>1}", "results/table1"),
)  # fmt: skip


def results_table(root: Path, rows) -> str:
    """The rows whose records are there, filled in."""
    found = []
    for *cells, file in rows:
        if not (root / f"data/{file}.json").is_file():
            continue
        about = read(root, file).get("about") or read(root, file)["scores"]
        steps = f", {about['steps']} steps" if "steps" in about else ""
        kind = "card" if file.endswith("card") else "record"
        cells.append(f"{about.get('count', about.get('images')):,} images{steps} ([{kind}](data/{file}.json))")
        row = f"| {' | '.join(cells)} |\n"
        found.append(
            re.sub(r"\{(?:([^{}]+):)?([^{}]+)\}", lambda it, file=file: value(root, it[1] or file, it[2]), row)
        )
    return HEAD + "".join(found)


def read(root: Path, file: str):
    return json.loads((root / f"data/{file}.json").read_text("utf-8"))


def value(root: Path, file: str, path: str) -> str:
    *keys, last = path.split(">")
    keys, digits = (keys, int(last)) if last.isdigit() else ([*keys, last], 3)
    found = read(root, file)
    for key in keys:
        found = found[int(key) if isinstance(found, list) else key]
    if isinstance(found, dict):
        return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return f"{found:,}" if isinstance(found, int) else f"{found:.{digits}f}" if isinstance(found, float) else str(found)


def results(root: Path = ROOT, check: bool = False) -> int:
    """Write the table between its markers in the README; with `check` only report whether it differs, and return 1 then."""
    page = root / "README.md"
    old = page.read_text("utf-8")
    between = rf"(?s)(?<={re.escape(MARKERS[0])}).*?(?={re.escape(MARKERS[1])})"
    if not re.search(between, old):
        raise SystemExit(f"README.md needs the lines {MARKERS[0].strip()} and {MARKERS[1]} around the table.")
    new = re.sub(between, lambda _: results_table(root, ROWS), old, count=1)
    if new != old:
        print(f"README.md {'differs from the records' if check else 'rewritten'}")
        if not check:
            write(page, new)
    return int(check and new != old)


# The README's animation: faces of a few seeds, whose attributes change one after the other.
SEEDS = (7, 5, 12)
CHANGES = [{"Male": False, "Young": True}, {"Smiling": True}, {"Blond_Hair": True}, {"Bangs": True}]
CHANGES += [{"Black_Hair": True, "Blond_Hair": False, "Bangs": False}, {"Male": True}]


def figure(root: Path = ROOT) -> int:
    """The condition changes while the noise stays; then noise becomes the first faces again. Two minutes on a laptop."""
    import torch

    from facelab import AdamsBashforth, animation, cfg, lerp, load, noise, sample, trajectory

    model, values = load("celeba"), dict(CHANGES[0])
    encode, describe = model.attributes.encode, model.attributes.describe
    guided, sampler = cfg(model.denoiser, 2.0), AdamsBashforth(model.schedule)
    x_T = torch.cat([noise(1, model.shape, seed) for seed in SEEDS])
    generation = list(trajectory(guided, x_T, encode(**values), sampler, 10))
    frames = [generation[-1]]
    for change in CHANGES[1:]:
        conds = lerp(encode(**values), encode(**values | change), 5)[1:]
        frames += [sample(guided, x_T, cond, sampler, 10) for cond in conds]
        values |= change
    changes = ", then ".join(describe(encode(**change)) for change in CHANGES)
    alt = f"{len(SEEDS)} generated faces, conditioned on {changes}; then noise becomes the first faces again."
    moving = animation(frames + generation, seconds=0.25, back=False, alt=alt)
    moving.save(root / "data/results/faces.png")
    print(f"{len(moving.png):,} bytes: {alt}")
    return 0


# The modules of the site's API page.
API = """schedules attributes denoiser classifier guidance samplers training analytic editing pretrained data.mnist data.celeba
data.synthetic_faces data.csv_dataset evaluation.metrics evaluation.attribute_accuracy evaluation.likelihood widgets.explorer"""


def site(out: Path, root: Path = ROOT) -> int:
    """Build the pages into `out`, which any static server can show; nothing in them comes from another address."""
    about = project(root)
    repository = f"https://github.com/{about.place}"
    with tempfile.TemporaryDirectory() as folder:
        source, static = Path(folder), Path(folder) / "_static"
        ignore = shutil.ignore_patterns("web")
        shutil.copytree(root / "notebooks/site", source, dirs_exist_ok=True, ignore=ignore)
        static.mkdir()
        for name in ("site.css", "site.js"):
            shutil.move(source / name, static)
        from_npm("mathjax@3", {"es5/tex-svg.js": static / "mathjax.js"})
        shutil.copy(root / "data/results/faces.png", source)
        for path in notebooks(root):
            book = nbformat.read(path, 4)
            for cell in book.cells:
                cell.source = page_links(cell.source, about) if cell.cell_type == "markdown" else cell.source
            nbformat.write(book, source / path.name)
        for name, text in {"glossary": "glossary.md", "teachers": "README.md"}.items():
            write(source / f"{name}.md", page_links((root / "notebooks" / text).read_text("utf-8"), about))
        names = [f"facelab.{name}" for name in API.split()]
        modules = "\n\n".join(f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n   :members:" for name in names)
        for page, place, text in ("index.md", "REPOSITORY", repository), ("api.md", "MODULES", modules):
            write(source / page, (source / page).read_text("utf-8").replace(place, text))
        options = ["-q", "-b", "html", "-c", root / "notebooks/site", "-D", f"html_static_path={static}"]
        failed = subprocess.run([sys.executable, "-m", "sphinx", *options, source, out]).returncode
    return failed or web_explorer(out / "explorer", root)


def web_explorer(out: Path, root: Path = ROOT) -> int:
    """The explorer's page: its own files, the exported weights, and onnxruntime-web."""
    shutil.copytree(root / "notebooks/site/web", out, dirs_exist_ok=True)
    version = json.loads((out / "package.json").read_text("utf-8"))["dependencies"]["onnxruntime-web"]
    kinds = [f"ort.{kind}.bundle.min.mjs" for kind in ("wasm", "jspi")]
    kinds += [f"ort-wasm-simd-threaded{kind}.wasm" for kind in ("", ".jspi")]
    (out / "ort").mkdir(exist_ok=True)
    from_npm(f"onnxruntime-web@{version}", {f"dist/{name}": out / "ort" / name for name in kinds})
    export = [sys.executable, root / "data/make/export_onnx.py", "--out", out / "models"]
    return max(subprocess.run([*export, name]).returncode for name in ("mnist", "celeba"))


# What the film shows: links of the explorer's page, one attribute more in each.
FILM = ["model=celeba&seed=7", "&Male=-1&Young=1", "&Smiling=1", "&Blond_Hair=1", "&Bangs=1", "&Eyeglasses=1"]


def film(built: Path, root: Path = ROOT) -> int:
    """Record the explorer's page in the folder of `site`, for browsers that cannot run it; needs playwright and Chromium."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    finished = (
        "document.getElementById('stage').ariaBusy === 'false' && document.getElementById('status').innerText != ''"
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=built)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    frames, address = [], f"http://127.0.0.1:{server.server_port}/explorer/index.html#guidance_scale=2&steps=10&"
    with sync_playwright() as browsers:
        chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1040, "height": 640})
        for count in range(len(FILM)):
            page.goto("about:blank")  # so that a new link loads the page anew
            page.goto(address + "".join(FILM[: count + 1]))
            page.wait_for_function(finished, timeout=120_000)
            frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize((780, 480)))
    frames[0].save(
        root / "notebooks/site/web/film.webp", save_all=True, append_images=frames[1:], duration=1500, loop=0
    )
    return 0


def from_npm(package: str, files: dict[str, Path]) -> None:
    """Copy files of a package of the npm registry; the keys are their paths in it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as content:
            for name, file in files.items():
                file.write_bytes(content.extractfile(f"package/{name}").read())


def page_links(text: str, about: Project) -> str:
    """Badges as plain links, because their images lie on other servers; links out of notebooks/ to the repository."""
    text = re.sub(r"\[!\[([^\]]*)\]\([^)]*\)\]", r"[\1]", text)
    text = text.replace("(README.md)", "(teachers.md)").replace("(../README.md)", "(index.md)")
    return re.sub(r"\]\(\.\./", f"](https://github.com/{about.place}/blob/v{about.version}/", text)


MODEL_CARD = """---
library_name: facelab
pipeline_tag: unconditional-image-generation
license: {license}
tags: [diffusion, classifier-free-guidance, {data}]
---
# {name}

{what}. A small conditional diffusion model of facelab, a notebook series that teaches how such models work: {repository}

- Data: {card[data]}
- License: {card[license]}
- {parameters:,} parameters, images of {shape}, conditions: {attributes}

```python
# pip install "git+{repository}@v{version}"
from facelab import Denoiser, cfg, noise, sample, show, DDIM

denoiser = Denoiser.from_pretrained("path/to/{name}")
cond = denoiser.attributes.encode(**{example})
show(sample(cfg(denoiser, 2.0), noise(4, denoiser.shape, seed=1), cond, DDIM(denoiser.schedule), steps=20), 4)
```

Trained by `{card[command]}`. Scores, all training stages and the checksum are in card.json.

People in generated images do not exist. The attributes are guesses of annotators. This is no tool for making images of people.
"""


def hub(out: Path, root: Path = ROOT) -> int:
    """A folder in `out` for each denoiser: its files, and a model card made from card.json."""
    from facelab import load
    from facelab.pretrained import names

    about = project(root)
    for name in names():
        model = load(name)
        if model.denoiser is None:
            continue
        shutil.copytree(root / "data/pretrained" / name, out / name, dirs_exist_ok=True)
        attributes, free = model.attributes, model.card["license"] == "MIT"
        facts = {"name": name, "card": model.card, "what": model.card["what"], "version": about.version}
        facts |= {"license": "mit" if free else "other", "data": "mnist" if attributes.exclusive else "faces"}
        facts |= {"parameters": model.card["parameters"], "shape": "x".join(map(str, model.shape))}
        facts |= {"attributes": ", ".join(attributes), "example": {attributes.names[-1]: True}}
        write(out / name / "README.md", MODEL_CARD.format(repository=f"https://github.com/{about.place}", **facts))
        print(out / name)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run | address | results | figure | site | film | hub"
    )
    commands.add_parser("run").add_argument("names", nargs="*", metavar="NAME", help="with or without .ipynb")
    for name in ("address", "results"):
        commands.add_parser(name).add_argument("--check", action="store_true", help="change nothing")
    commands.add_parser("figure")
    for name in ("site", "hub"):
        commands.add_parser(name).add_argument("out", type=Path, metavar="DIR", help="where it is written")
    commands.add_parser("film").add_argument("built", type=Path, metavar="DIR", help="where `site` has written it")
    given = vars(parser.parse_args(argv))
    known = {command.__name__: command for command in (run, address, results, figure, site, film, hub)}
    return known[given.pop("command")](**given)


if __name__ == "__main__":
    sys.exit(main())
