"""Training: the denoising loss, condition dropout, the loop, EMA and checkpoints (lesson 02).

    loss = | target(x_0, eps, t) - prediction(x_t, t, dropout(cond)) |^2                     (Ho et al. 2020, eq. 14)

Every random number of a step is a function of seed and step, so on one machine a resumed run equals an uninterrupted one.
"""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import statistics
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from facelab.classifier import AttributeClassifier
from facelab.denoiser import Denoiser, seeded
from facelab.device import atomic_write, cache_dir, device, machine, precision

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
LR_SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}  # as diffusers names them


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Its length is in images, so a run is a function of network, data, config and seed.

    Args:
        total_images: images seen in all, `batch_size` of them in each step.
        lr: reached over the first `warmup` share of the steps; then constant, or lowered to 0 along a cosine.
        ema_decays: one EMA of the weights each; at update n a decay is at most (1 + n) / (10 + n).
        max_grad_norm: gradients are clipped to this norm; 0 for no clipping.
        timestep_sampling: "logit-normal" favours the middle of the schedule (Esser et al. 2024, section 3.1); "edm" little noise:
            on rectified flow log(sigma / signal) is normal with mean -1.2 and standard deviation 1.2 (Karras et al. 2022, table 1).
        flip, shift: mirror half of the images; move each by up to `shift` pixels.
        cond_dropout: "partial" (`drop_attributes`), "whole" (`drop_condition`) or "none".
        rare_fraction: the share of a batch that is sampled by the rarer value of an attribute, all attributes alike, without
            condition dropout, which would bias the unconditional model.
        loss_weighting: "none"; "min-snr" (Hang et al. 2023, gamma 5); "edm": the loss of the network's own output, of variance
            about one in every Haar band (Karras et al. 2022, table 1).
        init_from: the first digits of the sha256 of the weights that an earlier training stage left.
    """

    total_images: int
    batch_size: int = 64
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    warmup: float = 0.05
    lr_schedule: str = "cosine"
    ema_decays: tuple[float, ...] = (0.999,)
    max_grad_norm: float = 1.0
    timestep_sampling: str = "uniform"
    flip: bool = False
    shift: int = 0
    cond_dropout: str = "partial"
    rare_fraction: float = 0.0
    loss_weighting: str = "none"
    seed: int = 0
    init_from: str = ""

    def __post_init__(self):
        choices = {"optimizer": OPTIMIZERS, "lr_schedule": LR_SCHEDULES, "cond_dropout": COND_DROPOUT}
        choices |= {
            "timestep_sampling": ("uniform", "logit-normal", "edm"),
            "loss_weighting": ("none", "min-snr", "edm"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if min(self.total_images, self.batch_size) < 1 or self.seed < 0 or not 0 < self.lr < math.inf:
            raise ValueError("total_images, batch_size and lr must be above 0, and seed at least 0.")
        if not 0 <= self.rare_fraction <= 1 or not self.ema_decays or not all(0 <= d < 1 for d in self.ema_decays):
            raise ValueError("rare_fraction must be in [0, 1], and ema_decays one or more numbers in [0, 1).")

    @property
    def steps(self) -> int:
        return math.ceil(self.total_images / self.batch_size)


def drop_attributes(cond: Tensor, generator: torch.Generator, groups: Tensor | None = None) -> Tensor:
    """Conditions (B, K) with some attributes set to 0 (unspecified), because users leave most of them unspecified.

    Of an image's specified attributes none stays with probability 0.1, all with 0.3, else a uniform number between. A single
    one, such as a digit's class, is dropped with 0.1. Columns of one group (K,), such as an angle's cosine and sine, go together.
    """
    groups = torch.arange(cond.shape[1]) if groups is None else groups
    specified = torch.zeros(len(cond), int(groups.max()) + 1).index_add_(1, groups, (cond != 0).float()) > 0
    count, u = specified.sum(1), torch.rand(len(cond), generator=generator)
    between = 1 + (torch.rand(len(cond), generator=generator) * (count - 1)).long().clamp(max=(count - 2).clamp(min=0))
    left = torch.where(u < 0.1, 0, torch.where((u < 0.4) | (count < 2), count, between))
    order = torch.rand(specified.shape, generator=generator).masked_fill(~specified, 2)
    return cond * (order.argsort(1).argsort(1) < left[:, None])[:, groups]


def drop_condition(cond: Tensor, generator: torch.Generator, groups: Tensor | None = None) -> Tensor:
    """Conditions (B, K), each replaced by the null condition with probability 0.1: Ho and Salimans 2022, algorithm 1."""
    return cond * (torch.rand(len(cond), generator=generator) >= 0.1)[:, None]


COND_DROPOUT = {"partial": drop_attributes, "whole": drop_condition, "none": lambda cond, generator, groups: cond}
CHECKPOINTS = ("checkpoint.pt", "previous.pt")
# A stream's place is part of its seed: "perturbation" is used no more and keeps that of "dropout".
STREAMS = ("order", "rare", "timesteps", "noise", "augmentation", "condition", "perturbation", "dropout")


def _generator(config: TrainConfig, stream: str, step: int) -> torch.Generator:
    state = np.random.SeedSequence([config.seed, STREAMS.index(stream), step]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def to_timesteps(u: Tensor, num_timesteps: int) -> Tensor:
    """Timesteps 0 .. num_timesteps - 1 from u (B,) in [0, 1]; if u is uniform, all are equally likely."""
    return (u * num_timesteps).long().clamp(max=num_timesteps - 1)


class Batch(NamedTuple):
    """What one step sees: x_0 and eps (B, C, H, W), cond (B, K), timesteps t (B,)."""

    x_0: Tensor
    cond: Tensor
    t: Tensor
    eps: Tensor

    @classmethod
    def sample(cls, dataset, config: TrainConfig, step: int, num_timesteps: int = 1000) -> "Batch":
        """A function of data, config (with its seed) and step, sampled on the CPU; t is in 0 .. num_timesteps - 1."""
        generator, size = functools.partial(_generator, config, step=step), config.batch_size
        # Every epoch is a new shuffle, and batches run across its end.
        places = [divmod(place, len(dataset)) for place in range(step * size, (step + 1) * size)]
        rows = [_shuffle(len(dataset), config, epoch)[i] for epoch, i in places]
        if rare := round(config.rare_fraction * size):
            rows[:rare] = _rare(dataset.minority_indices, rare, generator("rare"))
        x_0, cond = dataset[torch.stack(rows)]
        uniform, edm = config.timestep_sampling == "uniform", config.timestep_sampling == "edm"
        u = (torch.rand if uniform else torch.randn)(len(x_0), generator=generator("timesteps"))
        u = u if uniform else (1.2 * u - 1.2).sigmoid() if edm else u.sigmoid()
        t = to_timesteps(u, num_timesteps)
        eps = torch.randn(x_0.shape, generator=generator("noise"))
        x_0 = _augment(x_0, config, generator("augmentation"))
        groups = getattr(dataset, "column_groups", None)
        dropped = COND_DROPOUT[config.cond_dropout](cond, generator("condition"), groups)
        return cls(x_0, torch.cat([cond[:rare], dropped[rare:]]), t, eps)


def _augment(x: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), half of them mirrored, each moved by up to `shift` pixels; the edge is repeated."""
    flipped = (torch.rand(len(x), generator=generator) < 0.5 * config.flip)[:, None, None, None]
    x = torch.where(flipped, x.flip(3), x)
    down, right = torch.randint(-config.shift, config.shift + 1, (2, len(x), 1), generator=generator)
    rows = (torch.arange(x.shape[2]) - down).clamp(0, x.shape[2] - 1)[:, None, :, None]
    columns = (torch.arange(x.shape[3]) - right).clamp(0, x.shape[3] - 1)[:, None, None, :]
    return x[torch.arange(len(x))[:, None, None, None], torch.arange(x.shape[1])[:, None, None], rows, columns]


