"""The denoisers without a network equal Bayes' rule."""

import math

import pytest
import torch
from oracle import ideal_set, randn, refused
from torch.testing import assert_close

from facelab.analytic import GaussianDenoiser, IdealDenoiser
from facelab.schedules import SCHEDULES, cosine, rectified_flow

every = pytest.mark.parametrize("schedule", [make() for make in SCHEDULES.values()], ids=SCHEDULES)


@every
def test_each_image_has_its_own_timestep(schedule):
    x_t, t, denoise = randn(4, 1, 2, 2, seed=3), torch.tensor([0, 200, 700, 999]), ideal_set(schedule)
    alone = torch.cat([denoise(x_t[i : i + 1], int(t[i]), torch.zeros(1)) for i in range(4)])
    assert_close(denoise(x_t, t, torch.zeros(1)), alone)


def test_only_images_that_match_all_specified_attributes_count():
    """By value: half an attribute is not the whole one, and an angle is not its quadrant."""
    conds = torch.tensor([[1, 1], [1, -1], [-1, 1], [0, 1], [0.5, 1], [math.cos(1), math.sin(1)], [math.cos(1.2), 0]])
    denoise = IdealDenoiser(randn(7, 1, 2, 2), conds, cosine())
    matching = {(1, 0): [0, 1], (0, 1): [0, 2, 3, 4], (1, 1): [0], (0.5, 0): [4], (0, 0): [0, 1, 2, 3, 4, 5, 6]}
    for cond, images in (matching | {(math.cos(1), math.sin(1)): [5], (math.cos(1.2), 0): [6]}).items():
        weights = denoise.weights(randn(1, 1, 2, 2, seed=1), 900, torch.tensor([cond]))[0]
        assert weights.nonzero().flatten().tolist() == images
        assert_close(weights.sum().item(), 1.0)
    for cond in ([-1.0, -1.0], [0.9, 0.0]):
        with refused("no image of this set"):
            denoise(randn(1, 1, 2, 2), 5, torch.tensor(cond))
    for images, count in ((0, 0), (3, 2)):
        with refused("the set needs images"):
            IdealDenoiser(torch.zeros(images, 1, 2, 2), torch.zeros(count, 1), cosine())


@every
@pytest.mark.parametrize("t", [100, 500, 900])
def test_no_other_denoiser_has_a_lower_loss(schedule, t):
    denoise, count = ideal_set(schedule), 6_000
    x_0 = denoise.x_0.repeat(count // 6, 1, 1, 1)
    x_t = schedule.add_noise(x_0, randn(*x_0.shape, seed=4), t)
    x_0_hat, weights = denoise(x_t, t, torch.zeros(1)), denoise.weights(x_t, t, torch.zeros(1))
    assert weights.shape == (count, 6) and (weights >= 0).all()
    assert_close(weights.sum(1), torch.ones(count, dtype=torch.float64))
    best = (x_0_hat - x_0).square().mean()
    others = {
        "larger": 1.1 * x_0_hat,
        "smaller": 0.9 * x_0_hat,
        "shifted": x_0_hat + 0.05,
        "the mean": denoise.x_0.mean(0).expand_as(x_0_hat),
        "the nearest image": denoise.x_0[weights.argmax(1)],
        "another timestep": denoise(x_t, t - 50, torch.zeros(1)),
        "noisy": x_0_hat + 0.1 * randn(*x_0_hat.shape, seed=5),
    }
    for name, other in others.items():
        assert best <= (other - x_0).square().mean() + 1e-12, name


@every
@pytest.mark.parametrize("t", [0, 250, 700, 999])
def test_the_gaussian_s_x_0_hat_is_the_integral(schedule, t):
    """E[x_0 | x_t] with prior and likelihood multiplied on a fine grid."""
    mean, std, (signal, sigma) = 0.3, 0.5, schedule(t)
    for x_t in (-0.7, 0.1, 0.9):
        # Around x_0_hat where the noise is small, around the prior where it is large.
        found = GaussianDenoiser(torch.tensor(mean), std, schedule)(torch.full((1, 1, 1, 1), x_t).double(), t, None)
        width = 12 * min(std, sigma / max(signal, 1e-9))
        x_0 = torch.linspace(found.item() - width, found.item() + width, 4001, dtype=torch.float64) + width / 7
        logs = -((x_0 - mean) ** 2) / (2 * std**2) - (x_t - signal * x_0) ** 2 / (2 * sigma**2)
        weight = (logs - logs.max()).exp()
        assert found.item() == pytest.approx(float((weight * x_0).sum() / weight.sum()), abs=1e-6)


def test_the_gaussian_s_mean_and_std_may_depend_on_pixel_and_condition():
    schedule, std = rectified_flow(), randn(1, 2, 2, seed=7).abs() + 0.1
    x_t, pattern, cond = randn(3, 1, 2, 2), randn(1, 2, 2, seed=1), torch.tensor([[1.0], [-1.0], [0.0]])
    found = GaussianDenoiser(lambda c: c[:, :, None, None] * pattern, std, schedule)(x_t, 400, cond)
    for i, sign in enumerate((1, -1, 0)):
        for y, x in ((0, 0), (1, 0), (1, 1)):
            alone = GaussianDenoiser(sign * pattern[0, y, x], float(std[0, y, x]), schedule)
            assert_close(found[i, 0, y, x], alone(x_t[i : i + 1, :, y : y + 1, x : x + 1], 400, None).squeeze())


def test_x_0_hat_has_the_dtype_and_device_of_x_t():
    gaussian = GaussianDenoiser(torch.zeros(1, 2, 2), 0.5, cosine())
    for denoise in (ideal_set(cosine()), gaussian):
        for dtype in (torch.float32, torch.float64):
            x_0_hat = denoise(randn(3, 1, 2, 2).to(dtype), 500, torch.zeros(1))
            assert x_0_hat.dtype == dtype and x_0_hat.shape == (3, 1, 2, 2)
    assert gaussian(torch.empty(2, 1, 2, 2, device="meta"), 5, torch.zeros(1)).device.type == "meta"
