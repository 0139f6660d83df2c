"""Guidance combines predictions in one batch, with the right weights."""

import math

import numpy as np
import pytest
import torch
from oracle import Fake, Gaussians, randn, refused
from torch.testing import assert_close

from facelab import Attributes, autoguidance, cfg, compositional, cosine, interval_guidance, rectified_flow, sample
from facelab.samplers import AdamsBashforth, Heun
from facelab.schedules import SCHEDULES

X_T, COND = randn(4, 1, 4, 4), torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 1, 1], [0, 0, 0.5]])


def test_scale_0_is_unconditional_and_1_is_unguided():
    fake = Fake()
    assert_close(cfg(fake, 0)(X_T, 5, COND), fake(X_T, 5, torch.zeros(4, 3)))
    assert cfg(fake, 1) is fake and cfg(fake, 1.0, negative_cond=-COND) is fake
    one = cfg(fake, 3)(X_T, 5, COND[0])
    for cond in (COND[:1], COND[:1].repeat(4, 1)):
        assert_close(cfg(fake, 3)(X_T, 5, cond), one)


@pytest.mark.parametrize("three", [np.int64(3), np.float32(3), torch.tensor(3.0), torch.tensor(3)], ids=str)
def test_any_single_number_is_a_scale(three):
    assert_close(cfg(Fake(), three)(X_T, 5, COND), cfg(Fake(), 3)(X_T, 5, COND))
    auto = [autoguidance(Fake(), Fake(push=0.1), scale)(X_T, 5, COND) for scale in (three, 3)]
    assert_close(*auto)
    fake = Fake()
    assert cfg(fake, three / 3) is fake


def test_scales_conditions_and_intervals_that_do_not_fit_are_refused():
    for scale in ("two", "2", math.nan, math.inf, -math.inf, True, None, [2]):
        for make in (lambda s: cfg(Fake(), s), lambda s: autoguidance(Fake(), Fake(), s)):
            with refused("guidance_scale must be a finite number"):
                make(scale)
    for scales in ({"Hat": math.nan}, {"Hat": "3"}, {"Hat": True}, {"Hats": 1.0}, {}):
        with refused("scale|Hat"):
            compositional(Fake(), THREE, scales)
    with refused("rest must be"):
        compositional(Fake(), THREE, {"Hat": 1.0}, rest=math.inf)
    for negative in (torch.zeros(2), torch.zeros(3, 3), torch.zeros(4, 2), torch.zeros(1, 4, 3)):
        with refused("negative_cond must have 3 values|4 conditions"):
            cfg(Fake(), 2, negative_cond=negative)(X_T, 5, COND)
    with refused("4 images need 4 conditions"):
        cfg(Fake(), 2)(X_T, 5, COND[:3])
    for first, last in ((-1, 5), (6, 5), (0.2, 0.8), (0, True), ("a", 5), (None, None), (0, 5.0)):
        with refused("first <= last"):
            interval_guidance(Fake(), Fake(), first, last)


def test_away_from_another_condition_of_each_image():
    fake = Fake()
    cond, other = fake(X_T, 5, COND), fake(X_T, 5, -COND)
    assert_close(cfg(fake, 3, negative_cond=-COND)(X_T, 5, COND), other + 3 * (cond - other))


def test_both_conditions_are_evaluated_in_one_batch():
    fake = Fake()
    cfg(fake, 3)(X_T, torch.tensor([1, 2, 3, 4]), COND)
    ((x_t, t, cond),) = fake.calls
    assert_close(x_t, torch.cat([X_T, X_T]))
    assert t.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert sorted(cond.abs().sum(1).tolist()) == [0, 0, 0, 0, 0.5, 1, 1, 3]
    for one in (7, torch.tensor(7)):
        fake = Fake()
        cfg(fake, 3)(X_T, one, COND)
        assert fake.calls[0][1] is one


@pytest.mark.parametrize("schedule", [make() for make in SCHEDULES.values()], ids=SCHEDULES)
def test_combining_x_0_is_combining_eps(schedule):
    fake, t = Fake(), torch.tensor([0, 300, 700, 999])
    cond, uncond = (schedule.to_eps(X_T, fake(X_T, t, c), t) for c in (COND, torch.zeros(4, 3)))
    eps_hat = schedule.to_eps(X_T, cfg(fake, 3)(X_T, t, COND), t)
    assert_close(eps_hat, uncond + 3 * (cond - uncond), rtol=0, atol=1e-10)


# With Gaussians, every kind of guidance is a weighted sum of scores, known in closed form.
TWO = Attributes(["Hat", "Smile"])
SCALES = (-1.0, 0.0, 1.0, 3.0, 8.0)


