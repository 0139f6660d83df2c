"""Interpolation between faces, and editing of a given face by inverting a deterministic sampler (lesson 04).

    x_t = x_s + (signal_t - signal_s) x_0_hat + (sigma_t - sigma_s) eps_hat                  (DDIM's step, solved for x_t)

The predictions belong to x_t, which is not known yet, so inversion finds it by fixed-point iteration. Every function takes any
denoiser: a network, an analytic one, or one under guidance.
"""

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from facelab.attributes import expand_cond
from facelab.guidance import cfg
from facelab.samplers import noise_like, trajectory_at
from facelab.schedules import Schedule


def lerp(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """(frames, K): conditions on the line from a (K,) to b (K,), both included."""
    shares = _shares(a, b, frames)
    a, b = (end if end.is_floating_point() else end.float() for end in (a, b))
    return torch.lerp(a, b, shares.to(a))


def slerp(x_a: Tensor, x_b: Tensor, frames: int) -> Tensor:
    """(frames, C, H, W): spherical interpolation between two noises (C, H, W), both included (Shoemake 1985).

    The mean of two noises has only 0.7 of their length, and the network turns it into a face without detail. Here the angle and
    the length both change evenly.
    """
    shares = _shares(x_a, x_b, frames).reshape(-1, 1, 1, 1)
    if x_a.ndim != 3:
        raise ValueError(f"slerp takes one noise (C, H, W) for each end, got {tuple(x_a.shape)}.")
    lengths = torch.stack([x_a.norm(), x_b.norm()]).double()
    if not (lengths > 0).all():
        raise ValueError("noise of length zero has no direction.")
    a, b = x_a.double() / lengths[0], x_b.double() / lengths[1]
    # For nearly equal or opposite directions the arccos of the dot product would lose its digits.
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    if torch.pi - angle < 1e-6:
        raise ValueError("these two noises are opposite, so no arc between them is the shortest: take another pair.")
    if angle < 1e-6:
        direction = torch.lerp(a, b, shares)
    else:
        direction = (((1 - shares) * angle).sin() * a + (shares * angle).sin() * b) / angle.sin()
    return (direction * torch.lerp(*lengths, shares)).to(x_a.dtype)


def _shares(a: Tensor, b: Tensor, frames: int) -> Tensor:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 2:
        raise ValueError(f"an interpolation has at least 2 frames, its ends, got {frames!r}.")
    if a.shape != b.shape:
        raise ValueError(f"both ends must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    return torch.linspace(0, 1, frames, dtype=torch.float64, device=a.device)[:, None]


@torch.no_grad()
def ddim_invert(denoise, x_0: Tensor, cond: Tensor, sampler, steps: int, fixed_point_iters: int = 1) -> Tensor:
    """The noise x_T from which `sample` with the same arguments generates the images x_0 (B, C, H, W) again.

    Each step is inverted with the predictions at its noisier end, which fixed-point iteration finds; for a sampler of second
    order with the mean of both ends. The clean image needs no evaluation: it is its own x_0_hat, and its eps_hat is 0.

    Args:
        x_0: floats in [-1, 1]. Nothing is clipped.
        cond: (B, K), (1, K) or (K,): what the images show.
        sampler: deterministic, with clip=False, because a clipped step cannot be inverted.
        fixed_point_iters: network evaluations per step; 0 is the usual inversion (Song et al. 2021, section 4.3), which takes
            the predictions at the cleaner end and is of first order for every sampler.
    """
    return deque(_inversion(denoise, x_0, cond, sampler, steps, fixed_point_iters), maxlen=1).pop()[1].to(x_0.dtype)


def _inversion(denoise, x_0: Tensor, cond: Tensor, sampler, steps: int, iters: int) -> Iterator[tuple[int, Tensor]]:
    """Each (t, x_t) from the image to its noise."""
    if isinstance(iters, bool) or not isinstance(iters, Integral) or iters < 0:
        raise ValueError(f"fixed_point_iters must be a whole number from 0 on, got {iters!r}.")
    if sampler.stochastic:
        name = type(sampler).__name__
        raise ValueError(f"{name} adds fresh noise, which cannot be inverted: take a deterministic sampler.")
    (cond,), schedule = _check_given(x_0, cond), sampler.schedule
    x, s = x_0 if x_0.dtype == torch.float64 else x_0.float(), -1
    at_s = x, torch.zeros_like(x)

    def predict(x_t, t):
        x_0_hat = denoise(x_t, t, cond).to(x_t)
        return x_0_hat, schedule.to_eps(x_t, x_0_hat, t)

    for t in sorted(set(sampler.timesteps(steps))):
        if iters == 0 and s >= 0:
            at_s = predict(x, s)
        at_t, x_t = at_s, schedule.euler(x, *at_s, s, t)
        for _ in range(iters):
            at_t = predict(x_t, t)
            # Every sampler's last step, to the clean image, is of first order.
            first_order = sampler.order == 1 or s == -1
            mean = at_t if first_order else [(a + b) / 2 for a, b in zip(at_s, at_t, strict=True)]
            x_t = schedule.euler(x, *mean, s, t)
        at_s, x, s = at_t, x_t, t
        yield t, x


@torch.no_grad()
def edit(
    denoise,
    x_0: Tensor,
    source_cond: Tensor,
    target_cond: Tensor,
    sampler,
    steps: int,
    guidance_scale: float = 1.0,
    fixed_point_iters: int = 1,
    mask_threshold: float = 0.0,
) -> Tensor:
    """The images with another condition, (B, C, H, W): inverted under the source condition, sampled under the target one.

    Args:
        x_0, sampler, steps, fixed_point_iters: as for `ddim_invert`.
        source_cond, target_cond: (B, K), (1, K) or (K,). A specified attribute changes more if few others are specified.
        guidance_scale: on the way back, with the source condition as the negative one: only what differs is strengthened.
        mask_threshold: above 0, pixels keep their values on the inversion's path where the predictions under both
            conditions, at three timesteps, differ by less than this share of their largest difference (after Couairon et al.
            2023): six further evaluations.
    """
    if isinstance(mask_threshold, (bool, type(None), str)) or not 0 <= mask_threshold < 1:
        raise ValueError(f"mask_threshold must be from 0 (no mask) to below 1, got {mask_threshold!r}.")
    source, target = _check_given(x_0, source_cond, target_cond)
    path = dict(_inversion(denoise, x_0, source, sampler, steps, fixed_point_iters))
    mask = _edit_mask(denoise, path, source, target, sampler.schedule, mask_threshold)
    guided, timesteps = cfg(denoise, guidance_scale, negative_cond=source), sampler.timesteps(steps)
    x, path[-1] = path[timesteps[0]], x_0
    for t, s in pairwise([*timesteps, -1]):
        x = sampler.step(x, guided(x, t, target).to(x), t, s)
        x = torch.where(mask, x, path[s].to(x))
    return x.to(x_0.dtype)


def _edit_mask(denoise, path: dict, source: Tensor, target: Tensor, schedule: Schedule, threshold: float) -> Tensor:
    """(B, 1, H, W): the pixels that may change."""
    x = next(iter(path.values()))
    if threshold == 0:
        return torch.ones_like(x[:, :1], dtype=torch.bool)
    noise_share = {t: sigma / (signal + sigma) for t in path for signal, sigma in [schedule(t)]}
    chosen = [min(path, key=lambda t: abs(noise_share[t] - share)) for share in (0.4, 0.6, 0.8)]
    changes = [denoise(path[t], t, target) - denoise(path[t], t, source) for t in chosen]
    # Smoothed, so that a single pixel is not a change.
    change = F.avg_pool2d(sum(x.abs().mean(1, keepdim=True) for x in changes), 5, stride=1, padding=2)
    return (change > threshold * change.amax((1, 2, 3), keepdim=True)).to(x.device)


@torch.no_grad()
def sdedit(denoise, x_0: Tensor, cond: Tensor, strength: float, sampler, steps: int, generator=None) -> Tensor:
    """The images with noise added up to some timestep, sampled from there under cond: Meng et al. 2022, algorithm 1.

    Args:
        strength: the timestep as a share of all, above 0 to 1; of the `steps`, that share is done.
        generator: of the noise; a CPU generator gives the same noise on every device.
    """
    (cond,), timesteps, length = _check_given(x_0, cond), sampler.timesteps(steps), len(sampler.schedule)
    least = (min(timesteps) + 1) / length
    if isinstance(strength, (bool, str)) or not least <= strength <= 1:
        raise ValueError(f"strength must be from {least:g} (the cleanest of {steps} steps) to 1, got {strength!r}.")
    timesteps = [t for t in timesteps if t + 1 <= strength * length]
    if timesteps[:1] == timesteps[1:2]:
        timesteps = timesteps[1:]  # Heun evaluates a timestep twice to correct the step that led there; none has
    x_t = sampler.schedule.add_noise(x_0, noise_like(x_0, generator), timesteps[0])
    return deque(trajectory_at(denoise, x_t, cond, sampler, timesteps), maxlen=1).pop()


def _check_given(x_0: Tensor, *conds: Tensor) -> list[Tensor]:
    """The conditions (B, K) of given images (B, C, H, W), which must be floats in [-1, 1]."""
    if x_0.ndim != 4:
        raise ValueError(f"given images must be (B, C, H, W), got {tuple(x_0.shape)}: one image is image[None].")
    if not x_0.is_floating_point() or x_0.abs().max() > 20:
        found = f"values up to {x_0.abs().max():.0f}" if x_0.is_floating_point() else str(x_0.dtype)[6:]
        raise ValueError(f"given images must be floats in [-1, 1], got {found}: use x / 127.5 - 1.")
    return [expand_cond(cond.to(x_0.device), len(x_0)) for cond in conds]
