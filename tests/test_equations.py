"""Every equation of the lessons is held by a test: computed here from its own letters, and compared with what facelab does.

To change an equation in a lesson, change its line here too, and the function below it if it says something else now.
"""

import itertools
import math
import re
from pathlib import Path
from statistics import NormalDist

import nbformat
import pytest
import torch
from oracle import Fake, TwoGaussians, randn
from torch.testing import assert_close

from facelab.attributes import Attributes
from facelab.data import Pictures
from facelab.exercises import EXERCISES
from facelab.guidance import classifier_free
from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.leakage import leakage
from facelab.likelihood import bound, ladder
from facelab.metrics import class_score, frechet_distance, proportion
from facelab.sample import DDIM, noise
from facelab.schedule import SCHEDULES, cosine, linear, sigmoid, straight

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FAMILY = [make() for make in SCHEDULES.values()]
TICKS = (0, 30, 500, 998)
SAYS_SOMETHING = re.compile(r"[=<>≤≥≈∝]|\\(?:le|leq|ge|geq|approx|propto|sim)(?![a-zA-Z])")


def equations(text: str) -> set[str]:
    """All formulas of a page that stand alone, and of those within a line all that equate or compare; blanks as one."""
    found = set()
    for alone, within in re.findall(r"(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+?)\$", text, re.DOTALL):
        if alone or SAYS_SOMETHING.search(within):
            found.add(" ".join((alone or within).split()))
    return found


EQUATIONS = {}


def says(lesson: str, latex: str):
    """The function below holds this equation of this lesson, and maybe others."""

    def note(check):
        EQUATIONS[lesson, latex] = check
        return check

    return note


# 01 Noise schedules


@says("01", r"x_t = \sqrt{1-\beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon \qquad\text{(Ho et al. 2020, eq. 2)}")
@says("01", "v=0")
@says("01", r"v = 1-\bar\alpha_t")
def tick_by_tick():
    """Walk a picture, and apart from it the variance of all noise that came in: to where the schedule jumps."""
    made = linear()
    x, v = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for t, beta in enumerate(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)):
        x, v = (1 - beta).sqrt() * x, (1 - beta) * v + beta.sqrt() ** 2
        signal, sigma = made(t)
        assert_close(torch.stack([x, v]), torch.tensor([signal * 0.6, sigma**2], dtype=torch.float64))
        assert_close(v, 1 - made.alpha_bar[t])


@says("01", "S(x) = 1/(1+e^{-x})")
@says("01", r"\bar\alpha_t = \frac{S(3/\tau) - S\big((6u-3)/\tau\big)}{S(3/\tau) - S(-3/\tau)}")
def a_piece_of_an_s_turned_round():
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    for tau in (0.4, 1.0):
        made = sigmoid(tau=tau)
        for t in TICKS:
            u = (t + 1) / 1000
            share = (s(3 / tau) - s((6 * u - 3) / tau)) / (s(3 / tau) - s(-3 / tau))
            assert_close(float(made.alpha_bar[t]), share, rtol=1e-9, atol=1e-9)


@says("01", r"\bar\alpha_t = \prod_{i\le t} (1-\beta_i)")
def what_is_left_is_a_product():
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    for t in TICKS:
        assert_close(linear().alpha_bar[t].item(), math.prod(1 - beta for beta in betas[: t + 1]))


@says("01", r"x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon \qquad\text{(eq. 4)}")
def jump():
    x_0, eps = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1)
    for made in (linear(), cosine()):
        for t in TICKS:
            left = made.alpha_bar[t].item()
            wanted = math.sqrt(left) * x_0 + math.sqrt(1 - left) * eps
            assert_close(made.add_noise(x_0, eps, t), wanted)
            assert_close(EXERCISES["add_noise"].reference(x_0, eps, left), wanted)


@says("01", r"\text{SNR}_t = (\text{signal}_t/\sigma_t)^2")
def signal_to_noise():
    for made in FAMILY:
        for t in TICKS:
            signal, sigma = made(t)
            assert_close(made.snr(t), signal * signal / (sigma * sigma))


