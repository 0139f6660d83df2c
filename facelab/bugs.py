"""Eight bugs of published code, each one line of ours written as it was published (lesson 06).

    sound run | the same run with one line changed -> asked = read, distance, and both against the sound run

`python -m facelab.bugs --out DIR` trains the sound run and each bug at one size, resumes where it was stopped, and writes
DIR/bugs.json and DIR/bugs.png (a row of ten digits for each run). Outside `bug.put_in()` the code is the sound one.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facelab import plots
from facelab.attributes import DIGITS
from facelab.checkpoints import run_name
from facelab.data import Pictures, mnist
from facelab.features import extractor, features_of
from facelab.guidance import classifier_free
from facelab.kept import keep, kept
from facelab.metrics import (
    Difference,
    asked_is_read,
    asked_of_each,
    difference,
    frechet_difference,
    frechet_estimate,
)
from facelab.model import Denoiser
from facelab.plan import PLANS, Plan, Recipe, machine, plan
from facelab.pretrained import figure, load, results
from facelab.sample import DDIM, noise, sample
from facelab.schedule import Schedule, cosine
from facelab.train import Batch, fit, forget_whole


@dataclasses.dataclass(frozen=True)
class Bug:
    """One line of facelab as it was published elsewhere.

    Args:
        name: what to call it, three or four words.
        source: where it was published, and who found it.
        of: the function of ours that it stands in.
        line: the sound line, as it stands in that function and nowhere else in it.
        published: the same line with the bug.
        trains: whether training runs through it; else it only spoils drawing.

    Raises:
        ValueError: where `line` does not stand exactly once in `of`.
    """

    name: str
    source: str
    of: Callable
    line: str
    published: str
    trains: bool = True

    def __post_init__(self):
        if (count := self.sound.count(self.line)) != 1:
            raise ValueError(f"{self.name}: its line stands {count} times in {self.of.__qualname__}, and should once.")

    @property
    def sound(self) -> str:
        """The source of the sound function."""
        return _source(self.of)

    @property
    def spoilt(self) -> str:
        """The same with the published line."""
        return self.sound.replace(self.line, self.published)

    def diff(self, around: int = 1) -> str:
        """What differs, as `diff -u` shows it, with so many lines around."""
        sides = (text.splitlines() for text in (self.sound, self.spoilt))
        where = f"{self.of.__module__.replace('.', '/')}.py, {self.of.__qualname__}"
        lines = difflib.unified_diff(*sides, where, "as published", n=around, lineterm="")
        return "\n".join(line for line in lines if not line.startswith("@@"))

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """While inside, facelab runs the published line, whoever imported the function from wherever."""
        before = self.of.__code__
        # The code is changed, not the name: so nobody who imported the function goes on with the sound one.
        self.of.__code__ = _code(self.of, self.spoilt)
        try:
            yield
        finally:
            self.of.__code__ = before


@functools.cache
def _source(function: Callable) -> str:
    """Read once, from the file: code that was put in has no file."""
    return textwrap.dedent(inspect.getsource(function))


def _code(function: Callable, source: str) -> types.CodeType:
    whole = compile(source, f"<{function.__qualname__}, as published>", "exec")
    return next(part for part in whole.co_consts if getattr(part, "co_name", "") == function.__name__)


BUGS = {
    bug.name: bug
    for bug in (
        Bug(
            "the last tick left out",
            "huggingface/diffusion-models-class, unit 2/02, and the report's listing: randint(0, 999) stops at 998",
            Batch.draw.__func__,
            "t = (u * ticks).long().clamp(max=ticks - 1)",
            "t = (u * (ticks - 1)).long().clamp(max=ticks - 2)",
        ),
        Bug(
            "noise without its root",
            "Ryota-Kawamura/How-Diffusion-Models-Work, issue 1: (1 - ab_t) * noise",
            Schedule.add_noise,
            "return signal * x_0 + sigma * eps",
            "return signal * x_0 + sigma**2 * eps",
        ),
        Bug(
            "label dropped too often",
            "eje24/iap-diffusion-labs, mended in commit 3ce71b6: dropped with probability 0.9 where 0.1 was meant",
            forget_whole,
            ">= 0.1)[:, None]",
            ">= 0.9)[:, None]",
        ),
        Bug(
            "one-hot turned negative",
            "TeaPearce/Conditional_Diffusion_MNIST, issue 1: context_mask = (-1*(1-context_mask))",
            Denoiser._network,
            'labels = self.embed(cond) if self.config.condition == "embedding" else None',
            'labels = self.embed(-1 * cond) if self.config.condition == "embedding" else None',
        ),
        Bug(
            "cosine without its square",
            "lilianweng/lilianweng.github.io, issue 9: f(t) = cos(...), where the paper squares it",
            cosine,
            "curve = ((u + s) / (1 + s) * math.pi / 2).cos() ** 2",
            "curve = ((u + s) / (1 + s) * math.pi / 2).cos()",
        ),
        Bug(
            "no noise carried on",
            "jsboige/CoursIA, pull request 16158: the noise that stays is scaled by the fresh noise's rate, 0 at eta 0",
            DDIM.step,
            "x_s = signal_s * x_0_hat + max(0.0, sigma_s**2 - fresh**2) ** 0.5 * eps_hat",
            "x_s = signal_s * x_0_hat + fresh * eps_hat",
            trains=False,
        ),
        Bug(
            "guidance from the wrong end",
            "threestudio-project/threestudio, issue 127: two conventions, where plain is a scale of 0 or of 1",
            classifier_free,
            "return other + scale * (told - other)",
            "return told + scale * (told - other)",
            trains=False,
        ),
        Bug(
            "pictures scaled twice",
            "the report's listing: Normalize(0.5, 0.5), and then x * 2 - 1",
            Pictures.__getitem__,
            "return images.float() / 127.5 - 1, self.conds[i].float()",
            "return (images.float() / 127.5 - 1) * 2 - 1, self.conds[i].float()",
        ),
    )
}

# Lesson 06 shows them one by one before it names them.
PATIENTS = {
    "A": "no noise carried on",
    "B": "guidance from the wrong end",
    "C": "pictures scaled twice",
    "D": "label dropped too often",
    "E": "noise without its root",
    "F": "one-hot turned negative",
    "G": "cosine without its square",
    "H": "the last tick left out",
}


def patient(letter: str) -> Bug:
    """The bug that lesson 06 shows under this letter.

    Raises:
        ValueError: for a letter that no patient has.
    """
    if letter not in PATIENTS:
        raise ValueError(f"the patients are {', '.join(PATIENTS)}, got {letter!r}.")
    return BUGS[PATIENTS[letter]]


# What every line above has its place in: the cosine schedule, all ticks alike, the whole condition forgotten one time in ten.
BASE_NET = {"schedule": "cosine", "predicts": "velocity"}
BASE_RECIPE = {"ticks": "uniform", "forget": "whole"}
SOUND, AGAIN = "sound", "sound, another seed"
RUNS = (SOUND, *BUGS, AGAIN)
SCALES = (1, 2)


def base(row: Plan, seed: int = 0, pictures: int | None = None) -> tuple[Denoiser, Recipe]:
    """The net and the recipe of the runs, at a plan's size. Build the net inside `put_in`: its schedule is made here."""
    pictures = row.digits.pictures if pictures is None else pictures
    recipe = dataclasses.replace(row.digits, **BASE_RECIPE, seed=seed, pictures=pictures)
    return Denoiser((1, 28, 28), DIGITS.names, exclusive=True, **row.digits_net | BASE_NET | {"seed": seed}), recipe


