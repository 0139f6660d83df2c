"""Distances between sets of images, quality and diversity, and nearest neighbours.

    d = |mean_a - mean_b|^2 + Tr(A + B - 2 (sqrt(A) B sqrt(A))^(1/2))          (Fréchet distance: Dowson and Landau 1982)

All take features (N, D) from any extractor (`evaluation.features`). Only in Inception's 2048 features is a value FID or KID.
"""

import math

import numpy as np
import torch
from torch import Tensor

from facelab.evaluation.statistics import Interval, wilson


def check_features(features: Tensor, minimum: int = 2, size: int | None = None) -> Tensor:
    """`features` if they are float (N, D), finite, at least `minimum` rows, and of `size` numbers each."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be float (N, D), got {features.dtype} {tuple(features.shape)}.")
    if size not in (None, features.shape[1]):
        raise ValueError(f"both sets need the same features, got {size} and {features.shape[1]} numbers an image.")
    if len(features) < minimum:
        raise ValueError(f"features of at least {minimum} images are needed, got {len(features)}.")
    if wrong := int((~features.isfinite()).any(1).sum()):
        raise ValueError(f"{wrong} rows of the features are not finite.")
    return features


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) of features (N, D), and a root (R, D) of their covariance root.T @ root, in float64."""
    x = features.double()
    mean = x.mean(0)
    root = (x - mean) / (len(x) - 1) ** 0.5
    # The triangle of a QR decomposition has the same covariance in D rows.
    return mean, torch.linalg.qr(root, mode="r").R if len(root) > len(mean) else root


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of the Gaussians with the moments of features (N, D) and (M, D); in squared units of the features.

    It is biased upwards, more so for fewer images: compare only at equal counts.
    """
    check_features(b, size=check_features(a).shape[1])
    (mean_a, root_a), (mean_b, root_b) = moments(a), moments(b)
    # The squared singular values are the eigenvalues of sqrt(A) B sqrt(A), exact for singular covariances too.
    trace = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * trace
    return max(0.0, distance.item())


def frechet_estimate(a: Tensor, b: Tensor) -> Interval:
    """The distance of features a (N, D) and b (M, D) plus or minus 1.96 standard deviations, never below 0.

    An interval of the *expected distance at these counts*, bias included, from the influence of each image (infinitesimal
    jackknife: Jaeckel 1972).
    """
    value, half = frechet_distance(a, b), _half_width(*_influence(a, b))
    return Interval(value, max(0.0, value - half), value + half)


def frechet_difference(real: Tensor, a: Tensor, b: Tensor) -> Interval:
    """Distance of a (M, D) to real (N, D) minus that of b (M, D): below zero, a is nearer. The bias nearly cancels.

    The interval is as in `frechet_estimate`, for three sets that were sampled independently.
    """
    if len(a) != len(b):
        raise ValueError(f"both models need the same number of images, got {len(a)} and {len(b)}.")
    value = frechet_distance(real, a) - frechet_distance(real, b)
    (real_a, of_a), (real_b, of_b) = _influence(real, a), _influence(real, b)
    half = _half_width(real_a - real_b, of_a, of_b)
    return Interval(value, value - half, value + half)


def _half_width(*influences: Tensor) -> float:
    return 1.96 * math.sqrt(sum(x.var().item() / len(x) for x in influences))


def _influence(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) and (M,): the derivative of the distance, times the count, by each image's weight.

    |y|^2 - y T y + 2 (mean - other mean) y, up to a constant, for y = x - mean and the optimal transport map T from a to b.
    """
    (mean_a, root_a), (mean_b, root_b) = moments(a), moments(b)
    left, s, right = torch.linalg.svd(root_a @ root_b.T, full_matrices=False)
    shared = s > 1e-12 * s.max()  # directions of only one set do not move the trace
    left, s, right = left[:, shared], s[shared], right.T[:, shared]

    def of_each(y, apart, transport):
        return y.square().sum(1) - (y @ transport).square().sum(1) + 2 * y @ apart

    of_a = of_each(a.double() - mean_a, mean_a - mean_b, root_b.T @ right / s.sqrt())
    return of_a, of_each(b.double() - mean_b, mean_b - mean_a, root_a.T @ left / s.sqrt())


