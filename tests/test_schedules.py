"""Schedules equal the published curves, and their conversions agree with each other at every timestep."""

import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from hypothesis import given
from hypothesis import strategies as st
from oracle import BETAS, randn, refused
from torch.testing import assert_close

from facelab.schedules import PREDICTION_TYPES, SCHEDULES, Schedule, cosine, from_alpha_bar, linear, sigmoid
from facelab.schedules import rectified_flow as flow

EVERY = {name: make() for name, make in SCHEDULES.items()} | {"zero SNR": linear().rescale_zero_terminal_snr()}
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
X_0, EPS, T = randn(4, 1, 2, 2), randn(4, 1, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
either = pytest.mark.parametrize("ours, theirs", BETAS.items())


@either
def test_alpha_bar_betas_and_velocity_equal_diffusers(ours, theirs):
    reference = DDPMScheduler(beta_schedule=theirs)
    assert_close(SCHEDULES[ours]().alpha_bar.float(), reference.alphas_cumprod, rtol=0, atol=1e-6)
    assert_close(SCHEDULES[ours]().betas.float(), reference.betas, rtol=0, atol=1e-6)
    velocity = reference.get_velocity(X_0, EPS, T)
    assert_close(SCHEDULES[ours]().velocity(X_0, EPS, T), velocity, rtol=0, atol=1e-5)


@either
def test_zero_terminal_snr_equals_diffusers(ours, theirs):
    theirs = rescale_zero_terminal_snr(DDPMScheduler(beta_schedule=theirs).betas.double())
    schedule = SCHEDULES[ours]().rescale_zero_terminal_snr()
    assert_close(schedule.alpha_bar, (1 - theirs).cumprod(0), rtol=0, atol=1e-6)
    assert schedule(999) == (0.0, 1.0) and schedule(0) == pytest.approx(SCHEDULES[ours]()(0))
    assert flow(5).rescale_zero_terminal_snr().sigma.tolist() == flow(5).sigma.tolist()


@pytest.mark.parametrize("start, end, tau", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7)])
def test_sigmoid_equals_its_closed_form(start, end, tau):
    def gamma(u):
        low, high, now = (1 / (1 + math.exp(-v / tau)) for v in (start, end, u * (end - start) + start))
        return max((high - now) / (high - low), 1e-9)

    alpha_bar = sigmoid(start=start, end=end, tau=tau).alpha_bar
    assert_close(alpha_bar, torch.tensor([gamma((t + 1) / 1000) for t in range(1000)], dtype=torch.float64))
    assert alpha_bar[-1] == pytest.approx(1e-9)


def test_rectified_flow_is_linear_and_equals_diffusers_flow_matching():
    signal = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 1]
    assert_close(flow(10).signal, torch.tensor(signal, dtype=torch.float64))
    assert_close(flow(10).sigma[:-1], 1 - flow(10).signal[:-1])
    theirs = FlowMatchEulerDiscreteScheduler().scale_noise(X_0, T + 1.0, EPS)
    assert_close(flow().add_noise(X_0, EPS, T), theirs, rtol=0, atol=1e-6)
    assert not flow(10).variance_preserving
    with refused("no betas"):
        _ = flow(10).betas


@every
def test_forward_chain_has_the_closed_form(schedule):
    """x_t from x_{t-1}, step by step: mean and variance equal those of x_t from x_0."""
    x_0 = mean = 0.7
    variance = 0.0
    for t in range(1000):
        (signal_before, sigma_before), (signal, sigma) = schedule(t - 1), schedule(t)
        ratio = signal / signal_before
        added = sigma**2 - ratio**2 * sigma_before**2
        mean, variance = ratio * mean, ratio**2 * variance + added
        assert mean == pytest.approx(signal * x_0, abs=1e-9) and variance == pytest.approx(sigma**2, abs=1e-9)
        if schedule.variance_preserving and t % 100 == 99:
            assert added == pytest.approx(float(schedule.betas[t]))


@every
def test_variance_is_preserved_and_snr_decreases(schedule):
    if schedule.variance_preserving:
        assert_close(schedule.signal**2 + schedule.sigma**2, torch.ones(1001, dtype=torch.float64))
    exact = (schedule.signal[:-1] / schedule.sigma[:-1]) ** 2
    assert (exact.diff() < 0).all()
    assert_close(schedule.snr(torch.arange(1000)).flatten().double(), exact, rtol=1e-5, atol=0)
    assert schedule.snr(-1) == math.inf and schedule.snr(500) == pytest.approx(float(exact[500]))


@every
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_every_target_gives_x_0_back_at_every_timestep(schedule, kind):
    t = torch.arange(1000)[schedule.signal[:-1] > 0] if kind == "eps" else torch.arange(1000)
    x_0, eps = randn(len(t), 1, 2, 3), randn(len(t), 1, 2, 3, seed=1)
    x_t, target = schedule.add_noise(x_0, eps, t), schedule.target(x_0, eps, t, kind)
    assert_close(schedule.to_eps(x_t, x_0, t), eps, rtol=0, atol=1e-9)
    assert_close(schedule.to_x_0(x_t, target, t, kind), x_0, rtol=0, atol=1e-9)
    for method in (schedule.target, schedule.to_x_0):
        with pytest.raises(KeyError, match="noise"):
            method(x_0, eps, t, "noise")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_x_0_is_computed_in_float32_at_least(dtype):
    x = randn(1, 1, 2, 2, dtype=torch.float32)
    assert cosine().to_x_0(x.to(dtype), x.to(dtype), 999).dtype == torch.float32
    assert cosine().to_x_0(x.double(), x.to(dtype), 999).dtype == torch.float64


