"""What the lessons share: setup, predictions, exercises with check, hint and solution, a training with live figures."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from IPython.display import display
from torch import Tensor
from tqdm.auto import tqdm

import facelab
from facelab import plots
from facelab.course.exercises import Source, exercise
from facelab.data.celeba import celeba_available
from facelab.data.mnist import mnist_available
from facelab.device import device, precision
from facelab.presets import Preset, preset
from facelab.training import Progress


def setup() -> Preset:
    """Seed torch, print what the lesson runs on and with which data, and return the preset of sizes."""
    torch.manual_seed(0)
    here, chosen = device(), preset()
    where = {"cuda": "an NVIDIA GPU (cuda)", "mps": "an Apple GPU (mps)"}.get(here.type, "the CPU")
    digits = "official MNIST files" if mnist_available() else "5,000 MNIST digits that come with facelab"
    faces = celeba_available()
    faces = f"CelebA ({faces})" if faces else "synthetic, because FACELAB_DATA and the cache have no CelebA images"
    print(f"facelab {facelab.__version__} on {where}, {str(precision(here.type)).removeprefix('torch.')} arithmetic")
    print(f"preset {chosen.name} (sizes of the trainings)\ndigits: {digits}\nfaces: {faces}")
    return chosen


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A number, or one of several options, that the learner predicts before the cell that computes it."""

    question: str
    answer: float
    options: tuple[str, ...] = ()

    def truth(self, value) -> None:
        """Print the prediction beside the computed number or the correct option."""
        if self.options:
            chosen = self.options[self.answer - 1] if self.answer else "nothing"
            note = "right" if chosen == value else "not what you chose" if self.answer else "no choice made"
            print(f"{self.question}\n  you chose: {chosen}   it is: {value}   ({note})")
            return
        off = abs(value - self.answer)
        off = f"{off:.2g}" if off < 99.5 else f"{off:.0f}"  # not 4e+02
        print(f"{self.question}\n  your prediction {self.answer:g}   computed {value:.3g}   difference {off}")


