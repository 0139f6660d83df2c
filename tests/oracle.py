"""What the tests share: tiny networks, worlds whose answer is known, and the checks that deliberate faults must trip.

A check takes the module to be checked, so that the real one and a copy with a fault in it go through the same lines.
"""

import contextlib
import inspect
import math
import re
import tempfile
import types
from fractions import Fraction

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from facelab import schedule
from facelab.attributes import Attributes
from facelab.data import Pictures
from facelab.ideal import GaussianDenoiser, IdealDenoiser
from facelab.model import Denoiser
from facelab.plan import Recipe

NAMES = ("Beard", "Hat", "Smile")
SHAPE = (1, 8, 8)
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # ours: diffusers' beta_schedule


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny(**settings) -> Denoiser:
    """A network small enough to be called a hundred times a test, in eval mode."""
    small = {"shape": SHAPE, "names": NAMES, "channels": (32, 32), "attention": (False, False), "patch": 2}
    return Denoiser(**(small | settings)).eval()


def pictures(count=12, shape=SHAPE, names=NAMES, seed=0) -> Pictures:
    """Random pictures with random answers."""
    luck = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), generator=luck, dtype=torch.uint8)
    conds = torch.randint(0, 2, (count, len(names)), generator=luck) * 2 - 1
    return Pictures(images, conds, Attributes(names), "random")


class Fake:
    """THE call with no network: bounded a little beyond [-1, 1], so that clipping counts; remembers its calls."""

    def __init__(self, push=0.3):
        self.push, self.calls = push, []

    def __call__(self, x_t, t, cond):
        self.calls.append((x_t, t, cond))
        return 1.4 * torch.tanh(0.8 * x_t + self.push * cond.to(x_t).sum(1)[:, None, None, None])


class TwoGaussians:
    """A world where cond (B, 1) = 1 says N(0.5, 0.5^2) and 0, nothing said, N(0, 1): each row's exact guess."""

    told, silent = (0.5, 0.5), (0.0, 1.0)

    def __init__(self, schedule):
        self.schedule, self.batches = schedule, []

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        halves = [GaussianDenoiser(torch.full(x_t.shape[1:], m), s, self.schedule) for m, s in (self.told, self.silent)]
        return torch.where(cond[:, :, None, None] > 0, *(half(x_t, t, cond) for half in halves))

    def guided(self, x_t, t, scale):
        """The guess that belongs to the mixed score (1 - scale) score_silent + scale score_told: Tweedie's formula."""
        signal, sigma = self.schedule.rates(t, like=x_t)
        scores = [-(x_t - signal * m) / (signal**2 * s**2 + sigma**2) for m, s in (self.told, self.silent)]
        return (x_t + sigma**2 * (scale * scores[0] + (1 - scale) * scores[1])) / signal


class Gaussians:
    """A world of two attributes, each picture's answer a diagonal Gaussian: (mean, std) of every condition; has THE call."""

    def __init__(self, schedule):
        self.schedule, self.batches = schedule, []
        self.known = {
            (0.0, 0.0): (0.0, 1.0),
            (1.0, 0.0): (0.5, 0.5),
            (0.0, 1.0): (-0.3, 0.7),
            (0.0, -1.0): (0.4, 0.8),
            (1.0, 1.0): (0.2, 0.4),
        }

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        rows = [self.known[tuple(row)] for row in cond.expand(len(x_t), -1).tolist()]
        mean, std = torch.tensor(rows, dtype=x_t.dtype).T[:, :, None, None, None]
        signal, sigma = self.schedule.rates(t, like=x_t)
        return mean + signal * std**2 / (signal**2 * std**2 + sigma**2) * (x_t - signal * mean)

    def guess(self, x_t, t, weights):
        """The guess that belongs to sum_c weights[c] score_c, by Tweedie's formula; the weights sum to one."""
        signal, sigma = self.schedule.rates(t, like=x_t)
        scores = (
            w * (signal * self.known[c][0] - x_t) / (signal**2 * self.known[c][1] ** 2 + sigma**2)
            for c, w in weights.items()
        )
        return (x_t + sigma**2 * sum(scores)) / signal

    def end(self, x_T, weights, points=4000):
        """Where the guided ODE leads from pure noise x_T (signal 0, sigma 1).

        With y = x / signal and v = sigma / signal it reads dy/dv = sum_c w_c v (y - m_c) / (s_c^2 + v^2), which is linear:
        y(0) = h(0) (x_T + integral of sum_c w_c m_c v / (s_c^2 + v^2) / h(v)), h(v) = prod_c (s_c^2 + v^2)^(w_c / 2).
        """
        # v = tan(angle) brings infinity near; the midpoint rule is then good to far below 1e-4.
        angle = (torch.arange(points, dtype=torch.float64) + 0.5) / points * math.pi / 2
        v = angle.tan()

        def h(v):
            return math.prod((self.known[c][1] ** 2 + v**2) ** (w / 2) for c, w in weights.items())

        pull = sum(w * self.known[c][0] * v / (self.known[c][1] ** 2 + v**2) for c, w in weights.items())
        integral = (pull / h(v) / angle.cos() ** 2).sum() * math.pi / 2 / points
        return h(0.0) * (x_T + integral)


