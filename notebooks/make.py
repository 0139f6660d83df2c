"""What is generated in the notebooks, and how they are run and saved.

    python notebooks/make.py address [--check]   copies the project's address and version from pyproject.toml into setup
                                                 cells, Colab badges, links and CITATION.cff; --check only
                                                 says what differs
    python notebooks/make.py run [NAME ...]      runs the notebooks anew, all or the named ones, and saves them
    python notebooks/make.py results [--check]   writes the README's table of results anew from data/results and the cards
    python notebooks/make.py sight               draws the moving picture at the top of the README anew

A notebook is saved only when it is whole: every cell ran, every picture has its alt text, nothing is too large, and
no output names a folder of the machine that ran it.
"""

import argparse
import difflib
import html
import json
import os
import re
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
LARGEST, ALL_TOGETHER = 1_000_000, 7_000_000  # bytes
# A setup cell never installs these: a second version beside Colab's own breaks the runtime.
NEVER_INSTALLED = {"torch", "torchvision", "numpy", "ipywidgets", "ipython"}
MODULES = {"pillow": "PIL", "ipython": "IPython"}  # where a package is not imported under its own name
WIDGET = "application/vnd.jupyter.widget-view+json"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
# Folders that give a machine away, on any system.
FOLDERS = r"/(?:home|root|Users|tmp|var|opt|mnt|srv|usr|work|workspaces?|content|private)/|[A-Za-z]:\\+Users\b"
# Keys as those who give them out shape them, and words that come before one.
SETUP_PART = re.compile(r"^# Setup, .*?(?:^plan = setup\(\)$|\Z)", re.MULTILINE | re.DOTALL)  # more may stand around it
SECRETS = re.compile(
    r"\b(hf_\w{30,}|gh[pousr]_\w{30,}|github_pat_\w{40,}|sk-[\w-]{32,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[baprs]-[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|(?i:\b(api_?key|token|password|secret))\\?[\"']?\s*[=:]\s*\\?[\"'][^\"'\s]{8,}|://\w+:\w+@"
)

SETUP = """\
# Setup, the same in every notebook. Where facelab is not installed, as in Colab, it is fetched, with those of its
# packages that are missing; nothing that is there is replaced. Then one line says what the lesson runs on.
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

names = (
    {modules}
).split()
missing = [name for name in names if not getattr(find_spec(name), "origin", None)]  # a bare folder has no origin
if "torch" in missing:
    raise RuntimeError("PyTorch is missing: run `pip install torch torchvision`, restart the kernel, run this again.")
if "facelab" in missing:
    address = "{address}"
    fetched = Path.cwd() / "facelab-{version}"
    files = "pyproject.toml", "facelab/__init__.py"
    clones = [place for place in (*fetched.parents, fetched) if all((place / file).is_file() for file in files)]
    git = ["git", "clone", "--quiet", "--depth", "1", "--branch", "v{version}", address, fetched.name]
    packages = [{renamed}.get(name, name) for name in missing if name != "facelab"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *packages]
    try:
        for command in ([] if clones else [git]) + ([pip] if packages else []):
            subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise RuntimeError(f"facelab could not be set up (no network?): {{' '.join(command)}} failed.") from None
    sys.path.insert(0, str([*clones, fetched][0]))
    sys.modules.pop("facelab", None)  # the bare folder, if it was imported

from facelab.lessons import setup

plan = setup()"""


class Project(NamedTuple):
    """What pyproject.toml says of the project."""

    name: str
    version: str
    place: str  # OWNER/NAME
    core: list[str]


def project(root: Path) -> Project:
    told = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    address = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", told["urls"]["Repository"])
    if not address:
        raise SystemExit(
            f"Repository must be https://github.com/OWNER/NAME for Colab, not {told['urls']['Repository']}."
        )
    core = [re.match(r"[\w.-]+", requirement)[0].lower() for requirement in told["dependencies"]]
    return Project(told["name"], told["version"], address[1], core)


def notebooks(root: Path) -> list[Path]:
    return sorted((root / "notebooks").glob("*.ipynb"))


def module(package: str) -> str:
    """The name under which a package is imported; pip takes most of these, too."""
    return MODULES.get(package, package.replace("-", "_"))


