"""Samplers: from pure noise to an image, step by step (lessons 02, 04 and 08).

    x_s = signal_s x_0_hat + sigma_s eps_hat                          (DDIM; Song et al. 2021, eq. 12)

A sampler makes one step from timestep t to timestep s. `trajectory` alternates the denoiser and the sampler; guidance is part of
the denoiser. As x_t = signal_t x_0_hat + sigma_t eps_hat, the step above is Euler's method for the probability-flow ODE
(`Schedule.euler`). Second-order samplers improve the two predictions.
"""

import copy
import inspect
import itertools
from collections import deque
from collections.abc import Iterator
from numbers import Integral

import torch
from torch import Tensor
from tqdm.auto import tqdm

from facelab.attributes import expand_cond
from facelab.guidance import autoguidance, cfg
from facelab.schedules import Schedule


class Sampler:
    """The base of all samplers; `step(x_t, x_0_hat, t, s)` of a subclass returns x_s, where s = -1 is the clean image.

    `clip` clamps every x_0_hat to [-1, 1]; `generator` makes the fresh noise of a stochastic sampler, or a list of generators, one
    for each image.
    """

    order, stochastic = 1, False

    def __init__(self, schedule: Schedule, clip: bool = True, generator=None):
        self.schedule, self.clip, self.generator, self._previous = schedule, clip, generator, None

    def timesteps(self, steps: int) -> list[int]:
        """The timestep of each network evaluation of a new trajectory, from noisy to clean; drops the history of the last one."""
        self._previous = None
        return self.schedule.timesteps(steps)

    def _predictions(self, x_t, x_0_hat, t):
        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat
        return x_0_hat, self.schedule.to_eps(x_t, x_0_hat, t)


class DDPM(Sampler):
    """The ancestral step, a sample from the posterior q(x_s | x_t, x_0_hat): Ho et al. 2020, eq. 6 and 7.

    The variance is "small", the posterior's own (eq. 7), or "large", beta itself; Ho et al. tried both (section 3.2).
    """

    stochastic = True

    def __init__(self, schedule: Schedule, clip: bool = True, generator=None, variance: str = "small"):
        if variance not in ("small", "large"):
            raise ValueError(f"variance must be 'small' or 'large', got {variance!r}.")
        super().__init__(schedule, clip, generator)
        self.variance = variance

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat
        (signal_t, sigma_t), (signal_s, sigma_s) = self.schedule(t), self.schedule(s)
        ratio = signal_t / signal_s
        beta = sigma_t**2 - ratio**2 * sigma_s**2
        mean = (signal_s * beta * x_0_hat + ratio * sigma_s**2 * x_t) / sigma_t**2
        variance = beta if self.variance == "large" else beta * sigma_s**2 / sigma_t**2
        return mean + variance**0.5 * noise_like(x_t, self.generator) if s >= 0 else mean


