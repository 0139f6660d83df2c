"""The exercises' checks: what is right is right however it is written."""

import ast
import inspect
import math
import textwrap
from pathlib import Path

import nbformat
import pytest
import torch
from torch.nn import functional as F

from facelab.exercises import EXERCISES
from facelab.metrics import proportion
from facelab.model import Denoiser
from facelab.own import Columns
from facelab.schedule import Schedule


def wilson(hits, count):
    # The two roots of (share - p)^2 = z^2 p (1 - p) / count, which is what the formula solves.
    z, share = 1.96, hits / count
    a, b, c = 1 + z * z / count, -(2 * share + z * z / count), share * share
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return torch.tensor([(-b - root) / (2 * a), (-b + root) / (2 * a)])


def forgotten_whole(cond, luck, p):
    cond = cond.clone()
    cond[luck < p] = 0
    return cond


def by_roots(mean_a, cov_a, mean_b, cov_b):
    values, directions = torch.linalg.eigh(cov_a)
    root = directions @ torch.diag(values.sqrt()) @ directions.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * shared


def by_least_squares(counts, distances):
    return torch.linalg.lstsq(torch.stack([torch.ones_like(counts), 1 / counts], 1), distances[:, None]).solution[0, 0]


def one_by_one(difference, replicates):
    pairs = zip(difference, replicates, strict=True)
    return torch.tensor([0 if abs(d) <= 1.96 * r.std() else 1 if d > 0 else -1 for d, r in pairs])


def by_log2(x_0, x_0_hat, now, then):
    snr = [(signal / sigma) ** 2 for signal, sigma in (now, then)]
    return (snr[1] - snr[0]) * ((x_0_hat - x_0) ** 2).sum() / x_0.numel() / 2 / 0.6931471805599453


def ideal_guess(x_t, pictures, signal, sigma):
    flat = pictures.flatten(1)
    nearness = -(torch.cdist(x_t.flatten(1), signal * flat) ** 2) / 2 / sigma**2
    weights = (nearness - nearness.logsumexp(1, keepdim=True)).exp()
    return (weights @ flat).view_as(x_t)


def keep_said(cond, keep, order):
    kept = torch.zeros_like(cond)
    for row, (count, place) in enumerate(zip(keep.tolist(), order.argsort(1), strict=True)):
        kept[row, place[:count]] = cond[row, place[:count]]
    return kept


def balanced_share(asked, read):
    return sum((read[asked == sign] == sign).double().mean() for sign in (-1, 1)) / 2


def sharpened(scale, told, silent):
    # Both exponents, a x^2 + b x, weighted and added.
    a, b = (
        scale * of(*told) + (1 - scale) * of(*silent)
        for of in (lambda mean, std: -0.5 / std**2, lambda mean, std: mean / std**2)
    )
    return torch.tensor([-b / (2 * a), math.sqrt(-0.5 / a)])


def on_the_sphere(a, b, share):
    # a turned by its share of the angle, towards what b has that a has not.
    angle = torch.arccos(F.cosine_similarity(a.flatten(), b.flatten(), 0))
    return (share * angle).cos() * a + (share * angle).sin() / angle.sin() * (b - angle.cos() * a)


