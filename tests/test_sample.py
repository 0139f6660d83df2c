"""Steps equal diffusers', trajectories equal their own recursion, and every solver draws the Gaussian it should."""

import itertools

import diffusers
import oracle
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st
from oracle import BETAS, SHAPE, Fake, Gaussians, randn, refused, tiny
from torch.testing import assert_close

from facelab import sample as module
from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.sample import DDIM, DDPM, AdamsBashforth, FromDiffusers, Heun, noise, noise_like, sample, trajectory
from facelab.schedule import SCHEDULES, cosine, linear, straight

EVERY = {name: make() for name, make in SCHEDULES.items()}
every = pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
X_T, COND = randn(3, 1, 4, 4, dtype=torch.float32), torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.5, 1.0]])


def luck(seed=0):
    return torch.Generator().manual_seed(seed)


# Step for step beside diffusers.


def test_ddim_steps_as_diffusers_does():
    oracle.ddim_steps_as_diffusers_does(module)


def test_ddpm_steps_as_diffusers_does():
    oracle.ddpm_steps_as_diffusers_does(module)


@pytest.mark.parametrize("steps, clip", [(10, True), (10, False), (50, True), (50, False), (1000, True)])
@pytest.mark.parametrize("ours, theirs", BETAS.items())
def test_ddim_arrives_where_diffusers_does(ours, theirs, steps, clip):
    reference, x_t = oracle.diffusers_ddim(theirs, clip, steps), X_T
    for t in reference.timesteps:
        x_t = reference.step(Fake()(x_t, t, COND), t, x_t, use_clipped_model_output=True).prev_sample
    drawn = sample(Fake(), X_T, COND, DDIM(EVERY[ours], clip=clip), steps)
    assert_close(drawn, x_t, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "ours, theirs, variance", [("linear", "linear", "small"), ("cosine", "squaredcos_cap_v2", "large")]
)
def test_ddpm_arrives_where_diffusers_does(ours, theirs, variance):
    reference, x_t, generator = oracle.diffusers_ddpm(theirs, True, variance, 1000), X_T, luck(7)
    for t in reference.timesteps:
        x_t = reference.step(Fake()(x_t, t, COND), t, x_t, generator=generator).prev_sample
    drawn = sample(Fake(), X_T, COND, DDPM(EVERY[ours], generator=luck(7), variance=variance), 1000)
    assert_close(drawn, x_t, rtol=0, atol=1e-3)


# The steps among themselves.


@given(st.sampled_from(sorted(EVERY)), st.integers(1, 999), st.data())
def test_ddim_with_all_its_noise_is_ddpm(name, t, data):
    s, made = data.draw(st.integers(-1, t - 1)), EVERY[name]
    x_t, x_0_hat = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    ddim, ddpm = DDIM(made, eta=1.0, generator=luck(5)), DDPM(made, generator=luck(5))
    assert_close(ddim.step(x_t, x_0_hat, t, s), ddpm.step(x_t, x_0_hat, t, s), rtol=0, atol=1e-9)


