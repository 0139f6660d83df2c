"""Training: the loss, the loop, checkpoints (lesson 02); also the command line of `train`.

    loss = | target(x_0, eps, t) - network(x_t, t, forget_some(cond)) |^2         (Ho et al. 2020, eq. 14)

Every random number of a step (pictures, ticks, noise, flips, forgotten answers, dropout) is a function of the seed and
the step, drawn on the CPU for the whole global batch. So a run that was stopped goes on to the same bits, and several
processes do what one does. (Dropout alone is drawn by each process for its own share.)
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

import facelab
from facelab import data, plots
from facelab.checkpoints import Shelf, run_name
from facelab.data import Pictures
from facelab.model import AttributeClassifier, Denoiser, seeded
from facelab.plan import PLANS, Plan, Recipe, cache_dir, device, machine, plan, precision
from facelab.pretrained import Pretrained, fill, load, save
from facelab.recording import Recorder
from facelab.sample import DDIM, noise, sample
from facelab.subjects import KINDS_OF_NET, SUBJECTS, WALKS, Subject
from facelab.written import whole


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


def forget_whole(cond: Tensor, generator: torch.Generator) -> Tensor:
    """The same conditions (B, K), one in ten forgotten altogether: Ho and Salimans 2022, algorithm 1."""
    return cond * (torch.rand(len(cond), generator=generator) >= 0.1)[:, None]


FORGET = {"some": forget_some, "whole": forget_whole, "never": lambda cond, generator: cond}


def denoising_loss(denoise, x_0: Tensor, cond: Tensor, t: Tensor, eps: Tensor, dtype=torch.float32) -> Tensor:
    """(B,) the mean squared error of what the network predicts: eps, velocity or x_0, as it was built.

    x_0 and eps are (B, C, H, W), t (B,), cond (B, K); `dtype` is the precision of the network's own arithmetic, float32 that of
    its weights. The loss is in float32 at least.
    """
    net = getattr(denoise, "module", denoise)
    x_t = net.schedule.add_noise(x_0, eps, t)
    with torch.autocast(x_0.device.type, dtype, enabled=dtype != torch.float32):
        said = denoise(x_t, t, cond, raw=True)
    said = said.to(torch.promote_types(said.dtype, torch.float32))
    return (said - net.schedule.target(x_0, eps, t, net.config.predicts)).square().mean((1, 2, 3))


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
        rows, even = _order(len(pictures), recipe, step), round(recipe.evenly * recipe.batch)
        if even:
            rows[:even] = _evenly(pictures, even, recipe, step)
        x_0, cond = pictures[rows]
        luck = torch.Generator().manual_seed(_number(recipe.seed, step))
        if recipe.ticks == "logit-normal":
            u = torch.randn(len(x_0), generator=luck).sigmoid()
        else:
            u = torch.rand(len(x_0), generator=luck)
        t = (u * ticks).long().clamp(max=ticks - 1)
        eps = torch.randn(x_0.shape, generator=luck)
        mirrored = torch.rand(len(x_0), generator=luck) < (0.5 if recipe.flip else 0)
        x_0 = torch.where(mirrored[:, None, None, None], x_0.flip(3), x_0)
        if recipe.shift:
            x_0 = _moved(x_0, torch.randint(-recipe.shift, recipe.shift + 1, (2, len(x_0)), generator=luck))
        told = FORGET[recipe.forget](cond, luck)
        return cls(x_0, torch.cat([cond[:even], told[even:]]), t, eps)

    def __len__(self) -> int:
        return len(self.t)

    def share(self, rank: int, world: int, where) -> "Batch":
        """This process's part of it, moved to its device."""
        return Batch(*(part[rank::world].to(where) for part in (self.x_0, self.cond, self.t, self.eps)))

    def split(self, parts: int) -> list["Batch"]:
        """In pieces that are seen one after the other, `parts` of them at most."""
        pieces = (part.chunk(parts) for part in (self.x_0, self.cond, self.t, self.eps))
        return [Batch(*piece) for piece in zip(*pieces, strict=True)]


