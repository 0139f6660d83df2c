"""Measuring what was made: how near real pictures it comes, and whether it is what was asked (lessons 02 and 05).

    d = |mean_a - mean_b|^2 + Tr(A + B - 2 (sqrt(A) B sqrt(A))^(1/2))          (Fréchet distance: Dowson and Landau 1982)

Distances take features, (N, D), and never ask where those come from; `features.py` has the networks that see them, and
`scores.evaluate` puts a whole table together. A value is called FID only with Inception's 2048 features.
"""

import dataclasses
import html
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from facelab.features import checked
from facelab.guidance import classifier_free
from facelab.sample import DDIM, noise, sample


def _alike(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    if checked(a, least).shape[1] != checked(b, least).shape[1]:
        raise ValueError(f"both need the same features, got {a.shape[1]} and {b.shape[1]} a picture.")
    return a, b


# Values with their intervals


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 3 if max(abs(self.value), abs(self.high)) < 10 else 1
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


class Proportion(NamedTuple):
    """A share of `count` trials, with its 95 % interval."""

    share: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Difference(NamedTuple):
    """One value minus another, with its 95 % interval: where that holds zero, which is larger is not known."""

    value: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Its value, so that a difference of two differences can be taken."""
        return self.value

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def proportion(hits: int, count: int, z: float = 1.96) -> Proportion:
    """The share hits / count and its interval: Wilson 1927, which holds near 0 and 1 and at small counts too.

    Raises:
        ValueError: unless hits and count are whole, 0 <= hits <= count and count > 0.
    """
    if not 0 <= hits <= count or count == 0 or hits != int(hits) or count != int(count):
        raise ValueError(f"hits must be whole, from 0 to count, and count above 0; got {hits} of {count}.")
    return proportion_of(hits / count, count, z)


def proportion_of(share: float, count: int, z: float = 1.96) -> Proportion:
    """The same for a share that need not be a whole number of hits, such as a weighted one."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # At 0 and at `count` hits the interval ends exactly there, which rounding would miss.
    return Proportion(share, 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half, count)


def difference(a, b) -> Difference:
    """One share minus another that is independent of it, each with its own interval, such as two `Proportion`s.

    Squares of the distances to the intervals' ends add up: Newcombe 1998, method 10; Zou and Donner 2008 for any intervals.
    """
    value = a.share - b.share
    low = value - math.hypot(a.share - a.low, b.high - b.share)
    return Difference(value, low, value + math.hypot(a.high - a.share, b.share - b.low))


def as_text(cells: list[tuple[str, ...]]) -> str:
    """A table as lines of text, its columns in line; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def as_html(cells: list[tuple[str, ...]]) -> str:
    """The same as HTML, for a notebook."""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in cells]
    lines[0] = lines[0].replace("<td>", "<th>").replace("</td>", "</th>")
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


# Distances


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean (D,) and covariance of `count` features, float64; the covariance is kept as a root (R, D), root.T @ root."""

    mean: Tensor
    root: Tensor
    count: int

    @property
    def covariance(self) -> Tensor:
        """(D, D), divided by count - 1"""
        return self.root.T @ self.root


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features (N, D), N at least 2; those of real pictures are worth keeping."""
    # By parts, for all at once would first be copied into float64.
    mean = sum(part.sum(0, dtype=torch.float64) for part in checked(features).split(ROWS)) / len(features)
    root = mean.new_empty(0, len(mean))
    for part in features.split(ROWS):
        root = torch.cat([root, (part - mean) / (len(features) - 1) ** 0.5])
        # A triangle of D rows has the same covariance as all rows so far.
        root = torch.linalg.qr(root, mode="r").R if len(root) > len(mean) else root
    return Moments(mean, root, len(features))


ROWS = 4096  # taken at once, so that memory does not grow with the count of pictures


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """How far apart two sets are, were each a Gaussian: 0 for equal means and covariances; in squared units of features.

    A value is biased upwards, the more the fewer pictures: compare only at equal counts.

    Args:
        a, b: features (N, D), or their `moments`.

    Raises:
        ValueError: for features that are not finite, of different sizes, or of fewer than two pictures.
    """
    a, b = (each if isinstance(each, Moments) else moments(each) for each in (a, b))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"both need the same features, got {len(a.mean)} and {len(b.mean)} a picture.")
    # Their squares are the eigenvalues of sqrt(A) B sqrt(A). Unlike those, they are exact for singular covariances too,
    # as fewer pictures than features have.
    shared = torch.linalg.svdvals(a.root @ b.root.T).sum()
    distance = (a.mean - b.mean).square().sum() + a.root.square().sum() + b.root.square().sum() - 2 * shared
    # Equal sets may come out a rounding error below zero.
    return max(0.0, distance.item())


def frechet_estimate(a: Tensor, b: Tensor, replicates: int = 0, seed: int = 0) -> Estimate:
    """The distance with an interval: value plus or minus 1.96 standard deviations, never below 0.

    It is one of the *expected distance at these counts*, bias and all, not of the distance between what the sets were
    drawn from; and a percentile interval would be one of neither, for each replicate adds its bias to the first.

    Args:
        a, b, replicates, seed: as for `frechet_difference`.
    """
    _alike(a, b)
    told = moments(a), moments(b)
    value = frechet_distance(*told)
    if _bootstrap(replicates):
        generator = torch.Generator().manual_seed(seed)
        again = [frechet_distance(_anew(a, generator), _anew(b, generator)) for _ in range(replicates)]
        sd = torch.tensor(again).std().item()
    else:
        sd = math.sqrt(sum(x.var().item() / len(x) for x in _influence(a, told[0], b, told[1])))
    return Estimate(value, max(0.0, value - 1.96 * sd), value + 1.96 * sd)


def _bootstrap(replicates: int) -> bool:
    if replicates < 0 or replicates == 1:
        raise ValueError(f"replicates must be 0, or at least 2 for a standard deviation, got {replicates}.")
    return replicates > 0


def _anew(x: Tensor, generator: torch.Generator) -> Moments:
    """The moments of as many of x, drawn with replacement."""
    return moments(x[torch.randint(len(x), (len(x),), generator=generator)])


def frechet_difference(real: Tensor, a: Tensor, b: Tensor, replicates: int = 0, seed: int = 0) -> Difference:
    """Distance of a to real, minus that of b: below zero, a comes nearer.

    The interval, value plus or minus 1.96 standard deviations, is one of the expected difference at these counts, which
    the bias, being much the same in both, hardly touches. (A percentile interval of one distance would cover nothing.)
    The three sets are taken as drawn independently.

    Args:
        real, a, b: features (N, D), (M, D) and (M, D).
        replicates: 0 takes the standard deviation from the influence of each single picture (the infinitesimal
            jackknife: Jaeckel 1972); a number, from so many bootstrap replicates, in which all three sets are drawn anew.
            That is slower by as many times, and wider, by up to a quarter where a and b hardly differ.

    Raises:
        ValueError: as for `frechet_distance`; where a and b differ in count, for then their bias differs too.
    """
    _alike(real, a), _alike(a, b)
    if len(a) != len(b):
        raise ValueError(f"both models need the same count of pictures, got {len(a)} and {len(b)}.")

    def difference_of(real, a, b):
        return frechet_distance(real, a) - frechet_distance(real, b)

    told = [moments(x) for x in (real, a, b)]
    value = difference_of(*told)
    if _bootstrap(replicates):
        generator = torch.Generator().manual_seed(seed)
        again = [difference_of(*(_anew(x, generator) for x in (real, a, b))) for _ in range(replicates)]
        sd = torch.tensor(again).std().item()
    else:
        (real_with_a, of_a), (real_with_b, of_b) = (
            _influence(real, told[0], x, other) for x, other in ((a, told[1]), (b, told[2]))
        )
        sd = math.sqrt(sum(x.var().item() / len(x) for x in (real_with_a - real_with_b, of_a, of_b)))
    return Difference(value, value - 1.96 * sd, value + 1.96 * sd)


def _influence(a: Tensor, of_a: Moments, b: Tensor, of_b: Moments) -> tuple[Tensor, Tensor]:
    """(N,) and (M,): how strongly the distance of a and b, times their count, moves with each picture's weight.

    |y|^2 - y T y + 2 (mean - other mean) y, up to a constant, for y = x - mean and the T that would carry a onto b.
    """
    left, s, right = torch.linalg.svd(of_a.root @ of_b.root.T, full_matrices=False)
    # Directions that the two do not share do not move what they share.
    shared = s > 1e-12 * s.max()
    left, s, right = left[:, shared], s[shared], right.T[:, shared]

    def felt(x, me, other, side):
        carry, step = other.root.T @ side / s.sqrt(), me.mean - other.mean
        parts = (part - me.mean for part in x.split(ROWS))
        return torch.cat([y.square().sum(1) - (y @ carry).square().sum(1) + 2 * y @ step for y in parts])

    return felt(a, of_a, of_b, right), felt(b, of_b, of_a, left)


class KernelDistance(NamedTuple):
    """The mean over `subsets` subsets of `size` pictures, its 95 % interval, and the subsets' standard deviation."""

    value: float
    low: float
    high: float
    sd: float
    subsets: int
    size: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def kernel_distance(a: Tensor, b: Tensor, subsets: int = 100, size: int | None = None, seed: int = 0) -> KernelDistance:
    """KID's unbiased squared MMD with a cubic kernel, over any features (N, D): torch-fidelity's; Binkowski et al. 2018.

    It may come out slightly below zero for sets that are alike. Subsets overlap, so their standard deviation is neither
    that of the mean nor falls with their number: from subsets of `size` among N, drawn without replacement, that of the
    mean follows as sd * sqrt(size / (N - size)), which is cautious where the sets are alike.

    Args:
        size: pictures of a subset; by default 1000, as for KID, or half of the smaller set: subsets that hold nearly
            all pictures would be nearly the same, and their standard deviation nearly zero.

    Raises:
        ValueError: for features that do not fit together or are so large that their cube overflows, sets smaller than
            `size`, or no subset.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    _alike(a, b, least=4)
    smaller = min(len(a), len(b))
    size = min(1000, smaller // 2) if size is None else size
    if not 2 <= size <= smaller:
        raise ValueError(f"a subset holds from 2 to {smaller} pictures, got size {size}.")
    if subsets < 1:
        raise ValueError(f"a kernel distance is the mean over at least 1 subset, got {subsets}.")
    told = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    with np.errstate(over="ignore", invalid="ignore"):  # it is told below, in one sentence
        found = kid_features_to_metric(a.float().cpu(), b.float().cpu(), **told)
    value, sd = found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]
    if not (math.isfinite(value) and math.isfinite(sd)):
        largest = max(x.abs().max().item() for x in (a, b))
        raise ValueError(
            f"features up to {largest:.3g} are too large for a cubic kernel: divide all sets by one number."
        )
    # Where each subset is the whole set, nothing tells how it would vary.
    half = 1.96 * sd * math.sqrt(size / (smaller - size)) if size < smaller else math.nan
    return KernelDistance(value, value - half, value + half, sd, subsets, size)


def class_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> Estimate:
    """exp of how much a picture tells of its class, E KL(p(class | picture) || p(class)): Salimans et al. 2016.

    With Inception's 1,008 classes this is the Inception score, torch-fidelity's; the more pictures a split has, the higher
    it comes out. 1 is the least; it looks at no real picture. The interval is from each picture's own part of the mean.

    Args:
        logits: (N, C) of classes that exclude each other.
        splits: the mean over so many parts of the pictures, as is custom; `seed` mixes them.

    Raises:
        ValueError: for logits that are not finite, or fewer pictures than splits.
    """
    checked(logits, max(2, splits))
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    mixed = torch.from_numpy(np.random.RandomState(seed).permutation(len(logits)))
    parts, told = [], []
    for i in range(splits):
        p = logits[mixed[i * len(mixed) // splits : (i + 1) * len(mixed) // splits]].double().softmax(1)
        # xlogy: a class that no picture shows adds nothing.
        told.append((torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1))
        parts.append(told[-1].mean().exp())
    value = torch.stack(parts).mean().item()
    sd = value * torch.cat(told).std().item() / math.sqrt(len(mixed))
    return Estimate(value, max(1.0, value - 1.96 * sd), value + 1.96 * sd)


class PrecisionRecall(NamedTuple):
    """`precision`: the share of fakes that lie among the real; `recall`: of real ones that lie among the fakes."""

    precision: Proportion
    recall: Proportion


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Quality and variety apart, over any features (N, D): Kynkäänniemi et al. 2019; equal to torch-fidelity's.

    A picture lies among a set if it is as near to one of the set as that one's k-th neighbour in the set. The intervals
    are those of a share of pictures, the other set being given. Both depend on the counts: compare only at equal ones.

    Raises:
        ValueError: for features that do not fit together, or sets of no more than k pictures.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    _alike(real, fake, least=k + 1)
    precision, recall = _among(fake, real, k), _among(real, fake, k)
    return PrecisionRecall(proportion(precision, len(fake)), proportion(recall, len(real)))


def _among(these: Tensor, those: Tensor, k: int, chunk: int = 256) -> int:
    """How many of these lie among those; distances in float64, so that a copy's is 0, and never more than a strip of them."""

    def strips(a, b):
        for part in a.split(chunk):
            yield torch.cat([torch.cdist(part.double(), other.double()) for other in b.split(chunk)], 1)

    # The first neighbour is the picture itself.
    reach = torch.cat([strip.kthvalue(k + 1, 1).values for strip in strips(those, those)])
    return sum(int((strip <= reach).any(1).sum()) for strip in strips(these, those))


def nearest(these: Tensor, among: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The nearest neighbour of each: (distances (N,) float64, indices (N,) into `among`).

    Args:
        these, among: (N, ...) and (M, ...), features or pictures, both uint8 or both float; the distance is Euclidean over
            all their numbers. Memory stays below a few times chunk * D, however many there are.

    Raises:
        ValueError: for sets that do not fit together, or numbers that are not finite.
    """
    if these.shape[1:] != among.shape[1:] or these.ndim < 2 or len(among) == 0:
        raise ValueError(f"neighbours need one shape, got {tuple(these.shape)} and {tuple(among.shape)}.")
    if (these.dtype == torch.uint8) != (among.dtype == torch.uint8):
        raise ValueError(f"neighbours need one range, both uint8 or both float, got {these.dtype} and {among.dtype}.")
    if not all(part.isfinite().all() for x in (these, among) for part in x.split(chunk)):
        raise ValueError("neighbours need finite numbers, and some are not.")
    these, among = these.flatten(1), among.flatten(1)
    # Distances do not mind a shift, and small numbers lose less in |x|^2 - 2 x y + |y|^2.
    middle = among[:chunk].float().mean(0)
    distances, indices = [], []
    for part in these.split(chunk):
        x = part.float() - middle
        best, which = x.new_full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.long, device=x.device)
        for start in range(0, len(among), chunk):
            y = among[start : start + chunk].float() - middle
            # |x|^2 is the same for all y, so it does not choose.
            found, at = (y.square().sum(1) - 2 * x @ y.T).min(1)
            which, best = torch.where(found < best, at + start, which), torch.minimum(found, best)
        distances.append((part.double() - among[which].double()).norm(dim=1))
        indices.append(which)
    return torch.cat(distances), torch.cat(indices)


def memorised(fake: Tensor, train: Tensor, held_out: Tensor, seed: int = 0) -> Proportion:
    """The share of fakes that lie nearer to a training picture than to any of as many held-out ones: 0.5 is chance.

    A fake that lies as near to both, such as one of a picture that is in both, counts one half.
    A few pictures are the nearest of very many others (hubs), and it is luck which set they are in. So the interval is
    that of the pictures that are found as nearest, each with all its fakes at once; never narrower than that of a share.

    Args:
        fake, train, held_out: (N, ...), (M, ...) and (L, ...), pictures or features; the larger of the two is cut down to
            the count of the smaller, by `seed`, for the more there are, the nearer the nearest is.

    Raises:
        ValueError: for sets that do not fit together, numbers that are not finite, or no fake.
    """
    if len(fake) == 0:
        raise ValueError("there is no fake, so there is no share of them.")
    count, generator = min(len(train), len(held_out)), torch.Generator().manual_seed(seed)
    train, held_out = (x[torch.randperm(len(x), generator=generator)[:count]] for x in (train, held_out))
    (to_train, at), (to_held_out, there) = nearest(fake, train), nearest(fake, held_out)
    nearer, tie = to_train < to_held_out, to_train == to_held_out
    counts = nearer.double() + tie.double() / 2
    found = proportion_of(counts.mean().item(), len(fake))
    which = torch.where(nearer | tie, at, count + there)
    half = 1.96 * torch.zeros(2 * count).double().index_add(0, which, counts - found.share).norm().item() / len(fake)
    low, high = max(0.0, min(found.low, found.share - half)), min(1.0, max(found.high, found.share + half))
    return Proportion(found.share, low, high, found.count)


# Asked and read, where attributes exclude each other; for faces see control.py


def asked_is_read(pictures: Tensor, cond: Tensor, judge) -> Proportion:
    """How many of the pictures (B, C, H, W) the judge reads as the one attribute that cond (B, K) asks for."""
    if not judge.attributes.exclusive:
        raise ValueError("asked_is_read takes a judge whose attributes exclude each other, such as the digits'.")
    hits = (judge.read(pictures) == cond.argmax(1).cpu()).sum()
    return proportion(int(hits), len(pictures))


def asked_of_each(attributes, each: int) -> Tensor:
    """(each * K, K): the same number of requests for each attribute alone, in turn."""
    return torch.eye(len(attributes)).repeat(each, 1)


def read_back(net, judge, scale: float, each: int, steps: int = 10, seed: int = 1) -> Proportion:
    """Ask a Denoiser for `each` of every attribute alone, draw with DDIM, let the judge read: what share is obeyed."""
    where = next(net.parameters()).device
    cond, x_T = (
        asked_of_each(net.attributes, each).to(where),
        noise(each * len(net.attributes), net.shape, seed).to(where),
    )
    parts = zip(x_T.split(100), cond.split(100), strict=True)
    drawn = [sample(classifier_free(net, scale), x, c, DDIM(net.schedule), steps) for x, c in parts]
    return asked_is_read(torch.cat(drawn).cpu(), cond, judge)
