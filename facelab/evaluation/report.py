"""Tables of scores, comparisons of two models, and readers of the recorded results (lesson 05).

No score stands without its interval, the score of other real images, and a control that has collapsed to one mode. Scores have
their number of images in their name, and only in Inception's features are they called FID, KID and IS: "FID-2k".
"""

import json
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.device import shipped_dir
from facelab.evaluation import metrics
from facelab.evaluation.features import INCEPTION, extract_features, extractor
from facelab.evaluation.statistics import Interval, Table, as_cell

MINIMUM, MAXIMUM = 20, 10_000  # images of a set; precision and recall compare at most MAXIMUM
REAL, COLLAPSED = "other real images", "one mode of the real images, repeated"


class Score(NamedTuple):
    """One set of images against the real ones; `inception_score` is None where the features have no classes."""

    images: str
    frechet_distance: Interval
    kernel_distance: Interval
    inception_score: Interval | None
    precision: Interval
    recall: Interval


class Scores(Table):
    """Rows of `Score`; `about` has the `count` of images of each set, the `extractor`, its `features` and the `seed`."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the scores are called, with the count: ("FID-2k", "KID-2k", "IS-2k", ...)."""
        count, fid = self.about["count"], self.about["extractor"] == INCEPTION
        words = ("FID", "KID", "IS") if fid else ("Fréchet distance", "kernel distance", "class score")
        shares = (f"{word}-{short(min(count, MAXIMUM))}" for word in ("precision", "recall"))
        return (*(f"{word}-{short(count)}" for word in words), *shares)

    def cells(self) -> list[tuple[str, ...]]:
        return [("images", *self.names), *(tuple(map(as_cell, row)) for row in self.rows)]


def short(count: int) -> str:
    """2000 is "2k", 1234 is "1234"."""
    return f"{count / 1000:g}k" if count >= 1000 and count % 100 == 0 else str(count)


def disjoint_rows(total: int, *counts: int, seed: int = 0) -> list[Tensor]:
    """Random indices below `total`, `counts` of them, that share none.

    Reference images and the rows of labels that condition generated images must be independent: conditioned on the reference's
    own labels, generated images come nearer to it than other real images do.
    """
    if sum(counts) > total:
        raise ValueError(f"{sum(counts)} different rows are needed, and there are {total}.")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return list(order[: sum(counts)].split(list(counts)))


def evaluate(reference, generated, features="efficientnet", count=None, seed=0, progress=False) -> Scores:
    """Scores of generated images, of other real images (half of the reference), and of a control with one mode.

    Args:
        reference: (N, C, H, W) real images, uint8 or in [-1, 1], or their features (N, D).
        generated: the same, of one model, or of several by name.
        features: an `Extractor` or its name; for features, whose they are.
        count: images of each set, by default as many as there are; all scores depend on it.
    """
    sets = {"generated": generated} if isinstance(generated, Tensor) else generated
    if REAL in sets or COLLAPSED in sets or not sets:
        raise ValueError(f"name at least one set of generated images, and none {REAL!r} or {COLLAPSED!r}.")
    room = min(len(reference) // 2, *map(len, sets.values()))
    if not MINIMUM <= (count := count or room) <= room:
        need = f"at least {max(MINIMUM, count)} generated images and twice as many real ones"
        raise ValueError(f"scores need {need}; here is room for {room}.")
    network = extractor(features) if isinstance(features, str) and reference.ndim == 4 else features
    name, description = (features,) * 2 if isinstance(network, str) else (network.name, network.description)

    def extract(images):
        return images if images.ndim == 2 else extract_features(images, network, progress)

    real, other = (extract(reference[rows]) for rows in disjoint_rows(len(reference), count, count, seed=seed))
    metrics.check_features(real, size=2048 if name == INCEPTION else None)
    sets = {of: extract(x[disjoint_rows(len(x), count, seed=seed)[0]]) for of, x in sets.items()}
    sets |= {REAL: other, COLLAPSED: one_mode(other)}
    rows = [score(of, real, x, getattr(network, "logits", None), seed) for of, x in sets.items()]
    caption = f"{count:,} images each, seed {seed}; {description}{'' if name == INCEPTION else '; this is not FID'}"
    about = {"caption": caption, "count": count, "seed": seed, "extractor": name, "features": description}
    return Scores(tuple(rows), about)


def score(images: str, real: Tensor, x: Tensor, logits=None, seed: int = 0) -> Score:
    """All scores of features x (N, D) against real (N, D); `logits` maps features to logits of classes."""
    distances = metrics.frechet_estimate(real, x), metrics.kernel_distance(real, x, seed=seed)
    classes = metrics.inception_score(logits(x), seed=seed) if logits else None
    return Score(images, *distances, classes, *metrics.precision_recall(real[:MAXIMUM], x[:MAXIMUM]))


def one_mode(features: Tensor) -> Tensor:
    """(N, D): the tenth of the features nearest to the first row, repeated to N rows: good images without variety."""
    distance = torch.cdist(features, features[:1], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
    near = distance.argsort()[: max(1, len(features) // 10)]
    return features[near.repeat(-(-len(features) // len(near)))[: len(features)]]


class Comparison(NamedTuple):
    """ "a is nearer", "b is nearer" or "inconclusive"; the Fréchet distance of a minus that of b; the images of each."""

    result: str
    difference: Interval
    count: int


def compare(real: Tensor, a: Tensor, b: Tensor) -> Comparison:
    """Which of two models' features (M, D) has the smaller expected Fréchet distance to real (N, D)?

    The rule: below zero with all of its 95 % interval (`frechet_difference`) a is nearer, above it b; otherwise inconclusive.
    """
    found = metrics.frechet_difference(real, a, b)
    result = "a is nearer" if found.high < 0 else "b is nearer" if found.low > 0 else "inconclusive"
    return Comparison(result, found, len(a))


def results(name: str) -> dict:
    """A recorded measurement, data/results/NAME.json, with the command that made it."""
    file = shipped_dir("results") / f"{name}.json"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
        raise ValueError(f"there is no recorded result {name!r}: there are {names or 'none'}.")
    return json.loads(file.read_text("utf-8"))


def recorded_scores(record: dict) -> list[Scores]:
    """The tables of scores in a record, one for each extractor."""
    rows = [[Score(**{key: as_interval(x) for key, x in row.items()}) for row in t["rows"]] for t in record["scores"]]
    return [Scores(tuple(some), table["about"]) for some, table in zip(rows, record["scores"], strict=True)]


def as_interval(value):
    """The `Interval` that a record holds as {"value", "low", "high"}; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return Interval(**{key: float("nan") if x is None else x for key, x in value.items() if key in Interval._fields})
