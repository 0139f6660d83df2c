"""Sizes and places: how much a notebook does here, on which device, in which precision, and where files lie.

`PLANS` is the one table of sizes. The default row follows the machine (a GPU: colab, else laptop); the environment
variables FACELAB_PLAN, FACELAB_DEVICE, FACELAB_DATA and FACELAB_CACHE override what is chosen.
"""

import dataclasses
import functools
import math
import os
import platform
import time
from pathlib import Path

import torch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run, in pictures and not in minutes, so that a run is known by its settings, data and seed.

    `pictures` are seen in all, `batch` of them a step. The learning rate `lr` is reached over the first `warmup` share
    of the steps and falls along a cosine to zero (`decay="cosine"`) or stays (`"constant"`). `ema` is the weight
    average's decay, `clip` the largest gradient norm (0: none). Ticks are drawn `"uniform"` or `"logit-normal"`: more from
    the middle, hardly any from the two ends, where the network has to go by their neighbours (Esser et al. 2024,
    section 3.1). `flip` mirrors half of the pictures, `shift` moves each by up to so many pixels either way. `forget`
    leaves answers unsaid: `"some"` of them, the `"whole"` of one condition in ten, or `"never"`. For the share `evenly` of
    each batch an attribute is drawn first, all alike, and then a picture that gives its rarer answer. These are told whole:
    what a whole description means is the same however often it comes, whereas what is unsaid would come too often.
    `start` names the weights that the run goes on from (the first digits of their sha256), where it is not the first leg.
    """

    pictures: int
    batch: int = 64
    lr: float = 1e-3
    optimiser: str = "adamw"
    weight_decay: float = 0.01
    warmup: float = 0.05
    decay: str = "cosine"
    ema: float = 0.999
    clip: float = 1.0
    ticks: str = "uniform"
    flip: bool = False
    shift: int = 0
    forget: str = "some"
    evenly: float = 0.0
    seed: int = 0
    start: str = ""

    def __post_init__(self):
        allowed = {
            "optimiser": ("adam", "adamw"),
            "decay": ("cosine", "constant"),
            "ticks": ("uniform", "logit-normal"),
            "forget": ("some", "whole", "never"),
        }
        for field, choices in allowed.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, got {getattr(self, field)!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a finite number above 0, got {self.lr!r}.")
        if not 0 <= self.evenly <= 1:
            raise ValueError(f"evenly must be a share from 0 to 1, got {self.evenly!r}.")
        if self.pictures < 1 or self.batch < 1:
            raise ValueError(f"pictures and batch must be above 0, got {self.pictures} and {self.batch}.")

    @property
    def steps(self) -> int:
        return math.ceil(self.pictures / self.batch)

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0 .. steps - 1."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.decay == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every size that a notebook uses.

    `digits` is what lesson 02 trains on a net of `digits_net`; `judge` trains its classifier; `asked` digits of each
    class are read back; `figure` are drawn a row; `draws` settle a mean or a variance; solvers are compared
    at these `calls` of the network a picture; `bound` is the share of asked
    digits that the lesson's own training must reach, read guided.

    `faces` trains the net that draws faces, `small` the small one that lesson 03 trains while one waits, `faces_judge`
    their classifier; drawn faces have a `drawn_net` and a `drawn_judge_net` of their own, and `drawn` of them are drawn
    to train on. `scored` faces are drawn by a net and scored; `faces_bound` is how much of
    its first loss the lesson's own small training may still have at its end.
    """

    name: str
    digits: Recipe
    judge: Recipe
    digits_net: dict
    asked: int
    figure: int
    draws: int
    calls: tuple[int, ...]
    bound: float
    faces: Recipe
    faces_net: dict
    drawn_net: dict
    small: Recipe
    small_net: dict
    faces_judge: Recipe
    faces_judge_net: dict
    drawn_judge_net: dict
    drawn: int
    scored: int
    faces_bound: float


TINY = {"channels": (32, 32), "attention": (False, False), "patch": 2}
SMALL = {"channels": (32, 64), "attention": (False, False), "patch": 2}
ATTENTIVE = SMALL | {"attention": (False, True)}
# What won at 30,000 pictures: small batches, a high rate, and ticks drawn more often from the middle.
WON = {"lr": 2e-3, "ticks": "logit-normal"}

