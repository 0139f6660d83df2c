"""The four examples of CONTRIBUTING.md are run as they stand there; the sampler is also compared with diffusers' own."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch.testing import assert_close

from facelab import DDIM, DiffusersSampler, GaussianDenoiser, cfg, cosine, linear, rectified_flow, sample

PAGE = (Path(__file__).resolve().parents[1] / ".github/CONTRIBUTING.md").read_text("utf-8")
SAMPLER, SAMPLER_TEST, GUIDANCE, ATTRIBUTES, RECIPE = re.findall(r"(?ms)^```python\n(.+?)^```$", PAGE)
X_T = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
COND = torch.zeros(2, 1)


def run(*blocks: str) -> dict:
    names = {}
    for block in blocks:
        exec(block, names)
    return names


def denoise(x_t, t, cond):
    """Any function of x_t, t and the condition, in [-1, 1]."""
    return torch.tanh(x_t.roll(1, -1) + 0.001 * t + cond[:, :1, None, None])


def test_the_samplers_own_test_passes():
    run(SAMPLER, SAMPLER_TEST)["test_dpm_solver_is_far_more_accurate_than_ddim"]()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(lam - lam_before) / 2", "(lam - lam_before)"),
        ("* (x_0_hat - x_0_before)", "* (x_0_before - x_0_hat)"),
        ("* signal_t) * extrapolated", "* signal_t) * x_0_hat"),
        ("sigma_s / sigma_t * x_t", "signal_s / signal_t * x_t"),
    ],
)
def test_the_samplers_own_test_finds_a_mistake(right, wrong):
    assert SAMPLER.count(right) == 1
    with pytest.raises(AssertionError):
        run(SAMPLER.replace(right, wrong), SAMPLER_TEST)["test_dpm_solver_is_far_more_accurate_than_ddim"]()


@pytest.mark.parametrize("schedule", [linear(), cosine()], ids=str)
@pytest.mark.parametrize("clip", [True, False])
def test_the_sampler_equals_that_of_diffusers(schedule, clip):
    """diffusers keeps its rates in float32, so whole trajectories are compared, not their last digits."""
    sampler = run(SAMPLER)["DPMSolver"](schedule, clip)
    for steps in (5, 20):
        reference = sample(denoise, X_T, COND, DiffusersSampler(DPMSolverMultistepScheduler, schedule, clip), steps)
        result = sample(denoise, X_T, COND, sampler, steps)
        assert_close(result, reference, rtol=0, atol=1e-3)
        assert (result - sample(denoise, X_T, COND, DDIM(schedule, clip=clip), steps)).abs().max() > 0.01


def test_the_sampler_starts_at_pure_noise_and_can_be_used_again():
    sampler = run(SAMPLER)["DPMSolver"](rectified_flow())
    first = sample(denoise, X_T, COND, sampler, 7)
    assert first.isfinite().all() and first.abs().max() <= 1
    assert_close(sample(denoise, X_T, COND, sampler, 7), first, rtol=0, atol=0)


def test_the_guidance_variant_is_unguided_first_and_fully_guided_last():
    guided = run(GUIDANCE)["linear_cfg"](denoise, 3.0)
    for t, scale in ((999, 1.0), (0, 3.0)):
        assert_close(guided(X_T, t, COND + 1), cfg(denoise, scale)(X_T, t, COND + 1))
    gaussian = run(GUIDANCE)["linear_cfg"](GaussianDenoiser(torch.zeros(1, 4, 4), 0.5, cosine()), 3.0)
    assert sample(gaussian, X_T, COND, DDIM(cosine()), 3).isfinite().all()


def test_the_attribute_set_and_the_recipe_train_a_network():
    names = run(ATTRIBUTES, RECIPE)
    dataset, images = names["dataset"], names["images"]
    assert len(dataset) == 64 and dataset.attributes.names == ("square", "bright") and len(names["losses"]) == 4
    square, bright = dataset.conds[:, 0] > 0, dataset.conds[:, 1] > 0
    assert (dataset.images.amax((1, 2, 3)) == torch.where(bright, 255, 100)).all()
    assert ((dataset.images > 0).sum((1, 2, 3)) == torch.where(square, 64, 32)).all()
    assert images.shape == (4, 1, 16, 16) and images.abs().max() <= 1
