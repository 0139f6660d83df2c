"""The exercises of the lessons: reference solution, inputs, hints, and the likeliest mistakes with a diagnosis of each.

`lesson.check`, `hint` and `solution` use them, and notebooks/make.py writes each solution under its exercise.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable

import torch
from torch import Tensor


class Source(str):
    """Source text that a notebook shows as highlighted Python."""

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}```"


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One function that the learner writes.

    `inputs` returns the argument tuples of a check; `mistakes` maps a diagnosis to the wrong function that it describes.
    """

    reference: Callable
    inputs: Callable[[], list[tuple]]
    hints: tuple[str, ...]
    mistakes: dict[str, Callable]

    @property
    def solution(self) -> Source:
        """The source text of the reference solution, without its decorator."""
        return Source(re.search(r"^def .*", inspect.getsource(self.reference), re.MULTILINE | re.DOTALL)[0])

    def diagnose(self, answer: Callable) -> str:
        """ "" for a correct answer, else one sentence that says what is wrong."""
        for args in self.inputs():
            expected = torch.as_tensor(self.reference(*_copy(args)))
            try:
                result = answer(*_copy(args))  # a copy, because an answer may change its arguments
            except Exception as error:
                return " ".join(f"it stops with {type(error).__name__}: {error}".split())
            if result is None or result is ...:
                return "it returns nothing yet: write its lines and end with return."
            try:
                result = torch.as_tensor(result)
            except (TypeError, ValueError, RuntimeError):
                return f"it should return a tensor, and returns a {type(result).__name__}."
            if result.is_complex():
                return "it returns complex numbers, and should return real ones."
            if result.shape != expected.shape:
                return f"it returns shape {tuple(result.shape)}, and should return {tuple(expected.shape)}."
            if not _equal(result, expected):
                return self._diagnose_values(args, result, expected)
        return ""

    def _diagnose_values(self, args: tuple, result: Tensor, expected: Tensor) -> str:
        for diagnosis, mistake in self.mistakes.items():
            try:
                if _equal(torch.as_tensor(mistake(*_copy(args))), result):
                    return diagnosis
            except Exception:
                continue
        if count := int((~result.isfinite()).sum()):
            return f"{count} of its {result.numel()} numbers are not finite: is it a division by 0, or a root below 0?"
        worst = (result.double() - expected.double()).abs().max()
        return f"the shape is right, the numbers are off by up to {worst:.3g}."


EXERCISES: dict[str, Exercise] = {}


def add(inputs: Callable, hints: str, *mistakes: tuple[str, Callable]) -> Callable:
    """Register the decorated reference solution as the exercise of its name; each line of `hints` is a hint."""

    def register(reference: Callable) -> Callable:
        lines = tuple(line.strip() for line in hints.splitlines())
        EXERCISES[reference.__name__] = Exercise(reference, inputs, lines, dict(mistakes))
        return reference

    return register


def exercise(name: str) -> Exercise:
    """The exercise of that name."""
    if name not in EXERCISES:
        raise ValueError(f"there is no exercise {name!r}: the exercises are {', '.join(EXERCISES)}.")
    return EXERCISES[name]


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same ones every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _copy(args: tuple) -> tuple:
    return tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-4, 1e-5, equal_nan=True)


for _number in range(1, 10):
    importlib.import_module(f"{__name__}.lesson{_number:02}")
