"""Guidance: how a denoiser is made to insist (lessons 02 and 04).

    x_0_hat = without + scale (with - without)                        (Ho and Salimans 2022, eq. 6, with scale = 1 + w)

Every function takes a denoise call and returns one, so they nest. Mixing guesses at x_0 is mixing guesses at eps: at a
given x_t each is affine in the other, and the weights sum to one.
"""

import math
import numbers

import torch
from torch import Tensor

from facelab.attributes import Attributes, number, one_each


def classifier_free(denoise, scale: float, away_from: Tensor | None = None):
    """A denoise call that insists on its condition.

    Args:
        denoise: the call to wrap.
        scale: 0 ignores the condition, 1 is plain, above 1 insists, below 0 does the opposite.
        away_from: (K,) or (B, K), the condition to move away from; by default the null condition, "nothing said".

    Returns:
        denoise(x_t, t, cond) -> x_0_hat; both halves go through the network in one batch.

    Raises:
        ValueError: for a scale that is no finite number; called, for conditions of another number or width than fit.
    """
    scale = _finite(scale, "scale")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        cond = one_each(cond, len(x_t))
        other = torch.zeros_like(cond) if away_from is None else one_each(away_from.to(cond), len(x_t))
        if other.shape != cond.shape:
            raise ValueError(
                f"away_from must say {cond.shape[1]} answers, as the condition does, got {other.shape[1]}."
            )
        told, other = _in_one_batch(denoise, x_t, t, [cond, other])
        return other + scale * (told - other)

    return denoise if scale == 1 else guided


def compositional(denoise, attributes: Attributes, scales: dict[str, float], rest: float = 1.0):
    """A denoise call with a scale for each named attribute: "very blond, slightly smiling" is {"Blond_Hair": 4, "Smiling": 0.5}.

        x_0_hat = nothing + rest (others - nothing) + sum_k scale_k (only_k - nothing)       (Liu et al. 2022, conjunction)

    Each named attribute speaks alone, the others of the request speak together. Right where, given the picture, they are
    independent; what goes together in the data (lipstick and Male, say) is counted twice.

    Args:
        denoise: the call to wrap.
        attributes: the names that cond is made of.
        scales: name -> scale, read as in `classifier_free`.
        rest: the scale of all that is asked and not named here.

    Returns:
        denoise(x_t, t, cond) -> x_0_hat. All parts go through the network in one batch: as many times the work of a plain
        call as there are names, and one for nothing, and one for the others if the request says any.

    Raises:
        ValueError: for an unknown name, no name, or a scale that is no finite number.
    """
    places = {attributes.index(name): _finite(scale, f"the scale of {name}") for name, scale in scales.items()}
    rest = _finite(rest, "rest")
    if not places:
        raise ValueError("scales must name at least one attribute: with none, classifier_free says the same.")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        cond = cond.expand(len(x_t), -1)
        others = cond.clone()
        others[:, list(places)] = 0
        parts = [torch.zeros_like(cond), *(_only(cond, place) for place in places)]
        weights = list(places.values())
        if others.any():
            parts, weights = [*parts, others], [*weights, rest]
        nothing, *told = _in_one_batch(denoise, x_t, t, parts)
        return nothing + sum(weight * (guess - nothing) for weight, guess in zip(weights, told, strict=True))

    return guided


def interval(guided, plain, first: int, last: int):
    """Guidance for some ticks only: `guided` from tick `first` to tick `last`, both included, `plain` at all others.

    At the noisiest ticks guidance takes variety, at the cleanest it does nothing: Kynkaanniemi et al. 2024. Where it is
    plain, a call costs half.

    Args:
        guided, plain: denoise calls.
        first, last: ticks of the schedule, 0 the cleanest: not shares of it.

    Raises:
        ValueError: unless they are whole numbers and 0 <= first <= last.
    """
    whole = all(isinstance(tick, numbers.Integral) and not isinstance(tick, bool) for tick in (first, last))
    if not whole or not 0 <= first <= last:
        raise ValueError(f"guidance needs whole ticks 0 <= first <= last, got {first!r} and {last!r}.")

    def sometimes(x_t: Tensor, t, cond: Tensor) -> Tensor:
        ticks = torch.as_tensor(t)
        inside = (ticks >= first) & (ticks <= last)
        if inside.all() or not inside.any():
            return (guided if inside.all() else plain)(x_t, t, cond)
        return torch.where(inside.to(x_t.device).reshape(-1, 1, 1, 1), guided(x_t, t, cond), plain(x_t, t, cond))

    return sometimes


def rescaled(guided, plain, share: float = 0.7):
    """Guidance with the contrast of the plain guess: Lin et al. 2023, section 3.4 (against over-saturation).

    Each picture of the guided guess is scaled to the standard deviation that the plain one has over its pixels, and mixed
    in by `share`: 0 leaves the guided guess, 1 is all rescaled. A plain call is added to the guided one's two.

    Args:
        guided, plain: denoise calls; what they give is (B, C, H, W), scaled picture by picture.
        share: from 0 to 1.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    if not 0 <= number(share) <= 1:
        raise ValueError(f"share must be from 0 (as it was) to 1 (all rescaled), got {share!r}.")

    def calm(x_t: Tensor, t, cond: Tensor) -> Tensor:
        loud = guided(x_t, t, cond)
        spreads = (guess.flatten(1).std(1).reshape(-1, 1, 1, 1) for guess in (plain(x_t, t, cond), loud))
        wanted, found = spreads
        # A guess of one colour has no contrast to change.
        return loud * (1 + share * (torch.where(found > 0, wanted / found, 1) - 1))

    return guided if share == 0 else calm


def autoguidance(denoise, weak, scale: float):
    """Away from what a weaker network gets wrong, both told the same: Karras et al. 2024, weak + scale (strong - weak).

    Args:
        denoise: the call to wrap.
        weak: the denoise call of a smaller or shorter trained network.
        scale: any finite number; 0 is the weak one, 1 is plain, above 1 moves away from the weak one.

    Returns:
        denoise(x_t, t, cond) -> x_0_hat; x_t is (B, C, H, W) and cond (B, K) or whatever both calls take.

    Raises:
        ValueError: for a scale that is no finite number.
    """
    scale = _finite(scale, "scale")

    def guided(x_t: Tensor, t, cond: Tensor) -> Tensor:
        poor = weak(x_t, t, cond)
        return poor + scale * (denoise(x_t, t, cond) - poor)

    return denoise if scale == 1 else guided


def _finite(scale, what: str) -> float:
    if not math.isfinite(number(scale)):
        raise ValueError(f"{what} must be a finite number (0 ignores, 1 is plain, above 1 insists), got {scale!r}.")
    return number(scale)


def _in_one_batch(denoise, x_t: Tensor, t, conds: list[Tensor]) -> tuple[Tensor, ...]:
    """The guesses at x_t under each condition (B, K)."""
    many = t.repeat(len(conds)) if isinstance(t, Tensor) and t.ndim else t
    return denoise(x_t.repeat(len(conds), 1, 1, 1), many, torch.cat(conds)).chunk(len(conds))


def _only(cond: Tensor, place: int) -> Tensor:
    only = torch.zeros_like(cond)
    only[:, place] = cond[:, place]
    return only
