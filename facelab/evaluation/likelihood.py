"""The variational bound (ELBO) on -log2 p(image), step by step, in bits per dimension.

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = (snr(s) - snr(t)) / 2 * |x_0 - x_0_hat|^2      (nats: Kingma et al. 2021, eq. 13)

The model is the ancestral chain, `DDPM.step` with the small variance. Both distributions are Gaussians of one variance, so
only the ratio of a schedule's two rates enters. The last step is a Gaussian around the last x_0 prediction, discretized to
the 256 levels of an image, so that probabilities are at most 1 and bits at least 0.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.schedules import Schedule


class Elbo(NamedTuple):
    """Bits per dimension of each image, by term: `prior` (N,) of x_T, `steps` (N, S) between the S + 1 `timesteps`, and
    `decoder` (N,) of the levels given the last x_t."""

    timesteps: list[int]
    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """(N,) an upper bound of -log2 p(image) / D, in expectation over the noise."""
        return self.prior + self.steps.sum(1) + self.decoder


@torch.no_grad()
def elbo(
    denoise, x_0: Tensor, cond: Tensor, schedule: Schedule, timesteps: list[int], clip=True, levels=256, seed=0
) -> Elbo:
    """The bound on p(image | cond) under the chain over `timesteps`, with one noise per image and timestep.

    Args:
        x_0: (N, C, H, W) in [-1, 1], every value on one of `levels` evenly spaced values.
        cond: (K,) or (N, K).
        timesteps: decreasing, such as `log_snr_timesteps` gives; more of them give a tighter bound.
        clip: clip x_0 predictions to [-1, 1], as the samplers do.
    """
    if len(timesteps) < 2 or any(s >= t for t, s in itertools.pairwise(timesteps)) or timesteps[-1] < 0:
        raise ValueError(f"timesteps must decrease, at least two of them, to 0 or above; got {timesteps}.")
    if ((index := (x_0 + 1) * (levels - 1) / 2) - index.round()).abs().max() > 0.01:
        raise ValueError(f"images must have {levels} levels from -1 to 1: round them first.")
    generator, cond = torch.Generator().manual_seed(seed), cond.expand(len(x_0), -1)

    def predict(t):
        x_t = schedule.add_noise(x_0, torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype).to(x_0), t)
        x_0_hat = denoise(x_t, t, cond)
        return x_0_hat.clamp(-1, 1) if clip else x_0_hat

    nats = []
    for t, s in itertools.pairwise(timesteps):
        error = (predict(t) - x_0).double().square().flatten(1).mean(1)
        nats.append((schedule.snr(s) - schedule.snr(t)) / 2 * error)
    signal, sigma = schedule(timesteps[-1])
    decoder = discretized_gaussian_bits(x_0, predict(timesteps[-1]), sigma / signal, levels).flatten(1).mean(1)
    signal, sigma = schedule(timesteps[0])
    prior = (sigma**2 + (signal * x_0.double()) ** 2 - 1) / 2 - math.log(sigma)
    return Elbo(timesteps, prior.flatten(1).mean(1) / math.log(2), torch.stack(nats, 1) / math.log(2), decoder)


def discretized_gaussian_bits(x: Tensor, mean, std, levels: int = 256) -> Tensor:
    """-log2 of a Gaussian's mass in the bin of each value's level (Ho et al. 2020, eq. 13), float64.

    A bin reaches half way to its neighbours, the first and last to infinity, so that all masses sum to one.
    """
    half, x = 1 / (levels - 1), x.double()
    mean, std = (torch.as_tensor(value, device=x.device).double() for value in (mean, std))
    low = torch.where(x <= -1 + half, -torch.inf, (x - half - mean) / std)
    high = torch.where(x >= 1 - half, torch.inf, (x + half - mean) / std)
    # The upper tail has no digits left, so a bin there is mirrored into the lower one.
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    log_low, log_high = (torch.special.log_ndtr(end) for end in (low, high))
    return -(log_high + torch.log1p(-(log_low - log_high).exp())) / math.log(2)


def log_snr_timesteps(schedule: Schedule, steps: int, last: int = 0) -> list[int]:
    """At most `steps` + 1 timesteps from the noisiest to `last`, evenly spaced in log(1 + snr).

    For data of variance 1 a step's cost grows with its length on that scale, so no step costs far more than another.
    """
    if steps < 1 or not 0 <= last < len(schedule) - 1:
        raise ValueError(f"steps must be at least 1 and last from 0 to {len(schedule) - 2}, got {steps} and {last}.")
    position = (1 + schedule.snr(torch.arange(last, len(schedule))).flatten().double()).log()
    wanted = torch.linspace(position[0].item(), position[-1].item(), steps + 1, dtype=torch.float64)
    return sorted({last + i for i in (position[:, None] - wanted).abs().argmin(0).tolist()}, reverse=True)
