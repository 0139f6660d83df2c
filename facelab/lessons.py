"""What lessons share as lessons: the first line, guesses, exercises with check, hint and solution, a training to watch."""

import dataclasses
import inspect
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from IPython.display import Code, display
from torch import Tensor
from tqdm.auto import tqdm

import facelab
from facelab import plan as plans
from facelab import plots
from facelab.data import at_hand
from facelab.exercises import EXERCISES, Exercise
from facelab.pretrained import results
from facelab.train import Progress


def setup() -> plans.Plan:
    """Print device, precision, plan and data in one line, fix the seed, and hand back the plan."""
    torch.manual_seed(0)
    here, chosen = plans.device(), plans.plan()
    kind = str(plans.precision(here.type)).removeprefix("torch.")
    data = "; ".join(f"{name}: {what}" for name, what in at_hand().items())
    print(f"facelab {facelab.__version__} | device {here} | {kind} | plan {chosen.name} | {data}")
    return chosen


@dataclasses.dataclass(frozen=True)
class Guess:
    """A number guessed before it is known."""

    question: str
    guess: float

    def truth(self, value: float) -> None:
        """Print guess and truth side by side."""
        off = abs(value - self.guess)
        off = f"{off:.2g}" if off < 99.5 else f"{off:.0f}"  # not 4e+02
        print(f"{self.question}\n  your guess {self.guess:g}   the truth {value:.3g}   off by {off}")


