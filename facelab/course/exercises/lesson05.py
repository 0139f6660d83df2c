"""Lesson 05: the Fréchet distance, and the amplitude of a checkerboard artifact."""

import torch

from facelab.course.exercises import add, randn


def _covariance(size, seed):
    root = randn(size + 2, size, seed=seed)
    return root.T @ root / size


def _by_elements(mean_a, cov_a, mean_b, cov_b):
    shared = torch.trace((cov_a @ cov_b).abs().sqrt())
    return (mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b) - 2 * shared


def _by_diagonals(m, a, n, b):
    return frechet_distance(m, a.diagonal().diag(), n, b.diagonal().diag())


@add(
    lambda: [(randn(n), _covariance(n, 1), randn(n, seed=2), _covariance(n, 3)) for n in (2, 3)],
    """Two terms: the squared distance of the means, and the difference of the shapes, which begins with both traces.
    The trace of the root of A B is the sum of the square roots of its eigenvalues.
    torch.linalg.eigvals returns complex numbers: take .real, clamp(min=0), then the roots. They count twice.""",
    {
        "the root is taken element by element: take the roots of the eigenvalues.": _by_elements,
        "the distance of the means enters squared.": lambda m, a, n, b: (m - n).norm() + frechet_distance(m, a, m, b),
        "only the diagonals are compared: correlations differ too.": _by_diagonals,
    },
)
def frechet_distance(mean_a, cov_a, mean_b, cov_b):
    shared = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b) - 2 * shared


def _stripes(grey):
    return (grey * (1 - 2.0 * (torch.arange(grey.shape[2]) % 2))).mean((1, 2)).abs().mean()


def _checked(grey):
    return grey * (1 - 2.0 * ((torch.arange(grey.shape[1])[:, None] + torch.arange(grey.shape[2])) % 2))


@add(
    lambda: [(100 + 10 * randn(3, 6, 6),), (randn(5, 4, 8, seed=1),)],
    """The checkerboard is 1 - 2.0 * (sum of row and column, modulo 2), a tensor (H, W). Multiply the images by it.
    First the mean over the pixels of each image, then the absolute value, then the mean over the images.""",
    {
        "the absolute value comes too early: first take the mean over the pixels of an image.": lambda x: (
            x.abs().mean()
        ),
        "checkerboards of opposite sign cancel: take each image's absolute value before the mean over images.": lambda x: (
            _checked(x).mean().abs()
        ),
        "that alternates along one axis only: the sign follows the sum of row and column.": _stripes,
        "that is a sum over the pixels: take the mean.": lambda x: _checked(x).sum((1, 2)).abs().mean(),
    },
)
def checkerboard_amplitude(grey):
    rows, columns = torch.arange(grey.shape[1])[:, None], torch.arange(grey.shape[2])
    board = 1 - 2.0 * ((rows + columns) % 2)
    return (grey * board).mean((1, 2)).abs().mean()