class DDIM(Sampler):
    """Split x_t into x_0_hat and eps_hat, then mix them with less noise: Song et al. 2021, eq. 12 and 16.

    With eta 0 it is deterministic (on `rectified_flow()` Euler's method), with eta 1 it adds as much fresh noise as DDPM.
    """

    def __init__(self, schedule: Schedule, eta: float = 0.0, clip: bool = True, generator=None):
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be from 0 (deterministic) to 1 (DDPM's noise), got {eta!r}.")
        super().__init__(schedule, clip, generator)
        self.eta, self.stochastic = eta, eta > 0

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        x_0_hat, eps_hat = self._predictions(x_t, x_0_hat, t)
        (signal_t, sigma_t), (signal_s, sigma_s) = self.schedule(t), self.schedule(s)
        noise_std = self.eta * sigma_s * max(0.0, 1 - (signal_t * sigma_s / (signal_s * sigma_t)) ** 2) ** 0.5
        x_s = signal_s * x_0_hat + max(0.0, sigma_s**2 - noise_std**2) ** 0.5 * eps_hat
        return x_s + noise_std * noise_like(x_t, self.generator) if noise_std else x_s


class AdamsBashforth(Sampler):
    """Second order without extra evaluations: the last two predictions are extrapolated to the middle of the step.

    The two-step Adams-Bashforth formula for unequal steps (Hairer, Norsett and Wanner 1993, III.5). The first step is DDIM's.
    """

    order = 2

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        x_0_hat, eps_hat = self._predictions(x_t, x_0_hat, t)
        t_before, x_0_before, eps_before = self._previous or (t + 1, x_0_hat, eps_hat)
        self._previous = t, x_0_hat, eps_hat
        ratio = (t - s) / (t_before - t) / 2
        middle = x_0_hat + ratio * (x_0_hat - x_0_before), eps_hat + ratio * (eps_hat - eps_before)
        x_s = self.schedule.euler(x_t, *middle, t, s)
        return x_s.clamp(-1, 1) if self.clip and s == -1 else x_s


class Heun(Sampler):
    """Second order by the mean of the predictions at both ends of a step (Karras et al. 2022, algorithm 1).

    `steps` counts network evaluations. Every timestep but the first has two: at the end of an Euler step from t to s < t, and after
    its correction, a step with s = t. With an even number the first step is Euler's; the last one always is.
    """

    order = 2

    def timesteps(self, steps: int) -> list[int]:
        most = 2 * len(self.schedule) - 1
        if not isinstance(steps, int) or not 1 <= steps <= most:
            raise ValueError(f"steps must be a whole number from 1 to {most} with Heun, got {steps!r}.")
        first, *others = super().timesteps(steps // 2 + 1)
        timesteps = [first, *(t for t in others for _ in range(2))]
        return timesteps if steps % 2 else [first, *timesteps[2:]]

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        x_0_hat, eps_hat = self._predictions(x_t, x_0_hat, t)
        if s != t:
            self._previous = x_t, t, x_0_hat, eps_hat
            signal_s, sigma_s = self.schedule(s)
            return signal_s * x_0_hat + sigma_s * eps_hat
        x, t_before, x_0_before, eps_before = self._previous
        return self.schedule.euler(x, (x_0_hat + x_0_before) / 2, (eps_hat + eps_before) / 2, t_before, t)


class DiffusersSampler(Sampler):
    """A diffusers scheduler class that accepts x_0 predictions (prediction type "sample"), or a flow-matching one.

    A flow-matching scheduler takes `rectified_flow()`, all others a variance-preserving schedule; `options` are passed to it.
    """

    def __init__(self, scheduler_class: type, schedule: Schedule, clip: bool = True, generator=None, **options):
        super().__init__(schedule, clip, torch.Generator())
        name, known = scheduler_class.__name__, inspect.signature(scheduler_class.__init__).parameters
        self.flow = "FlowMatch" in name
        kind = {"prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False}
        try:
            if self.flow == schedule.variance_preserving:
                raise ValueError(f"it needs {'rectified_flow()' if self.flow else 'a variance-preserving schedule'}")
            if not self.flow and "prediction_type" not in known:
                raise ValueError("it has no prediction type 'sample'")
            kind["num_train_timesteps"] = len(schedule)
            kind |= {} if self.flow else {"trained_betas": schedule.betas.float().numpy()}
            self.scheduler = scheduler_class(**{key: kind[key] for key in kind if key in known} | options)
            # Two trial steps, because schedulers do not say what they need.
            x, (t, s), state = torch.zeros(1, 1, 2, 2), self.timesteps(2), self.generator.get_state()
            if t <= s or float(getattr(self.scheduler, "init_noise_sigma", 1)) != 1:
                raise ValueError("it must go from noise to clean with x_t as it is")
            self.step(self.step(x, x, t, s), x, s, -1)
        except Exception as error:
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            raise ValueError(f"{name} does not fit {schedule.name}: {reason}.") from error
        self.stochastic = not torch.equal(state, self.generator.get_state())
        self.order, self.generator = self.scheduler.config.get("solver_order", 1), generator

    def timesteps(self, steps: int) -> list[int]:
        timesteps = super().timesteps(steps)
        if self.flow:
            self.scheduler.set_timesteps(sigmas=[self.schedule(t)[1] for t in timesteps])
            return [round(float(t)) - 1 for t in self.scheduler.timesteps]
        self.scheduler.set_timesteps(steps)
        if self.scheduler.timesteps[-1] < 0:  # diffusers' rounding sometimes adds a timestep after the last one
            self.scheduler.timesteps = self.scheduler.timesteps[:steps]
        return [int(t) for t in self.scheduler.timesteps]

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        prediction, eps_hat = self._predictions(x_t, x_0_hat, t)
        if self.flow:
            prediction, t = eps_hat - prediction, torch.tensor(t + 1.0)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        options = {"generator": self.generator} if takes_generator else {}
        return self.scheduler.step(prediction, t, x_t, **options).prev_sample


def default_sampler(schedule: Schedule) -> type[Sampler]:
    """What `generate` takes: `AdamsBashforth` on rectified flow, else `DDIM`."""
    return DDIM if schedule.variance_preserving else AdamsBashforth


def noise_like(x: Tensor, generator=None) -> Tensor:
    """Standard normal noise of x's shape, made on the CPU (or the generator's device) so that it is the same on every device."""
    if isinstance(generator, list):  # one for each image
        return torch.cat([noise_like(row, one) for row, one in zip(x.split(1), generator, strict=True)])
    device = generator.device if generator is not None else "cpu"
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def noise(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """x_T: (n, C, H, W) of pure noise on the CPU; image i depends on the seed and on i, not on n."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"the number of images must be a whole number above 0, got {n!r}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(n)])


@torch.no_grad()
def trajectory(denoise, x_T: Tensor, cond: Tensor, sampler, steps: int) -> Iterator[Tensor]:
    """x_T (B, C, H, W), then x_s after each step, the image last, in x_T's dtype and on its device.

    `cond` is (B, K), (1, K) or (K,). The arithmetic is in float32 at least.
    """
    yield from trajectory_at(denoise, x_T, cond, sampler, sampler.timesteps(steps))


def trajectory_at(denoise, x_T: Tensor, cond: Tensor, sampler, timesteps: list[int]) -> Iterator[Tensor]:
    """`trajectory` at some of the timesteps that `sampler.timesteps` has just returned."""
    if x_T.ndim != 4:
        raise ValueError(f"x_T must be (B, C, H, W), got {tuple(x_T.shape)}.")
    cond = expand_cond(cond.to(x_T.device), len(x_T))
    x = x_T if x_T.dtype == torch.float64 else x_T.float()
    yield x_T
    for t, s in itertools.pairwise([*timesteps, -1]):
        x = sampler.step(x, denoise(x, t, cond).to(x), t, s)
        yield x.to(x_T.dtype)


def sample(denoise, x_T: Tensor, cond: Tensor, sampler, steps: int = 10) -> Tensor:
    """The images at the end of `trajectory`: (B, C, H, W), in [-1, 1] unless the sampler does not clip."""
    return deque(trajectory(denoise, x_T, cond, sampler, steps), maxlen=1).pop()


def generate(
    model,
    cond,
    n: int = 1,
    *,
    guidance_scale: float = 1.0,
    steps: int = 10,
    sampler=None,
    seed: int = 0,
    weak=None,
    weak_scale: float = 1.0,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """Generated images (N, C, H, W) in [-1, 1], on the CPU; the model runs on its own device.

    The initial noise is `noise(N, shape, seed)`. All random numbers of image i depend on the seed and on i, so the batch size
    changes results by rounding only.

    Args:
        model: what `load` returns, or a `Denoiser`.
        cond: values such as {"Smiling": True} or a vector (K,), for n images; or rows (N, K), one image each.
        sampler: a class or an instance; by default `default_sampler`.
        weak, weak_scale: the weaker model and the guidance scale of autoguidance; at scale 1 the weaker model has no effect.
    """
    denoiser, weak = getattr(model, "denoiser", model), getattr(weak, "denoiser", weak)
    if denoiser is None:
        raise ValueError(f"{model.name} is a classifier: only a denoiser generates images.")
    cond = denoiser.attributes.encode(**cond) if isinstance(cond, dict) else cond
    if n < 1 or cond.ndim not in (1, 2) or len(cond) == 0 or (cond.ndim == 2 and n != 1):
        raise ValueError(f"cond must be (K,) for n images or rows (N, K) with n=1, got {tuple(cond.shape)} and n={n}.")
    conds = cond.expand(n, -1) if cond.ndim == 1 else cond
    sampler = sampler or default_sampler(denoiser.schedule)
    sampler = sampler(denoiser.schedule) if isinstance(sampler, type) else copy.copy(sampler)
    guided = cfg(denoiser, guidance_scale)
    guided = guided if weak is None else autoguidance(guided, weak, weak_scale)
    generator, images = torch.Generator().manual_seed(seed), []
    seeds = torch.randint(2**62, (len(conds),), generator=torch.Generator().manual_seed(seed))
    batches = zip(conds.split(batch_size), seeds.split(batch_size), strict=True)
    for part, fresh in tqdm(list(batches), disable=not progress):
        x_T = torch.stack([torch.randn(denoiser.shape, generator=generator) for _ in part]).to(denoiser.device)
        if sampler.stochastic:
            sampler.generator = [torch.Generator().manual_seed(one) for one in fresh.tolist()]
        images.append(sample(guided, x_T, part.to(x_T.device), sampler, steps).clamp(-1, 1).cpu())
    return torch.cat(images)
