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
from facelab.course.exercises import EXERCISES, exercise
from facelab.data.csv_dataset import Columns
from facelab.denoiser import Denoiser
from facelab.schedules import Schedule

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0[1-9]*.ipynb"))


def frechet_distance(mean_a, cov_a, mean_b, cov_b):
    values, directions = torch.linalg.eigh(cov_a)
    root = directions @ torch.diag(values.sqrt()) @ directions.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * shared


def checkerboard_amplitude(grey):
    # The Fourier coefficient at the Nyquist frequency of both axes.
    height, width = grey.shape[1:]
    return torch.fft.fft2(grey)[:, height // 2, width // 2].abs().mean() / (height * width)


def elbo_term(x_0, x_0_hat, rates_t, rates_s):
    snr = [(signal / sigma) ** 2 for signal, sigma in (rates_t, rates_s)]
    return (snr[1] - snr[0]) * ((x_0_hat - x_0) ** 2).sum() / x_0.numel() / 2 / 0.6931471805599453


def ideal_denoiser(x_t, images, signal, sigma):
    flat = images.flatten(1)
    logits = -(torch.cdist(x_t.flatten(1), signal * flat) ** 2) / 2 / sigma**2
    return ((logits - logits.logsumexp(1, keepdim=True)).exp() @ flat).view_as(x_t)


def eps_loss(predict_eps, x_0, eps, t, alpha_bar):
    x_t = torch.stack([a.sqrt() * x + (1 - a).sqrt() * e for a, x, e in zip(alpha_bar[t], x_0, eps, strict=True)])
    return F.mse_loss(predict_eps(x_t, t), eps)


def ddpm_step(x_t, eps_hat, beta, alpha_bar, z):
    # The posterior mean of Ho et al. 2020, eq. 7, from the x_0 prediction.
    before = alpha_bar / (1 - beta)
    x_0_hat = (x_t - math.sqrt(1 - alpha_bar) * eps_hat) / math.sqrt(alpha_bar)
    mean = math.sqrt(before) * beta * x_0_hat + math.sqrt(1 - beta) * (1 - before) * x_t
    return mean / (1 - alpha_bar) + math.sqrt(beta) * z


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


def slerp(a, b, share):
    # a turned by its share of the angle, towards the part of b that is orthogonal to a.
    angle = torch.arccos(F.cosine_similarity(a.flatten(), b.flatten(), 0))
    return (share * angle).cos() * a + (share * angle).sin() / angle.sin() * (b - angle.cos() * a)


# Correct answers that are written in another way than the reference.
OTHERWISE = {
    "add_noise": lambda x_0, eps, alpha_bar: (x_0 * alpha_bar.sqrt()).addcmul(eps, (1 - alpha_bar).sqrt()),
    "linear_alpha_bar": lambda n: torch.exp(
        torch.log1p(-(1e-4 + torch.arange(n).double() * (0.02 - 1e-4) / (n - 1))).cumsum(0)
    ),
    "cosine_alpha_bar": lambda n: torch.tensor(
        [
            (1 + math.cos(math.pi * (t / n + 0.008) / 1.008)) / (1 + math.cos(math.pi * 0.008 / 1.008))
            for t in range(1, n + 1)
        ]
    ),
    "zero_terminal_snr": lambda signal: torch.lerp(
        torch.zeros(1), signal[:1], (signal - signal[-1]) / (signal[0] - signal[-1])
    ),
    "ideal_denoiser": ideal_denoiser,
    "eps_loss": eps_loss,
    "ddpm_step": ddpm_step,
    "ddim_step": lambda x_t, x_0_hat, t, s: s[1] / t[1] * x_t + (s[0] - s[1] / t[1] * t[0]) * x_0_hat,
    "ema_update": lambda ema, new, decay: ema.lerp(new, 1 - decay),
    "condition_embedding": lambda e, cond, W_1, W_2: e + F.linear(F.silu(F.linear(cond, W_1)), W_2),
    "drop_attributes": drop_attributes,
    "concat_condition": lambda x_t, numbers: torch.stack(
        [*x_t.unbind(1), *(number.view(-1, 1, 1) + torch.zeros_like(x_t[:, 0]) for number in numbers.unbind(1))], 1
    ),
    "balanced_accuracy": lambda cond, predicted: (
        sum((predicted[cond == sign] == sign).double().mean() for sign in (-1, 1)) / 2
    ),
    "normalize_condition": lambda cond: (
        cond * (cond.shape[1] / torch.clamp(cond.norm(p=1, dim=1), min=1)).sqrt().unsqueeze(1)
    ),
    "cfg_combine": lambda cond_hat, uncond_hat, scale: scale * cond_hat + (1 - scale) * uncond_hat,
    "sharpened_gaussian": sharpened_gaussian,
    "slerp": slerp,
    "frechet_distance": frechet_distance,
    "checkerboard_amplitude": checkerboard_amplitude,
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
    "elbo_term": elbo_term,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_and_another_correct_answer_pass(name):
    assert OTHERWISE[name] is not EXERCISES[name].reference
    assert EXERCISES[name].diagnose(EXERCISES[name].reference) == EXERCISES[name].diagnose(OTHERWISE[name]) == ""


@pytest.mark.parametrize(("name", "diagnosis"), [(n, d) for n, e in EXERCISES.items() for d in e.mistakes])
def test_each_mistake_gets_its_diagnosis(name, diagnosis):
    assert EXERCISES[name].diagnose(EXERCISES[name].mistakes[diagnosis]) == diagnosis


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_three_mistakes_and_two_hints_and_a_solution_that_runs(name):
    one = EXERCISES[name]
    assert len(one.mistakes) >= 3 and len(one.hints) >= 2
    namespace = {"torch": torch, "math": math}
    exec(one.solution, namespace)
    assert one.diagnose(namespace[name]) == "" and one.solution._repr_markdown_().startswith(f"```python\ndef {name}(")


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
        ("normalize_condition", lambda c: F.normalize(c, dim=1) * math.sqrt(c.shape[1]), "off by up to"),
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
    torch.testing.assert_close(
        reference("cosine_alpha_bar", 1000)[:-1], schedules.cosine().alpha_bar.float()[:-1], rtol=1e-4, atol=1e-5
    )
    signal = torch.tensor([0.99, 0.9, 0.75, 0.6], dtype=torch.float64)
    rescaled = Schedule(signal, (1 - signal**2).sqrt()).rescale_zero_terminal_snr().signal[:-1]
    torch.testing.assert_close(reference("zero_terminal_snr", signal), rescaled)
    degrees = torch.tensor([-60.0, 0.0, 45.0])
    encoded = Columns({"hand": (-60.0, 60.0)}).encode_many(degrees[:, None])
    torch.testing.assert_close(reference("half_circle_encoding", degrees, -60.0, 60.0), encoded)
    net = Denoiser((1, 8, 8), tuple("abcd"), block_out_channels=(32,), attention=(False,), normalize_cond=True)
    cond = torch.tensor([[1.0, 0, -1, 0], [0.5, -0.5, 1, 0], [0.25, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(reference("normalize_condition", cond), net._scale_cond(cond))
    a, b = samplers.noise(2, (1, 4, 4), seed=1)
    ours = editing.slerp(a, b / b.norm() * a.norm(), 3)[1]
    torch.testing.assert_close(reference("slerp", a, b / b.norm() * a.norm(), 0.5), ours)


def test_the_ancestral_step_is_ho_et_al():
    """One step of DDPM with the large variance, from t to t - 1, agrees with the exercise's."""
    schedule, t = schedules.linear(), 400
    x_t, eps_hat, z = (torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    ours = EXERCISES["ddpm_step"].reference(x_t, eps_hat, schedule.betas[t].item(), schedule.alpha_bar[t].item(), z)
    x_0_hat = schedule.to_x_0(x_t, eps_hat, t, "eps")
    sampler = samplers.DDPM(schedule, clip=False, variance="large", generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours, sampler.step(x_t, x_0_hat, t, t - 1), rtol=1e-4, atol=1e-4)


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match="there is no exercise 'nothing': the exercises are add_noise, "):
        exercise("nothing")


def exercises_in(notebook: Path) -> list[tuple[str, str]]:
    """(name, cell) of each exercise in a notebook."""
    cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text("utf-8"))["cells"]]
    found = [(re.search(r"^(\w+) = check\(\1\)$", cell, re.MULTILINE), cell) for cell in cells]
    return [(match[1], cell) for match, cell in found if match]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_solution_fits_the_stub_of_its_notebook(notebook):
    for name, cell in exercises_in(notebook):
        tree = next(node for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef) and node.name == name)
        solution = ast.parse(EXERCISES[name].solution).body[0]
        assert ast.unparse(tree.args) == ast.unparse(solution.args), f"{name}: other arguments than in the notebook"