def setup_cell(about: Project) -> str:
    """The source of every notebook's first code cell."""
    fetched = sorted(set(about.core) - NEVER_INSTALLED)
    lines = textwrap.wrap(" ".join(["torch facelab", *map(module, fetched)]), 100)
    return SETUP.format(
        modules="\n    ".join(f'"{line} "' for line in lines[:-1]) + f'\n    "{lines[-1]}"',
        renamed=json.dumps({MODULES[package]: package for package in fetched if package in MODULES}),
        version=about.version,
        address=f"https://github.com/{about.place}",
    )


def relinked(text: str, about: Project) -> str:
    """Every link to the project, whoever owned it before, with today's owner, name and version."""
    names = "|".join(map(re.escape, {about.name, about.place.split("/")[1]}))
    hosts = r"https://(?:github\.com|raw\.githubusercontent\.com|colab\.research\.google\.com/github)/"
    tag = r"(?P<before>@|/(?:(?:blob|tree|raw)/)?)v\d+(?:\.\w+)*"
    link = rf"(?P<host>{hosts})[\w.-]+/(?:{names})(?P<git>(?:\.git)?(?![\w-]))(?:{tag})?"
    return re.sub(
        link,
        lambda it: (
            f"{it['host']}{about.place}{it['git']}" + (f"{it['before']}v{about.version}" if it["before"] else "")
        ),
        text,
    )


def addressed(book, name: str, about: Project):
    """The notebook with its badge, its links and its setup cell, which is put in where there is none."""
    head = book.cells[0]
    if head.cell_type != "markdown":
        raise SystemExit(f"{name} must begin with a markdown cell that holds its title.")
    badge = f"{BADGE}(https://colab.research.google.com/github/{about.place}/blob/v{about.version}/notebooks/{name})"
    lines = [line for line in head.source.split("\n") if not line.startswith(BADGE)]
    head.source = "\n".join([lines[0], "", badge, "", *lines[1:]]).strip()
    head.source = re.sub(r"\n{3,}", "\n\n", head.source)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, about)
    first = next((cell for cell in book.cells if cell.cell_type == "code"), None)
    if first is None or not SETUP_PART.search(first.source):
        first = nbformat.v4.new_code_cell("# Setup, ", id="setup")
        book.cells.insert(1, first)
    # What it printed stays: it does not depend on the address.
    first.source = SETUP_PART.sub(lambda _: setup_cell(about), first.source, count=1)
    return book


def address(root: Path = ROOT, check: bool = False) -> int:
    """Rewrite pages and every notebook; with `check` only say what differs, and return 1 if anything does."""
    about, differs = project(root), 0
    pages = [page for page in (root / "README.md", root / "CITATION.cff") if page.exists()]
    for path in [*pages, *notebooks(root)]:
        old = path.read_text("utf-8")
        if path in pages:
            new = re.sub(r"^version: .*$", f"version: {about.version}", relinked(old, about), flags=re.MULTILINE)
        else:
            book = addressed(nbformat.reads(old, 4), path.name, about)
            # Where only the layout of the JSON would change, the file is left alone.
            new = old if book == nbformat.reads(old, 4) else nbformat.writes(book) + "\n"
        if new == old:
            continue
        differs = 1
        print(f"{path.relative_to(root)} {'differs' if check else 'rewritten'}:")
        changes = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        print(*(f"  {line[:160]}" for line in list(changes)[2:]), sep="\n")
        if not check:
            write(path, new)
    return differs if check else 0


def write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, "utf-8", newline="\n")
    os.replace(beside, path)


def run(names: list[str], root: Path = ROOT) -> int:
    """Run and save the named notebooks, or all; 1 if one of them was not saved."""
    known, failed = {path.stem: path for path in notebooks(root)}, 0
    names = [name.removesuffix(".ipynb") for name in names] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"there is no notebook {', '.join(unknown)}: there are {', '.join(known) or 'none'}.")
    for path in (known[name] for name in names):
        print(f"{path.name} ...", end=" ", flush=True)
        book = addressed(nbformat.read(path, 4), path.name, project(root))
        wrong = execute(book, path.parent)
        tidy(book)
        wrong = wrong or complaints(book, root)
        text = nbformat.writes(book) + "\n"
        if len(text.encode()) + sum(p.stat().st_size for p in known.values() if p != path) > ALL_TOGETHER:
            wrong.append(f"all notebooks together would exceed {ALL_TOGETHER:,} bytes")
        if not wrong:
            write(path, text)
        failed |= bool(wrong)
        print(*(["not saved:", *wrong] if wrong else [f"saved, {len(text.encode()):,} bytes"]), sep="\n  ")
    return failed