def one_sentence(text) -> bool:
    """One line of at most 300 characters that ends as a sentence does, with no other sentence before it."""
    text = str(text)
    return len(text) <= 300 and text.endswith((".", "?")) and "\n" not in text and not re.search(r"\. [A-Z]", text)


@contextlib.contextmanager
def refused(match=None):
    """What is inside must end in a ValueError of one sentence that matches."""
    with pytest.raises(ValueError, match=match) as caught:
        yield
    assert one_sentence(caught.value), caught.value


def faulty(module, right: str, wrong: str):
    """A copy of `module` in which `right`, which stands there exactly once, reads `wrong`."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {module.__name__}"
    copy = types.ModuleType(module.__name__)
    copy.__file__ = module.__file__
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), copy.__dict__)
    return copy


# The checks.


def adds_noise_as_diffusers_does(schedule):
    x_0, eps, t = randn(4, 1, 2, 2), randn(4, 1, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
    for name, theirs in BETAS.items():
        ours = getattr(schedule, name)().add_noise(x_0, eps, t)
        # diffusers keeps alpha_bar in float32, which costs 1 - alpha_bar some digits at the first ticks.
        assert_close(ours, DDPMScheduler(beta_schedule=theirs).add_noise(x_0, eps, t), rtol=0, atol=1e-5)


def each_picture_has_its_own_tick(schedule):
    """A batch as large as a picture is wide, where a wrong broadcast raises nothing."""
    t, x_0, eps = torch.tensor([0, 300, 600, 999]), randn(4, 1, 4, 4), randn(4, 1, 4, 4, seed=1)
    for name in ("linear", "cosine", "sigmoid", "straight"):
        made = getattr(schedule, name)()
        for call in (made.add_noise, made.eps_from, made.velocity, made.x_0_from):
            alone = [call(x_0[i : i + 1], eps[i : i + 1], int(t[i])) for i in range(4)]
            assert_close(call(x_0, eps, t), torch.cat(alone), rtol=0, atol=1e-12)


def ticks_are_evenly_spaced_from_the_last(schedule):
    """Exactly the rounded 1000 (steps - i) / steps, less one; a tie may be rounded either way."""
    made = schedule.linear()
    for steps in (1, 2, 3, 7, 10, 48, 50, 61, 250, 999, 1000):
        ticks = made.ticks(steps)
        assert len(ticks) == steps and ticks[0] == 999 and ticks[-1] >= 0
        for i, t in enumerate(ticks):
            assert abs(Fraction(1000 * (steps - i), steps) - 1 - t) <= Fraction(1, 2)


def last_step_reaches_the_clean_picture(sample):
    """Whatever the solver and the noise, the last frame is the last guess itself."""
    x_T, guess = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1).clamp(-1, 1)
    for solver in (sample.DDIM, sample.DDPM):
        drawn = sample.sample(lambda x_t, t, cond: guess, x_T, torch.zeros(1), solver(schedule.linear()), 7)
        assert_close(drawn, guess, rtol=0, atol=1e-12)


def ddim_steps_as_diffusers_does(sample):
    """One step after the other, clipped and not, on two schedules, without fresh noise and with."""
    for (ours, theirs), clip, eta in [(b, c, e) for b in BETAS.items() for c in (True, False) for e in (0.0, 1.0)]:
        solver = sample.DDIM(getattr(schedule, ours)(), eta, clip, torch.Generator().manual_seed(5))
        reference = diffusers_ddim(theirs, clip, 10)
        ticks, x_t, luck = solver.start(10), randn(2, 1, 4, 4, dtype=torch.float32), torch.Generator().manual_seed(5)
        for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
            x_0_hat = Fake()(x_t, t, torch.zeros(1, 1))
            fresh = torch.randn(x_t.shape, generator=luck) if eta and s >= 0 else torch.zeros_like(x_t)
            options = {"eta": eta, "use_clipped_model_output": True, "variance_noise": fresh}
            wanted = reference.step(x_0_hat, t, x_t, **options).prev_sample
            got = solver.step(x_t, x_0_hat, t, s)
            assert_close(got, wanted, rtol=0, atol=1e-5)
            x_t = got


def ddpm_steps_as_diffusers_does(sample):
    for ours, theirs in BETAS.items():
        for variance, clip in (("small", True), ("small", False), ("large", True)):
            solver = sample.DDPM(getattr(schedule, ours)(), clip, torch.Generator().manual_seed(5), variance)
            reference = diffusers_ddpm(theirs, clip, variance, 10)
            x_t, luck, ticks = (
                randn(2, 1, 4, 4, dtype=torch.float32),
                torch.Generator().manual_seed(5),
                solver.start(10),
            )
            # Coming to the clean picture diffusers still adds "large" noise; we do not, and nor does Ho et al.
            for t, s in zip(ticks, [*ticks[1:], -1] if variance == "small" else ticks[1:], strict=variance == "small"):
                x_0_hat = Fake()(x_t, t, torch.zeros(1, 1))
                wanted = reference.step(x_0_hat, t, x_t, generator=luck).prev_sample
                got = solver.step(x_t, x_0_hat, t, s)
                assert_close(got, wanted, rtol=0, atol=1e-5)
                x_t = got


def diffusers_ddim(beta_schedule, clip, steps):
    options = {"prediction_type": "sample", "clip_sample": clip, "timestep_spacing": "trailing"}
    return _in_float64(DDIMScheduler(beta_schedule=beta_schedule, **options), steps)


def diffusers_ddpm(beta_schedule, clip, variance, steps):
    options = {"prediction_type": "sample", "clip_sample": clip, "timestep_spacing": "trailing"}
    scheduler = DDPMScheduler(beta_schedule=beta_schedule, variance_type=f"fixed_{variance}", **options)
    return _in_float64(scheduler, steps)


def _in_float64(scheduler, steps):
    """diffusers' float32 loses 1 - alpha_bar - variance to cancellation where noise is fresh; its formulas do not."""
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    scheduler.set_timesteps(steps)
    return scheduler


