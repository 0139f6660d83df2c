"""Schedules: how much picture and how much noise is left at each tick (lesson 01).

    x_t = signal_t x_0 + sigma_t eps                                 (Ho et al. 2020, eq. 4)

A schedule is these two rates and nothing else. Ticks are integers as in diffusers: 0 is almost clean, the last
one (999 of 1,000) almost or purely noise, and -1 stands for the clean picture itself.
EDM's sigma (Karras et al. 2022) is sigma_t / signal_t here.
"""

import math

import torch
from torch import Tensor

PREDICTIONS = ("eps", "velocity", "x_0")
SPACINGS = ("trailing", "leading", "linspace")


class Schedule:
    """Signal and noise rates, tick by tick.

    Args:
        signal: (ticks,) scale on the picture, falling, in [0, 1].
        sigma: (ticks,) scale on the noise, rising, in (0, 1].
        name: what plots and errors call it.

    Raises:
        ValueError: where the rates are not two falling and rising curves of one length.
    """

    def __init__(self, signal: Tensor, sigma: Tensor, name: str = "schedule"):
        signal, sigma = torch.as_tensor(signal, dtype=torch.float64), torch.as_tensor(sigma, dtype=torch.float64)
        if signal.ndim != 1 or signal.shape != sigma.shape or len(signal) == 0:
            raise ValueError(f"a schedule needs two rates a tick, got {tuple(signal.shape)} and {tuple(sigma.shape)}.")
        inside = ((signal >= 0) & (signal <= 1) & (sigma > 0) & (sigma <= 1)).all()
        if not inside or not (signal.diff() <= 0).all() or not (sigma.diff() >= 0).all():
            raise ValueError(f"{name}: signal must fall from 1 towards 0, and sigma rise from above 0 towards 1.")
        self.name = name
        clean = torch.ones(1, dtype=torch.float64)
        # The clean picture stands last, so that indexing with tick -1 finds it.
        self.signal, self.sigma = torch.cat([signal, clean]), torch.cat([sigma, clean * 0])
        self.variance_preserving = bool(torch.allclose(self.signal**2 + self.sigma**2, clean))

    def __len__(self) -> int:
        """The number of ticks, the clean picture not counted."""
        return len(self.signal) - 1

    def __repr__(self) -> str:
        return f"{self.name}({len(self)})"

    def __call__(self, t):
        """(signal_t, sigma_t): two floats for an int tick, two (B, 1, 1, 1) tensors for ticks (B,)."""
        if isinstance(t, Tensor) and t.ndim:
            return self.rates(t, torch.empty((), dtype=torch.get_default_dtype(), device=t.device))
        t = self._index(t)
        return self.signal[t].item(), self.sigma[t].item()

    def rates(self, t, like: Tensor):
        """The same two, in the dtype and on the device of `like`; (B, 1, 1, 1) also for an int tick, with B = 1."""
        t = self._index(t)
        shape = (-1, 1, 1, 1)
        return (
            self.signal[t].to(like.device, like.dtype).reshape(shape),
            self.sigma[t].to(like.device, like.dtype).reshape(shape),
        )

    def _index(self, t):
        if isinstance(t, Tensor):
            ticks = t.to("cpu", torch.int64) if t.device.type != "meta" else torch.zeros(t.shape, dtype=torch.int64)
            lowest, highest = (int(ticks.min()), int(ticks.max())) if ticks.numel() else (0, 0)
        else:
            if isinstance(t, bool) or int(t) != t:
                raise ValueError(f"a tick is a whole number, got {t!r}.")
            ticks = lowest = highest = int(t)
        if lowest < -1 or highest >= len(self):
            wrong = lowest if lowest < -1 else highest
            raise ValueError(f"tick {wrong} is outside this schedule: from -1 (clean) to {len(self) - 1}.")
        return ticks

    @property
    def alpha_bar(self) -> Tensor:
        """(ticks,) signal variance left, float64."""
        return self.signal[:-1] ** 2

    @property
    def betas(self) -> Tensor:
        """(ticks,) the noise variance added by each tick, float64: what diffusers' schedulers are made from."""
        if not self.variance_preserving:
            raise ValueError(f"{self.name} does not preserve variance, so it has no betas.")
        return 1 - self.alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])

    def snr(self, t):
        """Signal-to-noise ratio (signal_t / sigma_t)^2, infinite at tick -1; float, or (B, 1, 1, 1)."""
        signal, sigma = self(t)
        if isinstance(sigma, float):
            return (signal / sigma) ** 2 if sigma else math.inf
        return (signal / sigma) ** 2

    def add_noise(self, x_0: Tensor, eps: Tensor, t) -> Tensor:
        """x_t from the clean picture and the noise, both (B, C, H, W); t an int or (B,). Ho et al. 2020, eq. 4."""
        signal, sigma = self.rates(t, like=x_0)
        return signal * x_0 + sigma * eps

    def eps_from(self, x_t: Tensor, x_0: Tensor, t) -> Tensor:
        """The noise that x_t holds if x_0 is the clean picture."""
        signal, sigma = self.rates(t, like=x_t)
        return (x_t - signal * x_0) / sigma

    def velocity(self, x_0: Tensor, eps: Tensor, t) -> Tensor:
        """a eps - b x_0: Salimans and Ho 2022, eq. 9 where variance is preserved, else the straight line's direction."""
        a, b = self._velocity_rates(t, like=x_0)
        return a * eps - b * x_0

    def _velocity_rates(self, t, like):
        signal, sigma = self.rates(t, like)
        return (signal, sigma) if self.variance_preserving else (torch.ones_like(signal), torch.ones_like(sigma))

    def target(self, x_0: Tensor, eps: Tensor, t, predicts: str = "velocity") -> Tensor:
        """What a network that `predicts` eps, velocity or x_0 should say."""
        _known(predicts)
        return {"eps": lambda: eps, "velocity": lambda: self.velocity(x_0, eps, t), "x_0": lambda: x_0}[predicts]()

    def x_0_from(self, x_t: Tensor, said: Tensor, t, predicts: str = "velocity") -> Tensor:
        """The clean picture behind x_t, given what the network said; computed in float32 at least.

        eps at cosine's last tick is magnified 20,291 times on its way to x_0 (half precision would drown in it), and
        where signal is 0 no x_0 follows from eps at all: ValueError. Velocity has neither trouble.
        """
        _known(predicts)
        wide = torch.float64 if torch.float64 in (x_t.dtype, said.dtype) else torch.float32
        x_t, said = x_t.to(wide), said.to(wide)
        signal, sigma = self.rates(t, like=x_t)
        if predicts == "x_0":
            return said
        if predicts == "eps":
            if x_t.device.type != "meta" and (signal == 0).any():
                raise ValueError(
                    f"{self.name} has a tick of pure noise, from where no x_0 follows from eps: predict velocity."
                )
            return (x_t - sigma * said) / signal
        a, b = self._velocity_rates(t, like=x_t)
        return (a * x_t - sigma * said) / (a * signal + b * sigma)

    def ticks(self, steps: int, spacing: str = "trailing") -> list[int]:
        """`steps` ticks, evenly spaced, from noisy to clean.

        Args:
            spacing: as diffusers calls it. "trailing" starts where pure noise is: 999, 899, ... 99. "leading", many a
                diffusers scheduler's default, ends at the cleanest tick and never sees the last: 900, 800, ... 0.
                "linspace" has both ends: 999, 888, ... 0. (Lin et al. 2023, table 2.)

        Raises:
            ValueError: unless steps is a whole number from 1 to the number of ticks, or for another spacing.
        """
        if spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}.")
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= len(self):
            raise ValueError(f"steps must be a whole number from 1 to {len(self)}, got {steps!r}.")
        if spacing == "leading":
            return [len(self) // steps * i for i in range(steps)][::-1]
        if spacing == "linspace":
            return [round((len(self) - 1) * i / max(1, steps - 1)) for i in range(steps)][::-1]
        return [round(len(self) * (steps - i) / steps) - 1 for i in range(steps)]

    def zero_terminal_snr(self) -> "Schedule":
        """The same schedule, shifted and stretched so that its last tick is pure noise. Lin et al. 2023, algorithm 1."""
        signal = self.signal[:-1]
        if signal[-1] == 0:
            return self
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        return Schedule(signal, (1 - signal**2).sqrt(), f"{self.name}, zero terminal SNR")


def from_alpha_bar(alpha_bar: Tensor, name: str) -> Schedule:
    """A variance-preserving schedule from the signal variance left at each tick."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    return Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), name)


def linear(ticks: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Betas on a straight line from `first` to `last`: Ho et al. 2020, section 4. Made for 1,000 ticks."""
    betas = torch.linspace(first, last, _whole(ticks), dtype=torch.float64)
    return from_alpha_bar((1 - betas).cumprod(0), "linear")


def cosine(ticks: int = 1000, s: float = 0.008, most: float = 0.999) -> Schedule:
    """alpha_bar along a squared cosine, each beta at most `most`: Nichol and Dhariwal 2021, eq. 17."""
    u = torch.arange(_whole(ticks) + 1, dtype=torch.float64) / ticks
    curve = ((u + s) / (1 + s) * math.pi / 2).cos() ** 2
    betas = (1 - curve[1:] / curve[:-1]).clamp(max=most)
    return from_alpha_bar((1 - betas).cumprod(0), "cosine")


def sigmoid(ticks: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_bar along a sigmoid from `start` to `end`, at least 1e-9: Jabri et al. 2023, algorithm 1 (appendix)."""
    u = torch.arange(1, _whole(ticks) + 1, dtype=torch.float64) / ticks
    low, high = (torch.tensor(v / tau, dtype=torch.float64).sigmoid() for v in (start, end))
    alpha_bar = (high - ((u * (end - start) + start) / tau).sigmoid()) / (high - low)
    return from_alpha_bar(alpha_bar.clamp(min=1e-9), "sigmoid")


def straight(ticks: int = 1000) -> Schedule:
    """A straight line from picture to noise, signal 1 - u and noise u: rectified flow, Liu et al. 2023, eq. 1."""
    u = torch.arange(1, _whole(ticks) + 1, dtype=torch.float64) / ticks
    return Schedule(1 - u, u, "straight")


def _known(predicts: str) -> None:
    if predicts not in PREDICTIONS:
        raise ValueError(f"a network predicts one of {', '.join(PREDICTIONS)}, got {predicts!r}.")


def _whole(ticks) -> int:
    if isinstance(ticks, bool) or not isinstance(ticks, int) or ticks < 1:
        raise ValueError(f"ticks must be a whole number above 0, got {ticks!r}.")
    return ticks


SCHEDULES = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid, "straight": straight}
