"""Every equation of the lessons is tested: computed here symbol by symbol, and compared with what facelab computes.

If you change an equation in a lesson, change its line here too, and the function below it if the meaning changed.
"""

import itertools
import math
import re
from pathlib import Path
from statistics import NormalDist

import nbformat
import pytest
import torch
from oracle import Fake, TwoGaussians, randn, tiny
from torch.testing import assert_close

from facelab import DDIM, DDPM, GaussianDenoiser, IdealDenoiser, cfg, noise
from facelab.course.exercises import exercise
from facelab.evaluation.likelihood import elbo, log_snr_timesteps
from facelab.evaluation.metrics import frechet_distance, inception_score, kernel_distance
from facelab.schedules import SCHEDULES, cosine, linear, rectified_flow

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FAMILY = [make() for make in SCHEDULES.values()]
TIMESTEPS = (0, 30, 500, 998)
A_VALUE = re.compile(r"\\?\w+ ?= ?-?[\d.]+")  # such as t = 999, which is no equation
A_RELATION = re.compile(r"[=<>≤≥≈∝]|\\(?:le|leq|ge|geq|approx|propto|sim)(?![a-zA-Z])")


EQUATIONS = {}


def equations(text: str) -> set[str]:
    """All displayed formulas of a page, and the inline ones that contain a relation; white space as one blank."""
    found = re.findall(r"(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+?)\$", text, re.DOTALL)
    inline = [one for _, one in found if A_RELATION.search(one) and not A_VALUE.fullmatch(one.strip())]
    return {" ".join(one.split()) for one in [displayed for displayed, _ in found if displayed] + inline}


def checks(lesson: str, latex: str):
    """The function below checks this equation of this lesson, and maybe others."""

    def register(check):
        EQUATIONS[lesson, latex] = check
        return check

    return register


def reference(name: str):
    return exercise(name).reference


@checks("01", r"x_t = \sqrt{1-\beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon_t \qquad\text{(eq. 2)}")
@checks("01", r"\bar\alpha_t = \prod_{i=0}^{t} (1-\beta_i)")
@checks("01", r"1-v=\bar\alpha_t")
def the_forward_chain():
    """Signal and noise variance, step by step, end where the closed form ends; alpha_bar is a product."""
    schedule, x, variance, product = linear(), 0.6, 0.0, 1.0
    for t in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * t / 999
        x, variance = math.sqrt(1 - beta) * x, (1 - beta) * variance + math.sqrt(beta) ** 2
        product *= 1 - beta
        signal, sigma = schedule(t)
        assert_close((x, variance), (signal * 0.6, sigma**2))
        assert_close((schedule.alpha_bar[t].item(), 1 - variance), (product, product))


@checks("01", r"x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon \qquad\text{(Ho et al. 2020, eq. 4)}")
@checks("01", r"\bar\alpha = 0.5")
@checks("02", r"x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon")
@checks("02", r"\text{signal}_t=\sqrt{\bar\alpha_t}")
@checks("02", r"\sigma_t=\sqrt{1-\bar\alpha_t}")
def forward_process():
    x_0, eps = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1)
    for schedule in (linear(), cosine()):
        for t in TIMESTEPS:
            alpha_bar = schedule.alpha_bar[t].item()
            assert_close(schedule(t), (math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)))
            expected = math.sqrt(alpha_bar) * x_0 + math.sqrt(1 - alpha_bar) * eps
            assert_close(schedule.add_noise(x_0, eps, t), expected)
            assert_close(reference("add_noise")(x_0, eps, alpha_bar), expected)
    assert_close(reference("add_noise")(x_0, eps, 0.5), (x_0 + eps) / math.sqrt(2))  # equal weights


@checks("01", r"\text{SNR}_t = \text{signal}_t^2 / \sigma_t^2 = \bar\alpha_t / (1-\bar\alpha_t)")
def signal_to_noise():
    for schedule in FAMILY:
        for t in TIMESTEPS:
            signal, sigma = schedule(t)
            assert_close(schedule.snr(t), signal * signal / (sigma * sigma))
            if schedule.variance_preserving:
                alpha_bar = schedule.alpha_bar[t].item()
                assert_close(schedule.snr(t), alpha_bar / (1 - alpha_bar))


