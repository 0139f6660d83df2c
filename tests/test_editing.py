"""Inversion returns to the image, an edit changes by what the condition changes, and interpolations are even."""

import functools
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from oracle import SHAPE, Fake, ideal_set, randn, refused, tiny
from torch.testing import assert_close

from facelab.analytic import GaussianDenoiser, IdealDenoiser
from facelab.editing import ddim_invert, edit, lerp, sdedit, slerp
from facelab.samplers import DDIM, DDPM, AdamsBashforth, DiffusersSampler, Heun, noise, sample
from facelab.schedules import cosine, linear, rectified_flow

SCHEDULES = [rectified_flow(), cosine(), linear()]
NO_COND = torch.zeros(1)
X_0 = randn(4, 1, 3, 3).clamp(-1, 1)
# Inversion uses only the timesteps and the order of a sampler.
ddim = functools.partial(DDIM, clip=False)
second_order = functools.partial(AdamsBashforth, clip=False)
heun = functools.partial(Heun, clip=False)


def gaussian(schedule, std=0.4):
    """The denoiser of a Gaussian whose mean is a tenth of the first attribute plus a twentieth of the second."""
    weights = torch.tensor([0.1, 0.05])
    return GaussianDenoiser(lambda c: (c @ weights[: c.shape[1]])[:, None, None, None], std, schedule)


def exact_noise(schedule, x_0, mean, std):
    """Where the exact ODE leads from x_0: the number of standard deviations from the mean stays the same."""
    signal, sigma = schedule(len(schedule) - 1)
    return signal * mean + math.hypot(signal * std, sigma) * (x_0 - mean) / std


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [4, 8])
def test_ddim_is_inverted_exactly(schedule, steps):
    """With a Gaussian denoiser a step is a x + b, so its inverse is (x - b) / a."""
    denoise, expected = gaussian(schedule), X_0.clone()
    for t, s in reversed(schedule.step_pairs(steps)):
        ends = torch.zeros_like(X_0), torch.ones_like(X_0)
        b, a_b = (ddim(schedule).step(x, denoise(x, t, NO_COND[None]), t, s) for x in ends)
        expected = (expected - b) / (a_b - b)
    found = ddim_invert(denoise, X_0, NO_COND, ddim(schedule), steps, fixed_point_iters=120)
    assert_close(found, expected, rtol=0, atol=1e-9)
    assert_close(sample(denoise, found, NO_COND, ddim(schedule), steps), X_0, rtol=0, atol=1e-9)


def test_an_ideal_denoiser_returns_the_images_of_its_set():
    schedule = rectified_flow()
    denoise = ideal_set(schedule)
    x_T = ddim_invert(denoise, denoise.x_0[:3], NO_COND, ddim(schedule), 50)
    assert_close(sample(denoise, x_T, NO_COND, ddim(schedule), 50), denoise.x_0[:3], rtol=0, atol=1e-3)


@pytest.mark.parametrize("schedule, most", zip(SCHEDULES, (0.03, 0.03, 0.06), strict=True), ids=repr)
def test_many_steps_reach_the_exact_noise(schedule, most):
    denoise, exact = gaussian(schedule), exact_noise(schedule, X_0, 0.1, 0.4)
    errors = {}
    for name, make, iters in (("naive", ddim, 0), ("ddim", ddim, 3), ("second", second_order, 3), ("heun", heun, 3)):
        found = (ddim_invert(denoise, X_0, torch.ones(1), make(schedule), steps, iters) for steps in (50, 100, 200))
        errors[name] = [(x_T - exact).abs().max().item() for x_T in found]
    assert errors["ddim"][-1] < most and errors["naive"][-1] < most, errors
    assert errors["second"][-1] < most / 10 and errors["heun"][-1] < most / 3, errors
    for name in ("naive", "ddim"):
        assert 1.7 < errors[name][0] / errors[name][1] < 2.6 and 1.7 < errors[name][1] / errors[name][2] < 2.6, errors
    for name in ("second", "heun"):
        assert errors[name][0] / errors[name][2] > 6, errors


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_each_fixed_point_iteration_brings_the_image_nearer(schedule):
    denoise, errors = gaussian(schedule), []
    for iters in (0, 1, 2, 4):
        x_T = ddim_invert(denoise, X_0, NO_COND, ddim(schedule), 10, iters)
        errors.append((sample(denoise, x_T, NO_COND, ddim(schedule), 10) - X_0).abs().max().item())
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.02 and errors[3] < errors[0] / 8, errors


