"""Guidance: how a denoiser is made to insist (lessons 02 and 04).

    x_0_hat = without + scale (with - without)                        (Ho and Salimans 2022, eq. 6, with scale = 1 + w)

Every function takes a denoise call and returns one. Mixing guesses at x_0 is mixing guesses at eps: at a given x_t each
is affine in the other, and the weights sum to one.
"""

import math

import torch
from torch import Tensor


def classifier_free(denoise, scale: float, away_from: Tensor | None = None):
    """A denoise call that insists on its condition.

    Args:
        denoise: the call to wrap.
        scale: 0 ignores the condition, 1 is plain, above 1 insists, below 0 does the opposite.
        away_from: (K,) or (B, K), the condition to move away from; by default the null condition, "nothing said".

    Returns:
        denoise(x_t, t, cond) -> x_0_hat; both halves go through the network in one batch.

    Raises:
        ValueError: for a scale that is no finite number.
    """
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number (0 ignores, 1 is plain, above 1 insists), got {scale!r}.")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        cond = cond.expand(len(x_t), -1)
        other = torch.zeros_like(cond) if away_from is None else away_from.to(cond).expand_as(cond)
        twice = t.repeat(2) if isinstance(t, Tensor) and t.ndim else t
        told, other = denoise(torch.cat([x_t, x_t]), twice, torch.cat([cond, other])).chunk(2)
        return other + scale * (told - other)

    return denoise if scale == 1 else guided
