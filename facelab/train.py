"""Training: the loss, the loop, checkpoints (lesson 02); also the command line of `train`.

    loss = | target(x_0, eps, t) - network(x_t, t, forget_some(cond)) |^2         (Ho et al. 2020, eq. 14)

Every random number of a step (pictures, ticks, noise, flips, forgotten answers, dropout) is a function of the seed and
the step, drawn on the CPU for the whole global batch. So a run that was stopped goes on to the same bits, and several
processes do what one does.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

import facelab
from facelab import plots
from facelab.attributes import DIGITS
from facelab.data import Pictures, mnist
from facelab.download import digest
from facelab.guidance import classifier_free
from facelab.metrics import asked_is_read, asked_of_each, proportion
from facelab.model import AttributeClassifier, Denoiser, seeded
from facelab.plan import PLANS, Plan, Recipe, cache_dir, device, machine, plan, precision
from facelab.pretrained import load, save
from facelab.sample import DDIM, noise, sample


def forget_some(cond: Tensor, generator: torch.Generator) -> Tensor:
    """The same conditions (B, K), some of their answers unsaid: people ask for little, so training must see that.

    Of a picture's said attributes none stays said for one in ten, all for three in ten, any number strictly between
    otherwise. Where only one is said, as with digits, it is forgotten one time in ten.
    """
    said = (cond != 0).sum(1)
    luck = torch.rand(len(cond), generator=generator)
    between = 1 + (torch.rand(len(cond), generator=generator) * (said - 1)).long().clamp(max=(said - 2).clamp(min=0))
    keep = torch.where(luck < 0.1, 0, torch.where((luck < 0.4) | (said < 2), said, between))
    order = torch.rand(cond.shape, generator=generator).masked_fill(cond == 0, 2)
    return cond * (order.argsort(1).argsort(1) < keep[:, None])


def denoising_loss(denoise, x_0: Tensor, cond: Tensor, t: Tensor, eps: Tensor, dtype=torch.float32) -> Tensor:
    """(B,) the mean squared error of what the network predicts: eps, velocity or x_0, as it was built.

    x_0 and eps are (B, C, H, W), t (B,), cond (B, K); `dtype` is the precision of the network's own arithmetic.
    """
    net = getattr(denoise, "module", denoise)
    x_t = net.schedule.add_noise(x_0, eps, t)
    with torch.autocast(x_0.device.type, dtype, enabled=dtype != torch.float32):
        said = denoise(x_t, t, cond, raw=True)
    return (said.float() - net.schedule.target(x_0, eps, t, net.config.predicts)).square().mean((1, 2, 3))


@dataclasses.dataclass
class Batch:
    """What one step sees, drawn on the CPU from the seed and the step alone."""

    x_0: Tensor
    cond: Tensor
    t: Tensor
    eps: Tensor

    @classmethod
    def draw(cls, pictures: Pictures, recipe: Recipe, step: int, ticks: int = 1000) -> "Batch":
        """Step number `step`'s pictures, ticks 0 .. ticks - 1 (the last one included), noise and conditions."""
        x_0, cond = pictures[_order(len(pictures), recipe, step)]
        luck = torch.Generator().manual_seed(_number(recipe.seed, step))
        if recipe.ticks == "logit-normal":
            u = torch.randn(len(x_0), generator=luck).sigmoid()
        else:
            u = torch.rand(len(x_0), generator=luck)
        t = (u * ticks).long().clamp(max=ticks - 1)
        eps = torch.randn(x_0.shape, generator=luck)
        mirrored = torch.rand(len(x_0), generator=luck) < (0.5 if recipe.flip else 0)
        x_0 = torch.where(mirrored[:, None, None, None], x_0.flip(3), x_0)
        return cls(x_0, forget_some(cond, luck) if recipe.forget else cond, t, eps)

    def share(self, rank: int, world: int, where) -> "Batch":
        """This process's part of it, moved to its device."""
        return Batch(*(part[rank::world].to(where) for part in (self.x_0, self.cond, self.t, self.eps)))


def _number(seed: int, step: int) -> int:
    # torch's CPU generator looks at 32 bits; the golden ratio's keep the steps of neighbouring seeds apart.
    return (seed * 0x9E3779B1 + step) % 2**32


