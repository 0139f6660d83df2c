"""Interpolation and editing: the way between two faces, and a given face with another answer (lesson 04).

    x_t = x_s + (signal_t - signal_s) x_0_hat + (sigma_t - sigma_s) eps_hat

A deterministic step can be undone: the same line leads from picture to noise, where its guesses are taken at the noisy end,
as the step there and back had them. Every function takes a denoise call, so a network, an ideal one or a guided one will do.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from facelab import plots
from facelab.attributes import number, one_each
from facelab.guidance import classifier_free
from facelab.sample import DDIM, noise_like
from facelab.schedule import Schedule

# Interpolation


def walk(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """(frames, K): conditions on the straight way from a (K,) to b (K,), both included, floats.

    Raises:
        ValueError: for fewer than two frames, or ends of different shapes.
    """
    _ends(a, b, frames)
    a, b = (end if end.is_floating_point() else end.float() for end in (a, b))
    return torch.lerp(a, b, _shares(frames, a))


def slerp(x_a: Tensor, x_b: Tensor, frames: int) -> Tensor:
    """(frames, C, H, W): noise on the sphere's shortest way from x_a to x_b, both (C, H, W) and included (Shoemake 1985).

    Half of one noise and half of another is too quiet (its length .7 of theirs), and becomes a face of few details: here
    the direction turns evenly, and the length goes evenly from the one to the other.

    Raises:
        ValueError: for fewer than two frames, ends of different shapes, batches, silence, or opposite ends, which have no
            shortest way.
    """
    _ends(x_a, x_b, frames)
    if x_a.ndim > 3:
        raise ValueError(f"the ends are one noise each, (C, H, W), got {tuple(x_a.shape)}: take one out of its batch.")
    lengths = torch.stack([x_a.norm(), x_b.norm()]).double()
    if not (lengths > 0).all():
        raise ValueError("noise of length zero has no direction to turn from.")
    a, b = x_a.double() / lengths[0], x_b.double() / lengths[1]
    # Of two nearly equal or opposite ones the cosine says little, half the chord and half the sum say all.
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    if torch.pi - angle < 1e-6:
        raise ValueError("these two noises are opposite, so there is no shortest way between them: take another pair.")
    shares = _shares(frames, a)
    if angle < 1e-6:
        direction = torch.lerp(a, b, shares)
    else:
        direction = (((1 - shares) * angle).sin() * a + (shares * angle).sin() * b) / angle.sin()
    return (direction * torch.lerp(*lengths, shares)).to(x_a.dtype)


def crossed(noises: Tensor, conds: Tensor) -> tuple[Tensor, Tensor]:
    """Both at once: (x_T (R * F, C, H, W), cond (R * F, K)) of a grid with a row for each noise, a column for each condition.

    Args:
        noises: (R, C, H, W), a person each.
        conds: (F, K) in [-1, 1], such as a `walk`.
    """
    return noises.repeat_interleave(len(conds), 0), conds.repeat(len(noises), 1)


def _ends(a: Tensor, b: Tensor, frames: int) -> None:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 2:
        raise ValueError(f"a way has at least 2 frames, its ends, got {frames!r}.")
    if a.shape != b.shape:
        raise ValueError(f"both ends need one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")


def _shares(frames: int, like: Tensor) -> Tensor:
    return torch.linspace(0, 1, frames, dtype=like.dtype, device=like.device).reshape(-1, *[1] * like.ndim)


# Editing


@torch.no_grad()
def invert(denoise, x_0: Tensor, cond: Tensor, solver, steps: int, rounds: int = 1) -> Tensor:
    """The noise x_T from which `sample` with the same arguments draws the pictures x_0 (B, C, H, W) again.

    DDIM's step is undone by the guesses at its noisy end, which is found in rounds: where it is thought to be, the network is
    asked, which tells better where it is. A solver of second order is undone by the mean of the guesses at both ends. At the
    clean picture nobody need be asked: it is its own x_0_hat, and no noise is expected in it (eps_hat = -sigma score = 0).
    Nothing is clipped.

    Args:
        x_0: (B, C, H, W), floats in [-1, 1].
        cond: (B, K), (1, K) or (K,): what the pictures show.
        solver, steps: those that will draw them again; of the solver, its ticks and its order count. It wants clip=False, for
            a clipped step cannot be undone.
        rounds: calls of the network a step. 0 is the usual inversion (Song et al. 2021, section 4.3), which takes the
            guesses at the clean end, at one call a step too: of first order whatever the solver.

    Raises:
        ValueError: for a solver that draws fresh noise, steps that it does not take, a number of rounds that is none, bytes,
            or pictures and conditions whose shapes do not fit.
    """
    return deque(_stations(denoise, x_0, cond, solver, steps, rounds), maxlen=1).pop()[1].to(x_0.dtype)


def _stations(denoise, x_0: Tensor, cond: Tensor, solver, steps: int, rounds: int) -> Iterator[tuple[int, Tensor]]:
    """Each (t, x_t) on the way from the picture to its noise."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ValueError(f"rounds must be a whole number from 0 on, got {rounds!r}.")
    _deterministic(solver)
    schedule, x, s = solver.schedule, x_0 if x_0.dtype == torch.float64 else x_0.float(), -1
    guesses, (cond,) = (x, torch.zeros_like(x)), _given(x_0, cond)

    def ask(x_t, t):
        x_0_hat = denoise(x_t, t, cond).to(x_t)
        return x_0_hat, schedule.eps_from(x_t, x_0_hat, t)

    def moved(x_0_hat, eps_hat, t):
        (signal_s, sigma_s), (signal_t, sigma_t) = schedule(s), schedule(t)
        return x + (signal_t - signal_s) * x_0_hat + (sigma_t - sigma_s) * eps_hat

    for t in sorted(set(solver.start(steps))):
        if rounds == 0 and s >= 0:
            guesses = ask(x, s)
        there, x_t = guesses, moved(*guesses, t)
        for _ in range(rounds):
            there = ask(x_t, t)
            # Every solver's last step on the way back, to the clean picture, is DDIM's.
            first_order = isinstance(solver, DDIM) or s == -1
            used = there if first_order else [(here + far) / 2 for here, far in zip(guesses, there, strict=True)]
            x_t = moved(*used, t)
        guesses, x, s = there, x_t, t
        yield t, x


