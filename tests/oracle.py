"""What the tests share: tiny networks, distributions with known answers, and the checks that deliberate faults must fail.

A check takes the module to be checked, so that the real one and a copy with a fault in it go through the same lines.
"""

import base64
import contextlib
import http.server
import inspect
import io
import math
import re
import tempfile
import threading
import types
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from facelab import DIGITS, AttributeClassifier, AttributeDataset, Attributes, Denoiser, IdealDenoiser, schedules

NAMES = ("Beard", "Hat", "Smile")
SHAPE = (1, 8, 8)
# {condition: (mean, std)}
FIVE_GAUSSIANS = {(0, 0): (0.0, 1.0), (1, 0): (0.5, 0.5), (0, 1): (-0.3, 0.7), (0, -1): (0.4, 0.8), (1, 1): (0.2, 0.4)}
TWO_GAUSSIANS = {(0,): (0.0, 1.0), (1,): (0.5, 0.5)}
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # our name: diffusers' beta_schedule


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def normal(count, size, seed=0, mean=0.0, sd=1.0):
    """Features of `count` images."""
    return randn(count, size, seed=seed) * sd + mean


def random_images(count, side=8, seed=0):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(seed))


def encoded(image, kind="PNG", **options) -> bytes:
    """The content of an image's file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def images_in(page: str) -> list[tuple[bytes, str]]:
    """(bytes, alt) of each <img> of a page."""
    found = re.findall(r'<img src="data:image/[a-z+]+;base64,([^"]+)" alt="([^"]+)"', page)
    return [(base64.b64decode(code), alt) for code, alt in found]


def tiny(**settings) -> Denoiser:
    """A network small enough for a hundred evaluations a test, in eval mode."""
    small = {"shape": SHAPE, "attributes": NAMES, "block_out_channels": (32, 32), "attention": (False, False)}
    return Denoiser(**(small | {"patch_size": 2} | settings)).eval()


def random_dataset(count=12, shape=SHAPE, names=NAMES, seed=0) -> AttributeDataset:
    """Random images with random attributes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    conds = torch.randint(0, 2, (count, len(names)), generator=generator) * 2 - 1
    return AttributeDataset(images, conds, Attributes(names), "random", "random")


def digits() -> AttributeDataset:
    """Random images of the ten digits, four of each."""
    return AttributeDataset(random_dataset(40).images, torch.eye(10).repeat(4, 1), DIGITS, "random", "csv")


def digits_classifier() -> AttributeClassifier:
    """A small one, with batch norms."""
    return AttributeClassifier(SHAPE, DIGITS.names, exclusive=True, channels=(8, 8))


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


class Fake:
    """A denoiser without a network, a little outside [-1, 1], so that clipping matters; `calls` records its arguments."""

    def __init__(self, push=0.3):
        self.push, self.calls = push, []

    def __call__(self, x_t, t, cond):
        self.calls.append((x_t, t, cond))
        return 1.4 * torch.tanh(0.8 * x_t + self.push * cond.to(x_t).sum(1)[:, None, None, None])


