"""A whole table of scores, and who is better: no value without its floor, its control and its interval (lesson 05).

    evaluate(real, fake) -> what is scored | other real pictures, the floor | a broken set, the control

A value carries its count in its name, and only with Inception's 2048 features is it called FID, KID and IS: "FID-2k".
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from facelab.features import INCEPTION, Extractor, checked, extractor, features_of
from facelab.metrics import (
    Difference,
    Estimate,
    KernelDistance,
    Proportion,
    as_html,
    as_text,
    class_score,
    frechet_difference,
    frechet_estimate,
    kernel_distance,
    precision_recall,
)

LEAST = 20  # pictures of which a table is made: ten splits of two for the class score, five neighbours for recall


MOST = 10_000  # pictures for precision and recall, each of which is compared with each; of more, so many are drawn
FLOOR = "other real ones (the floor)"


class Score(NamedTuple):
    """One set of pictures against the real ones; `classes` is None where the features know none."""

    of: str
    distance: Estimate
    kernel: KernelDistance
    classes: Estimate | None
    precision: Proportion
    recall: Proportion


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rows of scores, each of `count` pictures against as many real ones, in the features of `name` (`told` in full)."""

    rows: tuple[Score, ...]
    count: int
    name: str
    told: str
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """What the values are called, the count in each name: ("FID-2k", "KID-2k", "IS-2k", ...)."""
        fid = self.name == INCEPTION
        words = ("FID", "KID", "IS") if fid else ("distance", "kernel distance", "class score")
        among = ("precision", "recall")
        return tuple(
            [f"{word}-{short(self.count)}" for word in words]
            + [f"{word}-{short(min(self.count, MOST))}" for word in among]
        )

    def to_json(self) -> dict:
        """As JSON holds it: every value with its interval, count, features and seed."""
        about = {"count": self.count, "features": self.told, "seed": self.seed}
        return about | {"rows": [{"of": row.of} | self._plain(row) for row in self.rows]}

    def _plain(self, row: Score) -> dict:
        return {name: value and value._asdict() for name, value in zip(self.names, row[1:], strict=True)}

    def _cells(self) -> list[tuple[str, ...]]:
        head = ("of", *self.names)
        return [head, *((row.of, *("-" if value is None else str(value) for value in row[1:])) for row in self.rows)]

    def _title(self) -> str:
        fid = "" if self.name == INCEPTION else "; this is not FID"
        return f"{self.count:,} pictures each, seed {self.seed}; {self.told}{fid}"

    def __str__(self) -> str:
        return f"{self._title()}\n{as_text(self._cells())}"

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{as_html(self._cells())}"


def short(count: int) -> str:
    """2000 is "2k", 1234 is "1234"."""
    return f"{count / 1000:g}k" if count >= 1000 and count % 100 == 0 else str(count)