@torch.no_grad()
def edit(
    denoise,
    x_0: Tensor,
    was: Tensor,
    wish: Tensor,
    solver,
    steps: int,
    scale: float = 1.0,
    rounds: int = 1,
    keep: float = 0.0,
) -> Tensor:
    """The given pictures with another condition, (B, C, H, W): inverted as what they are, drawn again as what is wished.

    Args:
        x_0: (B, C, H, W), floats in [-1, 1].
        was, wish: (B, K), (1, K) or (K,): what the pictures show and what they shall show. Of many things that are said a
            network listens little to each; with only what differs said, it changes more, also of what it should not.
        solver, steps, rounds: as for `invert`; clip=False here too.
        scale: guidance on the way back, away from what was: 1 is plain, above 1 insists on what differs and on nothing else.
        keep: 0 lets every pixel change. Else those go back the way they came, to what they were, where the guesses under
            both conditions differ, at three ticks, by less than this share of the most they do anywhere (after Couairon et
            al. 2023): six calls more.

    Raises:
        ValueError: as `invert`, or for a share outside [0, 1).
    """
    if not 0 <= number(keep) < 1:
        raise ValueError(f"keep must be from 0 (every pixel may change) to below 1, got {keep!r}.")
    was, wish = _given(x_0, was, wish)
    way = dict(_stations(denoise, x_0, was, solver, steps, rounds))
    free = _free(denoise, way, was, wish, solver.schedule, keep)
    guided, ticks = classifier_free(denoise, scale, away_from=was), solver.start(steps)
    x, way[-1] = way[ticks[0]], x_0
    for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
        x = solver.step(x, guided(x, t, wish).to(x), t, s)
        x = torch.where(free, x, way[s].to(x))
    return x.to(x_0.dtype)


def _free(denoise, way: dict[int, Tensor], was: Tensor, wish: Tensor, schedule: Schedule, keep: float) -> Tensor:
    """(B, 1, H, W): the pixels that may change."""
    some = next(iter(way.values()))
    if keep == 0:
        return torch.ones_like(some[:, :1], dtype=torch.bool)
    noisy = {t: sigma / (signal + sigma) for t in way for signal, sigma in [schedule(t)]}
    asked = [min(way, key=lambda t: abs(noisy[t] - share)) for share in (0.4, 0.6, 0.8)]
    differ = sum((denoise(way[t], t, wish) - denoise(way[t], t, was)).abs().mean(1, keepdim=True) for t in asked)
    # Smoothed, for a lone pixel is no change.
    differ = torch.nn.functional.avg_pool2d(differ, 5, stride=1, padding=2)
    return (differ > keep * differ.amax((1, 2, 3), keepdim=True)).to(some.device)