def inside(name: str) -> contextlib.AbstractContextManager:
    """The bug of that name put in, or nothing for a sound run."""
    return contextlib.nullcontext() if name in (SOUND, AGAIN) else BUGS[name].put_in()


def folder_of(name: str, folder: Path) -> Path:
    """Where a run's checkpoints lie. Its settings are the sound run's, so it needs a folder of its own to be another run."""
    return Path(folder) / _words(SOUND if name in BUGS and not BUGS[name].trains else name)


def _words(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def draw_all(net, each: int, scale: float) -> Tensor:
    """(10 each, 1, 28, 28): so many of every digit, asked for at `scale`, in ten calls of DDIM."""
    cond, x_T = asked_of_each(net.attributes, each), noise(10 * each, net.shape, seed=1)
    parts = zip(x_T.split(100), cond.split(100), strict=True)
    return torch.cat([sample(classifier_free(net, scale), x, c, DDIM(net.schedule), 10) for x, c in parts])


def run(name: str, digits: Pictures, row: Plan, folder: Path, pictures: int | None = None, asked: int | None = None):
    """Train and draw with the bug put in: (losses, {scale: pictures drawn}). What was done before is taken from `folder`."""
    each = asked or row.asked
    with inside(name):
        net, recipe = base(row, seed=1 if name == AGAIN else 0, pictures=pictures)
        of = f"{run_name(net, digits, recipe)}-{each}"
        net, losses = fit(net, digits, recipe, keep=folder_of(name, folder / "checkpoints"))
        jobs = {f"{of}-{scale}": lambda scale=scale: draw_all(net, each, scale) for scale in SCALES}
        files = keep(folder / "drawn" / _words(name), jobs)
    return losses, {scale: kept(files[f"{of}-{scale}"]) for scale in SCALES}


def measured(drawn: dict[int, Tensor], sound: dict[int, Tensor], real: Tensor, judge) -> dict:
    """What a table tells of one run: asked = read and the distance to real digits, and both minus the sound run's.

    Args:
        drawn, sound: {scale: (10 each, 1, 28, 28)} as `draw_all` gives them.
        real: features of real digits.
        judge: reads digits.
    """
    seen, before = ({s: features_of(x[s], _eyes()) for s in x} for x in (drawn, sound))
    cond = {s: asked_of_each(DIGITS, len(x) // 10) for s, x in drawn.items()}
    told: dict = {"read": {}, "distance": {}, "read less sound": {}, "distance less sound": {}}
    for s in drawn:
        read, other = (asked_is_read(x[s], cond[s], judge) for x in (drawn, sound))
        told["read"][str(s)] = read._asdict()
        told["distance"][str(s)] = frechet_estimate(real, seen[s])._asdict()
        told["read less sound"][str(s)] = difference(read, other)._asdict()
        told["distance less sound"][str(s)] = frechet_difference(real, seen[s], before[s])._asdict()
    return told


def _eyes():
    return extractor("digits-judge", where=torch.device("cpu"))


def recorded() -> tuple[dict, dict[str, dict], dict[str, Tensor]]:
    """What the command measured for all readers: (about the runs, {run: its row}, {run: its digits 0 to 9, asked at 2})."""
    about = results("bugs")
    sheet = torch.from_numpy(np.array(figure("bugs", "").image)).float() / 127.5 - 1
    rows = {row["run"]: row for row in about["rows"]}
    tiles = sheet.unflatten(0, (len(rows), 28)).unflatten(2, (10, 28)).transpose(1, 2)[:, :, None]
    return about, rows, dict(zip(rows, tiles, strict=True))


def harm(row: dict, scale: int = 2) -> str:
    """The rule, stated before the runs: is fewer read as asked, or does it lie further from real digits, beyond 95 %?

    "harm" where one of the two intervals says so, "better" where one says the opposite and none says so, else "none seen".

    Raises:
        ValueError: for an interval that is not finite, which shows nothing either way.
    """
    read = Difference(**row["read less sound"][str(scale)])
    far = Difference(**row["distance less sound"][str(scale)])
    if not np.isfinite([*read, *far]).all():
        raise ValueError(
            f"{row.get('run', 'this run')} has an interval that is not finite: it shows neither harm nor none."
        )
    if read.high < 0 or far.low > 0:
        return "harm"
    return "better" if read.low > 0 or far.high < 0 else "none seen"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 2 and one line on standard error where the input is wrong."""
    parser = argparse.ArgumentParser("facelab.bugs", description="Train the sound run and each bug, and measure them.")
    parser.add_argument("--plan", choices=tuple(PLANS), help="which size; by default what fits this machine")
    parser.add_argument("--pictures", type=int, help="pictures seen by each run, in place of the plan's")
    parser.add_argument("--asked", type=int, help="how many of each digit are drawn, in place of the plan's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where table, picture and runs go")
    told = parser.parse_args(argv)
    try:
        _all(plan(told.plan), told.pictures, told.asked, told.out)
    except (ValueError, OSError) as wrong:
        print(f"facelab: {' '.join(str(wrong).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _all(row: Plan, pictures: int | None, asked: int | None, out: Path) -> None:
    digits, test, judge = mnist("train"), mnist("test"), load("digits-judge").classifier
    real = features_of(test[:2000][0], _eyes())
    _, recipe = base(row, pictures=pictures)
    each = asked or row.asked
    about = {
        "what": f"the same net, data, seed and number of pictures, one line changed; {10 * each} digits in 10 calls",
        "data": digits.source,
        "features": _eyes().told,
        "recipe": dataclasses.asdict(recipe),
        "net": row.digits_net | BASE_NET,
        "machine": machine(),
        "command": f"python -m facelab.bugs --plan {row.name} --pictures {recipe.pictures} --asked {each} --out DIR",
        "rows": [],
    }
    tops, sound = [], None
    for name in RUNS:
        print(name, flush=True)
        losses, drawn = run(name, digits, row, out, pictures, each)
        sound = sound or drawn
        shown = torch.tensor(losses)[: len(losses) // 25 * 25].reshape(25, -1).mean(1) if len(losses) >= 25 else losses
        curve = [round(float(loss), 4) for loss in shown]
        about["rows"].append({"run": name, **measured(drawn, sound, real, judge), "losses": curve})
        tops.append(drawn[2][:10])
        # After every run: who stops has what is there.
        out.mkdir(parents=True, exist_ok=True)
        (out / "bugs.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        sheet = torch.stack(tops)[:, :, 0].transpose(1, 2).flatten(2).flatten(0, 1)
        Image.fromarray(plots.to_uint8(sheet[None, None])[0, :, :, 0]).save(out / "bugs.png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