def evaluate(
    real: Tensor,
    fake: Tensor | dict[str, Tensor],
    features: str | Extractor = "efficientnet",
    other: Tensor | None = None,
    broken: Tensor | dict[str, Tensor] | None = None,
    count: int | None = None,
    seed: int = 0,
    replicates: int = 0,
    progress: bool = False,
    keep: Path | None = None,
) -> Scores:
    """Score fakes against real pictures, beside the floor and the control.

    Every set is cut down to one count by `seed`, for all values depend on it; for precision and recall again, to at most
    10,000. The floor is what other real pictures score.
    The control is a set that must score badly: without `broken`, the tenth of the other real pictures that lies nearest to
    one of them, each ten times, so that each is good and there is one mode.

    Args:
        real: (N, C, H, W) pictures, uint8 or in [-1, 1], or their features (N, D).
        fake: the same, of one model, or of several by name.
        features: an `Extractor` or the name of one (see `features.extractor`); for features, whose they are: any other
            name is taken as it is.
        other: further real pictures; without them `real` is halved, at random.
        broken: another control, or several by name; "drawn" is no name.
        count: pictures of each set; by default as many as all sets have.
        seed: draws the pictures, halves the real ones, and chooses subsets and splits.
        replicates: bootstrap replicates for the distance's interval; 0 takes each picture's influence.
        progress: show bars.
        keep: a folder for features (see `features_of`).

    Raises:
        ValueError: for fewer than 20 pictures of a set, no set, two of one name, pictures of different sizes, or values that
            are not finite.
    """
    if not _named(fake, "drawn"):
        raise ValueError("there is nothing to score: `fake` holds no set.")
    controls = {"one mode repeated": None} if broken is None else _named(broken, "broken")
    titles = [*_named(fake, "drawn"), FLOOR, *map(_control, controls)]
    if twice := {title for title in titles if titles.count(title) > 1}:
        raise ValueError(f"every row needs a name of its own: {', '.join(sorted(twice))} would stand there twice.")
    if not (real.ndim in (2, 4) and all(x.ndim == real.ndim for x in _sets(fake, broken, other))):
        raise ValueError("all sets must be pictures (N, C, H, W), or all features (N, D).")
    if sizes := {tuple(x.shape[1:]) for x in _sets(fake, broken, other)} - {tuple(real.shape[1:])}:
        raise ValueError(f"all sets must be of one size, got {tuple(real.shape[1:])} and {', '.join(map(str, sizes))}.")
    name, told, classes, see = _eyes(real, features, progress, keep)
    generator = torch.Generator().manual_seed(seed)

    def some(x, count):
        return x if len(x) == count else x[torch.randperm(len(x), generator=generator)[:count]]

    room = min(len(real) if other is not None else len(real) // 2, *(len(x) for x in _sets(fake, broken, other)))
    if not LEAST <= (count or room) <= room:
        need = "" if other is not None else ", and the real ones twice as many, half of them for the floor"
        raise ValueError(
            f"scores need at least {max(LEAST, count or 0)} pictures of every set{need}; here is room for {room}."
        )
    count = count or room
    if other is None:
        mixed = torch.randperm(len(real), generator=generator)
        real, other = real[mixed[:count]], real[mixed[count : 2 * count]]
    base, floor = see(some(real, count)), see(some(other, count))
    sets = {name: see(some(x, count)) for name, x in _named(fake, "drawn").items()}
    sets[FLOOR] = floor
    sets |= {_control(name): one_mode(floor) if x is None else see(some(x, count)) for name, x in controls.items()}
    few = torch.randperm(count, generator=generator)[:MOST] if count > MOST else slice(None)

    def score(of, seen):
        kernel = kernel_distance(base, seen, seed=seed)
        told_apart = classes and class_score(classes(seen), seed=seed)
        among = precision_recall(base[few], seen[few])
        return Score(of, frechet_estimate(base, seen, replicates, seed), kernel, told_apart, *among)

    return Scores(tuple(score(of, checked(seen)) for of, seen in sets.items()), count, name, told, seed)


def one_mode(features: Tensor) -> Tensor:
    """(N, D): the tenth of the features that lies nearest to the first of them, each as often as fills N again."""
    far = torch.cdist(features, features[:1], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
    near = far.argsort()[: max(1, len(features) // 10)]
    return features[near.repeat(-(-len(features) // len(near)))[: len(features)]]


def _control(name: str) -> str:
    return f"{name} (the control)"


def _named(sets: Tensor | dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {name: sets} if isinstance(sets, Tensor) else sets


def _sets(fake, broken, other) -> list[Tensor]:
    given = [*_named(fake, "").values(), *(_named(broken, "").values() if broken is not None else ())]
    return [*given, *([] if other is None else [other])]


def _eyes(real: Tensor, features: str | Extractor, progress: bool, keep: Path | None):
    """(whose features, in one line, logits of them or None, pictures or features -> features)"""
    known = isinstance(features, Extractor) or real.ndim == 4 or features in ("auto", "inception", "efficientnet")
    if not known:
        if INCEPTION in features and real.shape[1] != 2048:
            raise ValueError(f"Inception-v3's features are 2048 numbers a picture, got {real.shape[1]}.")
        return features, f"{features}, {real.shape[1]} features", None, lambda x: x
    eyes = features if isinstance(features, Extractor) else extractor(features)
    if real.ndim == 2 and real.shape[1] != eyes.size:
        raise ValueError(f"{eyes.name}'s features are {eyes.size} numbers a picture, got {real.shape[1]}.")
    see = (lambda x: features_of(x, eyes, progress, keep)) if real.ndim == 4 else (lambda x: x)
    return eyes.name, eyes.told, eyes.classes, see


# Who is better


class Verdict(NamedTuple):
    """ "A better", "B better" or "inconclusive", and the difference of the two distances it rests on."""

    word: str
    difference: Difference
    count: int

    def __str__(self) -> str:
        return f"{self.word}: A's distance minus B's {self.difference}, {self.count:,} pictures each"


def verdict(real: Tensor, a: Tensor, b: Tensor, replicates: int = 0, seed: int = 0) -> Verdict:
    """The rule, stated before the run: who has the smaller expected distance to the same real pictures at the same count?

    The 95 % interval of A's distance minus B's (`frechet_difference`): below zero A is better, above zero B is; where it
    holds zero, these pictures do not tell.

    Args:
        real, a, b: features (N, D), (M, D) and (M, D).
        replicates, seed: as for `frechet_difference`.

    Raises:
        ValueError: as for `frechet_difference`.
    """
    apart = frechet_difference(real, a, b, replicates, seed)
    word = "A better" if apart.high < 0 else "B better" if apart.low > 0 else "inconclusive"
    return Verdict(word, apart, len(a))