class Gaussians:
    """The exact denoiser of two attributes, a diagonal Gaussian (mean, std) for each condition."""

    known = FIVE_GAUSSIANS

    def __init__(self, schedule):
        self.schedule, self.batches = schedule, []

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        rows = [self.known[tuple(row)] for row in cond.expand(len(x_t), -1).tolist()]
        mean, std = torch.tensor(rows, dtype=x_t.dtype).T[:, :, None, None, None]
        signal, sigma = self.schedule.rates(t, like=x_t)
        return mean + signal * std**2 / (signal**2 * std**2 + sigma**2) * (x_t - signal * mean)

    def guided(self, x_t, t, weights):
        """x_0_hat of the score sum_c weights[c] score_c, by Tweedie's formula; the weights sum to one."""
        signal, sigma = self.schedule.rates(t, like=x_t)
        known = ((w, *self.known[c]) for c, w in weights.items())
        score = sum(w * (signal * m - x_t) / (signal**2 * s**2 + sigma**2) for w, m, s in known)
        return (x_t + sigma**2 * score) / signal

    def end(self, x_T, weights, points=4000):
        """The end of the guided ODE from pure noise x_T (signal 0, sigma 1).

        With y = x / signal and v = sigma / signal it reads dy/dv = sum_c w_c v (y - m_c) / (s_c^2 + v^2), which is linear:
        y(0) = h(0) (x_T + integral of sum_c w_c m_c v / (s_c^2 + v^2) / h(v)), h(v) = prod_c (s_c^2 + v^2)^(w_c / 2).
        """
        # v = tan(angle) makes the interval finite; the midpoint rule is then exact to far below 1e-4.
        angle = (torch.arange(points, dtype=torch.float64) + 0.5) / points * math.pi / 2
        v = angle.tan()

        def h(v):
            return math.prod((self.known[c][1] ** 2 + v**2) ** (w / 2) for c, w in weights.items())

        pull = sum(w * self.known[c][0] * v / (self.known[c][1] ** 2 + v**2) for c, w in weights.items())
        integral = (pull / h(v) / angle.cos() ** 2).sum() * math.pi / 2 / points
        return h(0.0) * (x_T + integral)


class TwoGaussians(Gaussians):
    """The exact denoiser where cond (B, 1) = 1 means N(0.5, 0.5^2), and the null condition N(0, 1)."""

    known = TWO_GAUSSIANS

    def guided(self, x_t, t, scale):
        return super().guided(x_t, t, {(1,): scale, (0,): 1 - scale})


def ideal_set(schedule, count=6, shape=(1, 2, 2)) -> IdealDenoiser:
    """The ideal denoiser of a few random images with one attribute that all of them have."""
    return IdealDenoiser(randn(count, *shape).clamp(-1, 1), torch.ones(count, 1), schedule)


@contextlib.contextmanager
def serving(handler):
    """A local HTTP server in a thread of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def one_sentence(text) -> bool:
    """One line of at most 300 characters that ends as a sentence does, with no other sentence before it."""
    text = str(text)
    return len(text) <= 300 and text.endswith((".", "?")) and "\n" not in text and not re.search(r"\. [A-Z]", text)


@contextlib.contextmanager
def refused(match=None):
    """The block must raise a ValueError of one sentence that matches."""
    with pytest.raises(ValueError, match=match) as caught:
        yield
    assert one_sentence(caught.value), caught.value


def faulty(module, right: str, wrong: str):
    """A copy of `module` in which `right`, which occurs exactly once, is replaced by `wrong`."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times in {module.__name__}"
    copy = types.ModuleType(module.__name__)
    copy.__file__ = module.__file__
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), copy.__dict__)
    return copy


def is_fraction(found, fraction, count):
    """Within four and a half standard errors: a false alarm in one of 150,000."""
    error = math.sqrt(fraction * (1 - fraction) / count)
    assert abs(float(found) - fraction) < 4.5 * error, f"{found} and not {fraction}"


def reference_scheduler(cls, beta_schedule, clip, steps, **options):
    """A scheduler of diffusers, computed in float64: in its float32, 1 - alpha_bar - variance loses digits to cancellation."""
    options |= {"prediction_type": "sample", "clip_sample": clip, "timestep_spacing": "trailing"}
    scheduler = cls(beta_schedule=beta_schedule, **options)
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    scheduler.set_timesteps(steps)
    return scheduler