@checks(
    "01",
    r"\bar\alpha_t = \frac{f(u)}{f(0)},\qquad f(u) = \cos^2\!\Big(\frac{u + s}{1 + s}\cdot\frac{\pi}{2}\Big),\qquad "
    r"u = \frac{t+1}{T},\qquad s = 0.008",
)
def squared_cosine():
    def f(u, s=0.008):
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    for n in (100, 1000):
        expected = torch.tensor([f((t + 1) / n) / f(0) for t in range(n)], dtype=torch.float64)
        # Only the last beta exceeds its maximum.
        assert_close(cosine(n).alpha_bar[:-1], expected[:-1], rtol=1e-9, atol=1e-12)
        assert_close(reference("cosine_alpha_bar")(n).double(), expected, rtol=0, atol=1e-6)


@checks(
    "02",
    r"\hat x_0 = \sum_i w_i\,y_i,\qquad w = \operatorname{softmax}_i\Big(-\frac{\lVert x_t - \text{signal}_t\,y_i\rVert^2}"
    r"{2\,\sigma_t^2}\Big)",
)
@checks("02", r"\log p(x_t\mid y_i) = -\lVert x_t-\text{signal}_t\,y_i\rVert^2/(2\sigma_t^2)")
def ideal_denoiser():
    """By Bayes' rule from the density of independent Gaussian pixels."""
    y, conds = randn(5, 1, 2, 2).clamp(-1, 1), torch.ones(5, 1)
    for schedule in FAMILY:
        for t in (*TIMESTEPS, 999):
            signal, sigma = schedule(t)
            x_t = schedule.add_noise(y[:1], randn(1, 1, 2, 2, seed=2), t)
            logs = -(x_t - signal * y).square().sum((1, 2, 3)) / (2 * sigma**2)
            by_pixel = torch.distributions.Normal(signal * y, sigma).log_prob(x_t).sum((1, 2, 3))
            assert_close(by_pixel - by_pixel[0], logs - logs[0])
            expected = sum(weight * one for weight, one in zip(logs.softmax(0), y, strict=True))
            assert_close(schedule.to_eps(x_t.expand(5, -1, -1, -1), y, t), (x_t - signal * y) / sigma)
            assert_close(IdealDenoiser(y, conds, schedule)(x_t, t, torch.zeros(1))[0], expected)
            assert_close(reference("ideal_denoiser")(x_t, y, signal, sigma)[0], expected)


@checks(
    "02",
    r"\hat\epsilon = \frac{x_t - \text{signal}_t\,\hat x_0}{\sigma_t},\qquad "
    r"x_s = \text{signal}_s\,\hat x_0 + \sigma_s\,\hat\epsilon",
)
@checks("02", r"\hat x_0 = (x_t - \sigma_t\,\hat\epsilon)/\text{signal}_t")
@checks("08", r"\hat x_0 = (x_t-\sigma_t\hat\epsilon)/\text{signal}_t")
def ddim_step():
    """And the same as an Euler step, on every schedule, to the clean image too."""
    x_t, x_0_hat = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1).clamp(-1, 1)
    for schedule in FAMILY:
        for t, s in ((998, 900), (900, 700), (500, 20), (20, -1)):
            (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
            eps_hat = (x_t - signal_t * x_0_hat) / sigma_t
            assert_close(schedule.to_eps(x_t, x_0_hat, t), eps_hat)
            assert_close(signal_t * x_0_hat + sigma_t * eps_hat, x_t)
            assert_close(schedule.to_x_0(x_t, eps_hat, t, "eps"), (x_t - sigma_t * eps_hat) / signal_t)
            x_s = DDIM(schedule).step(x_t, x_0_hat, t, s)
            assert_close(x_s, signal_s * x_0_hat + sigma_s * eps_hat)
            assert_close(x_s - x_t, (signal_s - signal_t) * x_0_hat + (sigma_s - sigma_t) * eps_hat)
            assert_close(reference("ddim_step")(x_t, x_0_hat, schedule(t), schedule(s)), x_s)


@checks("02", r"v = \text{signal}_t\,\epsilon - \sigma_t\,x_0")
@checks("02", r"\hat x_0 = \text{signal}_t\,x_t - \sigma_t\,\hat v")
def v_prediction():
    x, y = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1)
    for schedule in (linear(), cosine()):
        for t in (*TIMESTEPS, 999):
            signal, sigma = schedule(t)
            assert_close(schedule.velocity(x, y, t), signal * y - sigma * x)
            assert_close(schedule.to_x_0(x, y, t, "v"), signal * x - sigma * y)
            assert_close(schedule.to_x_0(schedule.add_noise(x, y, t), schedule.velocity(x, y, t), t), x)


