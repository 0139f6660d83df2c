"""The exercises: correct answers pass however they are written, likely mistakes get their diagnosis."""

import ast
import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from facelab import editing, samplers, schedules
from facelab.course.exercises import EXERCISES
from facelab.data.csv_dataset import Columns
from facelab.schedules import Schedule

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0[1-9]*.ipynb"))


def precision(real, generated):
    # Sorted distances without the point itself; one generated point at a time.
    own = torch.cdist(real, real).fill_diagonal_(math.inf).sort(1).values[:, 2]
    return sum(bool(((real - point).norm(dim=1) <= own).any()) for point in generated) / len(generated)


def drop_attributes(cond, count, order):
    dropped = torch.zeros_like(cond)
    for row, (n, place) in enumerate(zip(count.tolist(), order.argsort(1), strict=True)):
        dropped[row, place[:n]] = cond[row, place[:n]]
    return dropped


def sharpened_gaussian(scale, conditional, unconditional):
    # Both exponents, a x^2 + b x, weighted and added.
    a, b = (
        scale * term(*conditional) + (1 - scale) * term(*unconditional)
        for term in (lambda mean, std: -0.5 / std**2, lambda mean, std: mean / std**2)
    )
    return torch.tensor([-b / (2 * a), math.sqrt(-0.5 / a)])


# Correct answers that are written in another way than the reference. Where there is none, test_equations.py has the formula.
OTHERWISE = {
    "add_noise": lambda x_0, eps, alpha_bar: (x_0 * alpha_bar.sqrt()).addcmul(eps, (1 - alpha_bar).sqrt()),
    "linear_alpha_bar": lambda n: (
        (-(1e-4 + torch.arange(n).double() * (0.02 - 1e-4) / (n - 1))).log1p().cumsum(0).exp()
    ),
    "zero_terminal_snr": lambda signal: signal[0] * ((signal - signal[-1]) / (signal[0] - signal[-1])),
    "ddim_step": lambda x_t, x_0_hat, t, s: s[1] / t[1] * x_t + (s[0] - s[1] / t[1] * t[0]) * x_0_hat,
    "condition_embedding": lambda e, cond, W_1, W_2: e + F.linear(F.silu(F.linear(cond, W_1)), W_2),
    "drop_attributes": drop_attributes,
    "concat_condition": lambda x_t, numbers: torch.stack(
        [*x_t.unbind(1), *(number.view(-1, 1, 1) + torch.zeros_like(x_t[:, 0]) for number in numbers.unbind(1))], 1
    ),
    "balanced_accuracy": lambda cond, predicted: (
        sum((predicted[cond == sign] == sign).double().mean() for sign in (-1, 1)) / 2
    ),
    "cfg_combine": lambda cond_hat, uncond_hat, scale: scale * cond_hat + (1 - scale) * uncond_hat,
    "sharpened_gaussian": sharpened_gaussian,
    "precision": precision,
    "undo_double_scaling": lambda x: torch.lerp(x, torch.ones_like(x), 0.5),
    "sample_timesteps": lambda u, n: torch.floor(u.double() * n).clamp(0, n - 1).to(torch.int32),
    "relative_improvement": lambda before, after: 1 - after / before,
    "ddim_step_eta": lambda x_0_hat, eps_hat, signal_s, sigma_s, std: x_0_hat.mul(signal_s).add(
        eps_hat, alpha=math.sqrt((sigma_s - std) * (sigma_s + std))
    ),
    "half_circle_encoding": lambda value, low, high: torch.view_as_real(
        torch.polar(torch.ones_like(value), math.pi * (value - low) / (high - low))
    ),
    "held_out_combination": lambda hand, tool: torch.minimum(hand - 15, tool - 20) > 0,
    "adams_bashforth_step": lambda now, before: 1.5 * now - 0.5 * before,
}


