"""A training that is kept to be looked at again: its losses, and what the same seeds gave along the way (lesson 02).

It is one safetensors file of a few hundred kilobytes; `widgets.TrainingReplay` scrubs through it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from facelab.features import as_saved
from facelab.plan import shipped_dir
from facelab.written import whole


@dataclasses.dataclass(frozen=True)
class Recording:
    """A training as it went.

    Args:
        losses: (N,) of each step.
        steps: (T,) after which of them it was looked at, rising, from 1 to N.
        pictures: (T, B, C, H, W) uint8, B of the same seeds at each look.
        about: what was trained, on what, by which command, as JSON holds it.

    Raises:
        ValueError: for shapes that do not fit.
    """

    losses: Tensor
    steps: Tensor
    pictures: Tensor
    about: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        looks = len(self.steps)
        if self.pictures.ndim != 5 or len(self.pictures) != looks or looks == 0 or self.pictures.dtype != torch.uint8:
            raise ValueError(
                f"{looks} looks need pictures ({looks}, B, C, H, W) uint8, got {tuple(self.pictures.shape)}."
            )
        if not (self.steps.diff() > 0).all() or self.steps[0] < 1 or self.steps[-1] > len(self.losses):
            raise ValueError(f"looks are at rising steps from 1 to {len(self.losses)}, got {self.steps.tolist()}.")

    def save(self, file) -> Path:
        """Write it to a file that ends in .safetensors, at once or not at all."""
        tensors = {name: getattr(self, name).contiguous() for name in ("losses", "steps", "pictures")}
        with whole(file) as beside:
            save_file(tensors, beside, metadata={"about": json.dumps(self.about), "sha256": _sha256(tensors)})
        return Path(file)


def _sha256(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(
        b"".join(tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    ).hexdigest()


def load_recording(name) -> Recording:
    """The shipped recording called `name` ("digits"), or one in a file of yours.

    Raises:
        ValueError: where there is none.
    """
    file = Path(name)
    if file.suffix != ".safetensors":
        file = shipped_dir("results") / f"{name}_training.safetensors"
    try:
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in ("losses", "steps", "pictures")}
            if opened.metadata().get("sha256", right := _sha256(tensors)) != right:
                raise ValueError(f"{file} is damaged: its sha256 is not what it tells.")
            return Recording(**tensors, about=json.loads(opened.metadata()["about"]))
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        there = ", ".join(
            sorted(p.name.removesuffix("_training.safetensors") for p in file.parent.glob("*_training.*"))
        )
        raise ValueError(f"there is no recorded training {str(name)!r}: there are {there or 'none'}.") from error


class Recorder:
    """Looks over a training's shoulder: `for now in recorder(training(...)): ...`, then `recorder.recording(about)`.

    Args:
        draw: net -> pictures (B, C, H, W) in [-1, 1], of the same seeds every time.
        looks: how many, closer together in the beginning, where more changes.
    """

    def __init__(self, draw: Callable, looks: int = 16):
        if looks < 1:
            raise ValueError(f"a recording needs one look or more, got {looks}.")
        self.draw, self.looks, self.seen, self.losses = draw, looks, {}, []

    def __call__(self, steps: Iterable) -> Iterator:
        """The same steps, each `train.Progress` handed on; the last one is always looked at."""
        for now in steps:
            wanted = torch.logspace(0, 1, self.looks, now.steps).round().long().unique()
            if now.step in wanted or now.step == now.steps:
                self.seen[now.step] = as_saved(self.draw(now.net).clamp(-1, 1)).cpu()
            self.losses = now.losses
            yield now

    def recording(self, about: dict | None = None) -> Recording:
        """What was seen.

        Raises:
            ValueError: where nothing was, as when the training had been finished before.
        """
        if not self.seen:
            raise ValueError("nothing was recorded: the training was finished before, so start it afresh.")
        pictures = torch.stack(list(self.seen.values()))
        return Recording(torch.tensor(self.losses), torch.tensor(list(self.seen)), pictures, about or {})
