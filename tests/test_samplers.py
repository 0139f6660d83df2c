"""Steps and trajectories equal diffusers', and every sampler samples the Gaussian it should."""

import functools
import itertools
import types

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UniPCMultistepScheduler
from diffusers import DPMSolverMultistepScheduler as DPMSolver
from diffusers import FlowMatchEulerDiscreteScheduler as FlowMatchEuler
from hypothesis import given
from hypothesis import strategies as st
from oracle import NAMES, SHAPE, Fake, Gaussians, generator, randn, refused, tiny
from torch.testing import assert_close

from facelab import Attributes, GaussianDenoiser, IdealDenoiser, autoguidance, cfg, samplers
from facelab.samplers import DDIM, DDPM, AdamsBashforth, DiffusersSampler, Heun, generate, noise, sample, trajectory
from facelab.schedules import SCHEDULES, cosine, linear, sigmoid
from facelab.schedules import rectified_flow as flow

EVERY = {name: make() for name, make in SCHEDULES.items()}
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
X_T, COND = randn(3, 1, 4, 4, dtype=torch.float32), torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.5, 1.0]])


# test_deliberate_faults.py compares the steps with those of diffusers.
@given(st.sampled_from(sorted(EVERY)), st.integers(1, 999), st.data())
def test_ddpm_samples_the_posterior(name, t, data):
    """Mean and variance by the product of two Gaussians, q(x_s | x_0) and q(x_t | x_s); DDIM with eta 1 is the same step."""
    s, schedule = data.draw(st.integers(0, t - 1)), EVERY[name]
    x_t, x_0 = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1).clamp(-1, 1)
    (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
    ratio = signal_t / signal_s
    beta = sigma_t**2 - ratio**2 * sigma_s**2
    precision = 1 / sigma_s**2 + ratio**2 / beta
    mean = (signal_s * x_0 / sigma_s**2 + ratio * x_t / beta) / precision
    fresh = samplers.noise_like(x_t, generator(5))
    for variance, std in (("small", precision**-0.5), ("large", beta**0.5)):
        x_s = DDPM(schedule, generator=generator(5), variance=variance).step(x_t, x_0, t, s)
        assert_close(x_s, mean + std * fresh, rtol=0, atol=1e-9)
        if variance == "small":
            assert_close(DDIM(schedule, 1.0, generator=generator(5)).step(x_t, x_0, t, s), x_s, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@every
def test_ddim_has_the_right_variance_for_every_eta(schedule, eta):
    """With the true x_0, x_s has standard deviation sigma_s around signal_s x_0, however much of the noise is fresh."""
    x_0, t, s, count = 0.5, 700, 400, 20_000
    x_t = schedule.add_noise(torch.full((count, 1, 1, 1), x_0).double(), randn(count, 1, 1, 1), t)
    x_s = DDIM(schedule, eta, generator=generator(5)).step(x_t, torch.full_like(x_t, x_0), t, s)
    signal, sigma = schedule(s)
    assert abs(x_s.mean() - signal * x_0) < 4.5 * sigma / count**0.5
    assert abs(x_s.var() - sigma**2) < 4.5 * sigma**2 * (2 / count) ** 0.5
    changed = (x_s - DDIM(schedule).step(x_t, torch.full_like(x_t, x_0), t, s)).abs().max()
    assert changed == 0 if eta == 0 else changed > 0.1


@every
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_ddim_is_its_own_recursion_multiplied_out(schedule, steps):
    """For a diagonal Gaussian each step is x_s = a x_t + b, so the trajectory is one a and one b for each pixel."""
    mean, std = randn(1, 2, 2, seed=1), randn(1, 2, 2, seed=2).abs() + 0.1
    a, b = torch.ones(1, 2, 2).double(), torch.zeros(1, 2, 2).double()
    for t, s in schedule.step_pairs(steps):
        (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
        gain = signal_t * std**2 / (signal_t**2 * std**2 + sigma_t**2)
        ratio = sigma_s / sigma_t
        slope = ratio + (signal_s - ratio * signal_t) * gain
        a, b = slope * a, slope * b + (signal_s - ratio * signal_t) * (1 - gain * signal_t) * mean
    x_T = randn(5, 1, 2, 2)
    images = sample(GaussianDenoiser(mean, std, schedule), x_T, torch.zeros(1), DDIM(schedule, clip=False), steps)
    assert_close(images, a * x_T + b, rtol=0, atol=1e-9)


GAUSSIAN = {
    "DDIM, linear": (DDIM, linear, 250, {}),
    "DDIM, cosine": (DDIM, cosine, 250, {}),
    "DDIM, sigmoid": (DDIM, sigmoid, 250, {}),
    "DDIM, rectified flow": (DDIM, flow, 250, {}),
    "DDIM, eta 1": (DDIM, cosine, 500, {"eta": 1.0}),
    "DDIM, eta .5": (DDIM, flow, 500, {"eta": 0.5}),
    "DDPM": (DDPM, cosine, 500, {}),
    "DDPM, linear": (DDPM, linear, 1000, {}),
    "DDPM, large": (DDPM, linear, 1000, {"variance": "large"}),
    "DDPM, rectified flow": (DDPM, flow, 1000, {}),
    "diffusers' DDIM": (DDIMScheduler, cosine, 250, {}),
    "diffusers' DDPM": (DDPMScheduler, cosine, 500, {}),
    "DPM-Solver++": (DPMSolver, linear, 50, {}),
    "DPM-Solver++, cosine": (DPMSolver, cosine, 50, {"lambda_min_clipped": -5.1}),
    "UniPC": (UniPCMultistepScheduler, linear, 50, {}),
    "DEIS": (diffusers.DEISMultistepScheduler, linear, 50, {}),
    "flow matching": (FlowMatchEuler, flow, 250, {}),
}


@pytest.mark.parametrize("sampler, make, steps, options", GAUSSIAN.values(), ids=GAUSSIAN)
def test_every_sampler_samples_the_gaussian(sampler, make, steps, options):
    """N(0, I) becomes N(0.3, 0.25^2), to 4.5 standard errors and three hundredths of the standard deviation."""
    schedule, mean, std = make(), 0.3, 0.25
    if sampler not in (DDIM, DDPM):
        sampler, options = DiffusersSampler, {"scheduler_class": sampler, **options}
    x_T = noise(250, (1, 4, 4), seed=3)
    sampler = sampler(schedule=schedule, clip=False, generator=generator(4), **options)
    denoise = GaussianDenoiser(torch.full((1, 4, 4), mean), std, schedule)
    images = sample(denoise, x_T, torch.zeros(1), sampler, steps)
    error = 4.5 * std / x_T.numel() ** 0.5
    assert abs(images.mean() - mean) < error + 0.03 * std
    assert abs(images.std() - std) < error / 2**0.5 + 0.03 * std


@pytest.mark.parametrize("sampler", [DDIM, DDPM])
def test_an_ideal_denoiser_generates_its_own_set(sampler):
    schedule, x_0 = cosine(), randn(4, 1, 4, 4).clamp(-1, 1)
    denoise = IdealDenoiser(x_0, torch.eye(4) * 2 - 1, schedule)
    cond = torch.tensor([[0, 0, 0, 1.0]] * 3 + [[0, 1.0, 0, 0]] * 3)
    images = sample(denoise, randn(6, 1, 4, 4, seed=1), cond, sampler(schedule, generator=generator()), 20)
    assert_close(images, x_0[[3, 3, 3, 1, 1, 1]], rtol=0, atol=1e-3)


DIFFUSERS = [
    *[(DDIM, DDIMScheduler, make, *rest) for make in (linear, cosine, sigmoid) for rest in ((True, 10), (False, 50))],
    *[(DDIM, FlowMatchEuler, flow, True, steps) for steps in (1, 10, 50)],
    (DDIM, DDIMScheduler, cosine, True, 1000),
    (DDPM, DDPMScheduler, linear, True, 1000),
    (functools.partial(DDPM, variance="large"), DDPMScheduler, cosine, True, 1000),
]


@pytest.mark.parametrize("ours, theirs, make, clip, steps", DIFFUSERS)
def test_trajectories_are_those_of_diffusers(ours, theirs, make, clip, steps):
    options = {"variance_type": "fixed_large"} if isinstance(ours, functools.partial) else {}
    theirs = DiffusersSampler(theirs, make(), clip, generator=generator(7), **options)
    ours = trajectory(Fake(), X_T, COND, ours(make(), clip=clip, generator=generator(7)), steps)
    tolerance = 1e-3 if theirs.stochastic else 1e-5 if theirs.flow else 1e-4
    for frame, other in zip(ours, trajectory(Fake(), X_T, COND, theirs, steps), strict=True):
        assert_close(frame, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("make", [DPMSolver, UniPCMultistepScheduler])
def test_a_multistep_scheduler_is_diffusers_own(make, clip):
    scheduler = make(prediction_type="sample", timestep_spacing="trailing", beta_schedule="linear")
    scheduler.set_timesteps(10)
    x_t = X_T
    for t in scheduler.timesteps:
        x_0_hat = Fake()(x_t, t, COND)
        x_t = scheduler.step(x_0_hat.clamp(-1, 1) if clip else x_0_hat, t, x_t).prev_sample
    sampler = DiffusersSampler(make, linear(), clip)
    for _ in range(2):
        assert_close(sample(Fake(), X_T, COND, sampler, 10), x_t, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 61, 103, 1000])
@pytest.mark.parametrize(
    "scheduler, make",
    [(DDIMScheduler, linear), (UniPCMultistepScheduler, cosine), (FlowMatchEuler, flow)],
)
def test_a_scheduler_takes_as_many_steps_as_requested(scheduler, make, steps):
    timesteps = DiffusersSampler(scheduler, make()).timesteps(steps)
    assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
    assert timesteps == sorted(set(timesteps), reverse=True)


MISFITS = (
    "EulerDiscreteScheduler EulerAncestralDiscreteScheduler HeunDiscreteScheduler LMSDiscreteScheduler "
    "KDPM2DiscreteScheduler PNDMScheduler IPNDMScheduler EDMEulerScheduler DDIMInverseScheduler "
    "FlowMatchHeunDiscreteScheduler"
).split()


@pytest.mark.parametrize("name", MISFITS)
def test_a_scheduler_or_schedule_that_does_not_fit_is_refused(name):
    with refused(f"{name} does not fit"):
        DiffusersSampler(getattr(diffusers, name), flow() if name.startswith("Flow") else linear())
    for scheduler, schedule in ((DDIMScheduler, flow()), (FlowMatchEuler, cosine())):
        with refused(f"does not fit {schedule.name}: it needs"):
            DiffusersSampler(scheduler, schedule)


@pytest.mark.parametrize(
    "sampler, order, stochastic",
    [
        (DiffusersSampler(DDPMScheduler, cosine()), 1, True),
        (DiffusersSampler(DDIMScheduler, cosine()), 1, False),
        (DiffusersSampler(DPMSolver, linear()), 2, False),
        (DiffusersSampler(DPMSolver, linear(), algorithm_type="sde-dpmsolver++"), 2, True),
    ],
)
def test_a_scheduler_has_its_order_and_is_stochastic_or_not(sampler, order, stochastic):
    """Which an inversion has to know."""
    assert (sampler.order, sampler.stochastic) == (order, stochastic)


def with_error(schedule, error=0.07):
    """A Gaussian's exact eps_hat with an error of this size, as of a network that predicts eps."""
    exact, off = GaussianDenoiser(torch.full((1, 4, 4), 0.3), 0.25, schedule), error * noise(60, (1, 4, 4), seed=9)

    def denoise(x_t, t, cond):
        return schedule.to_x_0(x_t, schedule.to_eps(x_t, exact(x_t, t, cond), t) + off, t, "eps")

    return denoise


def std(schedule, sampler, steps=10):
    return float(sample(with_error(schedule), noise(60, (1, 4, 4), seed=3), torch.zeros(1), sampler, steps).std())


@pytest.mark.parametrize("scheduler", [DPMSolver, UniPCMultistepScheduler, DDIMScheduler])
def test_schedulers_fail_at_the_last_timestep_of_cosine_without_clipping(scheduler):
    """There an error in eps is multiplied by 20,291 on its way to x_0, and all that follows starts from it."""
    assert 1 / cosine()(999)[0] == pytest.approx(20_291, abs=1)
    # The true value is .25. Clipping is a cure, and so is a schedule with more signal at its end.
    assert std(cosine(), DiffusersSampler(scheduler, cosine(), clip=False)) > 20
    assert std(cosine(), DiffusersSampler(scheduler, cosine(), clip=True)) < 0.26
    assert std(linear(), DiffusersSampler(scheduler, linear(), clip=False)) < 0.26


def test_other_cures_of_the_last_timestep_of_cosine():
    later = DiffusersSampler(DPMSolver, cosine(), clip=False, lambda_min_clipped=-5.1)
    first = later.timesteps(10)[0]
    assert 990 <= first < 999 and 1 / cosine()(first)[0] < 200
    assert 0.26 < std(cosine(), later) < 1, "a start a few timesteps later removes most of it, not all"
    for sampler in (DDIM, AdamsBashforth, Heun):
        assert std(cosine(), sampler(cosine())) < 0.26 and std(cosine(), sampler(cosine(), clip=False)) > 20


SAMPLERS = {
    "DDIM": lambda: DDIM(cosine()),
    "DDIM, eta 1": lambda: DDIM(cosine(), eta=1.0, generator=generator()),
    "DDPM": lambda: DDPM(cosine(), generator=generator()),
    "UniPC": lambda: DiffusersSampler(UniPCMultistepScheduler, cosine()),
    "flow matching": lambda: DiffusersSampler(FlowMatchEuler, flow()),
}
each = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_trajectory_goes_from_noise_to_image_in_the_dtype_of_x_T(make, dtype):
    """Its arithmetic is in float32 at least."""
    x_T, fake = X_T.to(dtype), Fake()
    frames = list(trajectory(fake, x_T, COND, make(), 5))
    assert len(frames) == 6 and frames[0] is x_T and [t for _, t, _ in fake.calls] == [999, 799, 599, 399, 199]
    assert all(frame.dtype == dtype and frame.shape == X_T.shape for frame in frames)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(x_t.dtype == wide for x_t, _, _ in fake.calls)
    assert torch.equal(frames[-1], sample(Fake(), x_T.to(wide), COND, make(), 5).to(dtype))


@each
def test_frames_stay_on_the_device(make):
    frames = list(trajectory(lambda x_t, t, cond: x_t * cond.sum(), X_T.to("meta"), COND, make(), 3))
    assert all(frame.device.type == "meta" for frame in frames)


@each
def test_images_are_in_range_unless_clipping_is_off(make):
    far, clipped, unclipped = 5 * X_T, make(), make()
    unclipped.clip = False
    # The last step of diffusers may round beyond.
    assert sample(Fake(push=3.0), far, COND, clipped, 5).abs().max() <= 1 + 1e-6 * isinstance(clipped, DiffusersSampler)
    assert sample(Fake(push=3.0), far, COND, unclipped, 5).abs().max() > 1


def test_sampling_changes_no_argument_or_generator_and_computes_no_gradient():
    x_T, net, before = randn(2, *SHAPE, dtype=torch.float32), tiny(), torch.get_rng_state()
    x_before = x_T.clone()
    assert not sample(net, x_T, torch.zeros(3), DDIM(net.schedule), 2).requires_grad and torch.is_grad_enabled()
    samplers.noise_like(noise(3, (1, 2, 2), seed=5), generator())
    generate(net, torch.zeros(3), steps=1, sampler=DDPM)
    assert torch.equal(x_T, x_before) and torch.equal(before, torch.get_rng_state())


def test_one_condition_is_used_for_all_images_or_each_has_its_own():
    together = sample(Fake(), X_T, COND, DDIM(cosine()), 5)
    alone = [sample(Fake(), X_T[i : i + 1], COND[i], DDIM(cosine()), 5) for i in range(3)]
    assert_close(together, torch.cat(alone))
    expected = sample(Fake(), X_T, COND[:1].repeat(3, 1), DDIM(cosine()), 5)
    for cond in (COND[0], COND[:1]):
        fake = Fake()
        assert torch.equal(sample(fake, X_T, cond, DDIM(cosine()), 5), expected)
        assert all(one.shape == (3, 2) for _, _, one in fake.calls)


def test_invalid_arguments_are_refused():
    for make, steps in itertools.product(SAMPLERS.values(), (0, 1001, 2.5, "ten")):
        with refused("steps"):
            sample(Fake(), X_T, COND, make(), steps)
    for shape in ((3, 4, 4), (4, 4), (3, 1, 1, 4, 4)):
        with refused("x_T must be"):
            sample(Fake(), torch.zeros(shape), COND, DDIM(cosine()), 5)
    for shape in ((2, 2), (4, 2), (3, 1, 2), ()):
        with refused("conditions"):
            sample(Fake(), X_T, torch.zeros(shape), DDIM(cosine()), 5)
    for eta in (-0.1, 1.1, float("nan")):
        with refused("eta"):
            DDIM(cosine(), eta)
    with refused("variance"):
        DDPM(cosine(), variance="learned")
    for n in (0, -1, 1.5, True, None):
        with refused("number of images"):
            noise(n, SHAPE)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**40), st.tuples(*[st.integers(1, 4)] * 3))
def test_the_noise_of_an_image_does_not_depend_on_their_number(few, many, seed, shape):
    few, many = sorted((few, many))
    assert noise(few, shape, seed).shape == (few, *shape)
    assert torch.equal(noise(few, shape, seed), noise(many, shape, seed)[:few])


def test_noise_is_standard_normal_and_every_image_differs():
    x = noise(400, (1, 5, 5), seed=1)
    assert abs(x.mean()) < 4.5 / 100 and abs(x.var() - 1) < 4.5 * 2**0.5 / 100
    assert len(set(x[:, 0, 0, 0].tolist())) == 400
    assert not torch.equal(x[:5], noise(5, (1, 5, 5), seed=2))


def test_fresh_noise_is_made_on_the_cpu(monkeypatch):
    devices, original = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: devices.append(str(k["device"])) or original(*a, **k))
    for fresh in (samplers.noise_like(X_T.to("meta")), samplers.noise_like(X_T.to("meta"), generator())):
        assert fresh.device.type == "meta"
    assert devices == ["cpu", "cpu"]