def _order(count: int, recipe: Recipe, step: int) -> Tensor:
    """Which pictures a step sees: every pass over the data is a new shuffle, and batches run across its end."""
    places = torch.arange(step * recipe.batch, (step + 1) * recipe.batch)
    passes = {
        int(p): torch.randperm(count, generator=torch.Generator().manual_seed(_number(recipe.seed + 1, int(p))))
        for p in (places // count).unique()
    }
    return torch.stack([passes[int(place) // count][place % count] for place in places])


@dataclasses.dataclass
class Progress:
    """One step of a training. `net` is the averaged network, fit to sample from at any time."""

    step: int
    steps: int
    loss: float
    losses: list[float]
    seconds_left: float
    net: nn.Module
    note: str = ""


def training(
    net: Denoiser | AttributeClassifier,
    pictures: Pictures,
    recipe: Recipe,
    *,
    keep: Path | str | None = None,
    copy_to: Path | str | None = None,
    fresh: bool = False,
    every: float = 20.0,
) -> Iterator[Progress]:
    """Train step by step; iterating is what runs it, so the caller draws, logs and stops.

    It can be stopped anywhere (a break, an interrupted cell, a killed process): the next call with the same settings,
    data and seed goes on where it was, on a CPU to the same bits. A finished run is loaded, and `note` says so.

    Args:
        net: what to train, in place; from its own initial weights where no checkpoint is found.
        pictures: what to train on.
        recipe: how.
        keep: the checkpoints' folder; by default one in the cache, named by settings, data and seed.
        copy_to: a second folder for whole copies, such as one on Google Drive.
        fresh: start over, without the checkpoints that are there.
        every: seconds between checkpoints; more where writing one takes long.

    Yields:
        Progress after each step (and once before the first where there is something to say).

    Raises:
        ValueError: for data and network that do not fit, no pictures, a checkpoint of another net, a loss that is NaN.
    """
    if len(pictures) == 0:
        raise ValueError("there are no pictures to train on.")
    if pictures.shape != net.shape or len(pictures.attributes) != len(net.attributes):
        raise ValueError(
            f"the network is built for {net.shape} with {len(net.attributes)} attributes, the pictures are "
            f"{pictures.shape} with {len(pictures.attributes)}."
        )
    shelf = Shelf(keep or cache_dir() / "runs" / run_name(net, pictures, recipe), copy_to, net, recipe, pictures)
    if fresh:
        shelf.clear()
    run = _Run(net, pictures, recipe)
    state, note = shelf.newest()
    if state:
        run.restore(state)
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        yield from _steps(run, shelf, note, every)
    finally:
        torch.set_num_threads(threads)


def _steps(run: "_Run", shelf: "Shelf", note: str, every: float) -> Iterator[Progress]:
    recipe, saved, pause, times = run.recipe, run.step, every, []
    if note:
        yield run.progress(0.0, note)
    last_save, whole = time.monotonic(), True
    try:
        while run.step < recipe.steps:
            start = time.monotonic()
            gradients = run.forward_and_back(shelf.last)
            # Between here and `whole = True` an interrupt would leave half a step, so nothing is saved then.
            whole = False
            run.apply(gradients)
            whole = True
            times = [*times[-49:], time.monotonic() - start]
            run.seconds += times[-1]
            if time.monotonic() - last_save > pause or run.step == recipe.steps:
                start, saved = time.monotonic(), run.step
                shelf.put(run)
                last_save = time.monotonic()
                # Saving may take a twentieth of the time, no more, however slow the folder is.
                pause = max(every, 20 * (last_save - start))
            left = statistics.median(times) * (recipe.steps - run.step)
            yield run.progress(left, f"about {_duration(left)} on this machine" if len(times) == 5 else "")
    finally:
        if whole and run.step > saved and not run.spoilt:
            shelf.put(run)


class _Run:
    """Everything that changes while training, and how it is written down."""

    def __init__(self, net, pictures, recipe):
        self.accelerator = Accelerator(cpu=device().type == "cpu")
        self.pictures, self.recipe = pictures, recipe
        self.net = net.to(self.accelerator.device).train()
        self.average = AveragedModel(self.net, multi_avg_fn=_moving_average(recipe.ema), use_buffers=True)
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
        decay = recipe.weight_decay if recipe.optimiser == "adamw" else 0.0
        self.optimiser = adam(self.net.parameters(), lr=recipe.lr, weight_decay=decay)
        self.model = self.accelerator.prepare(self.net)
        self.step, self.losses, self.seconds, self.spoilt = 0, [], 0.0, False
        self.threads, self.dtype = torch.get_num_threads(), precision(self.accelerator.device.type)
        self.scaler = torch.amp.GradScaler(self.accelerator.device.type, enabled=self.dtype == torch.float16)

    def loss(self, batch: Batch) -> Tensor:
        if isinstance(self.net, AttributeClassifier):
            return self.net.loss(batch.x_0, batch.cond)
        return denoising_loss(self.model, batch.x_0, batch.cond, batch.t, batch.eps, self.dtype)

    def forward_and_back(self, last_good) -> Tensor:
        ticks = len(self.net.schedule) if isinstance(self.net, Denoiser) else 1
        batch = Batch.draw(self.pictures, self.recipe, self.step, ticks)
        batch = batch.share(self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device)
        self.optimiser.zero_grad()
        with seeded(_number(self.recipe.seed + 2, self.step)):
            loss = self.loss(batch)
        self._refuse_nan(loss, batch.t, last_good)
        self.accelerator.backward(self.scaler.scale(loss.mean()))
        return loss.detach()

    def _refuse_nan(self, loss, t, last_good):
        bad = ~loss.isfinite()
        if bad.any():
            self.spoilt = True
            raise ValueError(
                f"the loss is not a number at tick {', '.join(str(int(tick)) for tick in t[bad][:3])} of batch {self.step}: "
                f"training stops; the last good checkpoint is {last_good or 'none yet'}. A lower lr often helps."
            )

    def apply(self, loss: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr_at(self.step)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip or math.inf)
        if not self.scaler.is_enabled() and not norm.isfinite():
            self.spoilt = True
            raise ValueError(
                f"the gradient of batch {self.step} is not a number: training stops. A lower lr often helps."
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update_parameters(self.net)
        self.losses.append(self.accelerator.reduce(loss.mean(), "mean").item())
        self.step += 1

    def progress(self, left: float, note: str = "") -> Progress:
        loss = self.losses[-1] if self.losses else math.nan
        average = self.average.module.eval()
        return Progress(self.step, self.recipe.steps, loss, self.losses, left, average, note)

    def tensors(self) -> dict[str, Tensor]:
        named = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        named |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            named |= {f"optimiser.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        named["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}

    def place(self) -> dict:
        scaler = self.scaler.state_dict()
        return {
            "step": self.step,
            "seconds": self.seconds,
            "threads": self.threads,
            "precision": str(self.dtype).removeprefix("torch."),
            "scaler": scaler,
        }

    def restore(self, state: tuple[dict[str, Tensor], dict]) -> None:
        tensors, place = state
        part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}  # noqa: E731
        self.net.load_state_dict(part("net."))
        self.average.load_state_dict(part("average."))
        moments: dict[int, dict] = {}
        for name, value in part("optimiser.").items():
            i, kind = name.split(".")
            moments.setdefault(int(i), {})[kind] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        self.losses = tensors["losses"].tolist()
        self.step, self.seconds, self.threads = place["step"], place["seconds"], place["threads"]
        self.dtype = getattr(torch, place["precision"])
        if self.scaler.is_enabled() and place["scaler"]:
            self.scaler.load_state_dict(place["scaler"])


def _moving_average(most: float):
    """Exponential moving average that forgets its first steps faster: decay (1 + n) / (10 + n), at most `most`."""

    @torch.no_grad()
    def update(averaged, current, count):
        decay = min(most, (1 + int(count)) / (10 + int(count)))
        for kept, new in zip(averaged, current, strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    return update


class Shelf:
    """The last two checkpoints of a run. A checkpoint is one safetensors file (nothing in it can run) with settings and
    place as JSON in its header; its name carries its sha256, so a damaged one is recognised, and one rename puts it there.
    """

    def __init__(self, folder, copy_to, net, recipe, pictures):
        self.folder = Path(folder)
        self.copies = Path(copy_to) / self.folder.name if copy_to else None
        self.about = {
            "net": type(net).__name__,
            "settings": net.settings(),
            "recipe": dataclasses.asdict(recipe),
            "data": pictures.key,
        }
        self.last: Path | None = None

    def _files(self) -> list[Path]:
        """Newest first, the shelf's own before its copies."""
        folders = [self.folder, *([self.copies] if self.copies else [])]
        found = [file for folder in folders if folder.is_dir() for file in folder.glob("step-*.safetensors")]
        return sorted(found, key=lambda file: (-int(file.name.split("-")[1]), file.parent != self.folder))

    def clear(self) -> None:
        for file in self._files():
            file.unlink()

    def put(self, run: _Run) -> None:
        """Write beside, sync, rename; keep this one and the one before."""
        if not run.accelerator.is_main_process:
            return
        about = {name: json.dumps(value) for name, value in (self.about | {"place": run.place()}).items()}
        beside = self.folder / f".writing-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(run.tensors(), beside, metadata=about)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            self.last = self.folder / f"step-{run.step:09d}-{digest(beside)[:16]}.safetensors"
            os.replace(beside, self.last)
            _sync(self.folder)
        except Exception as failed:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise ValueError(
                f"no checkpoint could be written to {self.folder} ({failed}): free some space there, or set FACELAB_CACHE."
            ) from failed
        for old in [file for file in self._files() if file.parent == self.folder][2:]:
            old.unlink()
        if self.copies:
            self._copy()

    def _copy(self) -> None:
        """A whole copy under a temporary name first: a network drive may lose what is being written."""
        beside = self.copies / f".copying-{os.getpid()}"
        try:
            self.copies.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.last, beside)
            os.replace(beside, self.copies / self.last.name)
            for old in sorted(self.copies.glob("step-*.safetensors"))[:-2]:
                old.unlink()
        except OSError as failed:
            warnings.warn(f"no copy of the checkpoint could be made in {self.copies} ({failed}).", stacklevel=2)

    def newest(self) -> tuple[tuple[dict, dict] | None, str]:
        """(tensors, place) of the newest whole checkpoint, or None; and what there is to say about it."""
        damaged = []
        for file in self._files():
            if digest(file)[:16] != file.stem.split("-")[2]:
                damaged.append(file.name)
                continue
            with safe_open(file, "pt") as opened:
                about = {name: json.loads(value) for name, value in opened.metadata().items()}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            self._compare(file, about)
            self.last, place, steps = file, about["place"], about["recipe"]
            done = place["step"] >= Recipe(**steps).steps
            note = f"finished earlier, loaded from {file.parent.name}" if done else f"resumed at step {place['step']}"
            if damaged:
                note += f" ({', '.join(damaged)} is damaged, so the checkpoint before it is used)"
                warnings.warn(note, stacklevel=2)
            return (tensors, place), note
        if damaged:
            warnings.warn(f"every checkpoint in {self.folder} is damaged: training starts over.", stacklevel=2)
        return None, ""

    def _compare(self, file: Path, about: dict) -> None:
        for name, value in json.loads(json.dumps(self.about)).items():
            if about[name] != value:
                differ = [k for k in value if about[name].get(k) != value[k]] if isinstance(value, dict) else [name]
                raise ValueError(
                    f"{file} is a checkpoint of another run: its {name} differs in {', '.join(differ)}; choose another "
                    "folder, or fresh=True to start over."
                )


def _sync(folder: Path) -> None:
    # The rename itself must reach the disk too; Windows cannot open a folder and needs no such thing.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def run_name(net, pictures: Pictures, recipe: Recipe) -> str:
    """A folder's name that is a function of settings, data and seed."""
    about = [type(net).__name__, net.settings(), dataclasses.asdict(recipe), pictures.key]
    return f"{type(net).__name__.lower()}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def fit(net, pictures: Pictures, recipe: Recipe, *, progress: bool = True, **options):
    """Train to the end; `options` are those of `training`.

    Returns:
        (the averaged network in eval mode, the loss of each step)
    """
    step = None
    with tqdm(total=recipe.steps, unit="step", disable=not progress) as bar:
        for step in training(net, pictures, recipe, **options):
            bar.update(step.step - bar.n)
            bar.set_postfix_str(
                f"loss {statistics.fmean(step.losses[-50:] or [math.nan]):.3f}, {step.note or ''}".rstrip(", ")
            )
    return step.net, step.losses


# The command line: python -m facelab train, or python -m facelab.train where several processes are launched.

RECIPES = {
    "eps, constant channels": {"schedule": "cosine", "predicts": "eps", "condition": "channels"},
    "eps, scale-shift": {"schedule": "cosine", "predicts": "eps"},
    "velocity, scale-shift": {"schedule": "cosine", "predicts": "velocity"},
    "straight, scale-shift": {"schedule": "straight", "predicts": "velocity"},
}


def arguments() -> argparse.ArgumentParser:
    """What `train` understands."""
    parser = argparse.ArgumentParser("facelab train", description="Train, resume, or load what is finished.")
    parser.add_argument("subject", nargs="?", default="digits", choices=("digits", "digits-judge", "digits-recipes"))
    parser.add_argument("--plan", choices=tuple(PLANS), help="how much; by default what fits this machine")
    parser.add_argument("--pictures", type=int, help="pictures seen, in place of the plan's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where weights, card and checkpoints go")
    parser.add_argument(
        "--copy-to", type=Path, metavar="DIR", help="a second folder for whole copies of the checkpoints"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="start over")
    parser.add_argument("--download", action="store_true", help="fetch missing data (MNIST: 11 MB)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 2 and one line on standard error where the input is wrong."""
    try:
        told = arguments().parse_args(argv)
        _train(told)
    except (ValueError, OSError) as wrong:
        print(f"facelab: {' '.join(str(wrong).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _train(told: argparse.Namespace) -> None:
    row = plan(told.plan)
    pictures = mnist("train", download=told.download)
    print(pictures.source)
    recipe = row.judge if told.subject == "digits-judge" else row.digits
    changed = {"seed": told.seed} | ({} if told.pictures is None else {"pictures": told.pictures})
    recipe = dataclasses.replace(recipe, **changed)
    options = {"fresh": told.fresh, "copy_to": told.copy_to}
    names = {"names": DIGITS.names, "exclusive": True, "seed": told.seed}
    if told.subject == "digits-recipes":
        _walk(told.out, pictures, recipe, row, names, options)
        return
    if told.subject == "digits-judge":
        net, score = AttributeClassifier(pictures.shape, **names), _score_judge
    else:
        net, score = Denoiser(pictures.shape, **names, **row.digits_net), score_digits
    start = time.monotonic()
    net, losses = fit(net, pictures, recipe, keep=told.out / "checkpoints", **options)
    card = {
        "what": f"{told.subject}: {type(net).__name__}, trained by facelab {facelab.__version__}",
        "data": pictures.source,
        "licence": "MIT",
        "command": f"python -m facelab train {told.subject} --plan {row.name} --pictures {recipe.pictures} "
        f"--seed {recipe.seed} --out DIR",
        "recipe": dataclasses.asdict(recipe),
        "steps": recipe.steps,
        "machine": machine(),
        "minutes of this leg": round((time.monotonic() - start) / 60, 1),
        "last loss": round(statistics.fmean(losses[-50:]), 4),
        "scores": score(net, row.asked),
    }
    save(net, told.out, card)
    print(json.dumps(card["scores"], indent=1))
    print(f"written to {told.out}")


def _score_judge(judge: AttributeClassifier, each: int) -> dict:
    test = mnist("test")
    right = proportion(int((judge.read(test[:][0]) == test.classes()).sum()), len(test))
    return {"accuracy on real test digits": str(right), "counted on": test.source}


def score_digits(net: Denoiser, each: int, steps: int = 10, seed: int = 1) -> dict:
    """asked = read for `each` digits of every class, plain and guided at scale 2, as a card tells it."""
    judge = load("digits-judge").classifier
    return {
        f"asked = read, {name}, {10 * each} digits, {steps} DDIM calls": str(
            read_back(net, judge, scale, each, steps, seed)
        )
        for name, scale in (("plain", 1), ("guided at 2", 2))
    }


def read_back(net: Denoiser, judge: AttributeClassifier, scale: float, each: int, steps: int = 10, seed: int = 1):
    """Ask for `each` of every attribute alone, draw, read: the Proportion of what was asked that is read."""
    where = next(net.parameters()).device
    cond, x_T = (
        asked_of_each(net.attributes, each).to(where),
        noise(each * len(net.attributes), net.shape, seed).to(where),
    )
    parts = zip(x_T.split(100), cond.split(100), strict=True)
    drawn = [sample(classifier_free(net, scale), x, c, DDIM(net.schedule), steps) for x, c in parts]
    return asked_is_read(torch.cat(drawn).cpu(), cond, judge)


def _walk(out: Path, pictures: Pictures, recipe: Recipe, row: Plan, names: dict, options: dict) -> None:
    """From the report's recipe to ours, one change a row, at one budget; written to out/digits_recipes.json and .png."""
    judge, table, drawn = load("digits-judge").classifier, [], []
    for name, change in RECIPES.items():
        net = Denoiser(pictures.shape, **names, **(row.digits_net | change))
        net, losses = fit(
            net, pictures, recipe, keep=out / "checkpoints" / name.replace(", ", "-").replace(" ", "-"), **options
        )
        scores = {f"{scale}": read_back(net, judge, scale, row.asked)._asdict() for scale in (1, 2)}
        table.append({"recipe": name, "settings": change, "asked = read at scale": scores, "last loss": losses[-1]})
        cond = torch.eye(10)
        drawn.append(sample(net, noise(10, net.shape), cond, DDIM(net.schedule), 10))
    about = {
        "what": "the same net, data, seed and number of pictures; 10 DDIM calls, plain and guided",
        "data": pictures.source,
        "recipe": dataclasses.asdict(recipe),
        "machine": machine(),
        "command": f"python -m facelab train digits-recipes --plan {row.name} --seed {recipe.seed} --out DIR",
        "rows": table,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "digits_recipes.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    plots.show(torch.cat(drawn), 10, rows=list(RECIPES)).save(out / "digits_recipes.png")


if __name__ == "__main__":
    sys.exit(main())
