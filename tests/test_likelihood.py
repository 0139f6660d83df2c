"""The bound on likelihood: exact on Gaussians, on a set learned by heart, and step by step against the chain itself."""

import itertools
import math

import pytest
import torch
from oracle import Fake, randn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.likelihood import bound, ladder, level_bits
from facelab.sample import DDPM
from facelab.schedule import SCHEDULES, Schedule, cosine, straight

every = pytest.mark.parametrize("made", [make() for make in SCHEDULES.values()], ids=SCHEDULES)
MEAN, STD = 0.1, 0.3


def on_levels(x, levels=256):
    return ((x.clamp(-1, 1) + 1) * (levels - 1) / 2).round() * 2 / (levels - 1) - 1


def gaussian(count=200, seed=0):
    return on_levels(MEAN + STD * randn(count, 1, 6, 6, seed=seed))


@every
def test_each_step_is_the_kl_of_the_posterior_and_the_chains_own(made):
    """Against torch's KL between the two Gaussians that DDPM's step draws from, told x_0 and told the guess."""
    x_0, ticks, denoise = gaussian(3), [900, 500, 100], Fake()
    found = bound(denoise, x_0, torch.zeros(1), made, ticks, clip=False)
    solver = DDPM(made, clip=False)
    for i, (t, s) in enumerate(((900, 500), (500, 100))):
        x_t = denoise.calls[i][0]
        kept, (_signal_s, sigma_s), (_signal_t, sigma_t) = made(t)[0] / made(s)[0], made(s), made(t)
        sd = math.sqrt((sigma_t**2 - kept**2 * sigma_s**2) * sigma_s**2 / sigma_t**2)
        means = []
        for guess in (x_0, Fake()(x_t, t, torch.zeros(1, 1))):
            solver.generator = torch.Generator().manual_seed(1)
            drawn = solver.step(x_t, guess, t, s)
            means.append(
                drawn - sd * torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1), dtype=x_t.dtype)
            )
        by_torch = kl_divergence(Normal(means[0], sd), Normal(means[1], sd)).mean((1, 2, 3)) / math.log(2)
        assert_close(found.steps[:, i], by_torch, rtol=1e-6, atol=1e-9)


@every
def test_the_prior_is_the_kl_of_the_noisiest_tick(made):
    x_0 = gaussian(4)
    found = bound(Fake(), x_0, torch.zeros(1), made, [700, 100]).prior
    signal, sigma = made(700)
    by_torch = kl_divergence(Normal(signal * x_0, sigma), Normal(0.0, 1.0)).mean((1, 2, 3)) / math.log(2)
    assert_close(found, by_torch)
    assert bound(Fake(), x_0, torch.zeros(1), straight(), [999, 100]).prior.abs().max() < 1e-12, "that is pure noise"


def expected(schedule, ticks):
    """Bits of a step for a Gaussian: the squared error of its exact guess is its posterior variance."""
    nats = []
    for t, s in itertools.pairwise(ticks):
        signal, sigma = schedule(t)
        off = STD**2 * sigma**2 / (signal**2 * STD**2 + sigma**2)
        nats.append((schedule.snr(s) - schedule.snr(t)) / 2 * off)
    return torch.tensor(nats, dtype=torch.float64) / math.log(2)


@every
def test_every_tick_of_a_gaussian_costs_what_it_must(made):
    # A finer ladder would end below the width of a level, where a rounded number is no Gaussian any more.
    ticks, x_0 = ladder(made, 20, 60), gaussian()
    found = bound(
        GaussianDenoiser(torch.full((1, 6, 6), MEAN), STD, made), x_0, torch.zeros(1), made, ticks, clip=False
    )
    assert_close(found.steps.mean(0), expected(made, ticks), rtol=0.06, atol=1e-6)