def _rare(rare: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """`count` images, each with the rarer value of an attribute; the attributes are sampled uniformly."""
    if not rare:
        raise ValueError("rare_fraction needs an attribute that has both values in the data: leave it at 0.")
    which = torch.randint(len(rare), (count,), generator=generator).tolist()
    return [rare[i][torch.randint(len(rare[i]), (), generator=generator)] for i in which]


@functools.lru_cache(maxsize=2)
def _shuffle(count: int, config: TrainConfig, epoch: int) -> Tensor:
    return torch.randperm(count, generator=_generator(config, "order", epoch))


def denoising_loss(denoise, x_0, cond, t, eps, dtype=torch.float32, weighting="none") -> Tensor:
    """(B,) the mean squared error of the network's prediction (eps, v or x_0), in float32 at least.

    x_0 and eps are (B, C, H, W), t (B,), cond (B, K); `dtype` is the precision of the network's arithmetic.
    """
    schedule, kind, sd = denoise.schedule, denoise.config.prediction_type, denoise.config.sigma_data
    x_t = schedule.add_noise(x_0, eps, t)
    with torch.autocast(x_0.device.type, dtype, enabled=dtype != torch.float32):
        prediction = denoise(x_t, t, cond, return_prediction=True)
    wide = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    error = wide - schedule.target(x_0, eps, t, kind)
    signal, sigma = schedule.rates(t, like=error)
    if weighting == "min-snr":  # that of x_0_hat, times sqrt(min(SNR, 5))
        error = error * {"x_0": 1, "v": sigma, "eps": sigma / signal}[kind] * (signal / sigma).clamp(max=5**0.5)
    elif weighting == "edm" and sd is not None:  # that of the network's own output
        sd = error.new_tensor(sd).repeat(denoise.shape[0])[:, None, None]
        scale = {"x_0": sigma, "v": 1, "eps": signal}[kind] * sd / (signal**2 * sd**2 + sigma**2).sqrt()
        error = denoise._fold(error) / scale
    return error.square().mean((1, 2, 3))


class _Objective(nn.Module):
    """Network and loss as one module, whose gradients accelerate averages over the processes."""

    def __init__(self, net: nn.Module, **options):
        super().__init__()
        self.net, self.options = net, options

    def forward(self, x_0, cond, t, eps):
        if isinstance(self.net, AttributeClassifier):
            return self.net.loss(x_0, cond)
        return denoising_loss(self.net, x_0, cond, t, eps, **self.options)


def _save(state: dict, folders: list[Path]) -> None:
    """Write a checkpoint into the first folder, and copies into the others; each keeps the one before, too."""
    try:
        for folder in folders:
            newest, previous = (folder / name for name in CHECKPOINTS)
            with atomic_write(newest, "unfinished.tmp") as temporary:
                if folder == folders[0]:
                    torch.save(state, temporary)
                else:
                    shutil.copyfile(folders[0] / newest.name, temporary)
                if newest.is_file():
                    os.replace(newest, previous)
    except (OSError, RuntimeError) as error:  # torch reports a full disk by a RuntimeError
        reason = str(error).splitlines()[0].rstrip(".")
        warning = f"the checkpoint of step {state['step']} could not be saved: {reason}; training goes on."
        warnings.warn(warning, stacklevel=2)


def _load(run: dict, folders: list[Path], resume: bool) -> dict | None:
    """The newest checkpoint of this run that is not damaged, if there is one; without `resume` they are deleted.

    Nothing in a file is executed.
    """
    files = [folder / name for name in CHECKPOINTS for folder in folders]
    for file in [] if resume else files:
        file.unlink(missing_ok=True)
    for file in filter(Path.is_file, files):
        try:
            if zipfile.ZipFile(file).testzip():  # torch.load does not check the zip's checksums
                raise ValueError("damaged")
            state = torch.load(file, map_location="cpu", weights_only=True)
            differing = [name for name, value in run.items() if state["run"].get(name) != value]
        except Exception:
            warnings.warn(f"{file} is damaged: the one before it is used, or training starts over.", stacklevel=2)
            continue
        if differing:
            raise ValueError(f"{file} is of another run, {differing[0]} differs: use another folder or resume=False.")
        return state
    return None


class Progress(NamedTuple):
    """A step of a training: `net` is the EMA of the first decay, in eval mode; `emas` has the network of each decay."""

    step: int
    steps: int
    loss: float
    losses: list[float]
    net: nn.Module
    seconds: float
    note: str
    emas: dict[float, nn.Module]


class _State:
    """All that changes while training."""

    def __init__(self, net: nn.Module, config: TrainConfig, kind: str):
        self.net, self.config, self.dtype = net, config, precision(kind)
        self.step, self.seconds, self.losses = 0, 0.0, []
        options = {"weight_decay": config.weight_decay} if config.optimizer == "adamw" else {}
        self.optimizer = OPTIMIZERS[config.optimizer](net.parameters(), lr=config.lr, **options)
        steps = {"num_warmup_steps": round(config.warmup * config.steps), "num_training_steps": config.steps}
        self.lr_schedule = get_scheduler(LR_SCHEDULES[config.lr_schedule], self.optimizer, **steps)
        self.scaler = torch.amp.GradScaler(kind, init_scale=1024.0, enabled=self.dtype == torch.float16)
        # Views of the weights and of buffers such as a batch norm's running mean, so that EMAModel averages both.
        self.weights = [v.detach().requires_grad_(v.is_floating_point()) for v in net.state_dict().values()]
        self.emas = {decay: copy.deepcopy(net).eval().requires_grad_(False) for decay in config.ema_decays}
        self.averages = [EMAModel(self.weights, decay, foreach=True) for decay in config.ema_decays]
        for average, ema in zip(self.averages, self.emas.values(), strict=True):
            average.shadow_params = list(ema.state_dict().values())  # which it updates in place
        self.modules = {"net": net, "optimizer": self.optimizer, "lr_schedule": self.lr_schedule, "scaler": self.scaler}
        self.modules |= {f"ema {decay}": ema for decay, ema in self.emas.items()}

    def update(self, loss: float) -> None:
        """One step of optimizer and EMA, from the gradients in the network."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.config.max_grad_norm or math.inf)
        if not math.isfinite(loss) or not (norm.isfinite() or self.scaler.is_enabled()):
            raise FloatingPointError(f"the loss or gradient of step {self.step} is not a finite number")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.lr_schedule.step()
        for average in self.averages:
            average.step(self.weights)
        self.losses.append(loss)
        self.step += 1

    def state_dict(self) -> dict:
        counts = {"step": self.step, "seconds": self.seconds, "losses": torch.tensor(self.losses, dtype=torch.float64)}
        return {name: module.state_dict() for name, module in self.modules.items()} | counts | {"machine": machine()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a checkpoint; device, precision and threads are those of this machine."""
        for name, module in self.modules.items():
            if name != "scaler" or (self.scaler.is_enabled() and state[name]):
                module.load_state_dict(state[name])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"].tolist()
        for average in self.averages:
            average.optimization_step = self.step

    def progress(self, note: str = "") -> Progress:
        so_far = self.step, self.config.steps, (self.losses or [math.nan])[-1], self.losses
        return Progress(*so_far, self.emas[self.config.ema_decays[0]], self.seconds, note, self.emas)


def train(
    net, dataset, config: TrainConfig, *, checkpoint_dir=None, backup_dir=None, resume=True, save_every=20.0
) -> Iterator[Progress]:
    """Train a Denoiser or AttributeClassifier in place; iterating runs it step by step, so the caller plots, logs and stops.

    It can be stopped anywhere (a break, an interrupted cell, a killed process): the next call with the same network, config and
    data continues from the last checkpoint, or loads the finished run, and `note` says so. Among several processes (torchrun,
    `accelerate launch`) each sees its share of every batch, and the first one writes the checkpoints.

    Args:
        checkpoint_dir: by default a folder of the cache, named by network, config and data; all processes must see it.
        backup_dir: every checkpoint is copied there too, such as to Google Drive, and another machine resumes from it.
        resume: False deletes this run's checkpoints and starts over.
        save_every: seconds between checkpoints, more where saving is slow; 0: after every step.
    """
    if len(dataset) == 0:
        raise ValueError("the dataset has no images.")
    needs, has = (f"{x.shape} with {len(x.attributes)} attributes" for x in (net, dataset))
    if needs != has:
        raise ValueError(f"the network is for images {needs}, the dataset has {has}.")
    name, run = run_identity(net, dataset, config)
    folders = [Path(checkpoint_dir or cache_dir() / "runs" / name), *([Path(backup_dir) / name] if backup_dir else [])]
    if any(folders[0].glob("step-*.safetensors")):
        raise ValueError(f"{folders[0]} has checkpoints of facelab 0.1: use another folder, 0.2 cannot read them.")
    return _train(net, dataset, config, run, folders, resume, save_every)


def run_identity(net, dataset, config: TrainConfig) -> tuple[str, dict]:
    """(a folder's name, what a run is resumed by as JSON holds it): functions of network, config and data."""
    run = {"network": type(net).__name__, "data": dataset.key}
    run |= {f"network {name}": value for name, value in net.settings().items()}
    run |= {f"config {name}": value for name, value in dataclasses.asdict(config).items()}
    text = json.dumps(run)
    return f"{type(net).__name__.lower()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}", json.loads(text)


def processes() -> Accelerator:
    """accelerate, which counts the processes; mixed precision is ours, so that of a launcher must not be added."""
    return Accelerator(cpu=device().type == "cpu", mixed_precision="no")


def _train(net, dataset, config, run, folders, resume, save_every) -> Iterator[Progress]:
    accelerator = processes()
    rank, world, where = accelerator.process_index, accelerator.num_processes, accelerator.device
    state = _State(net.to(where).train(), config, where.type)
    objective = accelerator.prepare(_Objective(net, dtype=state.dtype, weighting=config.loss_weighting))
    if found := _load(run, folders, resume):
        state.load_state_dict(found)
        note = "finished earlier, loaded" if state.step >= config.steps else f"resumed at step {state.step}"
        yield state.progress(note)
    num_timesteps = len(net.schedule) if isinstance(net, Denoiser) else 1
    saved, last_save, pause, consistent = state.step, time.monotonic(), save_every, True

    def save():
        if accelerator.is_main_process:
            _save(state.state_dict() | {"run": run}, folders)

    try:
        while state.step < config.steps:
            start, consistent = time.monotonic(), not any(True for _ in net.buffers())
            batch = Batch.sample(dataset, config, state.step, num_timesteps)
            with seeded(_generator(config, "dropout", state.step * world + rank).initial_seed(), where):
                loss = objective(*(part[rank::world].to(where) for part in batch)).mean()
            state.optimizer.zero_grad()
            # Not accelerator.backward, which divides by a launcher's number of accumulation steps.
            state.scaler.scale(loss).backward()
            consistent = False  # an interrupt from here on leaves half a step, which is not saved
            state.update(accelerator.reduce(loss.detach(), "mean").item())
            consistent = True
            state.seconds += time.monotonic() - start
            if time.monotonic() - last_save >= pause or state.step == config.steps:
                saved, start = state.step, time.monotonic()
                save()
                last_save = time.monotonic()
                pause = save_every and max(save_every, 20 * (last_save - start))
            yield state.progress()
    except FloatingPointError as error:
        where = f"the last good checkpoint is of step {saved}, in {folders[0]}"
        raise ValueError(f"{error}: training stops; {where}. A lower lr often helps.") from None
    finally:
        if consistent and state.step > saved:
            save()


def fit(net, dataset, config: TrainConfig, *, progress: bool = True, **options) -> tuple[nn.Module, list[float]]:
    """Train to the end: (the EMA network in eval mode, the loss of each step). `options` are those of `train`."""
    with tqdm(total=config.steps, unit="step", disable=not progress) as bar:
        for now in train(net, dataset, config, **options):
            bar.update(now.step - bar.n)
            bar.set_postfix_str(f"loss {statistics.fmean(now.losses[-50:] or [math.nan]):.3f} {now.note}")
    return now.net, now.losses