@says(
    "01",
    r"\bar\alpha_t = \frac{f(u)}{f(0)},\qquad f(u) = \cos^2\!\Big(\frac{u + s}{1 + s}\cdot\frac{\pi}{2}\Big),\qquad "
    r"u = \frac{t+1}{\text{ticks}},\quad s = 0.008",
)
def squared_cosine():
    def f(u, s=0.008):
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    for ticks in (100, 1000):
        wanted = torch.tensor([f((t + 1) / ticks) / f(0) for t in range(ticks)], dtype=torch.float64)
        # Only at the very end does a tick take more than the most that it may.
        assert_close(cosine(ticks).alpha_bar[:-1], wanted[:-1], rtol=1e-9, atol=1e-12)
        assert_close(EXERCISES["cosine_alpha_bar"].reference(ticks).double(), wanted, rtol=0, atol=1e-6)


# 02 Digits that obey


@says("02", r"n_i = (x_t - \text{signal}_t\,y_i)/\sigma_t")
@says(
    "02",
    r"\hat x_0 = \sum_i w_i\,y_i,\qquad w = \text{softmax}_i\Big(-\frac{\lVert x_t - \text{signal}_t\, y_i\rVert^2}"
    r"{2\,\sigma_t^2}\Big)",
)
def best_guess():
    """By Bayes' rule from the density of the noise that each picture would need."""
    y, conds = randn(5, 1, 2, 2).clamp(-1, 1), torch.ones(5, 1)
    for made in FAMILY:
        for t in TICKS[1:]:
            signal, sigma = made(t)
            x_t = made.add_noise(y[:1], randn(1, 1, 2, 2, seed=2), t)
            needed = [(x_t[0] - signal * one) / sigma for one in y]
            logs = torch.stack([-(n**2).sum() / 2 for n in needed])
            weights = (logs - logs.max()).exp() / (logs - logs.max()).exp().sum()
            wanted = sum(weight * one for weight, one in zip(weights, y, strict=True))
            assert_close(made.eps_from(x_t.expand(5, -1, -1, -1), y, t), torch.stack(needed))
            assert_close(IdealDenoiser(y, conds, made)(x_t, t, torch.zeros(1))[0], wanted)
            assert_close(EXERCISES["ideal_guess"].reference(x_t, y, signal, sigma)[0], wanted)


@says("02", r"\hat\epsilon = (x_t - \text{signal}_t\,\hat x_0)/\sigma_t")
@says("02", r"x_s = \text{signal}_s\,\hat x_0 + \sigma_s\,\hat\epsilon")
@says("04", r"x_t = \text{signal}_t\, \hat x_0 + \sigma_t\, \hat\epsilon")
@says("04", r"x_s - x_t = (\text{signal}_s - \text{signal}_t)\, \hat x_0 + (\sigma_s - \sigma_t)\, \hat\epsilon")
def separate_and_remix():
    """DDIM's step, and the same as a move from where it started: on every schedule, to the clean picture too."""
    x_t, x_0_hat = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1).clamp(-1, 1)
    for made in FAMILY:
        for t, s in ((900, 700), (500, 20), (20, -1)):
            (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
            eps_hat = (x_t - signal_t * x_0_hat) / sigma_t
            assert_close(made.eps_from(x_t, x_0_hat, t), eps_hat)
            assert_close(signal_t * x_0_hat + sigma_t * eps_hat, x_t)
            x_s = DDIM(made).step(x_t, x_0_hat, t, s)
            assert_close(x_s, signal_s * x_0_hat + sigma_s * eps_hat)
            assert_close(x_s - x_t, (signal_s - signal_t) * x_0_hat + (sigma_s - sigma_t) * eps_hat)
            by_hand = EXERCISES["ddim_step"].reference(x_t, x_0_hat, made(t), made(s))
            assert_close(by_hand, x_s)


@says("02", r"v = \text{signal}_t\,\epsilon - \sigma_t\,x_0")
def on_cosine():
    x_0, eps, made = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), cosine()
    for t in TICKS:
        signal, sigma = made(t)
        v = made.velocity(x_0, eps, t)
        assert_close(v, signal * eps - sigma * x_0)
        assert_close(made.x_0_from(made.add_noise(x_0, eps, t), v, t), x_0)