def test_the_evaluations_are_at_the_timesteps_from_clean_to_noisy():
    schedule = rectified_flow()
    for iters, times in ((0, 1), (1, 1), (3, 3)):
        fake = Fake()
        ddim_invert(fake, X_0, torch.zeros(4, 1), ddim(schedule), 5, iters)
        timesteps = [t for _, t, _ in fake.calls]
        # The clean image needs no evaluation; the usual inversion evaluates at the cleaner end of each step.
        usual = [199, 399, 599, 799]
        assert timesteps == (usual if not iters else [t for t in (*usual, 999) for _ in range(times)])
    x_t, t, _ = fake.calls[0]
    assert_close(x_t, schedule(199)[0] * X_0, rtol=0, atol=1e-12)  # a darker image, without noise yet


def test_each_image_is_inverted_under_its_own_condition():
    schedule, conds = rectified_flow(), torch.tensor([[1.0], [-1.0], [0.0], [0.5]])
    denoise = gaussian(schedule)
    exact = torch.cat([exact_noise(schedule, X_0[i : i + 1], conds[i] / 10, 0.4) for i in range(4)])
    assert_close(ddim_invert(denoise, X_0, conds, second_order(schedule), 200, 3), exact, rtol=0, atol=3e-3)
    one = ddim_invert(denoise, X_0, conds[0], ddim(schedule), 5)
    assert_close(one, ddim_invert(denoise, X_0, conds[:1].expand(4, -1), ddim(schedule), 5))


def test_inversion_clips_nothing_and_preserves_the_dtype():
    schedule, bright = cosine(), X_0 * 3
    denoise = gaussian(schedule)
    x_T = ddim_invert(denoise, bright, NO_COND, DDIM(schedule), 10, 50)
    assert_close(sample(denoise, x_T, NO_COND, ddim(schedule), 10), bright, rtol=0, atol=1e-6)
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert ddim_invert(denoise, X_0.to(dtype), NO_COND, ddim(schedule), 3).dtype == dtype
    net, x_0 = tiny(), torch.zeros(2, *SHAPE)
    assert not ddim_invert(net, x_0, torch.zeros(3), ddim(net.schedule), 3).requires_grad


