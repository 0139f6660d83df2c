"""A recorded training (lesson 02): its losses, and what the same noise gave along the way, to move through with a slider.

A `TrainingHistory` is one safetensors file of a few hundred kilobytes; `HistoryRecorder` makes it during a training.
"""

import dataclasses
import functools
import html
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ipywidgets
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from facelab.device import atomic_write, shipped_dir
from facelab.images import png_bytes, to_uint8
from facelab.widgets.controls import BLUE, LabelledSlider, img, line_chart, row, status


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """The course of a training.

    Args:
        losses: (N,), one for each step.
        steps: (T,) increasing, the steps from 1 to N after which images were generated.
        images: (T, B, C, H, W) uint8, from the same noise each time.
        about: what was trained, on what, by which command, as JSON.
    """

    losses: Tensor
    steps: Tensor
    images: Tensor
    about: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        times, shape, dtype = len(self.steps), tuple(self.images.shape), self.images.dtype
        if len(shape) != 5 or shape[0] != times or times == 0 or dtype != torch.uint8:
            raise ValueError(f"{times} steps need images ({times}, B, C, H, W) uint8, got {shape} {dtype}.")
        if not (self.steps.diff() > 0).all() or self.steps[0] < 1 or self.steps[-1] > len(self.losses):
            raise ValueError(f"steps must increase within 1 to {len(self.losses)}, got {self.steps.tolist()}.")

    @functools.cached_property
    def smoothed(self) -> Tensor:
        """(N,) the mean loss of each step and those before it, over a fiftieth of the training."""
        summed, last = F.pad(self.losses.double().cumsum(0), (1, 0)), torch.arange(1, len(self.losses) + 1)
        first = (last - max(1, len(self.losses) // 50)).clamp(min=0)
        return (summed[last] - summed[first]) / (last - first)

    def summary(self, index: int) -> str:
        """The step at `steps[index]` and the loss there."""
        step = int(self.steps[index])
        return f"After step {step} of {len(self.losses)} the loss is {self.smoothed[step - 1]:.3g}."

    def chart(self, index: int) -> str:
        """An <img> of the loss on a log scale, with a dot at `steps[index]`."""
        low, high = map(float, self.smoothed.aminmax())
        span = max(high / low, 1 + 1e-6)
        heights = (self.smoothed / low).log() / torch.tensor(span).log()
        grid = {height: f"{low * span**height:.2g}" for height in (0, 0.5, 1)}
        svg = line_chart({"loss, smoothed, log scale": (heights, BLUE)}, grid, int(self.steps[index]) - 1, first=1)
        alt = f"The loss falls from {self.smoothed[0]:.3g} to {self.smoothed[-1]:.3g}. {self.summary(index)}"
        return img(svg, alt)

    def figure(self, index: int) -> str:
        """An <img> of the images generated after `steps[index]`."""
        images = self.images[index]
        png = png_bytes(images, columns=min(5, len(images)), scale=max(1, 84 // images.shape[-1]))
        return img(png, f"{len(images)} images from the same noise, generated after step {int(self.steps[index])}.")

    def save(self, file) -> Path:
        """Write it to a .safetensors file, completely or not at all."""
        tensors = {name: getattr(self, name).contiguous() for name in ("losses", "steps", "images")}
        with atomic_write(file) as partial:
            save_file(tensors, partial, metadata={"about": json.dumps(self.about)})
        return Path(file)


def load_history(name) -> TrainingHistory:
    """The shipped history called `name` ("mnist"), or one in a file of your own."""
    file = Path(name)
    if file.suffix != ".safetensors":
        file = shipped_dir("results") / f"{name}_training.safetensors"
    try:
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in ("losses", "steps", "images")}
            about = json.loads(opened.metadata()["about"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        found = sorted(path.name.partition("_training.")[0] for path in file.parent.glob("*_training.safetensors"))
        raise ValueError(
            f"there is no training history {str(name)!r}: there are {', '.join(found) or 'none'}."
        ) from error
    return TrainingHistory(**tensors, about=about)


class HistoryRecorder:
    """Records a training: `for progress in recorder(train(...)): ...`, then `recorder.history(about)`.

    Args:
        generate: net -> images (B, C, H, W) in [-1, 1], from the same noise every time.
        times: how often, more densely in the beginning, where more changes; always after the last step.
    """

    def __init__(self, generate: Callable, times: int = 16):
        if times < 1:
            raise ValueError(f"times must be 1 or more, got {times}.")
        self.generate, self.times, self.images, self.losses = generate, times, {}, []

    def __call__(self, steps: Iterable) -> Iterator:
        """Pass on each `training.Progress`."""
        for progress in steps:
            chosen = torch.logspace(0, 1, self.times, progress.steps).round().long().unique()
            if progress.step in chosen or progress.step == progress.steps:
                self.images[progress.step] = to_uint8(self.generate(progress.net).clamp(-1, 1)).cpu()
            self.losses = progress.losses
            yield progress

    def history(self, about: dict | None = None) -> TrainingHistory:
        """What was recorded."""
        if not self.images:
            raise ValueError("nothing was recorded, because the training was already finished: start a new one.")
        steps, images = torch.tensor(list(self.images)), torch.stack(list(self.images.values()))
        return TrainingHistory(torch.tensor(self.losses), steps, images, about or {})


class TrainingReplay(ipywidgets.VBox):
    """Move through a training, from noise to images; the last line of a cell shows it.

    An error is shown in one sentence, and what was shown before stays.

    Args:
        history: a `TrainingHistory`, the name of a shipped one ("mnist"), or a file.
    """

    def __init__(self, history: TrainingHistory | str = "mnist"):
        self.history, self.index = history if isinstance(history, TrainingHistory) else load_history(history), 0
        self.slider = LabelledSlider("recorded step", 1, 1, len(self.history.steps), 1)
        self.text, self.figure = ipywidgets.HTML(), ipywidgets.HTML()
        self.slider.number.observe(self._update, "value")
        super().__init__([self.slider, self.text, self.figure])
        self._update()

    def __repr__(self) -> str:
        return f"A recorded training. {self.history.summary(self.index)} Run this cell to move through it."

    def _update(self, _=None):
        self.text.value = status(self._show)

    def _show(self) -> str:
        index = self.slider.number.value - 1
        self.figure.value = row([self.history.figure(index), self.history.chart(index)])
        self.index = index
        return f"<b>{html.escape(self.history.summary(index))}</b>"