@checks("08", r"u' = \frac{a\,u}{1 + (a-1)\,u}")
def shifted_timesteps():
    """u is (t + 1) / 1000; rounded to timesteps."""
    for a in (1.0, 3.0):
        schedule = rectified_flow()
        schedule.shift = a
        for i, t in enumerate(schedule.timesteps(20)):
            u = (20 - i) / 20
            assert abs((t + 1) / 1000 - a * u / (1 + (a - 1) * u)) <= 0.5e-3 + 1e-9


@checks("01", r"x_t = (1-u)\;x_0 + u\;\epsilon,\qquad u = \frac{t+1}{T}")
@checks("01", "= 1-u")
@checks("01", "= u")
@checks("02", r"v=\epsilon-x_0")
@checks("02", r"x_t = (1-u)\,x_0 + u\,\epsilon")
@checks("08", r"x_u = (1-u)\,x_0 + u\,\epsilon")
@checks("08", r"\hat\epsilon = (x_t - (1-u)\,\hat x_0)/u")
def rectified_flow_velocity():
    x_0, eps, schedule = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), rectified_flow()
    for t in TIMESTEPS:
        u = (t + 1) / 1000
        x_t, v = schedule.add_noise(x_0, eps, t), schedule.velocity(x_0, eps, t)
        assert schedule(t) == (1 - u, u)
        assert_close(v, eps - x_0)
        assert_close(x_t, (1 - u) * x_0 + u * eps)
        assert_close(x_t, x_0 + u * (eps - x_0))
        prediction = randn(2, 1, 3, 3, seed=2)
        assert_close(schedule.to_x_0(x_t, prediction, t), x_t - schedule(t)[1] * prediction)
        assert_close((x_t - x_0) / schedule(t)[1], v)
        assert_close(schedule.to_eps(x_t, prediction, t), (x_t - (1 - u) * prediction) / u)


@checks(
    "00",
    r"\hat x_0 = \hat x_0^{\text{uncond}} + \text{guidance scale}\cdot\big(\hat x_0^{\text{cond}} - "
    r"\hat x_0^{\text{uncond}}\big)",
)
def classifier_free_guidance():
    x_t, cond, null = randn(3, 1, 2, 2), torch.ones(1), torch.zeros(1)
    for denoise in (TwoGaussians(cosine()), Fake()):
        cond_hat, uncond_hat = (denoise(x_t, 500, one.expand(3, 1)) for one in (cond, null))
        for scale in (-1.0, 0.0, 1.0, 2.5, 8.0):
            expected = uncond_hat + scale * (cond_hat - uncond_hat)
            assert_close(cfg(denoise, scale)(x_t, 500, cond.expand(3, 1)), expected)
            assert_close(reference("cfg_combine")(cond_hat, uncond_hat, scale), expected)


@checks(
    "02",
    r"L = \operatorname{mean}\;\big( \epsilon - \hat\epsilon(x_t, t)\big)^2,\qquad "
    r"x_t = \text{signal}_t\,x_0 + \sigma_t\,\epsilon,\qquad t \text{ uniform}",
)
def noise_prediction_loss():
    x_0, eps, schedule = randn(4, 1, 3, 3), randn(4, 1, 3, 3, seed=1), linear()
    t = torch.tensor([0, 30, 500, 999])
    x_t = schedule.add_noise(x_0, eps, t)
    loss = reference("eps_loss")(lambda x_t, t: 0.5 * x_t, x_0, eps, t, schedule.alpha_bar)
    assert_close(loss, ((eps - 0.5 * x_t) ** 2).sum() / x_0.numel())


