"""Guidance: strengthening a denoiser's condition (lessons 02 and 04).

    x_0_hat = uncond + guidance_scale (cond - uncond)       (Ho and Salimans 2022, eq. 6, with guidance_scale = 1 + w)

Every function takes a denoiser and returns one, so they nest. Combining x_0 predictions equals combining eps predictions, because
at a given x_t each is affine in the other and the weights sum to one. A guidance scale of 1 is unguided, 0 is unconditional.
"""

import math
from numbers import Integral

import torch
from torch import Tensor

from facelab.attributes import Attributes, expand_cond

WEAK_SCALE = 1.25  # of autoguidance by `celeba-weak`: the best in data/results/celeba_guidance.json


def cfg(denoise, guidance_scale: float, negative_cond: Tensor | None = None):
    """Classifier-free guidance: the denoiser that evaluates both conditions in one batch.

    A scale above 1 strengthens the condition, below 0 moves away from it. `negative_cond`, (K,) or (B, K), replaces the null one.
    """
    scale = _finite(guidance_scale, "guidance_scale")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        cond = expand_cond(cond, len(x_t))
        other = torch.zeros_like(cond) if negative_cond is None else expand_cond(negative_cond.to(cond), len(x_t))
        if other.shape != cond.shape:
            raise ValueError(f"negative_cond must have {cond.shape[1]} values as cond does, got {other.shape[1]}.")
        cond_hat, other_hat = _in_one_batch(denoise, x_t, t, [cond, other])
        return other_hat + scale * (cond_hat - other_hat)

    return denoise if scale == 1 else guided


def compositional(denoise, attributes: Attributes, scales: dict[str, float], rest: float = 1.0):
    """A guidance scale for each named attribute, such as {"Blond_Hair": 4, "Smiling": 0.5}, and `rest` for all others.

        x_0_hat = uncond + rest (others - uncond) + sum_k scale_k (only_k - uncond)       (Liu et al. 2022, conjunction)

    Here only_k is conditioned on attribute k alone, others on all attributes that are not named. This is exact if the named
    attributes are independent given the image; correlated ones (lipstick and Male) are counted twice. All terms run in one batch.
    """
    weights = {attributes.index(name): _finite(scale, f"the scale of {name}") for name, scale in scales.items()}
    rest = _finite(rest, "rest")
    if not weights:
        raise ValueError("scales must name at least one attribute: with none, use cfg.")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        cond = expand_cond(cond, len(x_t))
        only = torch.eye(cond.shape[1]).to(cond)[list(weights)]
        conds, factors = [torch.zeros_like(cond), *(cond * row for row in only)], list(weights.values())
        if (others := cond * (1 - only.sum(0))).any():
            conds, factors = [*conds, others], [*factors, rest]
        uncond, *predictions = _in_one_batch(denoise, x_t, t, conds)
        return uncond + sum(factor * (x_0_hat - uncond) for factor, x_0_hat in zip(factors, predictions, strict=True))

    return guided


def interval_guidance(guided, unguided, first: int, last: int):
    """`guided` from timestep `first` to timestep `last`, both included, `unguided` at all others.

    Guidance at the noisiest timesteps reduces diversity, and at the cleanest it has no effect (Kynkaanniemi et al. 2024).
    """
    if not all(isinstance(t, Integral) and not isinstance(t, bool) for t in (first, last)) or not 0 <= first <= last:
        raise ValueError(f"timesteps must be whole numbers 0 <= first <= last, got {first!r} and {last!r}.")

    def denoise(x_t: Tensor, t, cond: Tensor) -> Tensor:
        inside = (torch.as_tensor(t) >= first) & (torch.as_tensor(t) <= last)
        if inside.all() or not inside.any():
            return (guided if inside.all() else unguided)(x_t, t, cond)
        return torch.where(inside.to(x_t.device).reshape(-1, 1, 1, 1), guided(x_t, t, cond), unguided(x_t, t, cond))

    return denoise


def autoguidance(denoise, weak, guidance_scale: float):
    """Away from the errors of a weaker network under the same condition: weak + guidance_scale (strong - weak).

    `weak` is a smaller or shorter trained denoiser (Karras et al. 2024); `denoise` may have other guidance already.
    """
    scale = _finite(guidance_scale, "guidance_scale")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        weak_hat = weak(x_t, t, cond)
        return weak_hat + scale * (denoise(x_t, t, cond) - weak_hat)

    return denoise if scale == 1 else guided


def _finite(scale, what: str) -> float:
    number = scale.item() if hasattr(scale, "item") else scale
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise ValueError(f"{what} must be a finite number (0 unconditional, 1 unguided), got {scale!r}.")
    return float(number)


def _in_one_batch(denoise, x_t: Tensor, t, conds: list[Tensor]) -> tuple[Tensor, ...]:
    """The x_0 prediction for x_t under each condition (B, K)."""
    t = t.repeat(len(conds)) if isinstance(t, Tensor) and t.ndim else t
    return denoise(x_t.repeat(len(conds), 1, 1, 1), t, torch.cat(conds)).chunk(len(conds))