INVERT = functools.partial(ddim_invert, Fake(), X_0, NO_COND, ddim(rectified_flow()), 5)
EDIT = functools.partial(edit, Fake(), X_0, NO_COND, NO_COND, ddim(rectified_flow()), 5)
SDEDIT = functools.partial(sdedit, Fake(), X_0, NO_COND, sampler=ddim(rectified_flow()), steps=20)
STRENGTHS = (0, -0.1, 0.04, 1.1, math.nan, True, "half")
WRONG = {
    "fixed_point_iters must be a whole number": (INVERT, "fixed_point_iters", (-1, 1.5, True, None)),
    "mask_threshold must be from 0": (EDIT, "mask_threshold", (-0.1, 1, 1.5, math.nan, True, None)),
    r"strength must be from 0.05 \(the cleanest of 20 steps\) to 1": (SDEDIT, "strength", STRENGTHS),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_impossible_number_is_refused(message):
    function, name, values = WRONG[message]
    for value in values:
        with refused(message):
            function(**{name: value})


def test_only_stochastic_samplers_are_refused():
    for sampler in (DDPM(cosine()), DDIM(cosine(), eta=0.5)):
        with refused("fresh noise, which cannot be inverted"):
            ddim_invert(Fake(), X_0, NO_COND, sampler, 5)

    # A deterministic sampler of diffusers is inverted, and one with a generator that it does not use.
    deterministic = DiffusersSampler(DPMSolverMultistepScheduler, cosine(), clip=False)
    assert ddim_invert(gaussian(cosine()), X_0, NO_COND, deterministic, 5).isfinite().all()
    samplers = ddim(cosine()), ddim(cosine(), generator=torch.Generator())
    assert_close(*(ddim_invert(gaussian(cosine()), X_0, NO_COND, sampler, 5, 2) for sampler in samplers))


@pytest.mark.parametrize("schedule", [rectified_flow(), cosine()], ids=repr)
def test_an_edit_moves_by_what_the_condition_changes(schedule):
    """Where attributes move only the mean, the edit moves the image by exactly that, times the guidance scale."""
    denoise, source, target = gaussian(schedule), torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])
    for scale in (0.0, 1.0, 2.5):
        found = edit(denoise, X_0 / 2, source, target, ddim(schedule), 10, scale, fixed_point_iters=60)
        expected = torch.full_like(X_0, -0.2 * scale * followed(schedule))
        assert_close(found - X_0 / 2, expected, rtol=0, atol=1e-6)
    found = edit(denoise, X_0 / 2, source, source, ddim(schedule), 10, 3.0, fixed_point_iters=60)
    assert_close(found, X_0 / 2, rtol=0, atol=1e-6)
    # Each image has its own conditions.
    source, target = torch.tensor([[1.0, 0], [-1.0, 0]]), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    change = edit(denoise, X_0[:2] / 2, source, target, ddim(schedule), 10, fixed_point_iters=60) - X_0[:2] / 2
    assert change.std() < 1e-6 and change.mean() == pytest.approx(0.05 * followed(schedule), abs=1e-6)


def followed(schedule):
    """How far an image follows a mean that moves by one, in 10 DDIM steps; 1 if the schedule ends in pure noise."""
    denoise = GaussianDenoiser(lambda c: c[:, 0].reshape(-1, 1, 1, 1), 0.4, schedule)
    x_T = torch.zeros(1, 1, 1, 1).double()
    ends = [sample(denoise, x_T, torch.tensor([c]), ddim(schedule), 10) for c in (0.0, 1.0)]
    return (ends[1] - ends[0]).item()


def left_half(schedule):
    """The denoiser of 8x8 images whose attribute changes the left three columns, and the others a little."""
    shape = torch.ones(1, 8, 8).double() * 0.02
    shape[..., :3] = 0.4
    return GaussianDenoiser(lambda c: c[:, 0].reshape(-1, 1, 1, 1) * shape, 0.3, schedule)


@pytest.mark.parametrize("schedule", [rectified_flow(), cosine()], ids=repr)
def test_masked_pixels_return_on_the_path_of_the_inversion(schedule):
    x_0, source, target = randn(3, 1, 8, 8) * 0.3, torch.tensor([-1.0]), torch.tensor([1.0])
    change = functools.partial(edit, left_half(schedule), mask_threshold=0.3)
    for sampler in (ddim(schedule), second_order(schedule), heun(schedule)):
        options = {"sampler": sampler, "steps": 11, "guidance_scale": 2.0, "fixed_point_iters": 20}
        free, masked = (change(x_0, source, target, **options, mask_threshold=share) - x_0 for share in (0.0, 0.3))
        assert free[..., 6:].mean() > 0.04
        assert (masked[..., 6:] == 0).all(), "masked pixels are exactly those of the image"
        assert_close(masked[..., :3], free[..., :3])
        assert masked[..., :3].mean() > 0.8
    same = change(x_0, source, source, ddim(schedule), 11)
    assert torch.equal(same, x_0), "where nothing differs, all pixels are masked"
    # The threshold is relative to each image's own largest difference.
    target = torch.tensor([[1.0], [-0.8], [0.0]])
    alone = [change(x_0[i : i + 1], source, target[i], ddim(schedule), 11) for i in range(3)]
    assert_close(change(x_0, source, target, ddim(schedule), 11), torch.cat(alone))
    # A single pixel that differs is masked.
    single = torch.zeros(1, 8, 8).double()
    single[..., :3] = single[..., 5, 6] = 0.4
    denoise, target = GaussianDenoiser(lambda c: c[:, 0].reshape(-1, 1, 1, 1) * single, 0.3, schedule), torch.ones(1)
    free, masked = (edit(denoise, x_0, source, target, ddim(schedule), 5, mask_threshold=s) - x_0 for s in (0.0, 0.3))
    assert (free[:, 0, 5, 6] > 0.4).all() and (masked[..., 6:] == 0).all() and masked[..., :3].mean() > 0.4