@checks("02", r"\lVert\hat\epsilon-\epsilon\rVert^2 = \frac{\text{signal}_t^2}{\sigma_t^2}\lVert\hat x_0-x_0\rVert^2")
def errors_of_eps_and_x_0():
    x_0, eps, x_0_hat = (randn(2, 1, 3, 3, seed=seed) for seed in range(3))
    for schedule in FAMILY:
        for t in TIMESTEPS:
            signal, sigma = schedule(t)
            eps_hat = schedule.to_eps(schedule.add_noise(x_0, eps, t), x_0_hat, t)
            assert_close((eps_hat - eps).norm() ** 2, signal**2 / sigma**2 * (x_0_hat - x_0).norm() ** 2)


@checks("02", r"V = \text{signal}_t^2\,\sigma_\text{data}^2+\sigma_t^2")
@checks(
    "02",
    r"\hat\epsilon = \frac{\sigma_t}{V}\,x_t - \frac{\text{signal}_t\,\sigma_\text{data}}{\sqrt V}\,F\Big(\frac{x_t}{\sqrt V},"
    r"\,t,\,c\Big),\qquad \hat x_0 = \frac{\text{signal}_t\,\sigma_\text{data}^2}{V}\,x_t + "
    r"\frac{\sigma_t\,\sigma_\text{data}}{\sqrt V}\,F",
)
def preconditioning(s=0.7):
    """Of the network that the lesson trains, here with one band; and V is the variance of x_t."""
    net = tiny(prediction_type="eps", schedule="linear", sigma_data=(s,), patch_size=1).double()
    x_t, cond = randn(2, *net.shape), torch.zeros(2, len(net.attributes), dtype=torch.float64)
    for t in (0, 500, 999):
        signal, sigma = net.schedule(t)
        V = signal**2 * s**2 + sigma**2
        many = net.schedule.add_noise(s * randn(100_000, 1, 1, 1), randn(100_000, 1, 1, 1, seed=1), t)
        assert abs(many.var().item() / V - 1) < 0.03
        F = net._network(x_t / math.sqrt(V), t, cond)
        expected = sigma / V * x_t - signal * s / math.sqrt(V) * F
        assert_close(net(x_t, t, cond, return_prediction=True), expected)
        assert_close(net(x_t, t, cond), signal * s**2 / V * x_t + sigma * s / math.sqrt(V) * F)


@checks(
    "02",
    r"x_{t-1} = \frac{1}{\sqrt{1-\beta_t}}\Big(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\hat\epsilon\Big) + "
    r"\sqrt{\beta_t}\,z,\qquad z\sim\mathcal N(0, I)",
)
@checks(
    "02",
    r"\frac{1}{\text{var}} = \frac{1-\beta_t}{\beta_t} + \frac{1}{1-\bar\alpha_{t-1}},\qquad \text{mean} = \text{var}\,"
    r"\Big(\frac{\sqrt{1-\beta_t}}{\beta_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\Big)",
)
@checks("02", r"\bar\alpha_t=(1-\beta_t)\,\bar\alpha_{t-1}")
@checks("02", r"\hat x_0 = (x_t-\sigma_t\,\hat\epsilon)/\text{signal}_t")
@checks("04", r"\hat x_0 = (x_t-\sigma_t\,\hat\epsilon)/\text{signal}_t")
def ancestral_step():
    """The exercise, and facelab's DDPM with the same noise."""
    x_t, eps_hat, schedule = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), linear()
    for t in (1, 500, 998):
        beta, alpha_bar = schedule.betas[t].item(), schedule.alpha_bar[t].item()
        z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3), dtype=x_t.dtype)
        expected = (x_t - beta / math.sqrt(1 - alpha_bar) * eps_hat) / math.sqrt(1 - beta) + math.sqrt(beta) * z
        assert_close(reference("ddpm_step")(x_t, eps_hat, beta, alpha_bar, z), expected)
        x_0_hat = schedule.to_x_0(x_t, eps_hat, t, "eps")
        sampler = DDPM(schedule, clip=False, generator=torch.Generator().manual_seed(3), variance="large")
        assert_close(sampler.step(x_t, x_0_hat, t, t - 1), expected)
        before = schedule.alpha_bar[t - 1].item()
        assert_close(alpha_bar, (1 - beta) * before)
        var = 1 / ((1 - beta) / beta + 1 / (1 - before))
        mean = var * (math.sqrt(1 - beta) / beta * x_t + math.sqrt(before) / (1 - before) * x_0_hat)
        assert_close(mean, expected - math.sqrt(beta) * z)
        small = DDPM(schedule, clip=False, generator=torch.Generator().manual_seed(3), variance="small")
        assert_close(small.step(x_t, x_0_hat, t, t - 1), mean + math.sqrt(var) * z)