def predict(question: str, guess: float) -> Guess:
    """Write your guess into the cell before you run on: `guess = predict("...", 500)`, later `guess.truth(...)`."""
    if isinstance(guess, bool) or not isinstance(guess, (int, float)) or not math.isfinite(guess):
        raise ValueError(f"a guess is a number, got {guess!r}.")
    return Guess(question, guess)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A diagnosis made before the truth is known: one of some options, counted from 1; 0 is none of them."""

    question: str
    options: tuple[str, ...]
    guess: int

    def truth(self, right: str) -> None:
        """Print what was chosen and what it is, side by side."""
        said = self.options[self.guess - 1] if self.guess else "no choice"
        word = "right" if said == right else "look again" if self.guess else "so now you know"
        print(f"{self.question}\n  you said: {said}   it is: {right}   ({word})")


def choose(question: str, options: Iterable[str], guess: int = 0) -> Choice:
    """Write your choice into the cell, a number from 1 or 0 for none: `guess = choose("...", [...], 2)`, later `.truth`.

    Raises:
        ValueError: for a number that no option has.
    """
    options = tuple(options)
    if isinstance(guess, bool) or not isinstance(guess, int) or guess not in range(len(options) + 1):
        raise ValueError(f"choose a number from 1 to {len(options)}, or 0 for none yet; got {guess!r}.")
    print(question, *(f"  {i}  {option}" for i, option in enumerate(options, 1)), sep="\n")
    return Choice(question, options, guess)


def watch(
    steps: Iterable[Progress],
    draw: Callable | None = None,
    every: float = 12.0,
    side: int = 42,
    captions: Sequence[str] = (),
):
    """Run a training before your eyes: a bar with the time left, the loss, and pictures that grow row by row.

    Args:
        steps: what `training(...)` gives.
        draw: net -> pictures (B, C, H, W); called now and then, and at the end.
        every: seconds between two looks.
        captions: a line above each column of the pictures.

    Returns:
        (the averaged network, the loss of each step). Interrupt the cell whenever you like: run again, it goes on.
    """
    rows, names, now, last, handle = [], [], None, time.monotonic(), None

    def look():
        nonlocal handle
        # A long training would make a tall picture: of the earlier rows every second one stays.
        if draw and now.step > 0 and f"step {now.step}" not in names:
            if len(rows) >= 8:
                del rows[1::2], names[1::2]
            rows.append(draw(now.net))
            names.append(f"step {now.step}")
        parts = [loss_curve(now.losses)] if now.losses else []
        if rows:
            parts.insert(0, plots.show(torch.cat(rows), len(rows[0]), rows=names, side=side, captions=captions))
        if parts:
            picture = plots.beside(*parts)
            handle = handle or display(plots.Illustration(b"", ""), display_id=True)
            handle.update(picture) if handle else None

    bar = None
    try:
        for now in steps:
            bar = bar or tqdm(total=now.steps, unit="step")
            if now.note:
                bar.set_postfix_str(now.note)
            bar.update(now.step - bar.n)
            if time.monotonic() - last > every:
                look()
                last = time.monotonic()
    except KeyboardInterrupt:
        if hasattr(steps, "close"):
            steps.close()
        print(f"Stopped at step {now.step if now else 0}. Run this cell again, and it goes on from there.")
        raise
    finally:
        if bar is not None:
            bar.close()
    look()
    return now.net, now.losses


def recorded(name: str, command: str) -> dict:
    """A recorded measurement (see `pretrained.results`); where there is none, {} and a line with the `command` that makes it."""
    try:
        return results(name)
    except ValueError:
        print(
            f"data/results/{name}.json is not there. It is made by: python -m facelab evaluate {command} --out data/results"
        )
        return {}


def stations(net, x_t: Tensor | None = None) -> list[tuple]:
    """What a Denoiser's U-Net passes through, read by forward hooks: (name, channels, side, parameters, whether it is told).

    Told are the blocks into which the tick enters, and, with `condition="embedding"`, the attributes with it.
    """
    seen, hooks = [], []
    inside = [("stem", net.unet.conv_in)]
    inside += [(f"down {i + 1}", block) for i, block in enumerate(net.unet.down_blocks)]
    inside += [("middle", net.unet.mid_block)]
    inside += [(f"up {i + 1}", block) for i, block in enumerate(net.unet.up_blocks)]
    inside += [("head", net.unet.conv_out)]

    def note(name, module):
        def hook(_module, _inputs, out):
            out = out[0] if isinstance(out, tuple) else out
            count = sum(parameter.numel() for parameter in module.parameters())
            seen.append((name, out.shape[1], out.shape[-1], count, name not in ("stem", "head")))

        return module.register_forward_hook(hook)

    hooks = [note(name, module) for name, module in inside]
    try:
        with torch.no_grad():
            net(torch.zeros(1, *net.shape) if x_t is None else x_t, 0, torch.zeros(len(net.attributes)), raw=True)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def loss_curve(losses: list[float], floor: float | None = None, title: str = "training") -> plots.Illustration:
    """The loss, smoothed over a fiftieth of the run."""
    width = max(1, len(losses) // 50)
    smooth = Tensor(losses).unfold(0, width, 1).mean(1)
    series = {"loss": (range(width, len(losses) + 1), smooth)}
    if floor is not None:
        series["least possible"] = ([width, len(losses)], [floor, floor])
    return plots.curve(series, x="step", y="loss", title=title, log="y", size=(4.2, 2.8))


class _Check:
    """`check.add_noise(add_noise)` says right or what is wrong, and hands back a function that is right, yours if it is."""

    def __getattr__(self, name: str):
        exercise = _exercise(name)

        def judge(answer: Callable) -> Callable:
            wrong = exercise.verdict(answer)
            print(f"{name}: {'not yet. ' + wrong[0].upper() + wrong[1:] if wrong else 'right.'}")
            if wrong:
                print(
                    f"Until it is right, the lesson goes on with facelab's. hint.{name}() helps, solution.{name}() tells."
                )
            return exercise.reference if wrong else answer

        return judge


class _Hint:
    """`hint.add_noise()` gives a hint, called again the next one."""

    def __init__(self):
        self.given: dict[str, int] = {}

    def __getattr__(self, name: str):
        hints = _exercise(name).hints

        def give() -> None:
            i = self.given.get(name, 0)
            self.given[name] = min(i + 1, len(hints) - 1)
            print(f"hint {i + 1} of {len(hints)}: {hints[i]}")

        return give


class _Solution:
    """`solution.add_noise()` shows one way to write it."""

    def __getattr__(self, name: str):
        exercise = _exercise(name)
        return lambda: display(Code(textwrap.dedent(inspect.getsource(exercise.reference)), language="python"))


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise AttributeError(f"there is no exercise {name!r}: there are {', '.join(EXERCISES)}.")
    return EXERCISES[name]


check, hint, solution = _Check(), _Hint(), _Solution()