def noise_is_added_as_in_diffusers(schedules):
    x_0, eps, t = randn(4, 1, 2, 2), randn(4, 1, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
    for name, theirs in BETAS.items():
        ours = getattr(schedules, name)().add_noise(x_0, eps, t)
        # diffusers has alpha_bar in float32, which loses digits of 1 - alpha_bar at the first timesteps.
        assert_close(ours, DDPMScheduler(beta_schedule=theirs).add_noise(x_0, eps, t), rtol=0, atol=1e-5)


def each_image_has_its_own_timestep(schedules):
    """A batch as large as an image is wide, where a wrong broadcast raises no error."""
    t, x_0, eps = torch.tensor([0, 300, 600, 999]), randn(4, 1, 4, 4), randn(4, 1, 4, 4, seed=1)
    for name in ("linear", "cosine", "sigmoid", "rectified_flow"):
        schedule = getattr(schedules, name)()
        for method in (schedule.add_noise, schedule.to_eps, schedule.velocity, schedule.to_x_0):
            alone = [method(x_0[i : i + 1], eps[i : i + 1], int(t[i])) for i in range(4)]
            assert_close(method(x_0, eps, t), torch.cat(alone), rtol=0, atol=1e-12)


def timesteps_are_evenly_spaced(schedules):
    """Exactly the rounded 1000 (steps - i) / steps, less one; a tie may be rounded either way."""
    for steps in (1, 2, 3, 7, 10, 48, 50, 61, 250, 999, 1000):
        timesteps = schedules.linear().timesteps(steps)
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
        for i, t in enumerate(timesteps):
            assert abs(Fraction(1000 * (steps - i), steps) - 1 - t) <= Fraction(1, 2)


def last_step_reaches_the_clean_image(samplers):
    """Whatever the sampler and the noise, the last frame is the last x_0_hat itself."""
    x_T, x_0_hat = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1).clamp(-1, 1)
    for sampler in (samplers.DDIM, samplers.DDPM):
        denoise = lambda x_t, t, cond: x_0_hat  # noqa: E731
        images = samplers.sample(denoise, x_T, torch.zeros(1), sampler(schedules.linear()), 7)
        assert_close(images, x_0_hat, rtol=0, atol=1e-12)


def ddim_steps_as_in_diffusers(samplers):
    """Step by step, clipped and not, on two schedules, without fresh noise and with it."""
    for (ours, theirs), clip, eta in [(b, c, e) for b in BETAS.items() for c in (True, False) for e in (0.0, 1.0)]:
        sampler = samplers.DDIM(getattr(schedules, ours)(), eta, clip, torch.Generator().manual_seed(5))
        reference, generator = reference_scheduler(DDIMScheduler, theirs, clip, 10), torch.Generator().manual_seed(5)
        x_t = randn(2, 1, 4, 4, dtype=torch.float32)
        for t, s in sampler.schedule.step_pairs(10):
            x_0_hat = Fake()(x_t, t, torch.zeros(1, 1))
            fresh = torch.randn(x_t.shape, generator=generator) if eta and s >= 0 else torch.zeros_like(x_t)
            options = {"eta": eta, "use_clipped_model_output": True, "variance_noise": fresh}
            expected = reference.step(x_0_hat, t, x_t, **options).prev_sample
            x_t = sampler.step(x_t, x_0_hat, t, s)
            assert_close(x_t, expected, rtol=0, atol=1e-5)


def ddpm_steps_as_in_diffusers(samplers):
    for ours, theirs in BETAS.items():
        for variance, clip in (("small", True), ("small", False), ("large", True)):
            generator = torch.Generator().manual_seed(5)
            sampler = samplers.DDPM(getattr(schedules, ours)(), clip, torch.Generator().manual_seed(5), variance)
            reference = reference_scheduler(DDPMScheduler, theirs, clip, 10, variance_type=f"fixed_{variance}")
            x_t = randn(2, 1, 4, 4, dtype=torch.float32)
            # In the step to the clean image diffusers still adds "large" noise; Ho et al. and we do not.
            for t, s in sampler.schedule.step_pairs(10)[: 10 if variance == "small" else 9]:
                x_0_hat = Fake()(x_t, t, torch.zeros(1, 1))
                expected = reference.step(x_0_hat, t, x_t, generator=generator).prev_sample
                x_t = sampler.step(x_t, x_0_hat, t, s)
                assert_close(x_t, expected, rtol=0, atol=1e-5)