@checks(
    "04",
    r"\nabla\log p_t(x_t) = \mathbb E[\nabla\log p(x_t\mid x_0)\mid x_t] = (\text{signal}_t\,\hat x_0 - x_t)/\sigma_t^2",
)
def score_function():
    """Against torch's own derivative of the log-density of x_t, a mixture of one Gaussian for each image of the set."""
    y = randn(5, 1, 2, 2).clamp(-1, 1)
    for schedule in FAMILY:
        for t in TIMESTEPS[1:]:
            signal, sigma = schedule(t)
            x_t = schedule.add_noise(y[:1], randn(1, 1, 2, 2, seed=2), t).requires_grad_()
            log_p = (-((x_t - signal * y) ** 2).flatten(1).sum(1) / (2 * sigma**2)).logsumexp(0)
            (slope,) = torch.autograd.grad(log_p, x_t)
            weights = (-((x_t - signal * y) ** 2).flatten(1).sum(1) / (2 * sigma**2)).softmax(0).detach()
            slopes = -(x_t.detach() - signal * y) / sigma**2  # of log p(x_t | x_0), for each image of the set
            assert_close((weights[:, None, None, None] * slopes).sum(0, keepdim=True), slope, rtol=1e-6, atol=1e-6)
            x_0_hat = IdealDenoiser(y, torch.ones(5, 1), schedule)(x_t.detach(), t, torch.zeros(1))
            assert_close((signal * x_0_hat - x_t.detach()) / sigma**2, slope, rtol=1e-6, atol=1e-6)


@checks("04", r"\sqrt{3\cdot64\cdot64}\approx 111")
def length_of_noise():
    lengths = noise(20, (3, 64, 64)).flatten(1).norm(dim=1)
    assert round(math.sqrt(3 * 64 * 64)) == 111 and abs(lengths.mean() - 111) < 1 and lengths.std() < 1.5


@checks("04", r"0.5^3\cdot 1^{-2} = 0.125")
def variance_of_a_sharpened_density():
    """p(x | c)^3 p(x)^-2 for Gaussians of variance v and 1: the precision is 3 / v - 2; and the product of the lesson."""
    assert 0.5**3 * 1**-2 == 0.125


@checks("04", r"\cos\theta = \frac{a\cdot b}{|a||b|}")
@checks(
    "04",
    r"\text{slerp}(a, b, u) = \frac{\sin((1-u)\,\theta)}{\sin\theta}\,a + \frac{\sin(u\,\theta)}{\sin\theta}\,b",
)
def spherical_interpolation():
    a, b = randn(3, 8, 8), randn(3, 8, 8, seed=1)
    theta = math.acos((a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum()))
    for u in (0.0, 0.25, 0.5, 1.0):
        expected = math.sin((1 - u) * theta) / math.sin(theta) * a + math.sin(u * theta) / math.sin(theta) * b
        assert_close(reference("slerp")(a, b, u), expected)