@says("02", r"v = \epsilon - x_0")
@says("02", r"x_t = (1-u)\,x_0 + u\,\epsilon = x_0 + u\,(\epsilon - x_0)")
@says("02", r"\hat x_0 = x_t - \sigma_t\,\hat v")
@says("02", r"v = (x_t - \hat x_0)/\sigma_t")
def straight_line():
    x_0, eps, made = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), straight()
    for t in TICKS:
        u = (t + 1) / 1000
        x_t, v = made.add_noise(x_0, eps, t), made.velocity(x_0, eps, t)
        assert_close(v, eps - x_0)
        assert_close(x_t, (1 - u) * x_0 + u * eps)
        assert_close(x_t, x_0 + u * (eps - x_0))
        said = randn(2, 1, 3, 3, seed=2)
        assert_close(made.x_0_from(x_t, said, t), x_t - made(t)[1] * said)
        assert_close((x_t - x_0) / made(t)[1], v)


@says(
    "02",
    r"\hat x_0 = \hat x_0^{\,\text{without}} + \text{scale}\cdot\big(\hat x_0^{\,\text{with}} - "
    r"\hat x_0^{\,\text{without}}\big)",
)
def insisting():
    x_t, told, nothing = randn(3, 1, 2, 2), torch.ones(1), torch.zeros(1)
    for denoise in (TwoGaussians(cosine()), Fake()):
        with_it, without = (denoise(x_t, 500, cond.expand(3, 1)) for cond in (told, nothing))
        for scale in (-1.0, 0.0, 1.0, 2.5, 8.0):
            wanted = without + scale * (with_it - without)
            assert_close(classifier_free(denoise, scale)(x_t, 500, told.expand(3, 1)), wanted)
            assert_close(EXERCISES["insist"].reference(with_it, without, scale), wanted)


@says("02", "z = 1.96")
@says("02", r"|\,\text{share} - p\,| \;\le\; z\,\sqrt{\frac{p\,(1-p)}{n}}")
def wilson():
    """The shares that could have given this count, found by halving: where the count lies z standard errors off."""
    z = 1.96
    assert round(NormalDist().inv_cdf(0.975), 2) == z
    for hits, n in ((0, 20), (3, 20), (45, 50), (500, 500)):
        share, ends = hits / n, []
        for far in (0.0, 1.0):
            near = share
            for _ in range(100):
                middle = (near + far) / 2
                possible = (share - middle) ** 2 <= z**2 * middle * (1 - middle) / n
                near, far = (middle, far) if possible else (near, middle)
            ends.append(near)
        centre, half = (share + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n)
        half *= math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        for low, high in (proportion(hits, n)[1:3], EXERCISES["wilson"].reference(hits, n).tolist(), ends):
            assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-6)


# 04 Ask louder, and what it costs


@says("04", r"\nabla \log p_t(x_t) = \frac{\text{signal}_t\, \hat x_0 - x_t}{\sigma_t^2},")
def slope_of_the_density():
    """Against torch's own derivative of the density of a noisy picture, which is a mixture with a bell for each of a set."""
    y = randn(5, 1, 2, 2).clamp(-1, 1)
    for made in FAMILY:
        for t in TICKS[1:]:
            signal, sigma = made(t)
            x_t = made.add_noise(y[:1], randn(1, 1, 2, 2, seed=2), t).requires_grad_()
            log_p = (-((x_t - signal * y) ** 2).flatten(1).sum(1) / (2 * sigma**2)).logsumexp(0)
            (slope,) = torch.autograd.grad(log_p, x_t)
            x_0_hat = IdealDenoiser(y, torch.ones(5, 1), made)(x_t.detach(), t, torch.zeros(1))
            assert_close((signal * x_0_hat - x_t.detach()) / sigma**2, slope, rtol=1e-6, atol=1e-6)


@says("04", r"\sqrt{3 \cdot 64 \cdot 64} \approx 111")
def length_of_noise():
    lengths = noise(20, (3, 64, 64)).flatten(1).norm(dim=1)
    assert round(math.sqrt(3 * 64 * 64)) == 111 and abs(lengths.mean() - 111) < 1 and lengths.std() < 1.5


@says("04", r"\hat x_0 = (x_t - \sigma_t \hat\epsilon) / \text{signal}_t")
def picture_from_noise():
    x_t, eps_hat = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1)
    for made in (linear(), cosine()):
        for t in (*TICKS, 999):
            signal, sigma = made(t)
            wanted = (x_t - sigma * eps_hat) / signal
            assert_close(made.x_0_from(x_t, eps_hat, t, "eps"), wanted)