@pytest.mark.parametrize("make", [straight, cosine], ids=["straight", "variance-preserving"])
def test_the_bound_comes_down_to_a_gaussians_exact_bits(make):
    """The exact value, from the mass over each bin; the bound lies above it, and the gap closes as steps are added."""
    made, x_0, gaps = make(4000), gaussian(), []
    exact = level_bits(x_0, MEAN, STD).flatten(1).mean(1)
    # Where the noise is three levels wide, the levels' bins are nearly as fine as nothing beside it.
    last = int((made.sigma[:-1] / made.signal[:-1] < 6 / 255).sum())
    for steps in (40, 160, 640):
        denoise = GaussianDenoiser(torch.full((1, 6, 6), MEAN), STD, made)
        found = bound(denoise, x_0, torch.zeros(1), made, ladder(made, steps, last), clip=False)
        gaps.append((found.total - exact).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.04 and gaps[0] > 2.5 * gaps[1]


def test_a_set_learned_by_heart_costs_the_choice_of_one():
    """N pictures far apart, each as likely: log2 N bits for a whole picture, and nearly nothing for its levels."""
    made, x_0 = straight(), on_levels(randn(16, 1, 6, 6).sign() * 0.8)
    denoise = IdealDenoiser(x_0, torch.zeros(16, 1), made)
    found = bound(denoise, x_0.repeat(20, 1, 1, 1), torch.zeros(1), made, ladder(made, 400))
    assert found.total.mean().item() * 36 == pytest.approx(4, rel=0.15)
    other = on_levels(randn(5, 1, 6, 6, seed=1).sign() * 0.8)
    assert bound(denoise, other, torch.zeros(1), made, ladder(made, 50)).total.min() > 50, "what it never saw"


def test_masses_of_levels_sum_to_one():
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in ((0.0, 0.3), (0.99, 0.1), (-3.0, 0.5), (0.2, 1e-3)):
        assert (2 ** -level_bits(levels, mean, std)).sum().item() == pytest.approx(1, abs=1e-9)
    # Seven levels off by a thousandth: far in the tail there are still digits, and both tails are alike.
    far = level_bits(torch.tensor([-0.5, 0.5], dtype=torch.float64).mul(255).round() / 255, 0.0, 1e-3)
    assert far.isfinite().all() and far.min() > 1e5 and far[0].item() == pytest.approx(far[1].item(), rel=0.02)


def test_coarser_levels_cost_fewer_bits():
    x_0 = gaussian(50)
    fine, coarse = (level_bits(on_levels(x_0, n), MEAN, STD, n).mean().item() for n in (256, 16))
    assert fine - coarse == pytest.approx(math.log2(255 / 15), abs=0.05)


@every
def test_a_ladder_is_even_where_ticks_are_fine_enough(made):
    ticks = ladder(made, 10, 50)
    assert ticks[0] == len(made) - 1 and ticks[-1] == 50 and ticks == sorted(set(ticks), reverse=True)
    assert len(ticks) == 11
    lengths = torch.tensor([math.log1p(made.snr(t)) for t in ticks]).diff()
    assert lengths.max() < 1.3 * lengths.min()
    assert ladder(made, 5000) == list(range(999, -1, -1)) or len(ladder(made, 5000)) < 1000


def test_clipping_is_the_samplers():
    x_0 = on_levels(torch.ones(2, 1, 6, 6, dtype=torch.float64))
    loud = lambda x_t, t, cond: torch.full_like(x_t, 3.0)  # noqa: E731
    assert bound(loud, x_0, torch.zeros(1), straight(), [999, 500, 7]).steps.max() == 0
    assert bound(loud, x_0, torch.zeros(1), straight(), [999, 500, 7], clip=False).steps.min() > 0


@pytest.mark.parametrize(
    ("ticks", "x_0", "says"),
    [
        ([5], torch.ones(1, 1, 2, 2), "ticks must fall"),
        ([5, 5], torch.ones(1, 1, 2, 2), "ticks must fall"),
        ([1, 5], torch.ones(1, 1, 2, 2), "ticks must fall"),
        ([5, -1], torch.ones(1, 1, 2, 2), "ticks must fall"),
        ([5, 1], torch.full((1, 1, 2, 2), 0.001), "256 levels"),
    ],
)
def test_what_has_no_bound_is_refused(ticks, x_0, says):
    with pytest.raises(ValueError, match=says):
        bound(Fake(), x_0, torch.zeros(1), straight(), ticks)
    for wrong in ((0, 0), (5, 999), (5, -1)):
        with pytest.raises(ValueError, match="a ladder takes"):
            ladder(Schedule([0.9] * 1000, [0.5] * 1000), *wrong)