@checks("08", r"\frac{dx}{du} = v(x, u) = \hat\epsilon - \hat x_0")
@checks("08", r"x_s = x_t + (u_s - u_t)\,v")
@checks("08", r"x_u = (1-u)\,m + \sqrt{(1-u)^2 s^2 + u^2}\;\epsilon,\qquad x_0 = m + s\,\epsilon")
@checks("08", r"\lambda = \log(\text{signal}/\sigma)")
def rectified_flow_ode(m=0.3, s=0.4):
    """The closed path of a Gaussian solves the ODE, by its derivative; DDIM is Euler's step along it."""
    schedule, eps = rectified_flow(), randn(1, 1, 2, 2)
    exact = GaussianDenoiser(torch.full((1, 2, 2), m, dtype=torch.float64), s, schedule)
    path = lambda u: (1 - u) * m + math.sqrt((1 - u) ** 2 * s**2 + u**2) * eps  # noqa: E731
    assert_close(path(0.0), m + s * eps)
    for t in (99, 499, 899):
        u, x_t = (t + 1) / 1000, path((t + 1) / 1000)
        x_0_hat = exact(x_t, t, torch.zeros(1))
        v = schedule.to_eps(x_t, x_0_hat, t) - x_0_hat
        assert_close((path(u + 1e-5) - path(u - 1e-5)) / 2e-5, v, rtol=1e-6, atol=1e-6)
        after = t - 50
        assert_close(DDIM(schedule, clip=False).step(x_t, x_0_hat, t, after), x_t + ((after + 1) / 1000 - u) * v)
        assert_close(math.log(schedule.snr(t)) / 2, math.log(schedule(t)[0] / schedule(t)[1]))


@checks(
    "05", r"d = |m_a - m_b|^2 + \operatorname{Tr}(A) + \operatorname{Tr}(B) - 2 \operatorname{Tr}\big((A B)^{1/2}\big)"
)
def frechet():
    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T

    a, b = randn(300, 4) @ randn(4, 4, seed=1), randn(200, 4, seed=2) @ randn(4, 4, seed=3) + 0.5
    (m_a, A), (m_b, B) = ((x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / (len(x) - 1)) for x in (a, b))
    shared = root(root(A) @ B @ root(A))
    expected = ((m_a - m_b) ** 2).sum() + A.trace() + B.trace() - 2 * shared.trace()
    assert_close(frechet_distance(a, b), expected.item())
    assert_close(float(reference("frechet_distance")(m_a, A, m_b, B)), expected.item())


@checks(
    "05",
    r"\text{KID} = \operatorname{mean}_{i\ne j} k(a_i, a_j) + \operatorname{mean}_{i\ne j} k(b_i, b_j) "
    r"- 2 \operatorname{mean}_{i,j} k(a_i, b_j), \qquad k(x, y) = \Big(\frac{x \cdot y}{D} + 1\Big)^3",
)
def kernel_distance_by_hand():
    a, b = randn(12, 5), randn(12, 5, seed=1)

    def k(x, y):
        return (sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True)) / 5 + 1) ** 3

    within = [sum(k(x[i], x[j]) for i in range(12) for j in range(12) if i != j) / (12 * 11) for x in (a, b)]
    across = sum(k(x, y) for x in a for y in b) / 12**2
    assert_close(kernel_distance(a, b, subsets=1, size=12).value, sum(within) - 2 * across, atol=1e-5, rtol=0)


@checks("05", r"\text{IS} = \exp\Big(\operatorname{mean}_x \sum_c p(c \mid x) \log \frac{p(c \mid x)}{p(c)}\Big)")
def inception_score_by_hand():
    logits = 2 * randn(50, 6)
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    p = [[value / sum(row) for value in row] for row in rows]
    of_all = [sum(column) / len(p) for column in zip(*p, strict=True)]
    information = sum(sum(a * math.log(a / b) for a, b in zip(row, of_all, strict=True)) for row in p) / len(p)
    assert_close(inception_score(logits, splits=1).value, math.exp(information))


