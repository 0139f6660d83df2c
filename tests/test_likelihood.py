"""The variational bound: exact on Gaussians, on a memorized set, and step by step against the ancestral chain."""

import math

import pytest
import torch
from oracle import Fake, randn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from facelab.analytic import GaussianDenoiser, IdealDenoiser
from facelab.evaluation.likelihood import discretized_gaussian_bits, elbo, log_snr_timesteps
from facelab.samplers import DDPM
from facelab.schedules import SCHEDULES, Schedule, cosine, rectified_flow

every = pytest.mark.parametrize("schedule", [make() for make in SCHEDULES.values()], ids=SCHEDULES)
MEAN, STD = 0.1, 0.3


def on_levels(x, levels=256):
    return ((x.clamp(-1, 1) + 1) * (levels - 1) / 2).round() * 2 / (levels - 1) - 1


def gaussian(count=200, seed=0):
    return on_levels(MEAN + STD * randn(count, 1, 6, 6, seed=seed))


@every
def test_each_step_is_the_kl_between_posterior_and_model(schedule):
    """Against torch's KL between the Gaussians that DDPM's step samples from, given x_0 and given the prediction."""
    x_0, timesteps, denoise = gaussian(3), [900, 500, 100], Fake()
    found = elbo(denoise, x_0, torch.zeros(1), schedule, timesteps, clip=False)
    sampler = DDPM(schedule, clip=False)
    for i, (t, s) in enumerate(((900, 500), (500, 100))):
        x_t = denoise.calls[i][0]
        ratio, (_signal_s, sigma_s), (_signal_t, sigma_t) = schedule(t)[0] / schedule(s)[0], schedule(s), schedule(t)
        sd = math.sqrt((sigma_t**2 - ratio**2 * sigma_s**2) * sigma_s**2 / sigma_t**2)
        means = []
        for prediction in (x_0, Fake()(x_t, t, torch.zeros(1, 1))):
            sampler.generator = torch.Generator().manual_seed(1)
            x_s = sampler.step(x_t, prediction, t, s)
            means.append(x_s - sd * torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1), dtype=x_t.dtype))
        by_torch = kl_divergence(Normal(means[0], sd), Normal(means[1], sd)).mean((1, 2, 3)) / math.log(2)
        assert_close(found.steps[:, i], by_torch, rtol=1e-6, atol=1e-9)


@every
def test_the_prior_is_the_kl_of_the_noisiest_timestep(schedule):
    x_0 = gaussian(4)
    found = elbo(Fake(), x_0, torch.zeros(1), schedule, [700, 100]).prior
    signal, sigma = schedule(700)
    by_torch = kl_divergence(Normal(signal * x_0, sigma), Normal(0.0, 1.0)).mean((1, 2, 3)) / math.log(2)
    assert_close(found, by_torch)
    assert elbo(Fake(), x_0, torch.zeros(1), rectified_flow(), [999, 100]).prior.abs().max() < 1e-12, "pure noise"


@pytest.mark.parametrize("make", [rectified_flow, cosine], ids=["rectified flow", "variance-preserving"])
def test_the_bound_approaches_a_gaussians_exact_bits(make):
    """The exact value, from the mass over each bin; the bound lies above it, and the gap closes as steps are added."""
    schedule, x_0, gaps = make(4000), gaussian(), []
    exact = discretized_gaussian_bits(x_0, MEAN, STD).flatten(1).mean(1)
    # Where the noise is three levels wide, the bins of the levels hardly matter.
    last = int((schedule.sigma[:-1] / schedule.signal[:-1] < 6 / 255).sum())
    for steps in (40, 160, 640):
        denoise = GaussianDenoiser(torch.full((1, 6, 6), MEAN), STD, schedule)
        found = elbo(denoise, x_0, torch.zeros(1), schedule, log_snr_timesteps(schedule, steps, last), clip=False)
        gaps.append((found.total - exact).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.04 and gaps[0] > 2.5 * gaps[1]


def test_a_memorized_set_costs_the_choice_of_one_image():
    """N images far apart, equally likely: log2 N bits an image, and nearly nothing for its levels."""
    schedule, x_0 = rectified_flow(), on_levels(randn(16, 1, 6, 6).sign() * 0.8)
    denoise = IdealDenoiser(x_0, torch.zeros(16, 1), schedule)
    found = elbo(denoise, x_0.repeat(20, 1, 1, 1), torch.zeros(1), schedule, log_snr_timesteps(schedule, 400))
    assert found.total.mean().item() * 36 == pytest.approx(4, rel=0.15)
    other = on_levels(randn(5, 1, 6, 6, seed=1).sign() * 0.8)
    outside = elbo(denoise, other, torch.zeros(1), schedule, log_snr_timesteps(schedule, 50))
    assert outside.total.min() > 50, "images outside the set"


def test_masses_of_levels_sum_to_one():
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in ((0.0, 0.3), (0.99, 0.1), (-3.0, 0.5), (0.2, 1e-3)):
        assert (2 ** -discretized_gaussian_bits(levels, mean, std)).sum().item() == pytest.approx(1, abs=1e-9)
    # Seven levels off by a thousandth: far in the tail there are still digits, and both tails are alike.
    far = discretized_gaussian_bits(torch.tensor([-0.5, 0.5], dtype=torch.float64).mul(255).round() / 255, 0.0, 1e-3)
    assert far.isfinite().all() and far.min() > 1e5 and far[0].item() == pytest.approx(far[1].item(), rel=0.02)


def test_coarser_levels_cost_fewer_bits():
    x_0 = gaussian(50)
    fine, coarse = (discretized_gaussian_bits(on_levels(x_0, n), MEAN, STD, n).mean().item() for n in (256, 16))
    assert fine - coarse == pytest.approx(math.log2(255 / 15), abs=0.05)


@every
def test_timesteps_are_even_in_log_snr(schedule):
    timesteps = log_snr_timesteps(schedule, 10, 50)
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (len(schedule) - 1, 50, 11)
    assert timesteps == sorted(set(timesteps), reverse=True)
    lengths = torch.tensor([math.log1p(schedule.snr(t)) for t in timesteps]).diff()
    assert lengths.max() < 1.3 * lengths.min()
    many = log_snr_timesteps(schedule, 5000)
    assert many == list(range(999, -1, -1)) or len(many) < 1000


def test_clipping_as_in_the_samplers():
    x_0 = on_levels(torch.ones(2, 1, 6, 6, dtype=torch.float64))
    outside = lambda x_t, t, cond: torch.full_like(x_t, 3.0)  # noqa: E731
    assert elbo(outside, x_0, torch.zeros(1), rectified_flow(), [999, 500, 7]).steps.max() == 0
    assert elbo(outside, x_0, torch.zeros(1), rectified_flow(), [999, 500, 7], clip=False).steps.min() > 0


@pytest.mark.parametrize(
    ("timesteps", "value", "message"),
    [*(([*t], 1.0, "timesteps must decrease") for t in ([5], [5, 5], [1, 5], [5, -1])), ([5, 1], 0.001, "256 levels")],
)
def test_invalid_timesteps_and_levels_are_refused(timesteps, value, message):
    with pytest.raises(ValueError, match=message):
        elbo(Fake(), torch.full((1, 1, 2, 2), value), torch.zeros(1), rectified_flow(), timesteps)
    for wrong in ((0, 0), (5, 999), (5, -1)):
        with pytest.raises(ValueError, match="steps must be at least 1"):
            log_snr_timesteps(Schedule([0.9] * 1000, [0.5] * 1000), *wrong)