def guided_gaussians(schedule):
    """(name, the guided denoiser, the condition, the weight of each score)"""
    for w in SCALES:
        denoise = Gaussians(schedule)
        yield f"cfg, {w:g}", cfg(denoise, w), (1.0, 0.0), {(1.0, 0.0): w, (0.0, 0.0): 1 - w}
        negative = cfg(denoise, w, negative_cond=torch.tensor([0.0, 1.0]))
        yield f"negative, {w:g}", negative, (1.0, 0.0), {(1.0, 0.0): w, (0.0, 1.0): 1 - w}
        both = compositional(denoise, TWO, {"Hat": w, "Smile": 0.5})
        yield f"both, {w:g}", both, (1.0, -1.0), {(1.0, 0.0): w, (0.0, -1.0): 0.5, (0.0, 0.0): 0.5 - w}
        one = compositional(denoise, TWO, {"Hat": w}, rest=2.0)
        yield f"and the rest, {w:g}", one, (1.0, 1.0), {(1.0, 0.0): w, (0.0, 1.0): 2.0, (0.0, 0.0): -1 - w}


@pytest.mark.parametrize("schedule", [cosine(), rectified_flow()], ids=repr)
def test_every_guidance_equals_its_closed_form(schedule):
    t = torch.tensor([0, 200, 500, 998])
    for name, guided, cond, weights in guided_gaussians(schedule):
        expected = Gaussians(schedule).guided(X_T, t, weights)
        message = lambda m, n=name: f"{n}: {m}"  # noqa: E731
        assert_close(guided(X_T, t, torch.tensor(cond)), expected, rtol=0, atol=1e-10, msg=message)


@pytest.mark.parametrize("sampler, evaluations, names", [(Heun, 1999, "cfg"), (AdamsBashforth, 1000, "")])
def test_second_order_reaches_the_end_of_the_guided_ode(sampler, evaluations, names):
    schedule, x_T = rectified_flow(), randn(2, 1, 2, 2)
    for name, guided, cond, weights in guided_gaussians(schedule):
        if name.startswith(names):
            images = sample(guided, x_T, torch.tensor(cond), sampler(schedule, clip=False), evaluations)
            assert (images - Gaussians(schedule).end(x_T, weights)).abs().max() < 1e-4, name


THREE = Attributes(["Hat", "Smile", "Beard"])


def test_a_scale_for_each_attribute():
    fake, cond = Fake(), COND + torch.tensor([[0.0], [0.2], [0.0], [0.0]])  # a degree stays a degree
    uncond, hat, smile, rest = (fake(X_T, 5, c) for c in (cond * 0, *(cond * torch.eye(3)[i] for i in (0, 1, 2))))
    x_0_hat = compositional(fake, THREE, {"Smile": 0.5, "Hat": 4})(X_T, 5, cond)
    assert_close(x_0_hat, uncond + 4 * (hat - uncond) + 0.5 * (smile - uncond) + (rest - uncond))


@pytest.mark.parametrize("cond, rows", [([1.0, 1.0, 0.0], 3), ([1.0, 1.0, -1.0], 4), ([0.0, 0.0, 0.0], 3)])
def test_a_composition_is_one_batch(cond, rows):
    fake = Fake()
    compositional(fake, THREE, {"Smile": 3, "Hat": 1})(X_T, torch.tensor([1, 2, 3, 4]), torch.tensor(cond))
    ((x_t, t, _),) = fake.calls
    assert len(x_t) == rows * len(X_T) and t.tolist() == [1, 2, 3, 4] * rows


@pytest.mark.parametrize("t, guides", [(199, False), (200, True), (500, True), (800, True), (801, False)])
def test_guidance_in_an_interval(t, guides):
    fake, unguided = Fake(), Fake(push=0.1)
    denoise = interval_guidance(cfg(fake, 3), unguided, 200, 800)
    for one in (t, torch.tensor(t), torch.full((4,), t)):
        expected = (cfg(Fake(), 3) if guides else Fake(push=0.1))(X_T, one, COND)
        assert_close(denoise(X_T, one, COND), expected)
    # Only the one that is needed is evaluated.
    assert (len(fake.calls), len(unguided.calls)) == ((3, 0) if guides else (0, 3))


def test_an_interval_with_a_timestep_for_each_image():
    t = torch.tensor([100, 200, 800, 900])
    x_0_hat = interval_guidance(cfg(Fake(), 3), Fake(), 200, 800)(X_T, t, COND)
    guided, unguided = cfg(Fake(), 3)(X_T, t, COND), Fake()(X_T, t, COND)
    assert_close(x_0_hat, torch.cat([unguided[:1], guided[1:3], unguided[3:]]))


def test_autoguidance_moves_away_from_the_weak_network():
    strong, weak = Fake(), Fake(push=0.1)
    strong_hat, weak_hat = strong(X_T, 5, COND), weak(X_T, 5, COND)
    assert_close(autoguidance(strong, weak, 2.5)(X_T, 5, COND), weak_hat + 2.5 * (strong_hat - weak_hat))
    assert autoguidance(strong, weak, 1) is strong