@checks(
    "09",
    r"L_{t\to s}=\tfrac12\,(\text{snr}_s-\text{snr}_t)\,\lVert x_0-\hat x_0\rVert^2\ \text{nats},\qquad "
    r"1\text{ bit}=\log 2\text{ nats}",
)
def elbo_term():
    """In bits per dimension, as facelab counts. tests/test_likelihood.py compares a step with torch's KL divergence."""
    levels = torch.tensor([-1.0, 0.2, 1.0]).double().repeat(3)
    x_0, x_0_hat = levels.reshape(1, 1, 3, 3), randn(1, 1, 3, 3, seed=1).clamp(-1, 1)
    t, s = 700, 300
    for schedule in FAMILY:
        (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
        nats = ((signal_s / sigma_s) ** 2 - (signal_t / sigma_t) ** 2) / 2 * ((x_0 - x_0_hat) ** 2).sum()
        found = elbo(lambda x_t, t, cond: x_0_hat, x_0, torch.zeros(1), schedule, [t, s], levels=11)
        assert_close(found.steps.item(), nats.item() / 9 / math.log(2))
        by_hand = reference("elbo_term")(x_0, x_0_hat, schedule(t), schedule(s))
        assert_close(float(by_hand), found.steps.item())


@checks("09", r"-\log_2 p(x_0)\;\le\;\text{prior}+\mathbb E\Big[\sum_{t\to s}L_{t\to s}+\text{decoder}\Big]")
def elbo_is_a_bound():
    """A chain whose every step is affine in one number, so that p(x_0) is known: the bound is valid, and tight."""
    schedule, timesteps, half = rectified_flow(), log_snr_timesteps(rectified_flow(), 200, last=20), 1 / 255
    exact = GaussianDenoiser(torch.full((1, 1, 1), 0.1), 0.3, schedule)
    mean, variance = 0.0, 1.0  # of x_t in the chain, from pure noise on
    for t, s in itertools.pairwise(timesteps):
        (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
        gain = signal_t * 0.09 / (signal_t**2 * 0.09 + sigma_t**2)
        beta = sigma_t**2 - (signal_t / signal_s) ** 2 * sigma_s**2
        to_x_0_hat, to_x = signal_s * beta / sigma_t**2, signal_t / signal_s * sigma_s**2 / sigma_t**2
        slope = to_x_0_hat * gain + to_x
        mean = slope * mean + to_x_0_hat * (0.1 - gain * signal_t * 0.1)
        variance = slope**2 * variance + beta * sigma_s**2 / sigma_t**2
    signal, sigma = schedule(timesteps[-1])
    gain = signal * 0.09 / (signal**2 * 0.09 + sigma**2)
    last = NormalDist(0.1 + gain * (mean - signal * 0.1), math.sqrt(gain**2 * variance + (sigma / signal) ** 2))
    for level in (100, 140, 200):
        x_0 = level * 2 / 255 - 1
        bits = -math.log2(last.cdf(x_0 + half) - last.cdf(x_0 - half))
        many = torch.full((4000, 1, 1, 1), x_0, dtype=torch.float64)
        found = elbo(exact, many, torch.zeros(1), schedule, timesteps, clip=False)
        bound = (found.prior + found.steps.sum(1) + found.decoder).mean().item()
        assert_close(bound, found.total.mean().item())
        assert bits <= bound + 4 * found.total.std().item() / math.sqrt(4000) and bound < bits + 0.5


def of_lesson(path: Path) -> set[tuple[str, str]]:
    cells = nbformat.read(path, 4).cells
    return {(path.name[:2], one) for cell in cells if cell.cell_type == "markdown" for one in equations(cell.source)}


@pytest.mark.parametrize(("lesson", "latex"), EQUATIONS, ids=lambda part: part[:40])
def test_equation(lesson, latex):
    EQUATIONS[lesson, latex]()


def test_the_list_has_every_equation_of_the_lessons_and_no_other():
    found = set().union(*map(of_lesson, NOTEBOOKS.glob("0*.ipynb")))
    assert len(found) > 20
    assert sorted(found - EQUATIONS.keys()) == [], "these have no test"
    assert sorted(EQUATIONS.keys() - found) == [], "these are in no lesson"


def test_equations_are_found():
    page = "Let $x$ be \\$5, $a = b$ and $a \\left( b \\right)$.\n\n$$a\n  + b$$\n\n$p \\propto q$, $i \\le t$, $\\sum_i x_i$."
    assert equations(page) == {"a = b", "a + b", r"p \propto q", r"i \le t"}