def test_masked_pixels_are_as_noisy_as_their_timestep():
    """A network was never trained on images in which some pixels are clean and others noisy."""
    schedule, x_0, evaluations = rectified_flow(), randn(3, 1, 8, 8) * 0.3, []
    denoise = left_half(schedule)

    def recording(x_t, t, cond):
        evaluations.append((t, x_t[:3]))
        return denoise(x_t, t, cond)

    edit(recording, x_0, torch.tensor([-1.0]), torch.tensor([1.0]), ddim(schedule), 5, 2.0, 20, 0.3)
    inversion, sampling = dict(evaluations[:-11]), dict(evaluations[-4:])
    assert list(sampling) == [799, 599, 399, 199]
    for t, x_t in sampling.items():
        assert_close(x_t[..., 6:], inversion[t][..., 6:], rtol=0, atol=1e-6)
        assert (x_t[..., :3] - inversion[t][..., :3]).abs().min() > 0.01


def test_a_mask_takes_six_further_evaluations():
    timesteps = []
    for threshold in (0.0, 0.5):
        fake = Fake()
        edit(fake, X_0, torch.ones(1), -torch.ones(1), ddim(rectified_flow()), 10, mask_threshold=threshold)
        timesteps.append([t for _, t, _ in fake.calls])
    assert [len(found) for found in timesteps] == [20, 26]
    assert sorted(timesteps[1][10:16]) == [399, 399, 599, 599, 799, 799]


def test_sdedit_preserves_what_the_noise_leaves():
    schedule = rectified_flow()
    two = torch.stack([torch.full(SHAPE, value) for value in (-0.8, 0.8)]).double()
    denoise, near = IdealDenoiser(two, torch.ones(2, 1), schedule), torch.full((6, *SHAPE), 0.7).double()
    generator = torch.Generator().manual_seed(0)
    found = sdedit(denoise, near, NO_COND, 0.3, ddim(schedule), 20, generator)
    assert_close(found, torch.full_like(near, 0.8), rtol=0, atol=1e-3)
    # At strength 1 rectified flow leaves nothing of the image: it is sampling from pure noise.
    x_T = torch.randn(near.shape, generator=torch.Generator().manual_seed(1), dtype=near.dtype)
    full = sdedit(denoise, near, NO_COND, 1.0, ddim(schedule), 20, torch.Generator().manual_seed(1))
    assert_close(full, sample(denoise, x_T, NO_COND, ddim(schedule), 20))
    assert not torch.equal(*(sdedit(Fake(), near, NO_COND, 0.3, ddim(schedule), 20, generator) for _ in range(2)))


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.55, 1.0])
def test_sdedit_does_its_share_of_the_steps(strength):
    schedule, x_0 = linear(), randn(4, 1, 16, 16).clamp(-1, 1)
    for sampler in (ddim(schedule), second_order(schedule), heun(schedule)):
        fake = Fake()
        found = sdedit(fake, x_0, NO_COND, strength, sampler, 20, torch.Generator().manual_seed(0))
        timesteps = [t for _, t, _ in fake.calls]
        assert max(timesteps) + 1 <= strength * 1000 < max(timesteps) + 1 + 120
        assert timesteps == sorted(timesteps, reverse=True) and timesteps[:1] != timesteps[1:2]
        if isinstance(sampler, DDIM):
            assert len(timesteps) == int(strength * 20)
        assert found.isfinite().all()
        eps = fake.calls[0][0] - schedule(timesteps[0])[0] * x_0
        assert eps.std() == pytest.approx(schedule(timesteps[0])[1], rel=0.1), "the noise of its timestep"


