"""Lesson 01: adding noise, the linear and the cosine schedule, zero terminal SNR."""

import math

import torch

from facelab.course.exercises import add, randn


@add(
    lambda: [(randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), torch.tensor(a)) for a in (0.7, 0.1, 1.0)],
    """alpha_bar is a share of the variance. By which factor do you scale the image itself?
    An image scaled by c has c squared times the variance, so both factors need a square root.
    sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps""",
    ("both are scaled by their variances: each needs its square root.", lambda x, e, a: a * x + (1 - a) * e),
    ("image and noise are swapped: alpha_bar is what is left of the image.", lambda x, e, a: add_noise(e, x, a)),
    ("variances add up to 1, not factors: sqrt(1 - alpha_bar).", lambda x, e, a: a**0.5 * x + (1 - a**0.5) * e),
)
def add_noise(x_0, eps, alpha_bar):
    return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps


@add(
    lambda: [(1000,), (100,)],
    """torch.linspace gives the betas; each timestep leaves a share 1 - beta of the variance.
    What is left after many timesteps is the product of what each one leaves: cumprod.""",
    ("these are the betas, the variance that each timestep removes.", lambda n: torch.linspace(1e-4, 0.02, n)),
    ("multiply what each timestep leaves, with cumprod.", lambda n: 1 - torch.linspace(1e-4, 0.02, n)),
    ("this is the square root of alpha_bar, the rate of the signal.", lambda n: linear_alpha_bar(n).sqrt()),
)
def linear_alpha_bar(num_timesteps):
    betas = torch.linspace(1e-4, 0.02, num_timesteps)
    return (1 - betas).cumprod(0)


@add(
    lambda: [(1000,), (50,)],
    """u runs from 1/T to 1: torch.arange(1, num_timesteps + 1) / num_timesteps.
    Square the cosine of (u + 0.008) / 1.008 times a quarter turn (pi / 2).
    Divide by the same at u = 0, so that the curve starts at one.""",
    ("the cosine is not squared.", lambda n: cosine_alpha_bar(n).sqrt()),
    (
        "it is not divided by its value at u = 0, so it does not start at one.",
        lambda n: 0.99984397 * cosine_alpha_bar(n),
    ),
    (
        "u starts at 0: the first timestep has some noise already, u = 1 / T.",
        lambda n: torch.tensor([1, *cosine_alpha_bar(n)[:-1]]),
    ),
)
def cosine_alpha_bar(num_timesteps):
    u = torch.arange(1, num_timesteps + 1) / num_timesteps
    curve = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return curve / math.cos(0.008 / 1.008 * math.pi / 2) ** 2


@add(
    lambda: [(torch.tensor([0.99, 0.9, 0.75, 0.6]),), (torch.linspace(0.8, 0.1, 9),)],
    """First shift: subtract the last rate from all of them, so that the last one is 0.
    Now the first one is too small: scale all of them so that it is as before, first / (first - last).""",
    ("the first timestep has lost signal too: scale, so that it is as before.", lambda s: s - s[-1]),
    ("only the last timestep is changed: shift and scale all.", lambda s: torch.cat([s[:-1], torch.zeros(1)])),
    ("that rescales alpha_bar: Lin et al. rescale its square root.", lambda s: zero_terminal_snr(s**2).sqrt()),
)
def zero_terminal_snr(signal):
    return (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