def guidance_is_exact(guidance):
    """In the world of two Gaussians, for one tick and for a tick each, at scales from against to insisting."""
    made = schedule.cosine()
    x_t, ticks = randn(5, 1, 3, 3), torch.tensor([0, 200, 500, 800, 990])
    for scale in (-1.0, 0.0, 0.5, 1.0, 2.0, 8.0):
        for t in (300, ticks):
            world = TwoGaussians(made)
            got = guidance.classifier_free(world, scale)(x_t, t, torch.ones(5, 1))
            assert_close(got, world.guided(x_t, t, scale), rtol=0, atol=1e-10)
            assert world.batches == ([5] if scale == 1 else [10])


def each_picture_has_its_own_condition(ideal):
    """Two pictures, one with a hat and one without; asked in one batch, each request gets its own."""
    x_0, conds = torch.stack([torch.ones(1, 2, 2), -torch.ones(1, 2, 2)]), torch.tensor([[1.0], [-1.0]])
    denoise = ideal.IdealDenoiser(x_0, conds, schedule.cosine())
    guess = denoise(torch.zeros(3, 1, 2, 2), 500, torch.tensor([[1.0], [-1.0], [0.0]]))
    assert_close(guess.mean((1, 2, 3)), torch.tensor([1.0, -1.0, 0.0]))