def test_timesteps_equal_diffusers_trailing():
    """For numbers of steps at which diffusers' floating point breaks no tie and adds no timestep."""
    for steps in (1, 2, 4, 5, 8, 10, 15, 20, 25, 30, 40, 50, 100, 125, 200, 250, 500, 1000):
        reference = oracle.reference_scheduler(DDIMScheduler, "linear", True, steps)
        assert linear().timesteps(steps) == reference.timesteps.tolist()


@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0])
def test_shifted_timesteps_equal_diffusers(shift):
    schedule, theirs = flow(), FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule.shift = shift
    for steps in (1, 2, 3, 10, 40):
        theirs.set_timesteps(sigmas=[i / steps for i in range(steps, 0, -1)])
        assert schedule.timesteps(steps) == (theirs.timesteps.round() - 1).tolist()


@given(st.integers(1, 40), st.sampled_from([1, 2.5, 30]), st.data())
def test_timesteps_and_step_pairs_of_any_schedule(length, shift, data):
    steps, schedule = data.draw(st.integers(1, length)), flow(length)
    schedule.shift = shift
    timesteps, pairs = schedule.timesteps(steps), schedule.step_pairs(steps)
    assert len(timesteps) == steps and timesteps[0] == length - 1 and timesteps[-1] >= 0
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert [t for t, _ in pairs] == timesteps and [s for _, s in pairs] == [*timesteps[1:], -1]


@every
def test_int_and_tensor_timesteps_agree_and_minus_one_is_the_clean_image(schedule):
    t = torch.tensor([-1, 0, 500, 999])
    signal, sigma = schedule(t)
    assert signal.shape == sigma.shape == (4, 1, 1, 1) and schedule(-1) == (1.0, 0.0)
    for i, one in enumerate(t.tolist()):
        assert schedule(one) == pytest.approx((float(signal[i]), float(sigma[i])))
        assert schedule(torch.tensor(one)) == schedule(np.int64(one)) == schedule(one)
        assert schedule(one) == (float(schedule.signal[one]), float(schedule.sigma[one]))
    assert isinstance(schedule(5)[0], float)
    x_0, eps = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    assert torch.equal(schedule.add_noise(x_0, eps, -1), x_0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rates_have_the_dtype_and_device_of_the_images(dtype):
    for t in (5, torch.tensor([5])):
        for rate in cosine().rates(t, torch.empty(1, dtype=dtype)):
            assert rate.shape == (1, 1, 1, 1) and rate.dtype == dtype
    assert cosine().rates(torch.tensor([5, 6]), torch.empty(1, device="meta"))[0].device.type == "meta"


def test_timesteps_on_a_device_are_not_copied_to_the_cpu():
    """On "meta", which has no values, every copy to the CPU is an error."""
    t, x = torch.tensor([5, 999], device="meta"), torch.empty(2, 1, 2, 2, device="meta")
    for schedule in EVERY.values():
        for method in (schedule.add_noise, schedule.to_eps, schedule.velocity, schedule.to_x_0):
            assert method(x, x, t).device.type == "meta"


def test_invalid_numbers_and_timesteps_are_refused():
    for steps in (0, -1, 1001, 2.5, 2.0, "10", None):
        with refused("steps must be a whole number from 1 to 1000"):
            linear().timesteps(steps)
    for make, length in itertools.product(SCHEDULES.values(), (0, -3, 2.5, "10")):
        with refused("num_timesteps"):
            make(length)
    for t in (1000, -2):
        for wrong in (t, torch.tensor(t), torch.tensor([5, t])):
            with refused(f"timestep {t} is outside"):
                linear()(wrong)
    x = randn(2, 1, 2, 2)
    flow().to_x_0(x, x, torch.tensor([0, 998]), "eps")
    for pure_noise in (torch.tensor([0, 999]), 999):
        with refused("predict v"):
            flow().to_x_0(x, x, pure_noise, "eps")


RATES = {
    "signal increases": ([0.5, 0.9], [0.1, 0.2]),
    "sigma decreases": ([0.9, 0.5], [0.2, 0.1]),
    "below zero": ([0.9, -0.1], [0.2, 0.3]),
    "no noise at the first timestep": ([1.0, 0.5], [0.0, 0.5]),
    "two lengths": ([0.9, 0.5], [0.2]),
    "not a vector": ([[0.9, 0.5]], [[0.2, 0.5]]),
    "empty": ([], []),
    "not a number": ([0.9, math.nan], [0.1, 0.2]),
    "not a number, alone": ([math.nan], [0.2]),
    "signal above one": ([2.0, 1.0], [0.1, 0.2]),
    "sigma above one": ([0.9, 0.1], [0.5, 3.0]),
}


@pytest.mark.parametrize("signal, sigma", RATES.values(), ids=RATES)
def test_invalid_rates_are_refused(signal, sigma):
    with refused("signal"):
        Schedule(signal, sigma)


def test_a_schedule_from_alpha_bar():
    schedule = from_alpha_bar(torch.tensor([0.64, 0.36]), "mine")
    assert_close(schedule.signal, torch.tensor([0.8, 0.6, 1.0], dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(schedule.sigma, torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)
    assert len(schedule) == 2 and repr(schedule) == "mine(2)"
