"""Sampling: from pure noise to a picture, one small step at a time (lessons 02 and 04).

    x_s = signal_s x_0_hat + sigma_s eps_hat                          (Song et al. 2021, eq. 12)

A solver makes one step from tick t to tick s; `trajectory` asks a denoise call and a solver in turn. Neither knows of
guidance: it is in the denoise call, or it is not.

As x_t = signal_t x_0_hat + sigma_t eps_hat, the step above moves x by (signal_s - signal_t) x_0_hat + (sigma_s - sigma_t)
eps_hat: Euler's method. What is of second order asks where the two guesses are on the way, and not only where it starts.
"""

import inspect
import numbers
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from facelab.attributes import one_each
from facelab.schedule import Schedule


class DDIM:
    """Separate the picture from the noise, then mix them anew, less noisy: Song et al. 2021, eq. 12 and 16.

    On `straight()` with eta 0 this is Euler's method for rectified flow.

    Args:
        schedule: the one that the denoiser was trained on.
        eta: 0 is deterministic, 1 adds as much fresh noise as DDPM does.
        clip: keep every guess at x_0 in [-1, 1].
        generator: where fresh noise comes from; a CPU generator gives the same noise on every device.
        spacing: of the ticks, as in `Schedule.ticks`.

    Raises:
        ValueError: for an eta outside [0, 1].
    """

    def __init__(
        self, schedule: Schedule, eta: float = 0.0, clip: bool = True, generator=None, spacing: str = "trailing"
    ):
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be from 0 (deterministic) to 1 (DDPM's noise), got {eta!r}.")
        self.schedule, self.eta, self.clip, self.generator = schedule, eta, clip, generator
        self.spacing = spacing

    def start(self, steps: int) -> list[int]:
        """The ticks of a new trajectory, from noisy to clean.

        Raises:
            ValueError: unless steps is a whole number from 1 to the number of ticks, or for an unknown spacing.
        """
        return self.schedule.ticks(steps, self.spacing)

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        """x_s (B, C, H, W) from x_t and x_0_hat of that shape; s = -1 is the clean picture itself.

        Args:
            x_t: at tick t, from 0 to len(schedule) - 1, noise and all.
            x_0_hat: the guess at the clean picture, in [-1, 1] or clipped to it.
            t, s: tick now and tick next, s below t and -1 at the lowest.
        """
        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat
        (signal_t, sigma_t), (signal_s, sigma_s) = self.schedule(t), self.schedule(s)
        eps_hat = (x_t - signal_t * x_0_hat) / sigma_t
        fresh = self.eta * sigma_s * max(0.0, 1 - (signal_t * sigma_s / (signal_s * sigma_t)) ** 2) ** 0.5
        x_s = signal_s * x_0_hat + max(0.0, sigma_s**2 - fresh**2) ** 0.5 * eps_hat
        return x_s + fresh * noise_like(x_t, self.generator) if fresh else x_s


class AdamsBashforth:
    """Second order at no extra call: the guesses are carried on to half way along the line from the last two.

    The two-step formula of Adams and Bashforth for steps of unequal length (Hairer, Norsett and Wanner 1993, III.5), on
    Euler's step as it stands above. The first step has no past, and is DDIM's.

    Args:
        schedule, clip, spacing: as for `DDIM`.
    """

    def __init__(self, schedule: Schedule, clip: bool = True, spacing: str = "trailing"):
        self.schedule, self.clip, self.spacing, self.past = schedule, clip, spacing, None

    def start(self, steps: int) -> list[int]:
        """The ticks of a new trajectory, from noisy to clean; what was remembered of another one is forgotten.

        Raises:
            ValueError: as `DDIM.start`.
        """
        self.past = None
        return self.schedule.ticks(steps, self.spacing)

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        """x_s (B, C, H, W) from x_t, x_0_hat and the guesses of the step before; arguments as for `DDIM.step`."""
        x_0_hat, eps_hat = _guesses(self, x_t, x_0_hat, t)
        before, x_0_before, eps_before = self.past or (t + 1, x_0_hat, eps_hat)
        self.past = t, x_0_hat, eps_hat
        on = (t - s) / (before - t) / 2
        halfway = x_0_hat + on * (x_0_hat - x_0_before), eps_hat + on * (eps_hat - eps_before)
        x_s = _moved(self.schedule, x_t, *halfway, t, s)
        return x_s.clamp(-1, 1) if self.clip and s == -1 else x_s


class Heun:
    """Second order by looking before moving: the mean of the guesses at both ends of a step (Karras et al. 2022, algorithm 1).

    Every tick but the first is asked twice: first at the end of Euler's step, which is then done again with the mean of
    both guesses, then to go on. An even number of calls makes the first step Euler's, and the last one always is.

    Args:
        schedule, clip, spacing: as for `DDIM`.
    """

    def __init__(self, schedule: Schedule, clip: bool = True, spacing: str = "trailing"):
        self.schedule, self.clip, self.spacing, self.past = schedule, clip, spacing, None

    def start(self, steps: int) -> list[int]:
        """The ticks of a new trajectory of so many calls, each but the first twice.

        Raises:
            ValueError: unless steps is a whole number from 1 to one less than twice the number of ticks, or for an unknown
                spacing.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 2 * len(self.schedule) - 1:
            raise ValueError(f"Heun takes from 1 to {2 * len(self.schedule) - 1} calls, got {steps!r}.")
        first, *others = self.schedule.ticks(steps // 2 + 1, self.spacing)
        ticks = [first, *(tick for tick in others for _ in range(2))]
        if steps % 2 == 0:
            del ticks[1]
        return ticks

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        """Euler's x_s (B, C, H, W); or, where s is t, the x_t to which the mean of both guesses would have led.

        Arguments as for `DDIM.step`, but that s may be t, where `start` has a tick twice.
        """
        x_0_hat, eps_hat = _guesses(self, x_t, x_0_hat, t)
        if s != t:
            self.past = x_t, t, x_0_hat, eps_hat
            signal_s, sigma_s = self.schedule(s)
            return signal_s * x_0_hat + sigma_s * eps_hat
        x, before, x_0_before, eps_before = self.past
        return _moved(self.schedule, x, (x_0_hat + x_0_before) / 2, (eps_hat + eps_before) / 2, before, t)


def _guesses(solver, x_t, x_0_hat, t):
    x_0_hat = x_0_hat.clamp(-1, 1) if solver.clip else x_0_hat
    signal_t, sigma_t = solver.schedule(t)
    return x_0_hat, (x_t - signal_t * x_0_hat) / sigma_t


def _moved(schedule, x_t, x_0_hat, eps_hat, t, s):
    (signal_t, sigma_t), (signal_s, sigma_s) = schedule(t), schedule(s)
    return x_t + (signal_s - signal_t) * x_0_hat + (sigma_s - sigma_t) * eps_hat


class DDPM:
    """The ancestral step, a draw from the posterior q(x_s | x_t, x_0_hat): Ho et al. 2020, eq. 6 and 7.

    Args:
        schedule, clip, generator: as for `DDIM`.
        variance: "small" is the posterior's own (eq. 7), "large" is beta itself; Ho et al. tried both (section 3.2).

    Raises:
        ValueError: for another variance.
    """

    def __init__(self, schedule: Schedule, clip: bool = True, generator=None, variance: str = "small"):
        if variance not in ("small", "large"):
            raise ValueError(f"variance must be 'small' or 'large', got {variance!r}.")
        self.schedule, self.clip, self.generator, self.variance = schedule, clip, generator, variance

    def start(self, steps: int) -> list[int]:
        """The ticks of a new trajectory, from noisy to clean.

        Raises:
            ValueError: unless steps is a whole number from 1 to the number of ticks.
        """
        return self.schedule.ticks(steps)

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        """x_s (B, C, H, W) from x_t and x_0_hat of that shape; arguments as for `DDIM.step`."""
        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat
        (signal_t, sigma_t), (signal_s, sigma_s) = self.schedule(t), self.schedule(s)
        kept = signal_t / signal_s
        beta = sigma_t**2 - kept**2 * sigma_s**2
        mean = (signal_s * beta * x_0_hat + kept * sigma_s**2 * x_t) / sigma_t**2
        variance = beta if self.variance == "large" else beta * sigma_s**2 / sigma_t**2
        return mean + variance**0.5 * noise_like(x_t, self.generator) if s >= 0 else mean


class FromDiffusers:
    """Any diffusers scheduler that fits, driven from one of our schedules.

    Args:
        scheduler: a class of diffusers, such as `UniPCMultistepScheduler`; a flow-matching one takes `straight()`, the
            others a variance-preserving schedule.
        schedule: the one that the denoiser was trained on.
        options: further arguments of the scheduler, such as `lambda_min_clipped=-5.1`.

    Raises:
        ValueError: for a scheduler that needs another kind of schedule, cannot take a guess at x_0, scales its pictures
            by another rule, calls the network twice a step, or runs the other way: it is tried on two steps.
    """

    def __init__(self, scheduler: type, schedule: Schedule, clip: bool = True, generator=None, **options):
        # Trying it out must not use up the caller's generator.
        self.schedule, self.clip, self.generator = schedule, clip, torch.Generator()
        self.flow = "FlowMatch" in scheduler.__name__
        if self.flow == schedule.variance_preserving:
            kind = "straight()" if self.flow else "a variance-preserving schedule"
            raise ValueError(f"{scheduler.__name__} needs {kind}, got {schedule.name}.")
        try:
            known = inspect.signature(scheduler.__init__).parameters
            fitting = {"prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False}
            fitting = {name: value for name, value in fitting.items() if name in known} | options
            betas = (
                {"num_train_timesteps": len(schedule)}
                if self.flow
                else {"trained_betas": schedule.betas.float().numpy()}
            )
            self.scheduler = scheduler(**betas, **fitting)
            self._try(steps=min(2, len(schedule)))
        except Exception as why:
            reason = str(why).strip().split("\n")[0].rstrip(".") or type(why).__name__
            raise ValueError(f"{scheduler.__name__} does not fit here: {reason}.") from why
        self.generator = generator

    def _try(self, steps: int) -> None:
        if not self.flow and "prediction_type" not in self.scheduler.config:
            raise ValueError("it cannot be told that the guess is at x_0")
        x, ticks = torch.zeros(1, 1, 2, 2), self.start(steps)
        if float(getattr(self.scheduler, "init_noise_sigma", 1)) != 1:
            raise ValueError("it scales its pictures by another rule")
        if len(ticks) != steps or sorted(ticks, reverse=True) != ticks:
            raise ValueError(f"its ticks are {ticks}, and should be {steps}, from noise to clean")
        for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
            x = self.step(x, x, t, s)

    def start(self, steps: int) -> list[int]:
        """The ticks of a new trajectory, from noisy to clean.

        Raises:
            ValueError: unless steps is a whole number from 1 to the number of ticks.
        """
        ticks = self.schedule.ticks(steps)
        if self.flow:
            self.scheduler.set_timesteps(sigmas=[self.schedule(t)[1] for t in ticks])
            return [round(float(t)) - 1 for t in self.scheduler.timesteps]
        self.scheduler.set_timesteps(steps)
        # For some counts diffusers' own rounding adds a tick behind the last one.
        if self.scheduler.timesteps[-1] < 0:
            self.scheduler.timesteps = self.scheduler.timesteps[:steps]
        return [int(t) for t in self.scheduler.timesteps]

    def step(self, x_t: Tensor, x_0_hat: Tensor, t: int, s: int) -> Tensor:
        """x_s (B, C, H, W) as the scheduler makes it; arguments as for `DDIM.step`."""
        x_0_hat = x_0_hat.clamp(-1, 1) if self.clip else x_0_hat
        if self.flow:
            said, now = self.schedule.eps_from(x_t, x_0_hat, t) - x_0_hat, torch.tensor(t + 1.0)
        else:
            said, now = x_0_hat, t
        noisy = (
            {"generator": self.generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        )
        return self.scheduler.step(said, now, x_t, **noisy).prev_sample


def noise_like(x: Tensor, generator=None) -> Tensor:
    """Standard normal noise of x's shape, drawn on the CPU (or the generator's device) and then moved."""
    where = generator.device if generator is not None else "cpu"
    return torch.randn(x.shape, generator=generator, device=where, dtype=x.dtype).to(x.device)


def noise(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """x_T: (count, C, H, W) of pure noise, drawn on the CPU. One seed draws the same pictures, whatever the count.

    Args:
        count: pictures, 1 or more.
        shape: of one of them, (C, H, W).
        seed: any whole number that torch's generators take.

    Raises:
        ValueError: for a count that is no whole number from 1 on.
    """
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
        raise ValueError(f"noise is for 1 picture or more, got count={count!r}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])


@torch.no_grad()
def trajectory(denoise, x_T: Tensor, cond: Tensor, solver, steps: int) -> Iterator[Tensor]:
    """Every station on the way from noise to picture, x_T first and the picture last: steps + 1 frames (B, C, H, W).

    Args:
        denoise: a Denoiser, an ideal one, or either under guidance.
        x_T: (B, C, H, W) pure noise. Frames have its dtype and device; the arithmetic is in float32 at least.
        cond: (B, K), (1, K) or (K,) in [-1, 1].
        solver: `DDPM`, `DDIM`, ...
        steps: how many calls, from 1 to the number of ticks.

    Raises:
        ValueError: for steps or shapes that do not fit.
    """
    if x_T.ndim != 4:
        raise ValueError(f"x_T must be (B, C, H, W), got {tuple(x_T.shape)}.")
    cond, ticks = one_each(cond.to(x_T.device), len(x_T)), solver.start(steps)
    x = x_T if x_T.dtype == torch.float64 else x_T.float()
    yield x_T
    for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
        x = solver.step(x, denoise(x, t, cond).to(x), t, s)
        yield x.to(x_T.dtype)


def sample(denoise, x_T: Tensor, cond: Tensor, solver, steps: int = 10) -> Tensor:
    """The picture at the end of `trajectory`: (B, C, H, W) in x_T's dtype, in [-1, 1] unless the solver does not clip.

    Raises:
        ValueError: as `trajectory`.
    """
    return deque(trajectory(denoise, x_T, cond, solver, steps), maxlen=1).pop()