@pytest.mark.parametrize("make", [lambda g: DDPM(cosine(), generator=g), lambda g: DDIM(cosine(), 1.0, generator=g)])
def test_a_generator_makes_fresh_noise_repeatable(make):
    one, again, other = (sample(Fake(), X_T, COND, make(generator(seed)), 5) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    # A list of generators has one for each image.
    all_, last = (sample(Fake(), X_T[i:], COND[i:], make([generator(s) for s in (4, 5, 6)[i:]]), 5) for i in (0, 2))
    assert_close(all_[2:], last)


SECOND = {"Heun": Heun, "AdamsBashforth": AdamsBashforth}
second = pytest.mark.parametrize("sampler", SECOND.values(), ids=SECOND)


@pytest.mark.parametrize("evaluations", [1, 3, 9, 19, 99])
def test_heun_steps_as_in_diffusers(evaluations):
    """On rectified flow, step by step; diffusers' own takes two velocities at every timestep but the first."""
    schedule, reference = flow(), diffusers.FlowMatchHeunDiscreteScheduler(num_train_timesteps=1000)
    sigmas = torch.tensor([schedule(t)[1] for t in schedule.timesteps(evaluations // 2 + 1)] + [0.0])
    # Its own spacing ends elsewhere, so it gets our timesteps, doubled as it doubles its own.
    reference.set_timesteps(evaluations // 2 + 1)
    reference.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    reference.timesteps = reference.sigmas[:-1] * 1000
    sampler, x_t, theirs = Heun(schedule, clip=False), X_T.double(), X_T.double()
    timesteps = sampler.timesteps(evaluations)
    assert len(timesteps) == evaluations
    for t, s, timestep in zip(timesteps, [*timesteps[1:], -1], reference.timesteps, strict=True):
        x_0_hat = Fake()(x_t, t, COND)
        theirs = reference.step(schedule.to_eps(x_t, x_0_hat, t) - x_0_hat, timestep, theirs).prev_sample
        x_t = sampler.step(x_t, x_0_hat, t, s)
        assert_close(x_t, theirs.to(x_t), rtol=0, atol=1e-5)


@every
def test_adams_bashforth_is_exact_for_linear_predictions(schedule):
    """Where both predictions are linear in t, the mean over a step is that at its middle, for steps of any length."""
    sampler, timesteps = AdamsBashforth(schedule, clip=False), (900, 700, 650, 300)
    slope, eps_slope = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    sampler.timesteps(4)
    for i, (t, s) in enumerate(itertools.pairwise(timesteps)):
        (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
        x_t = signal_t * slope * t + sigma_t * eps_slope * t
        middle = (t + s) / 2 if i else t
        expected = x_t + (signal_s - signal_t) * slope * middle + (sigma_s - sigma_t) * eps_slope * middle
        assert_close(sampler.step(x_t, slope * t, t, s), expected, rtol=0, atol=1e-6)


@every
def test_the_first_step_of_a_second_order_sampler_is_ddim_s(schedule):
    x_t, x_0_hat = X_T.double(), Fake()(X_T.double(), 999, COND)
    for clip in (True, False):
        expected = DDIM(schedule, clip=clip).step(x_t, x_0_hat, 999, 800)
        for sampler in SECOND.values():
            assert_close(sampler(schedule, clip=clip).step(x_t, x_0_hat, 999, 800), expected, rtol=0, atol=1e-9)


@second
@every
def test_with_the_true_x_0_second_order_reaches_it(schedule, sampler):
    x_0 = randn(2, 1, 2, 2).clamp(-1, 1)
    x_T = schedule.add_noise(x_0, randn(2, 1, 2, 2, seed=1), 999)
    for evaluations in (1, 2, 7, 10):
        images = sample(lambda x_t, t, cond: x_0, x_T, COND[:1], sampler(schedule), evaluations)
        assert_close(images, x_0, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "sampler, evaluations, low, high",
    [(DDIM, lambda n: n, 1.8, 2.2), (AdamsBashforth, lambda n: n, 3.5, 5.5), (Heun, lambda n: 2 * n - 1, 3.5, 5.5)],
    ids=["DDIM", "AdamsBashforth", "Heun"],
)
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_halving_the_step_divides_the_error(sampler, evaluations, low, high, weight):
    schedule = flow()
    exact, weights, x_T = Gaussians(schedule), {(1.0, 0.0): weight, (0.0, 0.0): 1 - weight}, randn(2, 1, 2, 2)

    def denoise(x, t, cond):
        # For pure noise x_0_hat is the mixed mean; the closed form would divide by a signal of 0.
        mean = torch.full_like(x, sum(w * exact.known[c][0] for c, w in weights.items()))
        return exact.guided(x, t, weights) if t < 999 else mean

    def error(steps):
        images = sample(denoise, x_T, COND[:1], sampler(schedule, clip=False), evaluations(steps))
        return float((images - exact.end(x_T, weights)).abs().max())

    errors = [error(steps) for steps in (25, 50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert low <= coarse / fine <= high, errors


@second
def test_a_sampler_can_be_used_again(sampler):
    """Nothing of a trajectory, finished or not, remains for the next."""
    used, expected = sampler(cosine()), sample(Fake(), X_T, COND, sampler(cosine()), 8)
    unfinished = trajectory(Fake(), -X_T, COND, used, 8)
    _ = [next(unfinished) for _ in range(3)]
    for _ in range(2):
        assert_close(sample(Fake(), X_T, COND, used, 8), expected, rtol=0, atol=0)


@second
@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 10, 11])
def test_a_second_order_sampler_takes_as_many_evaluations_as_requested(sampler, evaluations):
    fake = Fake()
    images = sample(fake, X_T, COND, sampler(flow()), evaluations)
    assert len(fake.calls) == evaluations and images.abs().max() <= 1


def test_heun_takes_two_evaluations_a_timestep_but_at_the_first():
    for schedule in (flow(4), cosine()):
        first, *others = schedule.timesteps(4)
        twice = [first, *(t for t in others for _ in range(2))]
        assert Heun(schedule).timesteps(7) == twice and Heun(schedule).timesteps(6) == [first, *twice[2:]]
    for steps in (0, 8, 2.0):
        with refused("from 1 to 7"):
            Heun(flow(4)).timesteps(steps)


def test_every_generated_image_has_fresh_noise_of_its_own():
    seeds = []

    class Recorded(DDPM):
        def step(self, *args):
            seeds.append([one.initial_seed() for one in self.generator])
            return super().step(*args)

    generate(tiny(), torch.zeros(40, 3), steps=1, sampler=Recorded, batch_size=40)
    assert len(set(seeds[0])) == 40 and max(seeds[0]) > 2**40, "so many seeds that hardly two images share one"


def test_generate_is_noise_guidance_and_a_sampler():
    net, cond = tiny(), Attributes(NAMES).encode(Smile=True, Hat=False)
    expected = sample(cfg(net, 3.0), noise(4, SHAPE, seed=7), cond, AdamsBashforth(net.schedule), 5)
    pretrained = types.SimpleNamespace(denoiser=net, name="a net")
    for model, value in ((net, {"Smile": True, "Hat": False}), (net, cond), (pretrained, cond)):
        images = generate(model, value, n=4, guidance_scale=3.0, steps=5, seed=7)
        assert images.shape == (4, *SHAPE) and torch.equal(images, expected)
    assert torch.equal(generate(net, cond.expand(4, 3), guidance_scale=3.0, steps=5, seed=7), expected)
    assert torch.equal(generate(net, cond, n=4, guidance_scale=3.0, steps=5, sampler=AdamsBashforth, seed=7), expected)
    assert not torch.equal(generate(net, cond, n=4, guidance_scale=3.0, steps=5, seed=8), expected)
    cosine_net = tiny(schedule="cosine")
    expected = sample(cosine_net, noise(1, SHAPE), cond, DDIM(cosine_net.schedule), 10)
    assert torch.equal(generate(cosine_net, cond), expected)
    images = generate(net, {}, n=3, guidance_scale=50.0, steps=3, sampler=DDIM(flow(), clip=False))
    assert images.abs().max() == 1 and not torch.equal(images[0], images[1])


def test_generate_with_a_weak_model_is_autoguidance_of_the_guided_one():
    net, weak, cond = tiny(), tiny(seed=1), torch.tensor([1.0, 0, 0])
    denoise = autoguidance(cfg(net, 2.0), weak, 1.5)
    expected = sample(denoise, noise(2, SHAPE), cond, AdamsBashforth(net.schedule), 4)
    for model in (weak, types.SimpleNamespace(denoiser=weak)):
        images = generate(net, cond, n=2, guidance_scale=2.0, steps=4, weak=model, weak_scale=1.5)
        assert torch.equal(images, expected)


@pytest.mark.parametrize(
    "sampler",
    [None, DDPM, DDIM(cosine(), 1.0), DiffusersSampler(DDPMScheduler, cosine())],
    ids=["default", "DDPM", "DDIM, eta 1", "DDPMScheduler"],
)
def test_images_do_not_depend_on_the_batch_size(sampler):
    net = tiny(schedule="cosine")
    conds = torch.where(randn(5, 3) > 0, 1.0, -1.0)
    whole = generate(net, conds, steps=4, sampler=sampler, seed=2)
    for batch_size in (1, 2, 3):
        parts = generate(net, conds, steps=4, sampler=sampler, seed=2, batch_size=batch_size)
        assert_close(parts, whole, rtol=0, atol=1e-5)
    assert_close(generate(net, conds[:2], steps=4, sampler=sampler, seed=2), whole[:2], rtol=0, atol=1e-5)


def test_generate_refuses_what_does_not_fit():
    with refused("a-classifier is a classifier"):
        generate(types.SimpleNamespace(denoiser=None, name="a-classifier"), {})
    for cond, n in ((torch.zeros(2, 3), 2), (torch.zeros(0, 3), 1), (torch.zeros(1, 2, 3), 1), (torch.zeros(3), 0)):
        with refused("cond must be"):
            generate(tiny(), cond, n=n)
    with refused("there is no attribute 'Hats'"):
        generate(tiny(), {"Hats": True})


def test_generate_runs_on_the_device_of_the_model(monkeypatch):
    devices, net = set(), tiny().to("meta")
    monkeypatch.setattr(Heun, "step", lambda self, x_t, x_0_hat, t, s: devices.add(x_t.device.type) or x_0_hat)
    with pytest.raises(NotImplementedError):  # "meta" has no values that could come back
        generate(net, {"Hat": True}, steps=2, sampler=Heun)
    assert devices == {"meta"}
