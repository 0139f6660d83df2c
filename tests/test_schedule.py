"""Schedules hold the published curves, and their few equations fit each other at every tick."""

import math

import numpy as np
import oracle
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from hypothesis import given
from hypothesis import strategies as st
from oracle import BETAS, randn, refused
from torch.testing import assert_close

from facelab import schedule as module
from facelab.schedule import PREDICTIONS, SCHEDULES, Schedule, cosine, from_alpha_bar, linear, sigmoid, straight

EVERY = {name: make() for name, make in SCHEDULES.items()} | {"terminal": linear().zero_terminal_snr()}
every = pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
preserving = pytest.mark.parametrize("made", [s for s in EVERY.values() if s.variance_preserving], ids=repr)
either = pytest.mark.parametrize("ours, theirs", BETAS.items())


@either
def test_alpha_bar_is_diffusers(ours, theirs):
    reference = DDPMScheduler(beta_schedule=theirs)
    assert_close(SCHEDULES[ours]().alpha_bar.float(), reference.alphas_cumprod, rtol=0, atol=1e-6)
    assert_close(SCHEDULES[ours]().betas.float(), reference.betas, rtol=0, atol=1e-6)


@either
def test_zero_terminal_snr_is_diffusers(ours, theirs):
    theirs = rescale_zero_terminal_snr(DDPMScheduler(beta_schedule=theirs).betas.double())
    made = SCHEDULES[ours]().zero_terminal_snr()
    assert_close(made.alpha_bar, (1 - theirs).cumprod(0), rtol=0, atol=1e-6)
    assert made(999) == (0.0, 1.0) and made(0) == pytest.approx(SCHEDULES[ours]()(0))


@pytest.mark.parametrize("start, end, tau", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7)])
def test_sigmoid_is_its_closed_form(start, end, tau):
    def gamma(u):
        low, high, now = (1 / (1 + math.exp(-v / tau)) for v in (start, end, u * (end - start) + start))
        return max((high - now) / (high - low), 1e-9)

    got = sigmoid(start=start, end=end, tau=tau).alpha_bar
    assert_close(got, torch.tensor([gamma((t + 1) / 1000) for t in range(1000)], dtype=torch.float64))
    assert got[-1] == pytest.approx(1e-9)


def test_straight_is_straight():
    made = straight(10)
    assert_close(made.signal, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 1], dtype=torch.float64))
    assert_close(made.sigma[:-1], 1 - made.signal[:-1])
    assert not made.variance_preserving
    with refused("no betas"):
        _ = made.betas


def test_noise_is_added_as_diffusers_adds_it():
    oracle.adds_noise_as_diffusers_does(module)