# 05 Numbers that cannot fool you


@says(
    "05",
    r"d = |m_a - m_b|^2 + \operatorname{Tr}(A) + \operatorname{Tr}(B) - 2 \operatorname{Tr}\big((A^{1/2} B A^{1/2})^{1/2}\big)",
)
def frechet():
    def root(matrix):
        values, directions = torch.linalg.eigh(matrix)
        return directions @ torch.diag(values.clamp(min=0).sqrt()) @ directions.T

    a, b = randn(300, 4) @ randn(4, 4, seed=1), randn(200, 4, seed=2) @ randn(4, 4, seed=3) + 0.5
    (m_a, A), (m_b, B) = ((x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / (len(x) - 1)) for x in (a, b))
    shared = root(root(A) @ B @ root(A))
    wanted = ((m_a - m_b) ** 2).sum() + A.trace() + B.trace() - 2 * shared.trace()
    assert_close(frechet_distance(a, b), wanted.item())
    assert_close(float(EXERCISES["frechet"].reference(m_a, A, m_b, B)), wanted.item())


@says("05", r"u = 1/\text{count}")
@says("05", "u = 0")
def at_infinity():
    """Points on a line in u, and where it stands at u = 0; then points beside it, by the formula of the slope."""
    counts = torch.tensor([100.0, 200.0, 500.0], dtype=torch.float64)
    u = 1 / counts
    assert_close(float(EXERCISES["at_infinity"].reference(counts, 7 + 40 * u)), 7.0)
    beside = torch.tensor([9.0, 7.0, 8.0], dtype=torch.float64)
    slope = ((u - u.mean()) * (beside - beside.mean())).sum() / ((u - u.mean()) ** 2).sum()
    assert_close(float(EXERCISES["at_infinity"].reference(counts, beside)), (beside.mean() - slope * u.mean()).item())


@says(
    "05",
    r"\text{IS} = \exp\Big( \text{mean over } x \text{ of } \sum_c p(c \mid x) \log \frac{p(c \mid x)}{p(c)} \Big)",
)
def inception_score():
    logits = 2 * randn(50, 6)
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    p = [[value / sum(row) for value in row] for row in rows]
    of_all = [sum(column) / len(p) for column in zip(*p, strict=True)]
    told = sum(sum(a * math.log(a / b) for a, b in zip(row, of_all, strict=True)) for row in p) / len(p)
    assert_close(class_score(logits, splits=1).value, math.exp(told))