@given(st.sampled_from(sorted(EVERY)), st.integers(1, 999), st.data())
def test_ddpm_draws_from_the_posterior(name, t, data):
    """Mean and variance by the product of two Gaussians, q(x_s | x_0) and q(x_t | x_s)."""
    s, made = data.draw(st.integers(0, t - 1)), EVERY[name]
    x_t, x_0 = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1).clamp(-1, 1)
    (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
    kept = signal_t / signal_s
    beta = sigma_t**2 - kept**2 * sigma_s**2
    precision = 1 / sigma_s**2 + kept**2 / beta
    mean = (signal_s * x_0 / sigma_s**2 + kept * x_t / beta) / precision
    fresh = noise_like(x_t, luck(5))
    for variance, std in (("small", precision**-0.5), ("large", beta**0.5)):
        got = DDPM(made, generator=luck(5), variance=variance).step(x_t, x_0, t, s)
        assert_close(got, mean + std * fresh, rtol=0, atol=1e-9)


@given(st.sampled_from(sorted(EVERY)), st.integers(0, 999), st.data())
def test_ddim_keeps_picture_and_noise(name, t, data):
    """A right guess moves x_t along its own path: the same picture, the same noise, another tick."""
    s, made = data.draw(st.integers(-1, t)), EVERY[name]
    x_0, eps = randn(2, 1, 2, 2).clamp(-1, 1), randn(2, 1, 2, 2, seed=1)
    got = DDIM(made).step(made.add_noise(x_0, eps, t), x_0, t, s)
    assert_close(got, made.add_noise(x_0, eps, s), rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@every
def test_ddim_of_any_eta_keeps_the_spread(made, eta):
    """With a right guess x_s is spread by sigma_s around signal_s x_0, however much of the noise is fresh."""
    x_0, t, s, count = 0.5, 700, 400, 20_000
    x_t = made.add_noise(torch.full((count, 1, 1, 1), x_0).double(), randn(count, 1, 1, 1), t)
    got = DDIM(made, eta, generator=luck(5)).step(x_t, torch.full_like(x_t, x_0), t, s)
    signal, sigma = made(s)
    assert abs(got.mean() - signal * x_0) < 4.5 * sigma / count**0.5
    assert abs(got.var() - sigma**2) < 4.5 * sigma**2 * (2 / count) ** 0.5
    changed = (got - DDIM(made).step(x_t, torch.full_like(x_t, x_0), t, s)).abs().max()
    assert changed == 0 if eta == 0 else changed > 0.1


def test_ddim_on_straight_is_euler():
    made, x = straight(), X_T.double()
    for t, s in zip(made.ticks(8), [*made.ticks(8)[1:], -1], strict=True):
        guess = Fake()(x, t, COND).clamp(-1, 1)
        velocity = made.eps_from(x, guess, t) - guess
        euler = x + velocity * (made(s)[1] - made(t)[1])
        x = DDIM(made).step(x, guess, t, s)
        assert_close(x, euler, rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_ddim_is_its_own_recursion_multiplied_out(made, steps):
    """On a diagonal Gaussian each step is x_s = a x_t + b, so the whole is one a and one b a pixel."""
    mean, std = randn(1, 2, 2, seed=1), randn(1, 2, 2, seed=2).abs() + 0.1
    a, b, ticks = torch.ones(1, 2, 2).double(), torch.zeros(1, 2, 2).double(), made.ticks(steps)
    for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
        (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
        gain = signal_t * std**2 / (signal_t**2 * std**2 + sigma_t**2)
        ratio = sigma_s / sigma_t
        slope = ratio + (signal_s - ratio * signal_t) * gain
        a, b = slope * a, slope * b + (signal_s - ratio * signal_t) * (1 - gain * signal_t) * mean
    x_T = randn(5, 1, 2, 2)
    drawn = sample(GaussianDenoiser(mean, std, made), x_T, torch.zeros(1), DDIM(made, clip=False), steps)
    assert_close(drawn, a * x_T + b, rtol=0, atol=1e-9)


# From pure noise to a world that is known.


GAUSSIAN = {
    "DDIM, linear": (DDIM, linear, 250, {}),
    "DDIM, cosine": (DDIM, cosine, 250, {}),
    "DDIM, sigmoid": (DDIM, SCHEDULES["sigmoid"], 250, {}),
    "DDIM, straight": (DDIM, straight, 250, {}),
    "DDIM with noise": (DDIM, cosine, 500, {"eta": 1.0}),
    "DDIM with some": (DDIM, straight, 500, {"eta": 0.5}),
    "DDPM": (DDPM, cosine, 500, {}),
    "DDPM, linear": (DDPM, linear, 1000, {}),
    "DDPM, large": (DDPM, linear, 1000, {"variance": "large"}),
    "DDPM, straight": (DDPM, straight, 1000, {}),
    "diffusers' DDIM": (DDIMScheduler, cosine, 250, {}),
    "diffusers' DDPM": (DDPMScheduler, cosine, 500, {}),
    "DPM-Solver++": (DPMSolverMultistepScheduler, linear, 50, {}),
    "DPM-Solver++, cosine": (DPMSolverMultistepScheduler, cosine, 50, {"lambda_min_clipped": -5.1}),
    "UniPC": (UniPCMultistepScheduler, linear, 50, {}),
    "DEIS": (DEISMultistepScheduler, linear, 50, {}),
    "flow matching": (FlowMatchEulerDiscreteScheduler, straight, 250, {}),
}


@pytest.mark.parametrize("solver, made, steps, options", GAUSSIAN.values(), ids=GAUSSIAN)
def test_every_solver_draws_the_gaussian(solver, made, steps, options):
    """N(0, I) becomes N(0.3, 0.25^2), to 4.5 standard errors and three hundredths of the standard deviation."""
    made, mean, std = made(), 0.3, 0.25
    if solver not in (DDIM, DDPM):
        solver, options = FromDiffusers, {"scheduler": solver, **options}
    x_T = noise(250, (1, 4, 4), seed=3)
    solver = solver(schedule=made, clip=False, generator=luck(4), **options)
    drawn = sample(GaussianDenoiser(torch.full((1, 4, 4), mean), std, made), x_T, torch.zeros(1), solver, steps)
    error = 4.5 * std / x_T.numel() ** 0.5
    assert abs(drawn.mean() - mean) < error + 0.03 * std
    assert abs(drawn.std() - std) < error / 2**0.5 + 0.03 * std


@pytest.mark.parametrize("solver", [DDIM, DDPM])
def test_an_ideal_denoiser_draws_its_own_set(solver):
    made, x_0 = cosine(), randn(4, 1, 4, 4).clamp(-1, 1)
    denoise = IdealDenoiser(x_0, torch.eye(4) * 2 - 1, made)
    wish = torch.tensor([[0, 0, 0, 1.0]] * 3 + [[0, 1.0, 0, 0]] * 3)
    drawn = sample(denoise, randn(6, 1, 4, 4, seed=1), wish, solver(made, generator=luck()), 20)
    assert_close(drawn, x_0[[3, 3, 3, 1, 1, 1]], rtol=0, atol=1e-3)


# Schedulers of diffusers.


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_flow_matching_is_ddim_on_straight(steps):
    theirs = FromDiffusers(FlowMatchEulerDiscreteScheduler, straight())
    ours = trajectory(Fake(), X_T, COND, DDIM(straight()), steps)
    for frame, other in zip(ours, trajectory(Fake(), X_T, COND, theirs, steps), strict=True):
        assert_close(frame, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ours", ["linear", "cosine", "sigmoid"])
def test_diffusers_ddim_driven_from_here_is_ddim(ours):
    theirs = FromDiffusers(DDIMScheduler, EVERY[ours], clip=False)
    wanted = sample(Fake(), X_T, COND, DDIM(EVERY[ours], clip=False), 20)
    assert_close(sample(Fake(), X_T, COND, theirs, 20), wanted, rtol=0, atol=1e-4)
    assert_close(sample(Fake(), X_T, COND, theirs, 20), wanted, rtol=0, atol=1e-4)


def test_diffusers_ddpm_driven_from_here_is_ddpm():
    theirs = FromDiffusers(DDPMScheduler, cosine(), generator=luck(6))
    wanted = sample(Fake(), X_T, COND, DDPM(cosine(), generator=luck(6)), 50)
    assert_close(sample(Fake(), X_T, COND, theirs, 50), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_multistep_solver_is_diffusers_own(name, clip):
    scheduler = getattr(diffusers, name)(prediction_type="sample", timestep_spacing="trailing", beta_schedule="linear")
    scheduler.set_timesteps(10)
    x_t = X_T
    for t in scheduler.timesteps:
        guess = Fake()(x_t, t, COND)
        x_t = scheduler.step(guess.clamp(-1, 1) if clip else guess, t, x_t).prev_sample
    solver = FromDiffusers(getattr(diffusers, name), linear(), clip)
    for _ in range(2):
        assert_close(sample(Fake(), X_T, COND, solver, 10), x_t, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 61, 103, 1000])
@pytest.mark.parametrize(
    "scheduler, made",
    [(DDIMScheduler, linear), (UniPCMultistepScheduler, cosine), (FlowMatchEulerDiscreteScheduler, straight)],
)
def test_as_many_steps_as_asked_and_none_at_the_clean_picture(scheduler, made, steps):
    ticks = FromDiffusers(scheduler, made()).start(steps)
    assert len(ticks) == steps and ticks[0] == 999 and ticks[-1] >= 0
    assert ticks == sorted(set(ticks), reverse=True)


@pytest.mark.parametrize(
    "name",
    [
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "PNDMScheduler",
        "IPNDMScheduler",
        "EDMEulerScheduler",
        "DDIMInverseScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(name):
    made = straight() if name.startswith("Flow") else linear()
    with refused(name):
        sample(Fake(), X_T, COND, FromDiffusers(getattr(diffusers, name), made), 5)


@pytest.mark.parametrize("scheduler, made", [(DDIMScheduler, straight), (FlowMatchEulerDiscreteScheduler, cosine)])
def test_a_schedule_of_the_other_kind_is_refused(scheduler, made):
    with refused(made().name):
        FromDiffusers(scheduler, made())


# Cosine's last tick, where hardly any picture is left.


def erring(schedule, error=0.07):
    """The exact guess at eps in a Gaussian world, and an error of so much in it: what a network that predicts eps does."""
    world, off = GaussianDenoiser(torch.full((1, 4, 4), 0.3), 0.25, schedule), error * noise(60, (1, 4, 4), seed=9)

    def denoise(x_t, t, cond):
        eps = schedule.eps_from(x_t, world(x_t, t, cond), t)
        return schedule.x_0_from(x_t, eps + off, t, "eps")

    return denoise


def spread(made, solver, steps=10):
    drawn = sample(erring(made), noise(60, (1, 4, 4), seed=3), torch.zeros(1), solver, steps)
    return float(drawn.std())


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, DDIMScheduler])
def test_solvers_fail_on_cosine_s_last_tick_where_nothing_is_clipped(scheduler):
    """An error in eps is magnified 20,291 times there on its way to x_0, and all that follows starts from it."""
    made = cosine()
    assert 1 / made(999)[0] == pytest.approx(20_291, abs=1)
    # In truth .25. Guesses kept in range cure it, and so does a schedule that leaves more of the picture at its end.
    assert spread(made, FromDiffusers(scheduler, made, clip=False)) > 20
    assert spread(made, FromDiffusers(scheduler, made, clip=True)) < 0.26
    assert spread(linear(), FromDiffusers(scheduler, linear(), clip=False)) < 0.26


def test_the_cures_of_cosine_s_last_tick():
    made = cosine()
    later = FromDiffusers(DPMSolverMultistepScheduler, made, clip=False, lambda_min_clipped=-5.1)
    first = later.start(10)[0]
    assert 990 <= first < 999 and 1 / made(first)[0] < 200
    assert 0.26 < spread(made, later) < 1, "a start a few ticks later takes off most of it, and not all"
    for solver in (DDIM, AdamsBashforth, Heun):
        assert spread(made, solver(made)) < 0.26 and spread(made, solver(made, clip=False)) > 20


# Trajectories.


SOLVERS = {
    "DDIM": lambda: DDIM(cosine()),
    "DDIM with noise": lambda: DDIM(cosine(), eta=1.0, generator=luck()),
    "DDPM": lambda: DDPM(cosine(), generator=luck()),
    "UniPC": lambda: FromDiffusers(UniPCMultistepScheduler, cosine()),
    "flow matching": lambda: FromDiffusers(FlowMatchEulerDiscreteScheduler, straight()),
}
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@solvers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_and_arithmetic_is_float32_at_least(solver, dtype):
    x_T, fake = X_T.to(dtype), Fake()
    frames = list(trajectory(fake, x_T, COND, solver(), 6))
    assert all(frame.dtype == dtype and frame.shape == X_T.shape for frame in frames)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(x_t.dtype == wide for x_t, _, _ in fake.calls)
    assert torch.equal(frames[-1], sample(Fake(), x_T.to(wide), COND, solver(), 6).to(dtype))


@solvers
def test_the_device_is_kept(solver):
    frames = list(trajectory(lambda x_t, t, cond: x_t * cond.sum(), X_T.to("meta"), COND, solver(), 3))
    assert all(frame.device.type == "meta" for frame in frames)


@solvers
def test_frames_go_from_noise_to_picture(solver):
    fake = Fake()
    frames = list(trajectory(fake, X_T, COND, solver(), 5))
    assert len(frames) == 6 and frames[0] is X_T and len(fake.calls) == 5
    assert [t for _, t, _ in fake.calls] == [999, 799, 599, 399, 199]
    assert torch.equal(frames[-1], sample(Fake(), X_T, COND, solver(), 5))


@solvers
def test_the_picture_is_in_range_unless_clipping_is_off(solver):
    far, clipped, unclipped = 5 * X_T, solver(), solver()
    unclipped.clip = False
    # diffusers' last step may round beyond.
    assert sample(Fake(push=3.0), far, COND, clipped, 5).abs().max() <= 1 + 1e-6 * isinstance(clipped, FromDiffusers)
    assert sample(Fake(push=3.0), far, COND, unclipped, 5).abs().max() > 1


def test_last_step_reaches_the_clean_picture():
    oracle.last_step_reaches_the_clean_picture(module)


def test_x_T_is_left_as_it_was():
    x_T = X_T.clone()
    sample(Fake(), x_T, COND, DDIM(cosine()), 3)
    assert torch.equal(x_T, X_T)


def test_one_condition_serves_all():
    cond = COND[:1].repeat(3, 1)
    wanted = sample(Fake(), X_T, cond, DDIM(cosine()), 5)
    for one in (COND[0], COND[:1]):
        fake = Fake()
        assert torch.equal(sample(fake, X_T, one, DDIM(cosine()), 5), wanted)
        assert all(asked.shape == (3, 2) for _, _, asked in fake.calls)


def test_each_picture_is_drawn_by_its_own_condition():
    together = sample(Fake(), X_T, COND, DDIM(cosine()), 5)
    alone = [sample(Fake(), X_T[i : i + 1], COND[i], DDIM(cosine()), 5) for i in range(3)]
    assert_close(together, torch.cat(alone))


def test_a_network_is_not_asked_for_gradients():
    net = tiny()
    assert not sample(net, randn(2, *SHAPE, dtype=torch.float32), torch.zeros(3), DDIM(net.schedule), 2).requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("steps", [0, 1001, 2.5, True, "ten"])
@solvers
def test_steps_that_make_no_sense_are_refused(solver, steps):
    with refused("steps"):
        sample(Fake(), X_T, COND, solver(), steps)


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4), (3, 1, 1, 4, 4)])
def test_noise_of_another_shape_is_refused(shape):
    with refused("x_T must be"):
        sample(Fake(), torch.zeros(shape), COND, DDIM(cosine()), 5)


@pytest.mark.parametrize("shape", [(2, 2), (4, 2), (3, 1, 2), ()])
def test_conditions_of_another_number_are_refused(shape):
    with refused("conditions"):
        sample(Fake(), X_T, torch.zeros(shape), DDIM(cosine()), 5)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_an_eta_that_makes_no_sense_is_refused(eta):
    with refused("eta"):
        DDIM(cosine(), eta)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_noise_for_nobody_is_refused(count):
    with refused("noise is for 1 picture or more"):
        noise(count, SHAPE)


def test_an_unknown_variance_is_refused():
    with refused("variance"):
        DDPM(cosine(), variance="learned")


# Noise.


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**40), st.tuples(*[st.integers(1, 4)] * 3))
def test_one_seed_draws_the_same_pictures_whatever_the_count(few, many, seed, shape):
    few, many = sorted((few, many))
    assert noise(few, shape, seed).shape == (few, *shape)
    assert torch.equal(noise(few, shape, seed), noise(many, shape, seed)[:few])


