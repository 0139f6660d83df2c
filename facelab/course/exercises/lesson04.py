"""Lesson 04: classifier-free guidance, the sharpened density of two Gaussians, spherical interpolation."""

import torch

from facelab.course.exercises import add, randn


@add(
    lambda: [(randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), scale) for scale in (3.0, 1.0, 0.0, -2.0)],
    """What does the condition change? The difference of the two predictions.
    Start from the unconditional one and add `scale` times the difference. Scale 1 must give `cond_hat`.""",
    ("scale 1 should give `cond_hat`, and scale 0 `uncond_hat`: they are swapped.", lambda c, u, s: c + s * (u - c)),
    ("scale 0 is unguided here: that is the paper's w, our scale minus 1.", lambda c, u, s: c + s * (c - u)),
    ("scaling the prediction only raises its contrast: scale the difference.", lambda c, u, s: s * c),
)
def cfg_combine(cond_hat, uncond_hat, scale):
    return uncond_hat + scale * (cond_hat - uncond_hat)


@add(
    lambda: [(s, (0.5, 0.5), (0.0, 1.0)) for s in (1.0, 3.0, 0.0)] + [(2.0, (0.3, 0.8), (-0.2, 1.1))],
    """The logarithm of a Gaussian is a parabola; add `scale` times one and (1 - scale) times the other.
    Precisions, 1 / std**2, add up with these two weights. The mean is weighted by them as well.
    std is precision ** -0.5; the mean is the weighted sum of mean * precision, divided by the total precision.""",
    (
        "guided sampling multiplies standard deviations; in the density precisions add up.",
        lambda s, c, u: torch.tensor([sharpened_gaussian(s, c, u)[0], c[1] ** s * u[1] ** (1 - s)]),
    ),
    (
        "the means are mixed without their precisions: the narrower Gaussian has more weight.",
        lambda s, c, u: torch.tensor([s * c[0] + (1 - s) * u[0], sharpened_gaussian(s, c, u)[1]]),
    ),
    ("that is the variance, not its root.", lambda s, c, u: sharpened_gaussian(s, c, u) ** torch.tensor([1, 2])),
)
def sharpened_gaussian(scale, conditional, unconditional):
    (mean_c, std_c), (mean_u, std_u) = conditional, unconditional
    precision = scale / std_c**2 + (1 - scale) / std_u**2
    mean = (scale * mean_c / std_c**2 + (1 - scale) * mean_u / std_u**2) / precision
    return torch.tensor([mean, precision**-0.5])


def _line(a, b, share):
    return (1 - share) * a + share * b


@add(
    lambda: [(randn(1, 4, 4), randn(1, 4, 4, seed=1), 0.3), (randn(1, 4, 4), randn(1, 4, 4, seed=2), 0.0)],
    """The angle between the two comes from their dot product, divided by both lengths.
    torch.arccos gives it; flatten first. The weights are sin((1 - share) angle) and sin(share angle).
    Both over sin(angle).""",
    ("that is linear interpolation: half way the noise is too short.", _line),
    ("a and b are swapped: share 0 is a.", lambda a, b, s: slerp(b, a, s)),
    ("equal parts of a chord are not equal angles.", lambda a, b, s: _line(a, b, s) / _line(a, b, s).norm() * a.norm()),
)
def slerp(a, b, share):
    a_flat, b_flat = a.flatten(), b.flatten()
    angle = torch.arccos(a_flat @ b_flat / (a_flat.norm() * b_flat.norm()))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
