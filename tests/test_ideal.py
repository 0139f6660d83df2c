"""The denoisers without a network are what Bayes' rule says."""

import oracle
import pytest
import torch
from oracle import ideal_set, randn, refused
from torch.testing import assert_close

from facelab import ideal as module
from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.schedule import SCHEDULES, cosine, straight

every = pytest.mark.parametrize("made", [make() for make in SCHEDULES.values()], ids=SCHEDULES)


def test_guess_is_the_posterior_mean():
    oracle.guess_is_the_posterior_mean(module)


@every
@pytest.mark.parametrize("t", [0, 300, 999])
def test_weights_sum_to_one(made, t):
    weights = ideal_set(made).weights(3 * randn(5, 1, 2, 2, seed=3), t, torch.zeros(1))
    assert weights.shape == (5, 6) and (weights >= 0).all()
    assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))


@every
def test_almost_clean_the_guess_is_the_nearest_picture(made):
    denoise = ideal_set(made)
    x_t = made.add_noise(denoise.x_0, randn(6, 1, 2, 2, seed=3), 0)
    assert_close(denoise(x_t, 0, torch.zeros(1)), denoise.x_0, rtol=0, atol=1e-6)


def test_in_pure_noise_the_guess_is_the_mean():
    for made, tolerance in ((straight(), 1e-12), (cosine(), 1e-3)):
        denoise = ideal_set(made)
        guess = denoise(randn(4, 1, 2, 2, seed=3), 999, torch.zeros(1))
        assert_close(guess, denoise.x_0.mean(0).expand(4, -1, -1, -1), rtol=0, atol=tolerance)


@every
def test_a_tick_each_is_a_tick_for_each(made):
    x_t, t, denoise = randn(4, 1, 2, 2, seed=3), torch.tensor([0, 200, 700, 999]), ideal_set(made)
    alone = torch.cat([denoise(x_t[i : i + 1], int(t[i]), torch.zeros(1)) for i in range(4)])
    assert_close(denoise(x_t, t, torch.zeros(1)), alone)


def test_each_picture_has_its_own_condition():
    oracle.each_picture_has_its_own_condition(module)


def test_only_pictures_that_agree_with_all_that_is_said_answer():
    conds = torch.tensor([[1, 1], [1, -1], [-1, 1], [0, 1]])
    denoise = IdealDenoiser(randn(4, 1, 2, 2), conds, cosine())
    agree = {(1, 0): [0, 1], (0, 1): [0, 2, 3], (1, 1): [0], (-1, 0.5): [2], (0, 0): [0, 1, 2, 3], (0.2, -0.1): [1]}
    for wish, who in agree.items():
        weights = denoise.weights(randn(1, 1, 2, 2, seed=1), 900, torch.tensor([wish]))[0]
        assert weights.nonzero().flatten().tolist() == who
        assert_close(weights.sum().item(), 1.0)
    with refused("no picture"):
        denoise(randn(1, 1, 2, 2), 5, torch.tensor([-1.0, -1.0]))


@pytest.mark.parametrize("count, answers", [(0, 0), (3, 2)])
def test_a_set_that_does_not_fit_is_refused(count, answers):
    with refused("the set"):
        IdealDenoiser(torch.zeros(count, 1, 2, 2), torch.zeros(answers, 1), cosine())


@every
@pytest.mark.parametrize("t", [100, 500, 900])
def test_nobody_has_a_lower_loss(made, t):
    """Averaged over pictures of the set and noise, every other denoiser is worse."""
    denoise, count = ideal_set(made), 6_000
    x_0 = denoise.x_0.repeat(count // 6, 1, 1, 1)
    x_t = made.add_noise(x_0, randn(*x_0.shape, seed=4), t)
    guess = denoise(x_t, t, torch.zeros(1))
    best = (guess - x_0).square().mean()
    others = {
        "larger": 1.1 * guess,
        "smaller": 0.9 * guess,
        "shifted": guess + 0.05,
        "the mean": denoise.x_0.mean(0).expand_as(guess),
        "the nearest": denoise.x_0[denoise.weights(x_t, t, torch.zeros(1)).argmax(1)],
        "of another tick": denoise(x_t, t - 50, torch.zeros(1)),
        "restless": guess + 0.1 * randn(*guess.shape, seed=5),
    }
    for name, other in others.items():
        assert best <= (other - x_0).square().mean() + 1e-12, name


@pytest.mark.parametrize("denoise", ["set", "gaussian"])
def test_the_guess_has_the_picture_s_dtype(denoise):
    made = cosine()
    denoise = ideal_set(made) if denoise == "set" else GaussianDenoiser(torch.zeros(1, 2, 2), 0.5, made)
    for dtype in (torch.float32, torch.float64):
        guess = denoise(randn(3, 1, 2, 2).to(dtype), 500, torch.zeros(1))
        assert guess.dtype == dtype and guess.shape == (3, 1, 2, 2)


@every
@pytest.mark.parametrize("t", [0, 250, 700, 999])
def test_gaussian_guess_is_the_integral(made, t):
    """E[x_0 | x_t] with prior and likelihood multiplied on a fine grid."""
    mean, std, (signal, sigma) = 0.3, 0.5, made(t)
    for x_t in (-0.7, 0.1, 0.9):
        # Around the guess for x_0 where noise is small, around the prior where it is large.
        near = GaussianDenoiser(torch.tensor(mean), std, made)(torch.full((1, 1, 1, 1), x_t).double(), t, None).item()
        wide = 12 * min(std, sigma / max(signal, 1e-9))
        x_0 = torch.linspace(near - wide, near + wide, 4001, dtype=torch.float64) + wide / 7
        logs = -((x_0 - mean) ** 2) / (2 * std**2) - (x_t - signal * x_0) ** 2 / (2 * sigma**2)
        weight = (logs - logs.max()).exp()
        assert near == pytest.approx(float((weight * x_0).sum() / weight.sum()), abs=1e-6)


def test_gaussian_mean_and_spread_may_differ_from_pixel_to_pixel_and_with_the_condition():
    made, std = straight(), torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(0)).double() + 0.1
    x_t, pattern, cond = randn(3, 1, 2, 2), randn(1, 2, 2, seed=1), torch.tensor([[1.0], [-1.0], [0.0]])
    got = GaussianDenoiser(lambda c: c[:, :, None, None] * pattern, std, made)(x_t, 400, cond)
    for i, sign in enumerate((1, -1, 0)):
        for y, x in ((0, 0), (1, 0), (1, 1)):
            alone = GaussianDenoiser(sign * pattern[0, y, x], float(std[0, y, x]), made)
            assert_close(got[i, 0, y, x], alone(x_t[i : i + 1, :, y : y + 1, x : x + 1], 400, None).squeeze())


def test_gaussian_on_another_device():
    x_t = torch.empty(2, 1, 2, 2, device="meta")
    guess = GaussianDenoiser(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), cosine())(x_t, 5, torch.zeros(1))
    assert guess.device.type == "meta"