@pytest.mark.parametrize(
    "given, conds, message",
    [
        (((X_0 + 1) * 127.5).byte(), 1, "got uint8: use x / 127.5"),
        ((X_0 + 1) * 127.5, 1, "values up to .*: use x / 127.5"),
        (X_0[0], 1, r"got \(1, 3, 3\): one image is image\[None\]"),
        (X_0[0, 0], 1, "given images must be"),
        (X_0, 3, "4 images need 4 conditions"),
    ],
    ids=["uint8", "0 to 255 as floats", "one image", "one channel", "conditions"],
)
def test_images_that_cannot_be_edited_get_one_sentence(given, conds, message):
    cond, sampler = torch.zeros(conds, 1), ddim(rectified_flow())
    others = {ddim_invert: (cond, sampler), edit: (NO_COND, cond, sampler), sdedit: (cond, 0.5, sampler)}
    for function in others:
        with refused(message):
            function(Fake(), given, *others[function], 5)


def test_lerp_has_both_ends_and_even_steps():
    a, b = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.5])
    conds = lerp(a, b, 5)
    assert torch.equal(conds[0], a) and torch.equal(conds[-1], b) and torch.equal(lerp(a, b, 2), torch.stack([a, b]))
    assert_close(conds.diff(dim=0), (b - a)[None].expand(4, -1) / 4)
    whole = lerp(torch.tensor([0, 1]), torch.tensor([1, -1]), 3)
    assert_close(whole, torch.tensor([[0, 1], [0.5, 0], [1, -1]]))


def test_slerp_preserves_the_length_and_turns_evenly():
    a, b = noise(2, (3, 16, 16), seed=1)
    frames = slerp(a, b, 9)
    assert_close(slerp(a, b, 2), torch.stack([a, b]))
    assert_close(frames[0], a)
    assert_close(frames[-1], b)
    lengths = frames.flatten(1).norm(dim=1)
    assert_close(lengths, torch.lerp(a.norm(), b.norm(), torch.linspace(0, 1, 9)))
    assert (torch.lerp(a, b, 0.5).norm() / lengths[4]) < 0.8, "the mean of both would be too short"
    unit = frames.flatten(1) / lengths[:, None]
    angles = (unit[1:] * unit[:-1]).sum(1).clamp(-1, 1).acos()
    assert_close(angles, angles.mean().expand(8), rtol=0, atol=1e-3)
    assert angles.sum() == pytest.approx(math.acos(float((a * b).sum() / a.norm() / b.norm())), abs=1e-3)


def test_slerp_of_equal_and_of_nearly_opposite_noise():
    a, other = noise(1, (1, 8, 8))[0], noise(1, (1, 8, 8), seed=1)[0]
    assert_close(slerp(a, a, 4), a.expand(4, -1, -1, -1))
    assert_close(slerp(a, 2 * a, 3), torch.stack([a, 1.5 * a, 2 * a]))
    for b in (a + 1e-4 * other, -a + 1e-3 * other):
        frames = slerp(a, b, 5)
        assert frames.isfinite().all()
        assert_close(frames.flatten(1).norm(dim=1), a.norm().expand(5), rtol=1e-3, atol=0)
        assert_close(frames[-1], b)
    for b, message in ((-2 * a, "opposite"), (0 * a, "length zero")):
        with refused(message):
            slerp(a, b, 4)
    with refused("one noise"):
        slerp(*noise(2, (2, 1, 4, 4)), 3)


@pytest.mark.parametrize("function", [lerp, slerp])
def test_ends_that_cannot_be_interpolated_are_refused(function):
    for frames in (1, 0, -3, 2.0, True):
        with refused("at least 2 frames"):
            function(torch.ones(3), torch.zeros(3), frames)
    with refused("both ends must have the same shape"):
        function(torch.ones(3), torch.ones(1), 3)