# Faces: most of the work is done at 16x16 and below, where a picture has fewest pixels and a net most to say.
TOLD = {"attention": (False, False, True), "middle": False, "patch": 2, "amplify": True}
FACES = {"channels": (32, 96, 192)} | TOLD
DRAWN_FACES = {"channels": (32, 64, 128)} | TOLD
# Folded by 4, forty-eight numbers a place would have to pass through 32 channels, and most of the noise would get lost there.
SMALL_FACES = {"channels": (32, 64, 96)} | TOLD
TINY_FACES = {"channels": (32, 32), "attention": (False, False), "patch": 4, "amplify": True}
READER = {"channels": (32, 64, 96, 144), "blocks": (0, 1, 1, 1), "dropout": 0.3}
# Drawn faces tell by small things in places that vary by themselves, so they are read on finer maps.
DRAWN_READER = {"channels": (32, 64, 96), "blocks": (0, 1, 1), "dropout": 0.1}
TINY_READER = {"channels": (16, 32, 32), "dropout": 0.0}
PATIENT = {"lr": 2e-3, "ticks": "logit-normal", "flip": True}
READING = {"flip": True, "shift": 3, "forget": "never", "weight_decay": 0.05}

# The report's own network as its listing has it, mended where diffusers refuses it: three layers a block give the 1.8M
# parameters that it tells. And the same without the five channels that carry the attributes.
REPORT = {
    "channels": (32, 32, 32, 64),
    "layers": 3,
    "attention": (False, True, True, True),
    "head_width": 8,
    "time_shift": "default",
    "schedule": "cosine",
    "predicts": "eps",
    "condition": "channels",
}
NETS = {"report": REPORT, "unconditional": REPORT | {"condition": "none"}}
# Its constant Adam, all ticks alike, nothing forgotten. Average, flips and batch are ours, for the same chances.
REPORT_RECIPE = {
    "lr": 1e-3,
    "optimiser": "adam",
    "weight_decay": 0.0,
    "warmup": 0.0,
    "decay": "constant",
    "clip": 0.0,
    "ticks": "uniform",
    "forget": "never",
}

PLANS = {
    plan.name: plan
    for plan in (
        Plan(
            "ci",
            #      pictures, batch
            digits=Recipe(4_000, 16, **WON),
            judge=Recipe(4_000, 64, forget="never"),
            digits_net=TINY,
            asked=10,
            figure=5,
            draws=2_000,
            calls=(3, 6, 12),
            bound=0.2,
            faces=Recipe(320, 16, **PATIENT),
            faces_net=TINY_FACES,
            drawn_net=TINY_FACES,
            small=Recipe(1_600, 16, **PATIENT),
            small_net=TINY_FACES,
            faces_judge=Recipe(1_600, 32, **READING),
            faces_judge_net=TINY_READER,
            drawn_judge_net=TINY_READER,
            drawn=800,
            scored=40,
            faces_bound=0.8,
        ),
        Plan(
            "laptop",
            digits=Recipe(30_000, 16, **WON),
            judge=Recipe(60_000, 64, forget="never"),
            digits_net=SMALL,
            asked=50,
            figure=10,
            draws=20_000,
            calls=(5, 10, 20, 40),
            bound=0.95,
            faces=Recipe(46_000, 16, **PATIENT),
            faces_net=FACES,
            drawn_net=DRAWN_FACES,
            small=Recipe(8_000, 8, **PATIENT),
            small_net=SMALL_FACES,
            faces_judge=Recipe(160_000, 64, **READING),
            faces_judge_net=READER,
            drawn_judge_net=DRAWN_READER,
            drawn=12_000,
            scored=200,
            faces_bound=0.25,
        ),
        Plan(
            "colab",
            digits=Recipe(120_000, 32, **WON),
            judge=Recipe(180_000, 64, forget="never"),
            digits_net=SMALL,
            asked=100,
            figure=10,
            draws=50_000,
            calls=(5, 10, 20, 50),
            bound=0.97,
            faces=Recipe(800_000, 32, **PATIENT),
            faces_net=FACES,
            drawn_net=DRAWN_FACES,
            small=Recipe(100_000, 32, **PATIENT),
            small_net=SMALL_FACES,
            faces_judge=Recipe(640_000, 64, **READING),
            faces_judge_net=READER,
            drawn_judge_net=DRAWN_READER,
            drawn=20_000,
            scored=600,
            faces_bound=0.4,
        ),
        Plan(
            "full",
            digits=Recipe(400_000, 32, **WON),
            judge=Recipe(300_000, 64, forget="never"),
            digits_net=ATTENTIVE,
            asked=200,
            figure=10,
            draws=50_000,
            calls=(5, 10, 20, 50, 100),
            bound=0.97,
            # Twelve passes over the 162,770 faces of the train partition, as in the report.
            faces=Recipe(1_953_240, 64, **PATIENT),
            faces_net=FACES,
            drawn_net=DRAWN_FACES,
            small=Recipe(400_000, 32, **PATIENT),
            small_net=SMALL_FACES,
            faces_judge=Recipe(1_600_000, 64, **READING),
            faces_judge_net=READER,
            drawn_judge_net=DRAWN_READER,
            drawn=20_000,
            scored=600,
            faces_bound=0.4,
        ),
    )
}