def execute(book, folder: Path) -> list[str]:
    """Run the cells in a fresh kernel, as on a laptop without network or data; what stopped it, if anything did."""
    env = {name: value for name, value in os.environ.items() if name != "FACELAB_DATA"}
    env |= {"FACELAB_PLAN": "laptop", "FACELAB_OFFLINE": "1", "FACELAB_DEVICE": "cpu"}
    begun = []
    client = NotebookClient(
        book,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=lambda cell, cell_index: begun.append(named(cell_index, cell)),
    )
    try:
        client.execute(env=env)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as stop:
        says = f"{stop.ename}: {stop.evalue}" if isinstance(stop, CellExecutionError) else str(stop)
        return [f"{begun[-1] if begun else 'the kernel'} failed: {says}"]
    return []


def tidy(book) -> None:
    """Leave what a reader sees, and nothing that only this run or this machine explains."""
    widgets = book.metadata.pop("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
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
        cell.outputs = [output for output in outputs if settled(output, widgets)]


def settled(output, widgets: dict) -> bool:
    """Bring an output to its last state: a bar to its last line, a widget to its fallback. False if nothing is left."""
    if output.output_type == "stream":
        # A carriage return starts the line anew, so a reader sees what follows the last one.
        output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n"))
        return bool(output.text.strip())
    if WIDGET in output.get("data", {}):
        view = output.data.pop(WIDGET)
        # The fallback of tqdm's bar is its first line, at 0 %.
        if re.search(r"\[\d\d:\d\d<", output.data.get("text/plain", "")):
            output.data["text/plain"] = last_line(view["model_id"], widgets)
        return any(output.data.values())
    return True


def last_line(model_id: str, widgets: dict) -> str:
    """What tqdm's bar said in the end, read from the widgets it is made of; nothing if it took itself away."""

    def state(name):
        return widgets.get(name.removeprefix("IPY_MODEL_"), {}).get("state", {})

    bar = state(model_id)
    if state(bar.get("layout", "")).get("visibility") == "hidden":
        return ""
    words = [state(child).get("value", "") for child in bar.get("children", [])]
    return " ".join(" ".join(html.unescape(word) for word in words if isinstance(word, str)).split())


def complaints(book, root: Path = ROOT) -> list[str]:
    """Why a notebook should not be saved as it is, a line each; none for a good one."""
    size, count, wrong = len(nbformat.writes(book).encode()) + 1, 0, []
    if size > LARGEST:
        wrong.append(f"it has {size:,} bytes, over {LARGEST:,}")
    if "widgets" in book.metadata:
        wrong.append("it holds widget state, which GitHub calls an invalid notebook")
    here = [folder for folder in (root, Path.home(), Path(tempfile.gettempdir())) if len(folder.parts) > 1]
    here = "|".join(re.escape(str(folder)) for folder in here)
    private = re.compile(rf"(?<![\w.-])(?:{FOLDERS}|(?:{here})(?![\w-]))")
    for at, cell in enumerate(book.cells):
        if SECRETS.search("\n".join([cell.source, *map(letters, cell.get("outputs", []))])):
            wrong.append(f"cell {at + 1} shows what looks like a secret")
        if cell.cell_type != "code":
            continue
        count += 1
        name = named(at, cell)
        if cell.execution_count != count:
            wrong.append(f"{name} has execution count {cell.execution_count}, not {count}")
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "error":
                wrong.append(f"{name} failed: {output.ename}: {output.evalue}")
            if WIDGET in data:
                wrong.append(f"{name} holds the view of a widget that no reader has")
            if found := private.search(letters(output)):
                wrong.append(f"{name} shows a path of the machine that ran it: {found.string[found.start() :][:60]!r}")
            images = re.findall(r"<img\b[^>]*>", data.get("text/html", ""))
            bare = [image for image in images if not re.search(r'\balt="[^"]*\w[^"]*"', image)]
            if bare or (not images and any(mime.startswith("image/") for mime in data)):
                wrong.append(f"{name} shows a picture without alt text")
    return wrong


def named(at: int, cell) -> str:
    """The cell as a reader finds it: its number, from 1, and how it begins."""
    begins = cell.source.strip().partition("\n")[0][:40]
    return f"cell {at + 1} ({begins})"


def letters(output) -> str:
    """All that an output says, without the letters that encode a picture."""
    said = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
    for mime, value in output.get("data", {}).items():
        if not mime.startswith("image/"):
            said.append(value if isinstance(value, str) else json.dumps(value))
    return re.sub(r"base64,[\w+/=]+", "base64,", "\n".join(said))


# The README's table of results: nothing in it is typed by hand, so that it cannot part from what was measured.
TABLE = ("<!-- results -->\n", "<!-- end of results -->")


def told(found: dict, digits: int = 3) -> str:
    """A recorded value with its interval."""
    value = found["value"] if "value" in found else found["share"]
    return f"{value:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def scored(card: dict, *words: str) -> tuple[str, str]:
    """(what, value): the one score of a card whose name holds all these words."""
    ((name, value),) = [(name, value) for name, value in card["scores"].items() if all(word in name for word in words)]
    return name, str(value)


def table(root: Path = ROOT) -> str:
    """What was measured, beside what it has to be compared with, from the records and the weights' cards."""

    def record(name):
        return json.loads((root / f"data/results/{name}.json").read_text("utf-8"))

    def card(name):
        return json.loads((root / f"data/pretrained/{name}/card.json").read_text("utf-8"))

    digits, judge, recipes = card("digits"), card("digits-judge"), record("digits_recipes")
    bits, faces, loud, edits = map(record, ("digits_likelihood", "celeba_control_all", "celeba_scales", "drawn_edits"))
    celeba, report = card("celeba"), card("report")
    (plain, few), guided = scored(digits, "plain"), scored(digits, "guided at 2")[1]
    first, last = recipes["rows"][0], recipes["rows"][-1]
    ceiling = [row["ceiling"]["share"] for row in faces["rows"]]
    obeyed = faces["scales"][f"{faces['control']['scale']:g}"]["mean"]
    by_scale = {row["scale"]: row for row in loud["rows"]}
    (of_theirs, of_ours) = (
        [scored(one, words, "plain") for words in ("asked = read", "distance in")] for one in (report, celeba)
    )
    saw = sum(leg["recipe"]["pictures"] for leg in [*celeba.get("legs", []), celeba])
    bits_of = bits["test"]["total"], bits["train"]["total"]
    rows = [
        ("measured", "ours", "beside it", "on"),
        ("---",) * 4,
        (
            "digits read as what was asked, plain",
            few,
            f"chance 0.1; real digits {judge['scores']['accuracy on real test digits']}",
            f"{', '.join(plain.split(', ')[2:])} ([card](data/pretrained/digits/card.json))",
        ),
        ("the same, guided at 2", guided, "the same", "the same"),
        (
            f"the same after {recipes['recipe']['pictures']:,} pictures, guided at 2: our recipe beside the report's",
            told(last["read"]["2"]),
            f"the report's: {told(first['read']['2'])}",
            f"{last['read']['2']['count']} digits, one net, seed and budget ([record](data/results/digits_recipes.json))",
        ),
        (
            "bits for each number of unseen digits, an upper bound",
            told(bits_of[0]),
            f"of digits that it was trained on {told(bits_of[1])}",
            f"{bits['likelihood']['count']} digits of each ([record](data/results/digits_likelihood.json))",
        ),
        (
            f"faces, all forty answers said: asked = read, balanced, guided at {faces['control']['scale']:g}",
            told(obeyed),
            f"chance 0.5; the judge on real faces {sum(ceiling) / len(ceiling):.3f}",
            f"{faces['control']['requests'].split(',')[0]} faces, {faces['control']['drawn in'].split()[0]} calls "
            "([record](data/results/celeba_control_all.json))",
        ),
        *(
            (
                f"faces, distance to real ones, {words}",
                told(by_scale[scale]["distance"], 1),
                f"real ones to others {told(loud['loudness']['floor'], 1)}",
                f"{loud['loudness']['count']} faces, {loud['loudness']['drawn in'].split()[0]} calls "
                "([record](data/results/celeba_scales.json))",
            )
            for scale, words in ((1.0, "plain"), (2.0, "guided at 2"), (8.0, "guided at 8"))
        ),
        (
            f"faces, asked = read and distance, plain, after {saw:,} pictures; intervals were not recorded",
            " and ".join(f"{round(float(value), 3):g}" for _, value in of_ours),
            f"the report's network after {report['recipe']['pictures']:,}: "
            + " and ".join(f"{round(float(value), 3):g}" for _, value in of_theirs),
            f"{', '.join(of_ours[1][0].split(', ')[-2:])} "
            "([card](data/pretrained/celeba/card.json), [card](data/pretrained/report/card.json))",
        ),
        (
            "edited drawn faces: error against the true edit, where it changes the picture, in grey levels of 255",
            told(edits["inside"]["edit"], 1),
            f"not edited {told(edits['inside']['unedited'], 1)}",
            f"{edits['edits']['count']} drawn faces ([record](data/results/drawn_edits.json))",
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- | --- | --- | --- |", "|---|---|---|---|")


def results(root: Path = ROOT, check: bool = False) -> int:
    """Put the table between its marks in the README; with `check` only say whether it differs, and return 1 if it does."""
    page = root / "README.md"
    old = page.read_text("utf-8")
    before, begin, rest = old.partition(TABLE[0])
    _, end, after = rest.partition(TABLE[1])
    if not begin or not end:
        raise SystemExit(f"README.md needs the lines {TABLE[0].strip()} and {TABLE[1]}: the table goes between them.")
    new = before + begin + table(root) + end + after
    if new != old:
        print(f"README.md {'differs from what was measured' if check else 'rewritten'}")
        if not check:
            write(page, new)
    return int(check and new != old)


# The README's moving picture: these noises become these people, who then are asked for one thing after the other.
PEOPLE = (7, 5, 12)
ASKED = (
    {"Male": False, "Young": True},
    {"Smiling": True},
    {"Blond_Hair": True},
    {"Bangs": True},
    {"Black_Hair": True, "Blond_Hair": False, "Bangs": False},
    {"Male": True},
)


def sight(root: Path = ROOT) -> int:
    """From fog to faces, then the request changes while the noise stays; about two minutes on a laptop."""
    import torch

    from facelab import plots, pretrained
    from facelab.edit import walk
    from facelab.guidance import classifier_free
    from facelab.sample import AdamsBashforth, noise, sample, trajectory

    model = pretrained.load("celeba")
    guided, solver = classifier_free(model.denoiser, 2.0), AdamsBashforth(model.schedule)
    x_T = torch.cat([noise(1, model.shape, seed) for seed in PEOPLE])
    said, words = dict(ASKED[0]), model.attributes.describe(model.attributes.encode(**ASKED[0]))
    frames = list(trajectory(guided, x_T, model.attributes.encode(**said), solver, 10))
    titles = ["noise"] * 2 + [words] * (len(frames) - 2)
    for more in ASKED[1:]:
        way = walk(model.attributes.encode(**said), model.attributes.encode(**said | more), 5)[1:]
        frames += [sample(guided, x_T, cond, solver, 10) for cond in way]
        said |= more
        titles += [model.attributes.describe(model.attributes.encode(**more))] * len(way)
    alt = f"Noise becomes {len(PEOPLE)} faces; then each of them is asked for {', '.join(dict.fromkeys(titles[11:]))} in turn."
    moving = plots.animation(frames, titles, seconds=0.25, back=False, still=10, side=128, alt=alt)
    moving.save(root / "data/results/sight.png")
    print(f"{len(moving.png):,} bytes: {alt}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="address | run | results | sight")
    for name in ("address", "results"):
        commands.add_parser(name).add_argument("--check", action="store_true", help="change nothing")
    commands.add_parser("run").add_argument("names", nargs="*", metavar="NAME", help="with or without .ipynb")
    commands.add_parser("sight")
    given = parser.parse_args(argv)
    if given.command == "sight":
        return sight()
    if given.command == "results":
        return results(check=given.check)
    return address(check=given.check) if given.command == "address" else run(given.names)


if __name__ == "__main__":
    sys.exit(main())