@torch.no_grad()
def sdedit(denoise, x_0: Tensor, cond: Tensor, strength: float, solver, steps: int, generator=None) -> Tensor:
    """The given pictures, drowned part of the way and drawn from there as cond says: Meng et al. 2022, algorithm 1.

    Args:
        x_0: (B, C, H, W), floats in [-1, 1].
        cond: (B, K), (1, K) or (K,): what is wished.
        strength: how far, above 0 to 1, as a share of the ticks; 1 leaves nothing of the pictures where the schedule ends in
            pure noise. The network is called for that share of the `steps`.
        solver, steps: any solver, and how many calls it would take all the way.
        generator: where the noise comes from; a CPU generator gives the same noise on every device.

    Raises:
        ValueError: for another strength, or one below the cleanest tick of so many steps, bytes, or pictures and conditions
            whose shapes do not fit.
    """
    (cond,) = _given(x_0, cond)
    ticks, length = solver.start(steps), len(solver.schedule)
    least = (min(ticks) + 1) / length
    if not least <= number(strength) <= 1:
        raise ValueError(f"strength must be from {least:g} (the cleanest of {steps} steps) to 1, got {strength!r}.")
    ticks = [t for t in ticks if t + 1 <= strength * length]
    if ticks[:1] == ticks[1:2]:
        # Heun asks a tick twice to mend the step that led there; none has.
        ticks = ticks[1:]
    x = solver.schedule.add_noise(x_0, noise_like(x_0, generator), ticks[0])
    x = x if x_0.dtype == torch.float64 else x.float()
    for t, s in zip(ticks, [*ticks[1:], -1], strict=True):
        x = solver.step(x, denoise(x, t, cond).to(x), t, s)
    return x.to(x_0.dtype)


def _given(x_0: Tensor, *conds: Tensor) -> list[Tensor]:
    """(B, K) each: the conditions of given pictures, once it is known that they are a batch in [-1, 1]."""
    if x_0.ndim != 4:
        raise ValueError(f"given pictures are (B, C, H, W), got {tuple(x_0.shape)}: one picture goes as picture[None].")
    if not x_0.is_floating_point():
        kind = str(x_0.dtype).removeprefix("torch.")
        raise ValueError(f"given pictures are floats in [-1, 1], got {kind}: divide bytes by 127.5, take away 1.")
    plots.refuse_bytes(x_0)
    return [one_each(cond.to(x_0.device), len(x_0)) for cond in conds]


def _deterministic(solver) -> None:
    # DDIM's eta; DDPM and those of diffusers have a generator, and no eta to say that they leave it alone.
    if getattr(solver, "eta", 0 if not hasattr(solver, "generator") else 1) != 0:
        raise ValueError(f"{type(solver).__name__} draws fresh noise, which cannot be undone: take DDIM with eta 0.")


@torch.no_grad()
def read_request(judge, pictures: Tensor) -> Tensor:
    """What a judge sees in pictures (B, C, H, W) or one (C, H, W), as a request (B, K) or (K,): new faces of that description.

    Its probability p becomes 2 p - 1: near 1 a sure yes, near -1 a sure no, near 0, "not said", where it cannot tell.
    Attributes that exclude each other are said as they are trained, p for each.
    """
    logits = judge(pictures if pictures.ndim == 4 else pictures[None]).float()
    cond = logits.softmax(1) if judge.attributes.exclusive else (logits / 2).tanh()
    return cond if pictures.ndim == 4 else cond[0]


# Smoothness


class Smoothness(NamedTuple):
    """How evenly a series of frames changes, and what stays of the first.

    steps: (F - 1,) distances of neighbours in feature space.
    uneven: the largest step over the mean one; 1 is perfectly even, F - 1 one single jump.
    features: (F,) cosine similarity of each frame's features to the first frame's.
    coarse: (F,) correlation of each frame, seen in 8 x 8 patches, with the first.

    The last two stand in for "the same person": the features are of a network that tells things apart and knows no faces,
    and the patches know only where it is light and dark. Neither is a face recogniser.
    """

    steps: Tensor
    uneven: float
    features: Tensor
    coarse: Tensor


def smoothness(frames: Tensor, features) -> Smoothness:
    """Of frames (F, C, H, W) in [-1, 1]; features is a call (F, C, H, W) -> (F, D), such as metrics.efficientnet_features.

    Raises:
        ValueError: for fewer than two frames.
    """
    if frames.ndim != 4 or len(frames) < 2:
        raise ValueError(f"smoothness takes at least 2 frames (F, C, H, W), got {tuple(frames.shape)}.")
    seen = features(frames).double()
    steps = seen.diff(dim=0).norm(dim=1)
    # Frames that never change are even.
    uneven = (steps.max() / steps.mean()).item() if steps.any() else 1.0
    coarse = torch.nn.functional.adaptive_avg_pool2d(frames.double(), 8).flatten(1)
    coarse = coarse - coarse.mean(1, keepdim=True)
    alike = (torch.cosine_similarity(rows, rows[:1], dim=1) for rows in (seen, coarse))
    return Smoothness(steps, uneven, *alike)