def plan(name: str | None = None) -> Plan:
    """The row of `PLANS` called `name`; without one FACELAB_PLAN's, else the one that fits this machine."""
    name = name or os.environ.get("FACELAB_PLAN") or ("laptop" if device().type == "cpu" else "colab")
    if name not in PLANS:
        raise ValueError(f"there is no plan {name!r}: FACELAB_PLAN is one of {', '.join(PLANS)}.")
    return PLANS[name]


def device() -> torch.device:
    """FACELAB_DEVICE, else cuda, mps or cpu, the first that is here."""
    wish = os.environ.get("FACELAB_DEVICE")
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish and not found.get(wish.split(":")[0]):
        here = ", ".join(kind for kind, there in found.items() if there)
        raise ValueError(f"FACELAB_DEVICE={wish!r} is not on this machine; it has {here}.")
    return torch.device(wish or next(kind for kind, there in found.items() if there))


@functools.cache
def precision(kind: str | None = None) -> torch.dtype:
    """The dtype in which this machine multiplies fastest and safely: float32, bfloat16 or float16.

    On a CPU it is measured, for bfloat16 is 3 times faster on some and 16 times slower on others. A GPU before
    compute capability 8 only emulates bfloat16, so it gets float16 (and training a gradient scaler).
    """
    kind = kind or device().type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    if kind != "cpu":
        return torch.float32
    return torch.bfloat16 if _seconds(torch.bfloat16) * 1.5 < _seconds(torch.float32) else torch.float32


def _seconds(dtype) -> float:
    """The fastest of three products of two 320 x 320 matrices."""
    a, times = torch.ones(320, 320, dtype=dtype), []
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return min(times)


def machine() -> str:
    """One line for cards and tables: processor, threads, precision, versions."""
    here = device()
    if here.type == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    kind = str(precision(here.type)).removeprefix("torch.")
    return f"{here.type}: {chip}, {kind}; Python {platform.python_version()}, torch {torch.__version__}"


ROOT = Path(__file__).resolve().parent.parent


def is_clone() -> bool:
    """Whether facelab runs from a clone of its repository, and not from an installed wheel."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "notebooks").is_dir()


def cache_dir() -> Path:
    """Where everything is written: FACELAB_CACHE, the clone's data/cache, without a clone ~/.cache/facelab."""
    wish = os.environ.get("FACELAB_CACHE")
    return Path(wish).expanduser() if wish else ROOT / "data/cache" if is_clone() else Path.home() / ".cache/facelab"


def data_dirs() -> list[Path]:
    """Where data are looked for: the folders of FACELAB_DATA, those one folder down, then the cache.

    Raises:
        ValueError: where FACELAB_DATA names a folder that does not exist or is empty.
    """
    dirs = []
    for named in filter(None, os.environ.get("FACELAB_DATA", "").split(os.pathsep)):
        folder = Path(named).expanduser().resolve()
        if not folder.is_dir() or not any(folder.iterdir()):
            state = "is empty" if folder.is_dir() else "is no folder"
            raise ValueError(f"FACELAB_DATA names {named}, which {state}: put the data files there, or unset it.")
        dirs.append(folder)
    dirs.append(cache_dir())
    return [place for folder in dirs if folder.is_dir() for place in (folder, *_folders(folder))]


def _folders(folder: Path) -> list[Path]:
    return sorted(inside for inside in folder.iterdir() if inside.is_dir() and not inside.name.startswith("."))


def shipped_dir(kind: str = "pretrained") -> Path:
    """Where the shipped weights lie, or the recorded `results`: in the clone, or inside the installed package."""
    return ROOT / "data" / kind if is_clone() else Path(__file__).resolve().parent / f"_{kind}"