# Right answers, written another way than the reference.
OTHERWISE = {
    "add_noise": lambda x_0, eps, alpha_bar: torch.lerp(torch.zeros_like(x_0), x_0, alpha_bar.sqrt()).addcmul(
        eps, (1 - alpha_bar).sqrt()
    ),
    "linear_alpha_bar": lambda ticks: torch.exp(
        torch.log1p(-(1e-4 + torch.arange(ticks).double() * (0.02 - 1e-4) / (ticks - 1))).cumsum(0)
    ),
    "cosine_alpha_bar": lambda ticks: torch.tensor(
        [
            (1 + math.cos(math.pi * (t / ticks + 0.008) / 1.008)) / (1 + math.cos(math.pi * 0.008 / 1.008))
            for t in range(1, ticks + 1)
        ]
    ),
    "ideal_guess": ideal_guess,
    "ddim_step": lambda x_t, x_0_hat, now, then: (
        then[1] / now[1] * x_t + (then[0] - then[1] / now[1] * now[0]) * x_0_hat
    ),
    "keep_said": keep_said,
    "told_by_channels": lambda x_t, five: torch.stack(
        [*x_t.unbind(1), *(number.view(-1, 1, 1) + torch.zeros_like(x_t[:, 0]) for number in five.unbind(1))], 1
    ),
    "balanced_share": balanced_share,
    "insist": lambda told, other, scale: scale * told + (1 - scale) * other,
    "sharpened": sharpened,
    "on_the_sphere": on_the_sphere,
    "half_way_on": lambda now, before: 1.5 * now - 0.5 * before,
    "every_tick": lambda u, ticks: torch.floor(u.double() * ticks).clamp(0, ticks - 1).to(torch.int32),
    "frechet": by_roots,
    "at_infinity": by_least_squares,
    "decide": one_by_one,
    "bits_of_step": by_log2,
    "gain": lambda before, after: 1 - after / before,
    "scaled_once": lambda x: torch.lerp(x, torch.ones_like(x), 0.5),
    "carried_on": lambda x_0_hat, eps_hat, signal_s, sigma_s, fresh: x_0_hat.mul(signal_s).add(
        eps_hat, alpha=math.sqrt((sigma_s - fresh) * (sigma_s + fresh))
    ),
    "forgotten_whole": forgotten_whole,
    "zero_terminal": lambda signal: torch.lerp(
        torch.zeros(1), signal[:1], (signal - signal[-1]) / (signal[0] - signal[-1])
    ),
    "moving_average": lambda kept, new, decay: kept.lerp(new, 1 - decay),
    "wilson": wilson,
    "amplified": lambda cond: cond * (cond.shape[1] / torch.clamp(cond.norm(p=1, dim=1), min=1)).sqrt().unsqueeze(1),
    "on_half_a_circle": lambda value, low, high: torch.view_as_real(
        torch.polar(torch.ones_like(value), math.pi * (value - low) / (high - low))
    ),
    "never_together": lambda hand, tool: torch.minimum(hand - 15, tool - 20) > 0,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_what_is_right_in_another_way_is_right(name):
    assert EXERCISES[name].verdict(OTHERWISE[name]) == ""
    assert OTHERWISE[name] is not EXERCISES[name].reference


def test_the_references_are_what_the_package_does():
    assert EXERCISES["wilson"].reference(45, 50).tolist() == pytest.approx(proportion(45, 50)[1:3])
    signal = torch.tensor([0.99, 0.9, 0.75, 0.6], dtype=torch.float64)
    cured = Schedule(signal, (1 - signal**2).sqrt()).zero_terminal_snr().signal[:-1]
    torch.testing.assert_close(EXERCISES["zero_terminal"].reference(signal), cured)
    degrees = torch.tensor([-60.0, 0.0, 45.0])
    ours = Columns({"hand": (-60.0, 60.0)}).encode_many(degrees[:, None])
    torch.testing.assert_close(EXERCISES["on_half_a_circle"].reference(degrees, -60.0, 60.0), ours)
    net = Denoiser((1, 8, 8), tuple("abcd"), channels=(32,), attention=(False,), amplify=True)
    cond = torch.tensor([[1.0, 0, -1, 0], [0.5, -0.5, 1, 0], [0.25, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(EXERCISES["amplified"].reference(cond), net._loud(cond))


def torch_floor(u, ticks):
    return torch.floor(u * ticks)


def in_place(x_0, eps, alpha_bar):
    return x_0.mul_(alpha_bar**0.5).add_(eps.mul_((1 - alpha_bar) ** 0.5))


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        (
            "every_tick",
            [
                lambda u, ticks: (u * ticks).long(),
                lambda u, ticks: (u * ticks).long().clamp(max=ticks - 1),
                torch_floor,
            ],
        ),
        ("add_noise", [in_place]),
    ],
)
def test_the_natural_right_answers_are_right(name, answers):
    assert [EXERCISES[name].verdict(answer) for answer in answers] == [""] * len(answers)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("add_noise", lambda x, e, a: a**0.5 * x + (1 - a**0.5) * e, "it is variances that add up to 1"),
        (
            "on_the_sphere",
            lambda a, b, s: F.normalize(torch.lerp(a, b, s).flatten(), dim=0).view_as(a) * a.norm(),
            "chord",
        ),
        ("forgotten_whole", lambda cond, luck, p: cond * (luck > p)[:, None], "Keep where luck >= p"),
        ("decide", lambda d, r: torch.where(d.abs() > 2 * r.std(1), d.sign(), 0), "1.96 standard deviations"),
        ("never_together", lambda hand, tool: (hand > 15) & (tool >= 20), "a tool at 20 degrees still"),
        ("never_together", lambda hand, tool: (hand >= 15) & (tool > 20), "a hand at 15 degrees still"),
        (
            "amplified",
            lambda c: c * (c.shape[1] / (c != 0).sum(1, keepdim=True).clamp(min=1)).sqrt(),
            "a half is said half",
        ),
        ("amplified", lambda c: F.normalize(c, dim=1) * math.sqrt(c.shape[1]), "off by up to"),
        ("gain", lambda before, after: complex(before - after) / before + 1e-9j, "complex"),
        ("gain", lambda before, after: math.nan, "1 of its 1 numbers are not finite"),
    ],
)
def test_answers_that_look_right_are_told_what_they_are(name, wrong, says):
    assert says in EXERCISES[name].verdict(wrong)


def lesson_of(name):
    """(imports of the lesson's code cells up to the exercise, as source); the exercise is in one lesson and no other."""
    found = []
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("0*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        at = [i for i, source in enumerate(cells) if f"check.{name}(" in source]
        if at:
            # Without the first cell, which installs what is missing.
            nodes = [node for source in cells[1 : at[0] + 1] for node in ast.parse(source).body]
            found.append([node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)])
    (imports,) = found
    return "\n".join(map(ast.unparse, imports))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_that_is_shown_runs_where_it_is_pasted(name):
    space = {}
    exec(lesson_of(name), space)
    exec(textwrap.dedent(inspect.getsource(EXERCISES[name].reference)), space)
    assert EXERCISES[name].verdict(space[EXERCISES[name].reference.__name__]) == ""