def guidance_is_exact(guidance):
    """With two Gaussians, for one timestep and for one each, at guidance scales from negative to strong."""
    schedule = schedules.cosine()
    x_t, timesteps = randn(5, 1, 3, 3), torch.tensor([0, 200, 500, 800, 990])
    for scale in (-1.0, 0.0, 0.5, 1.0, 2.0, 8.0):
        for t in (300, timesteps):
            denoise = TwoGaussians(schedule)
            x_0_hat = guidance.cfg(denoise, scale)(x_t, t, torch.ones(5, 1))
            assert_close(x_0_hat, denoise.guided(x_t, t, scale), rtol=0, atol=1e-10)
            assert denoise.batches == ([5] if scale == 1 else [10])


def each_image_has_its_own_condition(analytic):
    """Two images, one with a hat and one without; in one batch, each condition gets its own."""
    x_0, conds = torch.stack([torch.ones(1, 2, 2), -torch.ones(1, 2, 2)]), torch.tensor([[1.0], [-1.0]])
    denoise = analytic.IdealDenoiser(x_0, conds, schedules.cosine())
    x_0_hat = denoise(torch.zeros(3, 1, 2, 2), 500, torch.tensor([[1.0], [-1.0], [0.0]]))
    assert_close(x_0_hat.mean((1, 2, 3)), torch.tensor([1.0, -1.0, 0.0]))


def some_attributes_are_dropped(training):
    """None stays with probability 0.1, all with 0.3, and otherwise every number between is as likely."""
    count = 40_000
    cond = torch.where(randn(count, 8) > 0, 1.0, -1.0)
    cond[:, 5:] = 0
    left = (training.drop_attributes(cond, torch.Generator().manual_seed(0)) != 0).sum(1)
    for number, fraction in enumerate((0.1, 0.15, 0.15, 0.15, 0.15, 0.3)):
        is_fraction((left == number).double().mean(), fraction, count)
    digits = torch.eye(10).repeat(count // 10, 1)
    left = (training.drop_attributes(digits, torch.Generator().manual_seed(1)) != 0).sum(1)
    is_fraction((left == 0).double().mean(), 0.1, count)


def every_timestep_is_trained(training):
    """All timesteps equally often, the last one included, where sampling starts."""
    count, num_timesteps = 20_000, 10
    config = training.TrainConfig(count, count)
    batch = training.Batch.sample(random_dataset(500, (1, 1, 1)), config, 0, num_timesteps)
    for t in range(num_timesteps):
        is_fraction((batch.t == t).double().mean(), 1 / num_timesteps, count)


def ema_follows_its_recursion(training):
    """ema <- decay ema + (1 - decay) weights, with the decay (1 + n) / (10 + n) at update n, at most the configured one.

    For several decays at once, and of buffers too.
    """
    net, expected = digits_classifier(), {}
    config = training.TrainConfig(64, 8, lr=1e-2, cond_dropout="none", ema_decays=(0.3, 0.05))
    with tempfile.TemporaryDirectory() as folder:
        for n, now in enumerate(training.train(net, digits(), config, checkpoint_dir=folder)):
            weights = net.state_dict()
            for decay, ema in now.emas.items():
                rate = min(decay, (1 + n) / (10 + n))
                for name, value in weights.items():
                    averaged = n and value.is_floating_point()
                    before = expected.get((decay, name))
                    expected[decay, name] = rate * before + (1 - rate) * value if averaged else value.clone()
                    assert_close(ema.state_dict()[name], expected[decay, name], rtol=1e-4, atol=1e-6)
    assert now.net is now.emas[0.3]
    for name in ("layers.0.0.weight", "layers.0.1.running_mean"):
        assert (expected[0.3, name] - weights[name]).abs().max() > 1e-4


def trained_net_is_in_eval_mode(training):
    """Dropout belongs to training: the network that `fit` returns is deterministic."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"checkpoint_dir": folder, "progress": False}
        net, _ = training.fit(tiny(dropout=0.5).train(), random_dataset(), training.TrainConfig(8, 8), **options)
    x_t, cond = randn(2, *SHAPE, dtype=torch.float32), torch.zeros(3)
    with torch.no_grad():
        assert_close(net(x_t, 500, cond), net(x_t, 500, cond), rtol=0, atol=0)
