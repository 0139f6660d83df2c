"""Lesson 05: the Fréchet distance, precision and recall."""

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
    lambda: [(randn(20, 3), 0.8 * randn(17, 3, seed=1) + 0.8), (randn(12, 2, seed=2), randn(30, 2, seed=3) + 0.8)],
    """For each real point a radius: the fourth smallest number in its row of torch.cdist(real, real).
    Compare torch.cdist(generated, real) with the radii of its columns. any(1): one real point is enough. Then the mean.""",
    (
        "each point's distance to itself is 0 and counts too: take the fourth smallest, kthvalue(4).",
        lambda real, generated: _near(generated, real, 3).any(1).float().mean(),
    ),
    (
        "that is recall, the share of real points among the generated ones: the radii belong to the real points.",
        lambda real, generated: precision(generated, real),
    ),
    (
        "that is the share of pairs: a generated point counts once, if any real point is near enough.",
        lambda real, generated: _near(generated, real).float().mean(),
    ),
    (
        "that is the share of real points with a generated one near: take any over the real points, any(1).",
        lambda real, generated: _near(generated, real).any(0).float().mean(),
    ),
)
def precision(real, generated):
    radius = torch.cdist(real, real).kthvalue(4).values
    return (torch.cdist(generated, real) <= radius).any(1).float().mean()


def _near(points, members, kth=4):
    return torch.cdist(points, members) <= torch.cdist(members, members).kthvalue(kth).values