def kernel_distance(a: Tensor, b: Tensor, subsets: int = 100, size: int | None = None, seed: int = 0) -> Interval:
    """KID's unbiased squared MMD with a cubic kernel (Binkowski et al. 2018), torch-fidelity's, of features (N, D) and (M, D).

    The mean over `subsets` random subsets of `size` images, by default 1000 or half of the smaller set; near 0, perhaps below,
    for equal distributions. Subsets overlap: the standard error of the mean is their standard deviation times
    sqrt(size / (N - size)), which is cautious where the sets are alike; NaN where a subset is the whole set.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    check_features(b, 4, check_features(a, 4).shape[1])
    smaller = min(len(a), len(b))
    size = min(1000, smaller // 2) if size is None else size
    if not 2 <= size <= smaller or subsets < 1:
        raise ValueError(f"at least 1 subset of 2 to {smaller} images is needed, got {subsets} of {size}.")
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    with np.errstate(over="ignore", invalid="ignore"):
        found = kid_features_to_metric(a.float().cpu(), b.float().cpu(), **options)
    value, sd = found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]
    if not math.isfinite(value + sd):
        raise ValueError("the features are too large for a cubic kernel: divide both sets by one number.")
    half = 1.96 * sd * math.sqrt(size / (smaller - size)) if size < smaller else math.nan
    return Interval(value, value - half, value + half, smaller)


def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> Interval:
    """exp E KL(p(class | image) || p(class)) of logits (N, C) over exclusive classes, at least 1: Salimans et al. 2016.

    Only with Inception's 1,008 classes is it the Inception score. The mean over `splits` random parts; the interval comes from
    each image's own term.
    """
    check_features(logits, max(2, splits))
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    order, scores, terms = torch.from_numpy(np.random.RandomState(seed).permutation(len(logits))), [], []
    for i in range(splits):
        p = logits[order[i * len(order) // splits : (i + 1) * len(order) // splits]].double().softmax(1)
        terms.append((torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1))
        scores.append(terms[-1].mean().exp())
    value = torch.stack(scores).mean().item()
    half = 1.96 * value * torch.cat(terms).std().item() / math.sqrt(len(order))
    return Interval(value, max(1.0, value - half), value + half, len(order))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[Interval, Interval]:
    """Precision, the share of generated images (M, D) that lie among the real ones (N, D), and recall, the reverse.

    Kynkäänniemi et al. 2019, as torch-fidelity computes them. An image lies among a set if it is as near to one of its images
    as that one's k-th neighbour in the set. The intervals are those of a share, given the other set. Both depend on the counts:
    compare only at equal ones.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    check_features(generated, k + 1, check_features(real, k + 1).shape[1])
    options = {"prc_neighborhood": k, "prc_batch_size": 1000, "save_cpu_ram": True, "verbose": False}
    found, (n, m) = prc_features_to_metric(generated.double(), real.double(), **options), (len(generated), len(real))
    return wilson(round(found["precision"] * n), n), wilson(round(found["recall"] * m), m)


def nearest_neighbors(queries: Tensor, candidates: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """(Euclidean distances (N,) float64, indices (N,)) of the nearest of candidates (M, ...) to queries (N, ...)."""
    described = " and ".join(f"{x.dtype} {tuple(x.shape)}" for x in (queries, candidates))
    mixed = (queries.dtype == torch.uint8) != (candidates.dtype == torch.uint8)
    if mixed or queries.shape[1:] != candidates.shape[1:] or len(candidates) == 0:
        raise ValueError(f"neighbours need two sets of one shape, both uint8 or both float, got {described}.")
    if not all(part.isfinite().all() for x in (queries, candidates) for part in x.split(chunk)):
        raise ValueError("neighbours need finite numbers, and some are not.")
    queries, candidates = queries.flatten(1), candidates.flatten(1)
    center, distances, indices = candidates[:chunk].float().mean(0), [], []  # smaller numbers lose fewer digits
    for part in queries.split(chunk):
        found = [torch.cdist(part.float() - center, c.float() - center).min(1) for c in candidates.split(chunk)]
        block = torch.stack([f.values for f in found]).argmin(0)
        index = torch.stack([f.indices for f in found]).gather(0, block[None])[0] + chunk * block
        distances.append((part.double() - candidates[index].double()).norm(dim=1))
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def memorization(generated: Tensor, train: Tensor, held_out: Tensor, seed: int = 0) -> Interval:
    """The share of generated images nearer to a training image than to any of as many held-out ones: 0.5 is chance.

    Of features or images, as for `nearest_neighbors`; an equal distance counts one half. A few images are the nearest of very
    many others (hubs), so the units of the interval are the nearest images, each with all its generated ones; it is never
    narrower than that of a share.
    """
    count, generator = min(len(train), len(held_out)), torch.Generator().manual_seed(seed)
    train, held_out = (x[torch.randperm(len(x), generator=generator)[:count]] for x in (train, held_out))
    (to_train, i), (to_held_out, j) = nearest_neighbors(generated, train), nearest_neighbors(generated, held_out)
    nearer, tie = to_train < to_held_out, to_train == to_held_out
    hits = nearer.double() + tie.double() / 2
    share = wilson(hits.sum().item(), len(generated))
    unit = torch.where(nearer | tie, i, count + j)
    deviations = torch.zeros(2 * count).double().index_add(0, unit, hits - share.value)
    half = 1.96 * deviations.norm().item() / len(generated)
    low, high = min(share.low, share.value - half), max(share.high, share.value + half)
    return Interval(share.value, max(0.0, low), min(1.0, high), len(generated))


def spectrum_amplitudes(images: Tensor) -> dict[str, float]:
    """Mean |FFT| / number of pixels of grey images, in grey levels of 255, at periods of 2 (Nyquist) and 4 pixels.

    Of images (N, C, H, W), H = W even, uint8 or in [-1, 1]. Peaks above those of real images are checkerboard artifacts (Odena
    et al. 2016). "rows": the image alternates from row to row.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[3] % 2:
        raise ValueError(f"images must be (N, C, H, W), square and of even size, got {tuple(images.shape)}.")
    grey = images.float().mean(1) if images.dtype == torch.uint8 else (images.float().mean(1) + 1) * 127.5
    spectrum = torch.fft.fft2(grey).abs().mean(0) / grey[0].numel()
    places = {"both axes": (1, 1), "rows": (1, 0), "columns": (0, 1)}
    places = {f"period {n}, {name}": (y / n, x / n) for n in (2, 4) for name, (y, x) in places.items()}
    return {name: spectrum[int(y * len(spectrum)), int(x * len(spectrum))].item() for name, (y, x) in places.items()}