def test_noise_is_added_as_flow_matching_adds_it():
    x_0, eps, t = randn(4, 1, 2, 2), randn(4, 1, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
    theirs = FlowMatchEulerDiscreteScheduler().scale_noise(x_0, t + 1.0, eps)
    assert_close(straight().add_noise(x_0, eps, t), theirs, rtol=0, atol=1e-6)


@either
def test_velocity_is_diffusers(ours, theirs):
    x_0, eps, t = randn(4, 1, 2, 2), randn(4, 1, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
    theirs = DDPMScheduler(beta_schedule=theirs).get_velocity(x_0, eps, t)
    assert_close(SCHEDULES[ours]().velocity(x_0, eps, t), theirs, rtol=0, atol=1e-5)


def test_straight_velocity_is_the_slope_of_x_t():
    x_0, eps, made = randn(1, 1, 2, 2), randn(1, 1, 2, 2, seed=1), straight()
    slope = (made.add_noise(x_0, eps, 600) - made.add_noise(x_0, eps, 400)) / 0.2
    assert_close(made.velocity(x_0, eps, 500), slope)


@every
def test_forward_chain_has_the_closed_form(made):
    """x_t from x_{t-1}, tick by tick: mean and variance equal those of x_t from x_0, to 4.5 standard errors."""
    count, x_0, luck = 4_000, 0.7, torch.Generator().manual_seed(0)
    x, mean, variance = torch.full((count,), x_0, dtype=torch.float64), x_0, 0.0
    for t in range(1000):
        (before, noise_before), (signal, sigma) = made(t - 1), made(t)
        kept = signal / before
        added = sigma**2 - kept**2 * noise_before**2
        x = kept * x + added**0.5 * torch.randn(count, generator=luck, dtype=torch.float64)
        mean, variance = kept * mean, kept**2 * variance + added
        assert mean == pytest.approx(signal * x_0, abs=1e-9) and variance == pytest.approx(sigma**2, abs=1e-9)
        if made.variance_preserving:
            assert added == pytest.approx(float(made.betas[t])) if t % 100 == 99 else True
        if t in (0, 99, 499, 999):
            assert abs(x.mean() - signal * x_0) < 4.5 * sigma / count**0.5
            assert abs(x.var() - sigma**2) < 4.5 * sigma**2 * (2 / count) ** 0.5


@preserving
def test_variance_is_preserved(made):
    assert_close(made.signal**2 + made.sigma**2, torch.ones(1001, dtype=torch.float64))


@every
def test_snr_falls_at_every_tick(made):
    snr = made.snr(torch.arange(1000)).flatten().double()
    exact = (made.signal[:-1] / made.sigma[:-1]) ** 2
    assert (exact.diff() < 0).all()
    assert_close(snr, exact, rtol=1e-5, atol=0)
    assert made.snr(-1) == math.inf and made.snr(500) == pytest.approx(float(exact[500]))


@given(
    name=st.sampled_from(sorted(EVERY)),
    predicts=st.sampled_from(PREDICTIONS),
    ticks=st.lists(st.integers(0, 999), min_size=1, max_size=4),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_every_target_leads_back_to_x_0(name, predicts, ticks, shape):
    made, t = EVERY[name], torch.tensor(ticks)
    x_0, eps = randn(len(t), *shape), randn(len(t), *shape, seed=1)
    x_t, target = made.add_noise(x_0, eps, t), made.target(x_0, eps, t, predicts)
    assert_close(made.eps_from(x_t, x_0, t), eps, rtol=0, atol=1e-9)
    if predicts == "eps" and (made.signal[t] == 0).any():
        with refused("velocity"):
            made.x_0_from(x_t, target, t, predicts)
    else:
        assert_close(made.x_0_from(x_t, target, t, predicts), x_0, rtol=0, atol=1e-9)


@every
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_every_tick_leads_back_to_x_0(made, predicts):
    t = torch.arange(1000)[made.signal[:-1] > 0] if predicts == "eps" else torch.arange(1000)
    x_0, eps = randn(len(t), 1, 2, 2), randn(len(t), 1, 2, 2, seed=1)
    x_t = made.add_noise(x_0, eps, t)
    assert_close(made.x_0_from(x_t, made.target(x_0, eps, t, predicts), t, predicts), x_0, rtol=0, atol=1e-9)


def test_only_a_tick_of_pure_noise_refuses_eps():
    x = randn(2, 1, 2, 2)
    straight().x_0_from(x, x, torch.tensor([0, 998]), "eps")
    with refused("velocity"):
        straight().x_0_from(x, x, torch.tensor([0, 999]), "eps")
    with refused("velocity"):
        straight().x_0_from(x, x, 999, "eps")


def test_an_unknown_prediction_is_refused():
    x = randn(1, 1, 2, 2)
    for call in (lambda: cosine().target(x, x, 5, "noise"), lambda: cosine().x_0_from(x, x, 5, "noise")):
        with pytest.raises((KeyError, ValueError)):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_x_0_is_found_in_float32_at_least(dtype):
    x = randn(1, 1, 2, 2, dtype=torch.float32)
    assert cosine().x_0_from(x.to(dtype), x.to(dtype), 999).dtype == torch.float32
    assert cosine().x_0_from(x.double(), x.to(dtype), 999).dtype == torch.float64


def test_ticks_are_evenly_spaced_from_the_last():
    oracle.ticks_are_evenly_spaced_from_the_last(module)


def test_ticks_are_diffusers_trailing():
    """For every number of steps, but where diffusers' floating point breaks a tie or adds one tick too many."""
    made = linear()
    for steps in range(1, 1001):
        theirs = np.round(np.arange(1000, 0, -1000 / steps)).astype(int)[:steps] - 1
        tie = 2000 * (steps - np.arange(steps)) % (2 * steps) == steps
        assert ((np.array(made.ticks(steps)) == theirs) | tie).all(), steps
    for steps in (1, 2, 4, 5, 8, 10, 15, 20, 25, 30, 40, 50, 100, 125, 200, 250, 500, 1000):
        reference = oracle.diffusers_ddim("linear", True, steps)
        assert made.ticks(steps) == reference.timesteps.tolist()


@given(st.integers(1, 40), st.data())
def test_ticks_of_any_schedule_fall_from_its_last(ticks, data):
    steps = data.draw(st.integers(1, ticks))
    got = straight(ticks).ticks(steps)
    assert len(got) == steps and got[0] == ticks - 1 and got == sorted(set(got), reverse=True) and got[-1] >= 0
    assert steps < ticks or got == list(range(ticks))[::-1]


@every
def test_tick_minus_one_is_the_clean_picture(made):
    assert made(-1) == (1.0, 0.0)
    x_0, eps = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    assert torch.equal(made.add_noise(x_0, eps, -1), x_0)
    assert torch.equal(made.add_noise(x_0, eps, torch.tensor([-1, -1])), x_0)


def test_each_picture_has_its_own_tick():
    oracle.each_picture_has_its_own_tick(module)


@every
def test_int_and_tensor_ticks_agree(made):
    t = torch.tensor([-1, 0, 500, 999])
    signal, sigma = made(t)
    assert signal.shape == sigma.shape == (4, 1, 1, 1)
    for i, tick in enumerate(t.tolist()):
        assert made(tick) == pytest.approx((float(signal[i]), float(sigma[i])))
        assert made(torch.tensor(tick)) == made(tick)
        assert made(tick) == (float(made.signal[tick]), float(made.sigma[tick]))
    assert isinstance(made(5)[0], float)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rates_follow_the_picture(dtype):
    for t in (5, torch.tensor([5])):
        for rate in cosine().rates(t, torch.empty(1, dtype=dtype)):
            assert rate.shape == (1, 1, 1, 1) and rate.dtype == dtype
    assert cosine().rates(torch.tensor([5, 6]), torch.empty(1, device="meta"))[0].device.type == "meta"


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, 2.0, True, "10", None])
def test_steps_that_make_no_sense_are_refused(steps):
    with refused("steps"):
        linear().ticks(steps)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("ticks", [0, -3, 2.5, True, "10"])
def test_a_number_of_ticks_that_makes_no_sense_is_refused(make, ticks):
    with refused("ticks"):
        make(ticks)


@pytest.mark.parametrize("tick", [1000, -2])
def test_a_tick_outside_is_refused(tick):
    with refused(f"tick {tick}"):
        linear()(tick)


@pytest.mark.parametrize("tick", [1000, -2])
def test_a_tick_outside_is_refused_in_a_batch_too(tick):
    with pytest.raises((ValueError, IndexError)):
        linear()(torch.tensor([5, tick]))


RATES = {
    "signal rises": ([0.5, 0.9], [0.1, 0.2]),
    "sigma falls": ([0.9, 0.5], [0.2, 0.1]),
    "below zero": ([0.9, -0.1], [0.2, 0.3]),
    "no noise at the first tick": ([1.0, 0.5], [0.0, 0.5]),
    "two lengths": ([0.9, 0.5], [0.2]),
    "not a row": ([[0.9, 0.5]], [[0.2, 0.5]]),
    "empty": ([], []),
    "not a number": ([0.9, math.nan], [0.1, 0.2]),
    "not a number, alone": ([math.nan], [0.2]),
    "signal above one": ([2.0, 1.0], [0.1, 0.2]),
    "sigma above one": ([0.9, 0.1], [0.5, 3.0]),
}


@pytest.mark.parametrize("signal, sigma", RATES.values(), ids=RATES)
def test_bad_rates_are_refused(signal, sigma):
    with refused("rates|signal"):
        Schedule(signal, sigma)


def test_alpha_bar_becomes_its_two_roots():
    made = from_alpha_bar(torch.tensor([0.64, 0.36]), "mine")
    assert_close(made.signal, torch.tensor([0.8, 0.6, 1.0], dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(made.sigma, torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)
    assert len(made) == 2 and repr(made) == "mine(2)"