@pytest.mark.parametrize(("name", "diagnosis"), [(n, d) for n, e in EXERCISES.items() for d in e.mistakes])
def test_each_mistake_gets_its_diagnosis(name, diagnosis):
    assert EXERCISES[name].diagnose(EXERCISES[name].mistakes[diagnosis]) == diagnosis


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_three_mistakes_two_hints_a_solution_that_runs_and_accepts_other_spellings(name):
    one, namespace = EXERCISES[name], {"torch": torch, "math": math}
    assert len(one.mistakes) >= 3 and len(one.hints) >= 2
    exec(one.solution, namespace)
    assert [one.diagnose(answer) for answer in (namespace[name], OTHERWISE.get(name, one.reference))] == ["", ""]
    assert one.solution._repr_markdown_().startswith(f"```python\ndef {name}(")


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda *a: None, "it returns nothing yet"),
        (lambda *a: ..., "it returns nothing yet"),
        (lambda *a: "0.5", "should return a tensor, and returns a str"),
        (lambda *a: torch.zeros(3), "returns shape (3,), and should return"),
        (lambda x, e, a: a**0.5 * x + (1 - a) ** 0.5 * e + 0.01, "off by up to 0.01"),
        (lambda x: x, "stops with TypeError"),
        (lambda x, e, a: x / 0, "32 of its 32 numbers are not finite"),
        (lambda x, e, a: x * a + (a - 1) ** 0.5 * e, "32 of its 32 numbers are not finite"),
        (lambda x, e, a: x + 0j, "it returns complex numbers, and should return real ones"),
        (lambda x, e, a: x.mul_(a) + (1 - a) * e, "both are scaled by their variances"),
        (lambda x, e, a: e.mul_(0) + 7, "off by up to"),
        (lambda x, e, a: x.mul_(a**0.5).add_(e.mul_((1 - a) ** 0.5)), ""),
    ],
)
def test_other_answers_get_one_sentence(answer, diagnosis):
    found = EXERCISES["add_noise"].diagnose(answer)
    assert diagnosis in found and bool(diagnosis) == bool(found)


def test_an_error_of_several_lines_becomes_one_line():
    def add_noise(x_0, eps, alpha_bar):
        raise RuntimeError("sizes differ:\n  4 here,\n  5 there")

    assert EXERCISES["add_noise"].diagnose(add_noise) == "it stops with RuntimeError: sizes differ: 4 here, 5 there"


@pytest.mark.parametrize(
    ("name", "wrong", "diagnosis"),
    [
        ("slerp", lambda a, b, s: F.normalize(torch.lerp(a, b, s).flatten(), dim=0).view_as(a) * a.norm(), "chord"),
        ("relative_improvement", lambda before, after: complex(before - after) / before + 1e-9j, "complex"),
        ("relative_improvement", lambda before, after: math.nan, "1 of its 1 numbers are not finite"),
        ("held_out_combination", lambda hand, tool: (hand > 15) & (tool >= 20), "off by up to"),
        ("eps_loss", lambda f, x, e, t, a: (f(a[t] * x, t) - e).square().mean(), "off by up to"),
    ],
)
def test_answers_that_look_right_are_diagnosed(name, wrong, diagnosis):
    assert diagnosis in EXERCISES[name].diagnose(wrong)


def test_the_references_agree_with_the_package():
    def reference(name, *args):
        return EXERCISES[name].reference(*args)

    torch.testing.assert_close(reference("linear_alpha_bar", 1000), schedules.linear().alpha_bar.float())
    signal = torch.tensor([0.99, 0.9, 0.75, 0.6], dtype=torch.float64)
    rescaled = Schedule(signal, (1 - signal**2).sqrt()).rescale_zero_terminal_snr().signal[:-1]
    torch.testing.assert_close(reference("zero_terminal_snr", signal), rescaled)
    degrees = torch.tensor([-60.0, 0.0, 45.0])
    encoded = Columns({"hand": (-60.0, 60.0)}).encode_many(degrees[:, None])
    torch.testing.assert_close(reference("half_circle_encoding", degrees, -60.0, 60.0), encoded)
    a, b = samplers.noise(2, (1, 4, 4), seed=1)
    b = b / b.norm() * a.norm()
    torch.testing.assert_close(reference("slerp", a, b, 0.5), editing.slerp(a, b, 3)[1])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_solution_fits_the_stub_of_its_notebook(notebook):
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        for name in re.findall(r"^(\w+) = check\(\1\)$", source, re.MULTILINE):
            tree = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
            solution = ast.parse(EXERCISES[name].solution).body[0]
            assert ast.unparse(tree.args) == ast.unparse(solution.args), f"{name}: other arguments than in the notebook"