@says(
    "05",
    r"L_{t \to s} = \tfrac12 \big(\text{snr}_s - \text{snr}_t\big)\, |x_0 - \hat x_0|^2 \ \text{nats}, \qquad "
    r"\text{snr}_t = \Big(\frac{\text{signal}_t}{\sigma_t}\Big)^2",
)
def cost_of_a_step():
    """In bits a number, as facelab counts; then as the divergence of the two Gaussians that the step is drawn from."""
    levels = torch.tensor([-1.0, 0.2, 1.0]).double().repeat(3)
    x_0, x_0_hat = levels.reshape(1, 1, 3, 3), randn(1, 1, 3, 3, seed=1).clamp(-1, 1)
    t, s = 700, 300
    for made in FAMILY:
        (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
        nats = ((signal_s / sigma_s) ** 2 - (signal_t / sigma_t) ** 2) / 2 * ((x_0 - x_0_hat) ** 2).sum()
        found = bound(lambda x_t, t, cond: x_0_hat, x_0, torch.zeros(1), made, [t, s], levels=11)
        assert_close(found.steps.item(), nats.item() / 9 / math.log(2))
        by_hand = EXERCISES["bits_of_step"].reference(x_0, x_0_hat, made(t), made(s))
        assert_close(float(by_hand), found.steps.item())
        beta = sigma_t**2 - (signal_t / signal_s) ** 2 * sigma_s**2
        apart = signal_s * beta / sigma_t**2 * (x_0 - x_0_hat)
        assert_close(((apart**2).sum() / (2 * beta * sigma_s**2 / sigma_t**2)).item(), nats.item())


@says("05", r"-\log_2 p(x_0) \;\le\; \text{prior} + \sum_{t \to s} L_{t \to s} + \text{levels}")
def bits_are_bounded():
    """A chain whose every step is a straight line in one number, so that p(x_0) is known: the bound holds, and is near."""
    made, ticks, half = straight(), ladder(straight(), 200, last=20), 1 / 255
    exact = GaussianDenoiser(torch.full((1, 1, 1), 0.1), 0.3, made)
    mean, variance = 0.0, 1.0  # of x_t in the chain, from pure noise down
    for t, s in itertools.pairwise(ticks):
        (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
        gain = signal_t * 0.09 / (signal_t**2 * 0.09 + sigma_t**2)
        beta = sigma_t**2 - (signal_t / signal_s) ** 2 * sigma_s**2
        to_guess, to_x = signal_s * beta / sigma_t**2, signal_t / signal_s * sigma_s**2 / sigma_t**2
        slope = to_guess * gain + to_x
        mean = slope * mean + to_guess * (0.1 - gain * signal_t * 0.1)
        variance = slope**2 * variance + beta * sigma_s**2 / sigma_t**2
    signal, sigma = made(ticks[-1])
    gain = signal * 0.09 / (signal**2 * 0.09 + sigma**2)
    last = NormalDist(0.1 + gain * (mean - signal * 0.1), math.sqrt(gain**2 * variance + (sigma / signal) ** 2))
    for level in (100, 140, 200):
        x_0 = level * 2 / 255 - 1
        bits = -math.log2(last.cdf(x_0 + half) - last.cdf(x_0 - half))
        many = torch.full((4000, 1, 1, 1), x_0, dtype=torch.float64)
        found = bound(exact, many, torch.zeros(1), made, ticks, clip=False)
        told = (found.prior + found.steps.sum(1) + found.levels).mean().item()
        assert_close(told, found.total.mean().item())
        assert bits <= told + 4 * found.total.std().item() / math.sqrt(4000) and told < bits + 0.5


@says(
    "05",
    r"\text{leak}(i, j) = \big[r_j(\text{asked } i) - r_j(\text{asked no } i)\big] - \big[r_j(\text{real with } i) - "
    r"r_j(\text{real without } i)\big]",
)
def leak():
    names, luck = Attributes(["Hat", "Smiling", "Male"]), torch.Generator().manual_seed(0)
    wishes = torch.eye(3).repeat_interleave(40, 0) * torch.tensor([1.0, -1.0]).repeat_interleave(20).repeat(3)[:, None]
    seen, seen_real = (torch.randn(count, 3, generator=luck) for count in (120, 90))
    answers = (torch.randint(0, 2, (90, 3), generator=luck) * 2 - 1).to(torch.int8)
    real = Pictures(torch.zeros(90, 1, 1, 1, dtype=torch.uint8), answers, names, "made for this test")

    def r(readings, j):
        return sum(float(value) > 0 for value in readings[:, j]) / len(readings)

    found = leakage(seen, wishes, seen_real, real).matrix()
    for i in range(3):
        for j in range(3):
            asked = [r(seen[wishes[:, i] == sign], j) for sign in (1, -1)]
            there = [r(seen_real[answers[:, i] == sign], j) for sign in (1, -1)]
            assert_close(found[i, j].item(), asked[0] - asked[1] - (there[0] - there[1]))


# The list and the lessons


def of_lesson(path: Path) -> set[tuple[str, str]]:
    cells = nbformat.read(path, 4).cells
    return {(path.name[:2], one) for cell in cells if cell.cell_type == "markdown" for one in equations(cell.source)}


@pytest.mark.parametrize(("lesson", "latex"), EQUATIONS, ids=lambda part: part[:40])
def test_equation(lesson, latex):
    EQUATIONS[lesson, latex]()


def test_every_equation_of_the_lessons_is_in_the_list_and_no_other():
    there = set().union(*map(of_lesson, NOTEBOOKS.glob("0*.ipynb")))
    assert len(there) > 20
    assert sorted(there - EQUATIONS.keys()) == [], "no test holds these"
    assert sorted(EQUATIONS.keys() - there) == [], "no lesson has these"


def test_equations_are_found():
    page = "Let $x$ be \\$5, $a = b$ and $a \\left( b \\right)$.\n\n$$a\n  + b$$\n\n$p \\propto q$, $i \\le t$, $\\sum_i x_i$."
    assert equations(page) == {"a = b", "a + b", r"p \propto q", r"i \le t"}