def predict(question: str, answer: float) -> Prediction:
    """Write your own number into the cell before you run on: `guess = predict("...", 500)`, later `guess.truth(...)`."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)) or not math.isfinite(answer):
        raise ValueError(f"a prediction is a number, got {answer!r}.")
    return Prediction(question, answer)


def choose(question: str, options: Iterable[str], answer: int = 0) -> Prediction:
    """Print the options, numbered from 1; write your number into the cell, 0 is no choice yet. Later `guess.truth(...)`."""
    options = tuple(options)
    if isinstance(answer, bool) or not isinstance(answer, int) or answer not in range(len(options) + 1):
        raise ValueError(f"choose a number from 1 to {len(options)}, or 0 for no choice yet, got {answer!r}.")
    print(question, *(f"  {i}  {option}" for i, option in enumerate(options, 1)), sep="\n")
    return Prediction(question, answer, options)


def watch(steps: Iterable[Progress], draw: Callable | None = None, every=12.0, side=56, captions: Sequence[str] = ()):
    """Run a training and show it: a bar with the time left, the loss, and rows of sample images.

    Args:
        steps: what `train(...)` yields.
        draw: net -> images (B, C, H, W); called after 1/32, 1/16, ... 1/2 of the steps, and at the end.
        every: seconds between updates of the loss.
        captions: one above each column of the images.

    Returns:
        (the EMA network, the loss of each step). Interrupt the cell whenever you like: run it again and it goes on.
    """
    live, now, last, bar = _Live(draw, {"side": side, "captions": captions}), None, time.monotonic(), tqdm(unit="step")
    try:
        for now in steps:
            bar.total = now.steps
            bar.set_postfix_str(now.note or bar.postfix or "", refresh=False)
            bar.update(now.step - bar.n)
            due = now.step in {now.steps >> k for k in range(1, 6)}
            if due or time.monotonic() - last > every:
                live.update(now, due)
                last = time.monotonic()
    except KeyboardInterrupt:
        if hasattr(steps, "close"):
            steps.close()  # saves a checkpoint
        print(f"Stopped at step {now.step if now else 0}. Run this cell again to continue from there.")
        raise
    finally:
        bar.close()
    if now is None:
        raise ValueError("there are no training steps: an iterator is used up, so make a new one with train(...).")
    live.update(now, True)
    return now.net, now.losses


class _Live:
    """The figure of a running training, updated in place."""

    def __init__(self, draw, options: dict):
        self.draw, self.options, self.rows, self.handle = draw, options, {}, None

    def update(self, now: Progress, draw: bool) -> None:
        name = f"step {now.step}"
        if self.draw and draw and now.step > 0 and name not in self.rows:
            self.rows[name] = self.draw(now.net)
        figures = [loss_curve(now.losses)] if now.losses else []
        if self.rows:
            images = torch.cat(list(self.rows.values()))
            figures.insert(0, plots.show(images, len(images) // len(self.rows), rows=list(self.rows), **self.options))
        if figures and self.handle:
            self.handle.update(plots.hstack(*figures))
        elif figures:
            self.handle = display(plots.hstack(*figures), display_id=True)


def loss_curve(losses: list[float]) -> plots.Figure:
    """The loss, averaged over a window of a fiftieth of the run."""
    width = max(1, len(losses) // 50)
    series = {"loss": (range(width, len(losses) + 1), Tensor(losses).unfold(0, width, 1).mean(1))}
    return plots.curve(series, x="step", y="loss", title="training", log="y", size=(4.2, 2.8))


def unet_stages(net) -> list[plots.Stage]:
    """The stages of a Denoiser's U-Net, for `plots.unet_diagram`, in the order in which forward hooks meet them."""
    unet, conditioning = net.unet, net.config.conditioning
    modules = {"in": unet.conv_in, **{f"down {i}": block for i, block in enumerate(unet.down_blocks, 1)}}
    modules |= {"middle": unet.mid_block, **{f"up {i}": block for i, block in enumerate(unet.up_blocks, 1)}}
    modules |= {"out": unet.conv_out}
    inputs = dict.fromkeys(modules, "t + condition" if conditioning == "embedding" else "t")
    inputs |= {"in": "condition" if conditioning == "channels" else "", "out": ""}
    channels, _, side = net.shape
    stages, hooks, sides = [plots.Stage("x_t", channels, side, 0, "")], [], []

    def record(name, module, _inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        parameters = sum(p.numel() for p in module.parameters())
        sides.append(output.shape[-1])
        # "down" and "up" work at the side of their input, and change it at their end.
        side = sides[-2] if name.startswith(("down", "up")) else sides[-1]
        stages.append(plots.Stage(name, output.shape[1], side, parameters, inputs[name]))

    try:
        hooks += [one.register_forward_hook(functools.partial(record, name)) for name, one in modules.items()]
        with torch.no_grad():
            net(torch.zeros(1, *net.shape, device=net.device), 0, torch.zeros(len(net.attributes)))
    finally:
        for hook in hooks:
            hook.remove()
    return [*stages, plots.Stage("output", channels, side, 0, "")]


def check(answer: Callable) -> Callable:
    """Check the exercise that `answer` is named after: `add_noise = check(add_noise)`.

    Prints that it is right, or what is wrong; returns a correct function, yours if it is.
    """
    name = answer.__name__
    task = exercise(name)
    wrong = task.diagnose(answer)
    _solved[name] = not wrong
    print(f"{name}: {'not yet. ' + wrong[0].upper() + wrong[1:] if wrong else 'right.'}")
    if wrong:
        print(f'The lesson goes on with the reference solution. hint("{name}") and solution("{name}") help.')
    return task.reference if wrong else answer


_solved: dict[str, bool] = {}
_hints_shown: dict[str, int] = {}


def summary(file: str | None = "solved.json") -> dict[str, bool]:
    """Print which of the exercises checked in this kernel are solved, and save it to `file` for handing in."""
    print(*(f"{name}: {'solved' if right else 'not yet'}" for name, right in _solved.items()), sep="\n")
    print(f"{sum(_solved.values())} of {len(_solved)} solved")
    if file:
        Path(file).write_text(json.dumps(_solved, indent=1), "utf-8")
    return dict(_solved)


check.summary = summary


def hint(name: str) -> None:
    """Print a hint for an exercise; called again, the next one."""
    hints, i = exercise(name).hints, _hints_shown.get(name, 0)
    _hints_shown[name] = min(i + 1, len(hints) - 1)
    print(f"hint {i + 1} of {len(hints)}: {hints[i]}")


def solution(name: str) -> Source:
    """The source text of an exercise's reference solution; the last line of a cell shows it as code."""
    return exercise(name).solution
