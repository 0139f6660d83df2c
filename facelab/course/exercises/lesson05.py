"""Lesson 05: the Fréchet distance, and the amplitude of a checkerboard artifact."""

import torch

from facelab.course.exercises import add, randn


@add(
    lambda: [(randn(n), randn(n, n + 2).cov(), randn(n, seed=2), randn(n, n + 2, seed=3).cov()) for n in (2, 3)],
    """Two terms: the squared distance of the means, and the difference of the shapes, which begins with both traces.
    The trace of the root of A B is the sum of the square roots of its eigenvalues.
    torch.linalg.eigvals returns complex numbers: take .real, clamp(min=0), then the roots. They count twice.""",
    (
        "the root is taken element by element: take the roots of the eigenvalues.",
        lambda m, a, n, b: (m - n).square().sum() + torch.trace(a + b - 2 * (a @ b).abs().sqrt()),
    ),
    ("the distance of the means enters squared.", lambda m, a, n, b: (m - n).norm() + frechet_distance(m, a, m, b)),
    (
        "only the diagonals are compared: correlations differ too.",
        lambda m, a, n, b: frechet_distance(m, a.diag().diag(), n, b.diag().diag()),
    ),
)
def frechet_distance(mean_a, cov_a, mean_b, cov_b):
    shared = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b) - 2 * shared


@add(
    lambda: [(100 + 10 * randn(3, 6, 6),), (randn(5, 4, 8, seed=1),)],
    """The checkerboard is 1 - 2.0 * (sum of row and column, modulo 2), a tensor (H, W). Multiply the images by it.
    First the mean over the pixels of each image, then the absolute value, then the mean over the images.""",
    ("the absolute value comes too early: first take the mean over the pixels of an image.", lambda x: x.abs().mean()),
    (
        "checkerboards of opposite sign cancel: take each image's absolute value before the mean over images.",
        lambda x: checkerboard_amplitude(x.mean(0, keepdim=True)),
    ),
    (
        "that alternates along one axis only: the sign follows the sum of row and column.",
        lambda x: (x[..., ::2] - x[..., 1::2]).mean((1, 2)).abs().mean() / 2,
    ),
    ("that is a sum over the pixels: take the mean.", lambda x: x[0].numel() * checkerboard_amplitude(x)),
)
def checkerboard_amplitude(grey):
    rows, columns = torch.arange(grey.shape[1])[:, None], torch.arange(grey.shape[2])
    board = 1 - 2.0 * ((rows + columns) % 2)
    return (grey * board).mean((1, 2)).abs().mean()
