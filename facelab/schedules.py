"""Noise schedules: how much of the image and how much noise x_t holds at each timestep (lesson 01).

    x_t = signal_t x_0 + sigma_t eps                                 (forward process; Ho et al. 2020, eq. 4)

A schedule is these two rates; DDPM's alpha_bar_t is signal_t^2, EDM's sigma (Karras et al. 2022) is sigma_t / signal_t. Timesteps
are integers as in diffusers: 0 is almost clean, the last one (999 of 1,000) almost or purely noise, and -1 is the clean image.
"""

import itertools
import math
import operator

import torch
from torch import Tensor

PREDICTION_TYPES = ("eps", "v", "x_0")


class Schedule:
    """The two rates, each (num_timesteps,): `signal` decreases within [0, 1], `sigma` increases within (0, 1].

    As attributes both have one more value, that of the clean image, so that timestep -1 indexes it. `shift`, at least 1, spaces
    the timesteps of a sampler; 1 spaces them evenly.
    """

    shift = 1.0

    def __init__(self, signal: Tensor, sigma: Tensor, name: str = "schedule"):
        signal, sigma = torch.as_tensor(signal, dtype=torch.float64), torch.as_tensor(sigma, dtype=torch.float64)
        valid = signal.ndim == 1 and signal.shape == sigma.shape and len(signal) > 0
        valid = valid and 0 <= signal.min() and signal.max() <= 1 and 0 < sigma.min() and sigma.max() <= 1
        if not valid or (signal.diff() > 0).any() or (sigma.diff() < 0).any():
            raise ValueError(f"{name}: signal must decrease within [0, 1] and sigma, as long, increase within (0, 1].")
        self.signal, self.sigma = torch.cat([signal, signal.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)])
        self.variance_preserving = bool(torch.allclose(self.signal**2 + self.sigma**2, signal.new_ones(1)))
        self.name, self._tables = name, {}

    def __len__(self) -> int:
        return len(self.signal) - 1

    def __repr__(self) -> str:
        return f"{self.name}({len(self)})"

    def __call__(self, t):
        """(signal_t, sigma_t): two floats for an int timestep, two (B, 1, 1, 1) tensors for timesteps (B,)."""
        if isinstance(t, Tensor) and t.ndim:
            return self.rates(t, torch.empty((), device=t.device))
        t = self._index(t)
        return self.signal[t].item(), self.sigma[t].item()

    def rates(self, t, like: Tensor):
        """The same two in the dtype and on the device of `like`, (B, 1, 1, 1), with B = 1 for an int timestep."""
        t, key = self._index(t), (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = tuple(rate.to(like.dtype).to(like.device) for rate in (self.signal, self.sigma))
        t = t.to(like.device) if isinstance(t, Tensor) else t
        return tuple(rate[t].reshape(-1, 1, 1, 1) for rate in self._tables[key])

    def _index(self, t):
        if isinstance(t, Tensor) and t.ndim:
            # Timesteps on a GPU are not checked, because the CPU would have to wait for it.
            ends = t.aminmax() if t.numel() and t.device.type == "cpu" else ()
            t = t.long()
        else:
            t = operator.index(t)
            ends = (t,)
        for end in ends:
            if not -1 <= end < len(self):
                raise ValueError(f"timestep {int(end)} is outside this schedule: from -1 (clean) to {len(self) - 1}.")
        return t

    @property
    def alpha_bar(self) -> Tensor:
        """(num_timesteps,) signal_t^2, float64."""
        return self.signal[:-1] ** 2

    @property
    def betas(self) -> Tensor:
        """(num_timesteps,) noise variance that each timestep adds, float64; diffusers' schedulers are made from it."""
        if not self.variance_preserving:
            raise ValueError(f"{self.name} does not preserve variance, so it has no betas.")
        return 1 - self.alpha_bar / torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    def snr(self, t):
        """Signal-to-noise ratio (signal_t / sigma_t)^2, infinite at timestep -1: a float, or (B, 1, 1, 1)."""
        signal, sigma = self(t)
        return (signal / sigma) ** 2 if isinstance(sigma, Tensor) or sigma else math.inf

    def add_noise(self, x_0: Tensor, eps: Tensor, t) -> Tensor:
        """x_t from the clean images and the noise, both (B, C, H, W), t an int or (B,): Ho et al. 2020, eq. 4."""
        signal, sigma = self.rates(t, like=x_0)
        return signal * x_0 + sigma * eps

    def to_eps(self, x_t: Tensor, x_0_hat: Tensor, t) -> Tensor:
        """The noise in x_t if x_0_hat is the clean image."""
        signal, sigma = self.rates(t, like=x_t)
        return (x_t - signal * x_0_hat) / sigma

    def euler(self, x_t: Tensor, x_0_hat: Tensor, eps_hat: Tensor, t: int, s: int) -> Tensor:
        """x at timestep s by Euler's method for the probability-flow ODE, where both predictions are constant."""
        (signal_t, sigma_t), (signal_s, sigma_s) = self(t), self(s)
        return x_t + (signal_s - signal_t) * x_0_hat + (sigma_s - sigma_t) * eps_hat

    def velocity(self, x_0: Tensor, eps: Tensor, t) -> Tensor:
        """signal_t eps - sigma_t x_0 (v-prediction, Salimans and Ho 2022, eq. 9); on rectified flow eps - x_0."""
        a, b = self.rates(t, like=x_0) if self.variance_preserving else (1, 1)
        return a * eps - b * x_0

    def target(self, x_0: Tensor, eps: Tensor, t, prediction_type: str = "v") -> Tensor:
        """The training target of a network that predicts "eps", "v" or "x_0"."""
        return self.velocity(x_0, eps, t) if prediction_type == "v" else {"eps": eps, "x_0": x_0}[prediction_type]

    def to_x_0(self, x_t: Tensor, prediction: Tensor, t, prediction_type: str = "v") -> Tensor:
        """x_0_hat from the network's prediction, computed in float32 at least.

        An error in eps is multiplied by sigma_t / signal_t: 20,291 at the last timestep of `cosine`. Where signal_t is 0, eps gives
        no x_0, which raises an error. v-prediction has neither problem.
        """
        wide = torch.float64 if torch.float64 in (x_t.dtype, prediction.dtype) else torch.float32
        x_t, prediction = x_t.to(wide), prediction.to(wide)
        signal, sigma = self.rates(t, like=x_t)
        if prediction_type == "eps":
            if self.signal[-2] == 0 and (signal == 0).any():
                raise ValueError(f"{self.name} has a timestep of pure noise, where eps gives no x_0: predict v.")
            return (x_t - sigma * prediction) / signal
        if prediction_type == "v":
            a, b = (signal, sigma) if self.variance_preserving else (1, 1)
            return (a * x_t - sigma * prediction) / (a * signal + b * sigma)
        return {"x_0": prediction}[prediction_type]

    def timesteps(self, steps: int) -> list[int]:
        """From the last one to a clean one: 999, 899, ... 99 ("trailing", Lin et al. 2023, table 2).

        A `shift` above 1 moves them towards noise by u -> shift u / (1 + (shift - 1) u) (Esser et al. 2024, eq. 23).
        """
        if not isinstance(steps, int) or not 1 <= steps <= len(self):
            raise ValueError(f"steps must be a whole number from 1 to {len(self)}, got {steps!r}.")
        spaced = [round(len(self) * self.shift * i / (steps + (self.shift - 1) * i)) for i in range(steps, 0, -1)]
        return [t - 1 for t in itertools.accumulate(spaced, lambda before, t: min(before - 1, t))]  # none twice

    def step_pairs(self, steps: int) -> list[tuple[int, int]]:
        """The timesteps (t, s) of each sampler step from t to s; the last s is -1, the clean image."""
        timesteps = self.timesteps(steps)
        return list(itertools.pairwise([*timesteps, -1]))

    def rescale_zero_terminal_snr(self) -> "Schedule":
        """The same schedule, signal shifted and scaled so that its last timestep is pure noise (Lin et al. 2023, algorithm 1)."""
        first, last = self.signal[0], self.signal[-2]
        signal = (self.signal[:-1] - last) * first / (first - last)
        return Schedule(signal, (1 - signal**2).sqrt(), f"{self.name}, zero terminal SNR") if last else self


def from_alpha_bar(alpha_bar: Tensor, name: str) -> Schedule:
    """The variance-preserving schedule with these alpha_bar_t = signal_t^2."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    return Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), name)


def linear(num_timesteps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Betas linear from `first` to `last`, which are meant for 1,000 timesteps: Ho et al. 2020, section 4."""
    betas = torch.linspace(first, last, len(_times(num_timesteps)), dtype=torch.float64)
    return from_alpha_bar((1 - betas).cumprod(0), "linear")


def cosine(num_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar is a squared cosine, each beta at most `max_beta`: Nichol and Dhariwal 2021, eq. 17."""
    u = torch.cat([torch.zeros(1, dtype=torch.float64), _times(num_timesteps)])
    curve = ((u + s) / (1 + s) * math.pi / 2).cos() ** 2
    return from_alpha_bar((1 - (1 - curve[1:] / curve[:-1]).clamp(max=max_beta)).cumprod(0), "cosine")


def sigmoid(num_timesteps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_bar is a sigmoid between `start` and `end`, at least 1e-9: Jabri et al. 2023, algorithm 1 (appendix)."""
    low, high = (torch.tensor(v / tau, dtype=torch.float64).sigmoid() for v in (start, end))
    alpha_bar = (high - ((_times(num_timesteps) * (end - start) + start) / tau).sigmoid()) / (high - low)
    return from_alpha_bar(alpha_bar.clamp(min=1e-9), "sigmoid")


def rectified_flow(num_timesteps: int = 1000) -> Schedule:
    """Linear interpolation of image and noise, signal 1 - u and sigma u: rectified flow, Liu et al. 2023, eq. 1."""
    return Schedule(1 - _times(num_timesteps), _times(num_timesteps), "rectified_flow")


def _times(num_timesteps: int) -> Tensor:
    if not isinstance(num_timesteps, int) or num_timesteps < 1:
        raise ValueError(f"num_timesteps must be a whole number above 0, got {num_timesteps!r}.")
    return torch.arange(1, num_timesteps + 1, dtype=torch.float64) / num_timesteps


SCHEDULES = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid, "rectified_flow": rectified_flow}
