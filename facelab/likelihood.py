"""What the loss has to do with likelihood: a bound on -log2 p(picture), tick by tick, in bits per number (lesson 05).

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = (snr(s) - snr(t)) / 2 * |x_0 - x_0_hat|^2      (nats: Kingma et al. 2021, eq. 13)

The model is the ancestral chain: `DDPM.step` with its small variance, the guess standing where the posterior has x_0. Both are
Gaussians of one variance, so that the two rates of a schedule, whatever their squares add up to, only enter by their ratio.

A picture has 256 levels, so its probability, unlike a density, is at most 1 and its bits are at least 0. The last step is a
Gaussian around the last guess, with the noise's own width, whose mass over a level's bin is what the level gets.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.schedule import Schedule


class Bound(NamedTuple):
    """Bits per number of each picture: what its likelihood costs at most, and where that is paid.

    `prior` (N,) is for x_T, which is not quite pure noise; `steps` (N, S) are for the S steps between `ticks`, of which
    there are S + 1, from noisy to clean; `levels` (N,) are for the levels, given what the last tick holds.
    """

    ticks: list[int]
    prior: Tensor
    steps: Tensor
    levels: Tensor

    @property
    def total(self) -> Tensor:
        """(N,) the bound: -log2 p(picture) / D is at most this, but for the luck of the noise that was drawn."""
        return self.prior + self.steps.sum(1) + self.levels


def bound(
    denoise,
    x_0: Tensor,
    cond: Tensor,
    schedule: Schedule,
    ticks: list[int],
    clip: bool = True,
    levels: int = 256,
    seed=0,
) -> Bound:
    """The variational bound of pictures under the chain over `ticks`, one noise drawn for each picture and tick.

    Args:
        denoise: a denoise call. Any will do: the bound holds for the chain that it makes, good or bad.
        x_0: (N, C, H, W) pictures in [-1, 1] whose numbers are one of so many `levels`.
        cond: (K,) or (N, K): the bound is on p(picture | cond).
        ticks: from noisy to clean, such as `ladder` gives. The more, the tighter; where they end, the levels begin.
        clip: keep every guess in [-1, 1], as the samplers do.
        levels: evenly spaced from -1 to 1.

    Raises:
        ValueError: for ticks that do not fall, or numbers that lie on no level.
    """
    if len(ticks) < 2 or any(s >= t for t, s in itertools.pairwise(ticks)) or ticks[-1] < 0:
        raise ValueError(f"ticks must fall, from at least two of them, to 0 or above; got {ticks}.")
    if ((off := (x_0 + 1) * (levels - 1) / 2) - off.round()).abs().max() > 0.01:
        raise ValueError(f"pictures must have {levels} levels from -1 to 1: round them first.")
    generator, numbers, cond = torch.Generator().manual_seed(seed), x_0[0].numel(), cond.expand(len(x_0), -1)

    def guess(t):
        x_t = schedule.add_noise(x_0, torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype).to(x_0), t)
        x_0_hat = denoise(x_t, t, cond)
        return x_0_hat.clamp(-1, 1) if clip else x_0_hat

    nats = []
    with torch.no_grad():
        for t, s in itertools.pairwise(ticks):
            off = (guess(t) - x_0).double().square().flatten(1).sum(1)
            nats.append((schedule.snr(s) - schedule.snr(t)) / 2 * off)
        signal, sigma = schedule(ticks[-1])
        last = level_bits(x_0, guess(ticks[-1]), sigma / signal, levels).flatten(1).mean(1)
    signal, sigma = schedule(ticks[0])
    prior = (sigma**2 + (signal * x_0.double()) ** 2 - 1) / 2 - math.log(sigma)
    scale = math.log(2)
    return Bound(ticks, prior.flatten(1).mean(1) / scale, torch.stack(nats, 1) / numbers / scale, last)


def level_bits(x: Tensor, mean, std, levels: int = 256) -> Tensor:
    """-log2 of the mass that Gaussians have over the bin of each number's level: Ho et al. 2020, eq. 13; float64.

    A bin reaches half way to the next levels, the first and the last one for ever, so that all masses sum to one.
    """
    half, x = 1 / (levels - 1), x.double()
    mean, std = (torch.as_tensor(value, device=x.device).double() for value in (mean, std))
    low = torch.where(x <= -1 + half, -torch.inf, (x - half - mean) / std)
    high = torch.where(x >= 1 - half, torch.inf, (x + half - mean) / std)
    # In the upper tail all digits are lost, so a bin there is mirrored into the lower one.
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    below, upto = (torch.special.log_ndtr(end) for end in (low, high))
    return -(upto + torch.log1p(-(below - upto).exp())) / math.log(2)


def ladder(schedule: Schedule, steps: int, last: int = 0) -> list[int]:
    """At most so many steps from the noisiest tick to `last`: each, as far as ticks are fine enough, tells as much as the others.

    Even in log(1 + snr): for numbers of variance 1, what a step costs goes with its length on that scale.

    Raises:
        ValueError: for fewer than one step, or a last tick that the schedule does not have below its noisiest.
    """
    if steps < 1 or not 0 <= last < len(schedule) - 1:
        raise ValueError(
            f"a ladder takes a step or more, and ends at 0 to {len(schedule) - 2}, got {steps} and {last}."
        )
    told = (1 + schedule.snr(torch.arange(last, len(schedule))).flatten().double()).log()
    wanted = torch.linspace(told[0].item(), told[-1].item(), steps + 1, dtype=torch.float64)
    return sorted({last + i for i in (told[:, None] - wanted).abs().argmin(0).tolist()}, reverse=True)