def _moved(x: Tensor, by: Tensor) -> Tensor:
    """Pictures (B, C, H, W), each moved by its pixels down and to the right (2, B); the edge is repeated."""
    down, right = by[:, :, None]
    rows = (torch.arange(x.shape[2]) - down).clamp(0, x.shape[2] - 1)
    columns = (torch.arange(x.shape[3]) - right).clamp(0, x.shape[3] - 1)
    each, channel = torch.arange(len(x))[:, None, None, None], torch.arange(x.shape[1])[:, None, None]
    return x[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


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


def _evenly(pictures: Pictures, count: int, recipe: Recipe, step: int) -> Tensor:
    """`count` pictures, each with the rarer answer of an attribute that is drawn among all that have both."""
    luck, rarer = torch.Generator().manual_seed(_number(recipe.seed + 2, step)), pictures.rarer
    if not rarer:
        raise ValueError("no attribute of these pictures has both answers, so none is rare: leave evenly at 0.")
    which = torch.randint(len(rarer), (count,), generator=luck).tolist()
    return torch.stack([rarer[i][torch.randint(len(rarer[i]), (), generator=luck)] for i in which])


@dataclasses.dataclass
class Progress:
    """One step of a training. `net` is the averaged network, fit to sample from at any time; `seconds` it took so far."""

    step: int
    steps: int
    loss: float
    losses: list[float]
    seconds_left: float
    net: nn.Module
    seconds: float
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
    data and seed goes on where it was, on a CPU to the same bits. A finished run is loaded, and `note` says so. Where the
    memory does not hold a batch, it is seen in halves whose gradients are added up: the same result, and a warning says so.

    Among several processes (torchrun, `accelerate launch`, `notebook_launcher`) each sees its share of every batch, and the
    first one reads and writes the checkpoints: together they do what one does at the same batch, to rounding.

    Args:
        net: what to train, in place; from its own initial weights where no checkpoint is found.
        pictures: what to train on.
        recipe: how.
        keep: the checkpoints' folder; by default one in the cache, named by settings, data and seed.
        copy_to: a second folder for whole copies, such as one on Google Drive.
        fresh: start over, without the checkpoints that are there.
        every: seconds between checkpoints; more where writing one takes long; 0: one after every step.

    Yields:
        Progress after each step (and once before the first where there is something to say).

    Raises:
        ValueError: for data and network that do not fit, no pictures, a checkpoint of another net, a loss that is NaN;
            among several processes for a batch with fewer pictures, or a net that looks at a batch as a whole.
        MemoryError: where not even one picture at a time can be trained on.
    """
    if len(pictures) == 0:
        raise ValueError("there are no pictures to train on.")
    if pictures.shape != net.shape or len(pictures.attributes) != len(net.attributes):
        raise ValueError(
            f"the network is built for {net.shape} with {len(net.attributes)} attributes, the pictures are "
            f"{pictures.shape} with {len(pictures.attributes)}."
        )
    shelf = Shelf(keep or cache_dir() / "runs" / run_name(net, pictures, recipe), copy_to, net, recipe, pictures)
    run = _Run(net, pictures, recipe)

    def newest():
        if fresh:
            shelf.clear()
        return shelf.newest()

    state, note = run.together(newest)
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
    # A forward pass changes nothing that is kept, but for the running statistics of a net that has such buffers.
    pure = not any(True for _ in run.net.buffers())
    try:
        while run.step < recipe.steps:
            start, whole = time.monotonic(), pure
            loss = run.forward_and_back(shelf.last)
            # Between here and `whole = True` an interrupt would leave half a step, so nothing is saved then.
            whole = False
            run.apply(loss)
            whole = True
            times = [*times[-49:], time.monotonic() - start]
            run.seconds += times[-1]
            if time.monotonic() - last_save > pause or run.step == recipe.steps:
                start, saved = time.monotonic(), run.step
                run.put_on(shelf)
                last_save = time.monotonic()
                # Saving may take a twentieth of the time, no more, however slow the folder is (0: after every step).
                pause = every and max(every, 20 * (last_save - start))
            left = statistics.median(times) * (recipe.steps - run.step)
            halved, run.halved = run.halved, ""
            yield run.progress(left, halved or (f"about {_duration(left)} on this machine" if len(times) == 5 else ""))
    finally:
        if whole and run.step > saved and not run.spoilt:
            run.put_on(shelf)


def processes() -> Accelerator:
    """accelerate, which knows how many processes train together, and which one this is.

    Raises:
        ValueError: where it counts others than were launched: each would train by itself, and nobody would notice.
    """
    accelerator, launched = Accelerator(cpu=device().type == "cpu"), int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), accelerate counts {accelerator.num_processes}: training does "
            "not start. On a CPU launch with torchrun --nproc_per_node, in a fresh process."
        )
    return accelerator


class _Run:
    """Everything that changes while training, and how it is written down."""

    def __init__(self, net, pictures, recipe):
        self.accelerator = processes()
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.pictures, self.recipe = pictures, recipe
        # Running statistics are of what a process sees by itself, so neither shares nor halves would do what the whole does.
        self.whole_only = any(True for _ in net.buffers())
        if self.world > 1 and (self.whole_only or recipe.batch < self.world):
            raise ValueError(
                f"{type(net).__name__} looks at a batch as a whole: train it in one process."
                if self.whole_only
                else f"a batch of {recipe.batch} cannot be shared by {self.world} processes: let it be {self.world} or more."
            )
        self.net = net.to(self.accelerator.device).train()
        self.average = AveragedModel(self.net, multi_avg_fn=_moving_average(recipe.ema), use_buffers=True)
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
        decay = recipe.weight_decay if recipe.optimiser == "adamw" else 0.0
        self.optimiser = adam(self.net.parameters(), lr=recipe.lr, weight_decay=decay)
        self.model = self.accelerator.prepare(self.net)
        self.step, self.losses, self.seconds, self.spoilt = 0, [], 0.0, False
        self.parts, self.fits, self.halved = 1, self.world == 1, ""
        # Measured, so two processes might measure differently.
        self.threads = torch.get_num_threads()
        self.dtype = self.together(lambda: precision(self.accelerator.device.type))
        self.scaler = torch.amp.GradScaler(self.accelerator.device.type, enabled=self.dtype == torch.float16)

    def together(self, find: Callable):
        """What `find` gives the first process, for all of them; where it fails, it fails for all."""
        if self.world == 1:
            return find()
        told = [None]
        if self.rank == 0:
            try:
                told = [find()]
            except (ValueError, OSError) as wrong:
                told = [wrong]
        broadcast_object_list(told)
        if isinstance(told[0], Exception):
            raise told[0]
        return told[0]

    def loss(self, batch: Batch) -> Tensor:
        if isinstance(self.net, AttributeClassifier):
            return self.net.loss(batch.x_0, batch.cond)
        return denoising_loss(self.model, batch.x_0, batch.cond, batch.t, batch.eps, self.dtype)

    def forward_and_back(self, last_good) -> Tensor:
        """(B,) the loss of every picture of the step, whoever saw it; the gradient of their mean lies in the net."""
        ticks = len(self.net.schedule) if isinstance(self.net, Denoiser) else 1
        batch = Batch.draw(self.pictures, self.recipe, self.step, ticks)
        share = batch.share(self.rank, self.world, self.accelerator.device)
        while (mine := self._tried(share, len(batch))) is None:
            clear_device_cache(garbage_collection=True)
        losses = mine
        if self.world > 1:
            losses = mine.new_zeros(len(batch))
            losses[self.rank :: self.world] = mine
            losses = self.accelerator.reduce(losses, "sum")
        self._refuse_nan(losses, batch.t, last_good)
        return losses

    def _tried(self, share: Batch, count: int) -> Tensor | None:
        """The losses of a share of `count` pictures, its gradients added up; None where the memory asks for smaller pieces."""
        try:
            if not self.fits:
                # Once gradients are on their way to the others nobody can begin anew: first each by itself.
                self._back(share, count, alone=True)
                self.fits = True
            return self._back(share, count)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            at_once = math.ceil(len(share) / self.parts)
            if at_once == 1 or self.whole_only or (self.world > 1 and self.fits):
                raise MemoryError(
                    f"the memory does not hold a training step with {at_once} pictures at once: close what else uses it, or "
                    "choose a smaller batch or network; the same call goes on from the last checkpoint."
                ) from error
            self.parts *= 2
            self.halved = (
                f"out of memory with {at_once} pictures at once: now {math.ceil(at_once / 2)} at a time, their gradients added "
                "up, with the same result"
            )
            warnings.warn(self.halved, stacklevel=2)
            return None

    def _back(self, share: Batch, count: int, alone: bool = False) -> Tensor:
        self.optimiser.zero_grad()
        pieces, losses = share.split(self.parts), []
        with seeded(_number(self.recipe.seed + 2, self.step + self.rank * self.recipe.steps)):
            for piece in pieces:
                last = piece is pieces[-1] and not alone
                with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                    loss = self.loss(piece)
                    # The others' gradients are averaged with these, so each counts as often as there are processes.
                    self.accelerator.backward(self.scaler.scale(loss.sum() * (self.world / count)))
                losses.append(loss.detach())
        return torch.cat(losses)

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
        self.losses.append(loss.mean().item())
        self.step += 1

    def progress(self, left: float, note: str = "") -> Progress:
        loss = self.losses[-1] if self.losses else math.nan
        average = self.average.module.eval()
        return Progress(self.step, self.recipe.steps, loss, self.losses, left, average, self.seconds, note)

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
            "parts": self.parts,
            "precision": str(self.dtype).removeprefix("torch."),
            "scaler": scaler,
        }

    def put_on(self, shelf: Shelf) -> None:
        if self.rank == 0:
            shelf.put(self.tensors(), self.place())

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
        self.parts, self.dtype = place.get("parts", 1), getattr(torch, place["precision"])
        self.scaler = torch.amp.GradScaler(self.accelerator.device.type, enabled=self.dtype == torch.float16)
        if place["scaler"]:
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


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds > 1.6 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def fit(net, pictures: Pictures, recipe: Recipe, *, progress: bool = True, **options):
    """Train to the end; `options` are those of `training`.

    Returns:
        (the averaged network in eval mode, the loss of each step)
    """
    last = _to_the_end(training(net, pictures, recipe, **options), recipe.steps, progress)
    return last.net, last.losses


def _to_the_end(steps: Iterator[Progress], total: int, progress: bool = True) -> Progress:
    with tqdm(total=total, unit="step", disable=not progress) as bar:
        for now in steps:
            bar.update(now.step - bar.n)
            loss = statistics.fmean(now.losses[-50:] or [math.nan])
            bar.set_postfix_str(f"loss {loss:.3f}" + (f", {now.note}" if now.note else ""))
    return now


# The command line: python -m facelab train, or torchrun -m facelab.train where several processes are launched.


def _first() -> bool:
    """Whether this process is the one that speaks, scores and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def arguments() -> argparse.ArgumentParser:
    """What `train` understands."""
    parser = argparse.ArgumentParser("facelab train", description="Train, resume, or load what is finished.")
    parser.add_argument("subject", nargs="?", default="digits", choices=(*SUBJECTS, *WALKS))
    parser.add_argument("--plan", choices=tuple(PLANS), help="how much; by default what fits this machine")
    parser.add_argument(
        "--data", choices=("celeba", "drawn"), help="faces: which; by default CelebA where it is at hand"
    )
    parser.add_argument("--net", choices=KINDS_OF_NET, default="ours", help="faces: which network")
    parser.add_argument("--pictures", type=int, help="pictures seen, in place of the plan's")
    parser.add_argument(
        "--lr", type=float, help="the highest learning rate, in place of the plan's: a later leg needs less"
    )
    parser.add_argument(
        "--evenly", type=float, metavar="SHARE", help="so much of each batch has a rare answer and is told whole"
    )
    parser.add_argument("--start", metavar="WEIGHTS", help="go on from these weights, a name or a folder: another leg")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where weights, card and checkpoints go")
    parser.add_argument(
        "--copy-to", type=Path, metavar="DIR", help="a second folder for whole copies of the checkpoints"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="start over")
    parser.add_argument(
        "--record", action="store_true", help="keep what it draws along the way, to be scrubbed through"
    )
    parser.add_argument("--download", action="store_true", help="fetch missing data (MNIST 11 MB, CelebA 1.4 GB)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 2 and one line on standard error where the input is wrong."""
    try:
        told = arguments().parse_args(argv)
        _walk(told) if told.subject in WALKS else _train(told)
    except (ValueError, OSError, MemoryError) as wrong:
        who = "facelab" if _first() else f"facelab, process {os.environ['RANK']}"
        print(f"{who}: {' '.join(str(wrong).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if _first():
            print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def _subject(told: argparse.Namespace) -> tuple[Plan, Subject, Recipe]:
    row = plan(told.plan)
    subject = SUBJECTS[told.subject.removesuffix("-recipes")](row, told)
    changed = {
        name: getattr(told, name) for name in ("seed", "pictures", "lr", "evenly") if getattr(told, name) is not None
    }
    count = processes().num_processes
    if _first():
        print(f"{subject.pictures.source}\n{count} {'process' if count == 1 else 'processes'}")
    return row, subject, dataclasses.replace(subject.recipe, **changed)


def _train(told: argparse.Namespace) -> None:
    row, subject, recipe = _subject(told)
    net, legs = subject.net(), []
    if told.start:
        before = load(told.start)
        net = _begun(subject, before, told.start)
        recipe = dataclasses.replace(recipe, start=before.card["sha256"][:16])
        legs = [*before.card.get("legs", []), {name: before.card[name] for name in LEG}]
    options = {"fresh": told.fresh, "copy_to": told.copy_to}
    steps, recorder = training(net, subject.pictures, recipe, keep=told.out / "checkpoints", **options), None
    if told.record:
        if subject.shown is None:
            raise ValueError(f"{told.subject} draws nothing that --record could keep.")
        recorder = Recorder(lambda net: _shown(net, subject))
    last = _to_the_end(recorder(steps) if recorder else steps, recipe.steps, _first())
    if not _first():
        return
    net = last.net
    card = {
        "what": f"{told.subject}: {type(net).__name__}, trained by facelab {facelab.__version__}",
        "data": subject.pictures.source,
        "licence": subject.licence,
        "command": f"python -m facelab train {_words(told, row, recipe)} --out DIR",
        "recipe": dataclasses.asdict(recipe),
        "steps": recipe.steps,
        "machine": machine(),
        "minutes": round(last.seconds / 60, 1),
        "date": time.strftime("%Y-%m-%d"),
        "last loss": round(statistics.fmean(last.losses[-50:]), 4),
    }
    if legs:
        card["legs"] = legs
    if recorder:
        recorder.recording({name: card[name] for name in LEG if name in card}).save(told.out / "training.safetensors")
    # Weights first: a score that fails must not cost a training.
    save(net, told.out, card | {"scores": {}})
    save(net, told.out, card | {"scores": subject.score(net)})
    print(f"written to {told.out}")


def _begun(subject: Subject, before: Pretrained, file: str) -> nn.Module:
    """The subject's network with the weights of an earlier leg; an answer stays as loud as it was then.

    An attention that only the earlier one has in its middle is left behind: it is added to what passes by.
    """
    net, first = subject.net(), before.denoiser or before.classifier
    weights = first.state_dict()
    if isinstance(net, Denoiser) and isinstance(first, Denoiser) and net.config.rates:
        if first.config.rates:
            net = subject.net(rates=first.config.rates)
        elif first.config.condition == "embedding":
            weights = first.hear(net.config.rates)
    if not net.config.get("middle", True):
        weights = {name: value for name, value in weights.items() if "mid_block.attentions" not in name}
    fill(net, weights, file)
    return net


def _shown(net, subject: Subject) -> Tensor:
    """One picture for each condition that the subject shows, of the same seeds every time."""
    return sample(net, noise(len(subject.shown), net.shape), subject.shown, DDIM(net.schedule), subject.steps)


# What a card tells of each leg that came before.
LEG = ("command", "data", "recipe", "steps", "machine", "minutes", "date", "sha256")


def _words(told: argparse.Namespace, row: Plan, recipe: Recipe) -> str:
    words = [told.subject]
    if told.subject.startswith("faces"):
        words += [f"--data {told.data or data.which_faces()}"]
    if told.subject == "faces":
        words += [f"--net {told.net}"]
    words += [f"--plan {row.name} --pictures {recipe.pictures} --seed {recipe.seed}"]
    words += [f"--{name} {getattr(told, name):g}" for name in ("lr", "evenly") if getattr(told, name) is not None]
    words += [f"--start {Path(told.start).name}"] if told.start else []
    return " ".join([*words, "--record"] if told.record else words)


def _walk(told: argparse.Namespace) -> None:
    """From the report's recipe to ours, one change a row, at one budget; written to out/<subject>.json and .png."""
    row, subject, recipe = _subject(told)
    table, drawn = [], []
    for name, (change, how) in WALKS[told.subject].items():
        net = subject.net(**change)
        keep = told.out / "checkpoints" / name.replace(",", "").replace(" ", "-")
        options = {"fresh": told.fresh, "copy_to": told.copy_to}
        net, losses = fit(
            net, subject.pictures, dataclasses.replace(recipe, **how), keep=keep, progress=_first(), **options
        )
        table.append({"recipe": name, "settings": change | how, **subject.compare(net), "last loss": losses[-1]})
        drawn.append(_shown(net, subject))
    about = {
        "what": f"the same net, data, seed and number of pictures; {subject.steps} DDIM calls",
        "data": subject.pictures.source,
        "recipe": dataclasses.asdict(recipe),
        "machine": machine(),
        "command": f"python -m facelab train {_words(told, row, recipe)} --out DIR",
        "rows": table,
    }
    if not _first():
        return
    file = told.out / told.subject.replace("-", "_")
    with whole(file.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    plots.show(torch.cat(drawn), 10, rows=list(WALKS[told.subject])).save(file.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