def guess_is_the_posterior_mean(ideal):
    """Against Bayes' rule written out, picture by picture."""
    for made, t in [(schedule.SCHEDULES[n](), t) for n in schedule.SCHEDULES for t in (0, 30, 500, 998, 999)]:
        x_0, conds = randn(6, 1, 2, 2).clamp(-1, 1), torch.ones(6, 1)
        x_t = made.add_noise(x_0[:3], randn(3, 1, 2, 2, seed=2), t)
        signal, sigma = made(t)
        got = ideal.IdealDenoiser(x_0, conds, made)(x_t, t, torch.zeros(1))
        for row, guess in zip(x_t, got, strict=True):
            logs = [-float((row - signal * picture).square().sum()) / (2 * sigma**2) for picture in x_0]
            likely = [math.exp(log - max(logs)) for log in logs]
            mean = sum(weight * picture for weight, picture in zip(likely, x_0, strict=True)) / sum(likely)
            assert_close(guess, mean, rtol=0, atol=1e-9)


def some_answers_are_forgotten(train):
    """None stays said for one in ten, all for three in ten, any number strictly between equally often otherwise."""
    count = 40_000
    cond = torch.where(randn(count, 8) > 0, 1.0, -1.0)
    cond[:, 5:] = 0
    left = (train.forget_some(cond, torch.Generator().manual_seed(0)) != 0).sum(1)
    for kept, share in enumerate((0.1, 0.15, 0.15, 0.15, 0.15, 0.3)):
        is_share((left == kept).double().mean(), share, count)
    digits = torch.eye(10).repeat(count // 10, 1)
    left = (train.forget_some(digits, torch.Generator().manual_seed(1)) != 0).sum(1)
    is_share((left == 0).double().mean(), 0.1, count)


def every_tick_is_trained(train):
    """All ticks equally often, the last one included, where sampling starts."""
    count, ticks = 20_000, 10
    batch = train.Batch.draw(pictures(500, (1, 1, 1)), Recipe(count, count), 0, ticks)
    for tick in range(ticks):
        is_share((batch.t == tick).double().mean(), 1 / ticks, count)


def is_share(got, share, count):
    """Within four and a half standard errors: by chance once in 150,000."""
    assert abs(float(got) - share) < 4.5 * math.sqrt(share * (1 - share) / count), f"{got} and not {share}"


def average_follows_its_recursion(train):
    """kept <- decay kept + (1 - decay) new, with the decay (1 + n) / (10 + n) of step n, at most the recipe's."""
    net, recipe, expected = tiny(), Recipe(32, 8, lr=1e-2, ema=0.2), None
    with tempfile.TemporaryDirectory() as folder:
        for n, progress in enumerate(train.training(net, pictures(), recipe, keep=folder)):
            now = {name: value.double() for name, value in net.state_dict().items()}
            decay = min(0.2, (1 + n) / (10 + n))
            expected = {k: v if n == 0 else decay * expected[k] + (1 - decay) * v for k, v in now.items()}
            averaged = {name: value.double() for name, value in progress.net.state_dict().items()}
            assert_close(averaged, expected, rtol=0, atol=1e-6)
    assert any((now[name] - expected[name]).abs().max() > 1e-4 for name in now)


def fitted_net_says_the_same_twice(train):
    """Dropout belongs to training; whoever gets the result back calls it as it is."""
    with tempfile.TemporaryDirectory() as folder:
        net, _ = train.fit(tiny(dropout=0.5).train(), pictures(), Recipe(8, 8), keep=folder, progress=False)
    x_t, cond = randn(2, *SHAPE, dtype=torch.float32), torch.zeros(3)
    with torch.no_grad():
        assert_close(net(x_t, 500, cond), net(x_t, 500, cond), rtol=0, atol=0)


def ideal_set(made, count=6, shape=(1, 2, 2)) -> IdealDenoiser:
    """An ideal denoiser of a few random pictures of which nothing is known."""
    return IdealDenoiser(randn(count, *shape).clamp(-1, 1), torch.ones(count, 1), made)