def test_noise_is_standard_normal_and_differs():
    drawn = noise(400, (1, 5, 5), seed=1)
    assert abs(drawn.mean()) < 4.5 / 100 and abs(drawn.var() - 1) < 4.5 * 2**0.5 / 100
    assert len(set(drawn[:, 0, 0, 0].tolist())) == 400
    assert not torch.equal(drawn[:5], noise(5, (1, 5, 5), seed=2))


def test_noise_leaves_the_world_alone():
    before = torch.get_rng_state()
    noise(3, (1, 2, 2), seed=5)
    noise_like(X_T, luck())
    assert torch.equal(before, torch.get_rng_state())


def test_fresh_noise_is_drawn_on_the_cpu(monkeypatch):
    drawn, randn = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: drawn.append(k["device"]) or randn(*a, **k))
    assert noise_like(X_T.to("meta")).device.type == "meta"
    assert noise_like(X_T.to("meta"), luck()).device.type == "meta"
    assert [str(place) for place in drawn] == ["cpu", "cpu"]


@pytest.mark.parametrize("solver", [lambda g: DDPM(cosine(), generator=g), lambda g: DDIM(cosine(), 1.0, generator=g)])
def test_a_generator_makes_fresh_noise_repeatable(solver):
    one, again, other = (sample(Fake(), X_T, COND, solver(luck(seed)), 5) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


# Spacings.


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 20, 50, 100, 333, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_ticks_are_spaced_as_diffusers_spaces_them(spacing, steps):
    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    wanted = scheduler.timesteps.tolist()
    assert cosine().ticks(steps, spacing) == wanted
    for solver in (DDIM(cosine(), spacing=spacing), AdamsBashforth(cosine(), spacing=spacing)):
        assert solver.start(steps) == wanted
    assert Heun(cosine(), spacing=spacing).start(2 * steps - 1) == [
        wanted[0],
        *(tick for tick in wanted[1:] for _ in range(2)),
    ]


def test_another_spacing_is_refused():
    with refused("spacing must be one of trailing, leading, linspace"):
        sample(Fake(), X_T, COND, DDIM(cosine(), spacing="karras"), 5)


# Second order.

SECOND = {"Heun": Heun, "AdamsBashforth": AdamsBashforth}


@pytest.mark.parametrize("calls", [1, 3, 9, 19, 99])
def test_heun_steps_as_diffusers_does(calls):
    """On the straight schedule, step for step; diffusers' own takes its velocities at every tick but the first twice."""
    made = straight()
    reference = FlowMatchHeunDiscreteScheduler(num_train_timesteps=1000)
    sigmas = torch.tensor([made(t)[1] for t in made.ticks(calls // 2 + 1)] + [0.0])
    # Its own spacing ends elsewhere, so it gets our ticks, doubled as it doubles its own.
    reference.set_timesteps(calls // 2 + 1)
    reference.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    reference.timesteps = reference.sigmas[:-1] * 1000
    solver, x_t, theirs = Heun(made, clip=False), X_T.double(), X_T.double()
    ticks = solver.start(calls)
    assert len(ticks) == calls
    for t, s, timestep in zip(ticks, [*ticks[1:], -1], reference.timesteps, strict=True):
        guess = Fake()(x_t, t, COND)
        velocity = made.eps_from(x_t, guess, t) - guess
        theirs = reference.step(velocity, timestep, theirs).prev_sample
        x_t = solver.step(x_t, guess, t, s)
        assert_close(x_t, theirs.to(x_t), rtol=0, atol=1e-5)


@every
def test_adams_bashforth_follows_guesses_on_a_line_exactly(made):
    """Where both guesses change evenly with the ticks, the mean over a step is that at its middle, for steps of any length."""
    solver, ticks = AdamsBashforth(made, clip=False), (900, 700, 650, 300)
    slope, eps_slope = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    solver.start(4)
    x_t = randn(2, 1, 2, 2, seed=2)
    for i, (t, s) in enumerate(itertools.pairwise(ticks)):
        x_0_hat, eps_hat = slope * t, eps_slope * t
        (signal_t, sigma_t), (signal_s, sigma_s) = made(t), made(s)
        x_t = signal_t * x_0_hat + sigma_t * eps_hat
        middle = (t + s) / 2 if i else t
        wanted = x_t + (signal_s - signal_t) * slope * middle + (sigma_s - sigma_t) * eps_slope * middle
        assert_close(solver.step(x_t, x_0_hat, t, s), wanted, rtol=0, atol=1e-6)


@every
def test_the_first_step_without_a_past_is_ddim_s(made):
    x_t, guess = X_T.double(), Fake()(X_T.double(), 999, COND)
    for clip in (True, False):
        wanted = DDIM(made, clip=clip).step(x_t, guess, 999, 800)
        for solver in SECOND.values():
            assert_close(solver(made, clip=clip).step(x_t, guess, 999, 800), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SECOND.values(), ids=SECOND)
@every
def test_second_order_keeps_picture_and_noise(made, solver):
    """A right guess leads along its own path to the clean picture, whatever the solver."""
    x_0 = randn(2, 1, 2, 2).clamp(-1, 1)
    x_T = made.add_noise(x_0, randn(2, 1, 2, 2, seed=1), 999)
    for calls in (1, 2, 7, 10):
        drawn = sample(lambda x_t, t, cond: x_0, x_T, COND[:1], solver(made), calls)
        assert_close(drawn, x_0, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "solver, calls, low, high",
    [
        (DDIM, lambda n: n, 1.8, 2.2),
        (AdamsBashforth, lambda n: n, 3.5, 5.5),
        (Heun, lambda n: 2 * n - 1, 3.5, 5.5),
    ],
    ids=["DDIM", "AdamsBashforth", "Heun"],
)
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_halving_the_step_divides_the_error(solver, calls, low, high, weight):
    made = straight()
    world, weights = Gaussians(made), {(1.0, 0.0): weight, (0.0, 0.0): 1 - weight}
    x_T = randn(2, 1, 2, 2)

    def guess(x, t, cond):
        # Pure noise tells nothing, so its guess is the mixed mean; the closed form would divide by a signal of 0.
        at_noise = torch.full_like(x, sum(w * world.known[c][0] for c, w in weights.items()))
        return world.guess(x, t, weights) if t < 999 else at_noise

    def error(steps):
        drawn = sample(guess, x_T, COND[:1], solver(made, clip=False), calls(steps))
        return (drawn - world.end(x_T, weights)).abs().max()

    errors = [float(error(steps)) for steps in (25, 50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert low <= coarse / fine <= high, errors


@pytest.mark.parametrize("solver", SECOND.values(), ids=SECOND)
def test_a_solver_is_used_again_as_if_new(solver):
    """Nothing of a trajectory, finished or given up, is left for the next."""
    used, wanted = solver(cosine()), sample(Fake(), X_T, COND, solver(cosine()), 8)
    for frame in (frames := trajectory(Fake(), -X_T, COND, used, 8)):
        if frame is not X_T:
            break
    next(frames)
    assert_close(sample(Fake(), X_T, COND, used, 8), wanted, rtol=0, atol=0)
    assert_close(sample(Fake(), X_T, COND, used, 8), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("solver", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 10, 11])
def test_as_many_calls_as_were_asked_for(solver, calls):
    fake = Fake()
    drawn = sample(fake, X_T, COND, solver(straight()), calls)
    assert len(fake.calls) == calls and drawn.abs().max() <= 1


def test_heun_takes_twice_as_many_calls_as_there_are_ticks():
    assert Heun(straight(4)).start(7) == [3, 2, 2, 1, 1, 0, 0] and Heun(straight(4)).start(6) == [3, 2, 1, 1, 0, 0]
    for calls in (0, 8, 2.0, True):
        with refused("Heun takes"):
            Heun(straight(4)).start(calls)
