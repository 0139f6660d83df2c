"""How like the true picture is what interpolation and editing make? (lesson 04)

On drawn faces the true counterfactual exists, the same person drawn with another answer, so that an edit can be held against
it; on real faces there is none. How a face changes along a walk, a judge tells.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from facelab import data, drawn, kept
from facelab.attributes import DRAWN
from facelab.data import Pictures
from facelab.edit import crossed, edit, invert, walk
from facelab.features import as_saved
from facelab.sample import sample

# What changes in an edit that is measured, face by face in turn: worn, hair, expression, skin.
CHANGES = "Eyeglasses Smiling Wearing_Hat Blond_Hair Bangs Mouth_Slightly_Open Bald Heavy_Makeup".split()


class Mean(NamedTuple):
    """The mean of `count` values with its 95 % interval, 1.96 standard errors to each side."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_of(values: Tensor) -> Mean:
    """Of at least two values (N,).

    Raises:
        ValueError: for fewer.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a mean with its interval needs at least 2 values, got {tuple(values.shape)}.")
    middle, aside = values.mean().item(), 1.96 * values.std().item() / len(values) ** 0.5
    return Mean(middle, middle - aside, middle + aside, len(values))


def rms(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """(B,) root of the mean squared difference of pictures (B, C, H, W) in [-1, 1], in levels of 0 to 255.

    where: (B, 1, H, W), the pixels that count, by default all; NaN where none does.
    """
    where = torch.ones_like(a[:, :1], dtype=torch.bool) if where is None else where
    squares = (((a - b) * 127.5).double().square() * where).flatten(1).sum(1)
    return (squares / (where.flatten(1).sum(1) * a.shape[1])).sqrt()


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """(B,) 20 log10(255 / rms) in decibels: 20 is a bad copy, 40 one that nobody tells from the original.

    At most 58.9, where the rms is that of rounding to 256 levels: what is nearer is the same when saved.
    """
    return 20 * torch.log10(255 / rms(a, b, where).clamp(min=12**-0.5))


# Editing


def reconstructed(denoise, faces: Pictures, solver, steps: int, rounds: int = 1, batch: int = 50) -> Tensor:
    """The faces, as they come back from noise: inverted by their own answers and drawn again, (N, C, H, W)."""
    back = []
    for start in range(0, len(faces), batch):
        x_0, cond = faces[start : start + batch]
        there = invert(denoise, x_0, cond, solver, steps, rounds)
        back.append(sample(denoise, there, cond, solver, steps))
    return torch.cat(back)


class Counterfactuals(NamedTuple):
    """Drawn faces before and after one change each: pictures in [-1, 1] (N, 3, 64, 64), conditions (N, K), what changed, and
    other people (N, 3, 64, 64) who have all that is asked.
    """

    before: Tensor
    after: Tensor
    was: Tensor
    wish: Tensor
    changed: list[str]
    others: Tensor

    @property
    def where(self) -> Tensor:
        """(N, 1, H, W): the pixels that the change reaches."""
        return (self.before != self.after).any(1, keepdim=True)


def counterfactuals(count: int = 200, changes: Sequence[str] = CHANGES, split: str = "test") -> Counterfactuals:
    """Of the first drawn faces of a split, each with one answer turned round, the `changes` in turn.

    A change that the picture does not show (bangs below a hat) passes the turn on to the next one.

    Raises:
        ValueError: for a name that cannot be drawn.
    """
    conds, seeds = data.drawn_people(count, split)
    rows = []
    for i, (was, seed) in enumerate(zip(conds.float(), seeds.tolist(), strict=True)):
        for turn in range(len(changes)):
            name = changes[(i + turn) % len(changes)]
            answer = bool(was[DRAWN.index(name)] < 0)
            before, after, wish = drawn.counterfactual(was, seed, **{name: answer})
            if (before != after).any():
                other = drawn.draw(wish, seed + 500_000)  # the other half of the split's million
                rows.append((before, after, was, wish, f"{'' if answer else 'no '}{name}", other))
                break
    before, after, was, wish, changed, others = zip(*rows, strict=True)
    before, after, others = (torch.stack(part).float() / 127.5 - 1 for part in (before, after, others))
    return Counterfactuals(before, after, torch.stack(was), torch.stack(wish), list(changed), others)


class Edited(NamedTuple):
    """How near an edit comes to the true counterfactual.

    inside: rms in levels of 0 to 255 to the true picture where it differs from the given one: of the edit, of the given
        picture as it is ("unedited"), of another person with the answers asked for ("another").
    nearer: how much nearer the edit is than these two, face by face; above zero is better.
    outside: PSNR to the given picture everywhere else, of the edit and of the plain reconstruction, and what the edit costs.
    """

    inside: dict[str, Mean]
    nearer: dict[str, Mean]
    outside: dict[str, Mean]


def edited(
    denoise,
    pairs: Counterfactuals,
    solver,
    steps: int,
    scale: float = 1.0,
    rounds: int = 1,
    keep: float = 0.0,
    batch: int = 50,
) -> Edited:
    """Edit the faces `before` into what is asked of `after`, and measure; arguments as for `edit`."""
    plain, new = [], []
    for some in torch.arange(len(pairs.was)).split(batch):
        x_0, was, wish = pairs.before[some], pairs.was[some], pairs.wish[some]
        new.append(edit(denoise, x_0, was, wish, solver, steps, scale, rounds, keep))
        plain.append(edit(denoise, x_0, was, was, solver, steps, 1.0, rounds))
    return judged(torch.cat(new), torch.cat(plain), pairs)


def judged(new: Tensor, plain: Tensor, pairs: Counterfactuals) -> Edited:
    """The measurement itself: of edits and plain reconstructions (N, C, H, W), which may have been made in any way."""
    made = {"edit": new, "unedited": pairs.before, "another": pairs.others}
    inside = {name: rms(picture, pairs.after, pairs.where) for name, picture in made.items()}
    outside = {name: psnr(x, pairs.before, ~pairs.where) for name, x in (("edit", new), ("plain", plain))}
    outside["cost"] = outside["plain"] - outside["edit"]
    nearer = {name: inside[name] - inside["edit"] for name in ("unedited", "another")}
    # A change of the whole picture leaves no outside.
    there = (~pairs.where).flatten(1).any(1)
    return Edited(
        {name: mean_of(values) for name, values in inside.items()},
        {name: mean_of(values) for name, values in nearer.items()},
        {name: mean_of(values[there]) for name, values in outside.items()},
    )


# Interpolation


@torch.no_grad()
def probabilities(judge, pictures: Tensor, batch: int = 500) -> Tensor:
    """(N, K) float64: how sure the judge is of a yes, in pictures (N, C, H, W), uint8 or in [-1, 1], as a file keeps them."""
    parts = (as_saved(part).float() / 127.5 - 1 for part in pictures.split(batch))
    return torch.cat([judge(part).double().sigmoid() for part in parts])


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's (..., N) with (..., N) or (N,): (...,) from -1 to 1, equal values sharing their rank; 0 where all are equal."""
    ranks = [
        (v[..., None] > v[..., None, :]).double().sum(-1) + (v[..., None] == v[..., None, :]).sum(-1) / 2
        for v in (x, y)
    ]
    a, b = (rank - rank.mean(-1, keepdim=True) for rank in ranks)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(-1) / scale.clamp(min=1e-12), 0.0)


def _within_one(correlation: Mean) -> Mean:
    """No correlation lies outside [-1, 1], so nor need its interval."""
    return correlation._replace(low=max(-1.0, correlation.low), high=min(1.0, correlation.high))


class Rise(NamedTuple):
    """An attribute walked from no to yes, everything else as it was.

    correlation: rank correlation of the judge's probability with the place on the walk, the mean over the noises. Where it
        is sure, at both ends, its millionths of doubt are ranked too.
    together: the same of the mean probability over the noises.
    gained: how much the probability gains from the one end to the other.
    others: how far the other attributes' mean probabilities move from end to end, the mean over these attributes.
    others_real: the same between real faces with and without the attribute.
    real: how many of these with, and without.
    """

    name: str
    correlation: Mean
    together: float
    gained: Mean
    others: float
    others_real: float
    real: tuple[int, int]


def rise(
    denoise,
    judge,
    name: str,
    x_T: Tensor,
    solver,
    steps: int,
    real: Pictures,
    seen: Tensor,
    frames: int = 9,
    walked: int = 20,
    base: Tensor | None = None,
    each: int = 200,
    batch: int = 64,
    keep: Path | None = None,
) -> Rise:
    """Walk one attribute from no to yes, and let the judge follow.

    Args:
        x_T: (R, C, H, W) noises, on each of which both ends are drawn. Few of them move by chance: as many as there are real
            faces of each kind make the two sides comparable.
        real, seen: real faces with their answers, and `probabilities(judge, real.images)`.
        frames, walked: places on the walk, and on how many of the noises it is walked, the first ones.
        base: (K,), what is said besides, by default nothing.
        each: how many real faces with and without the attribute, the first of each kind; fewer where there are fewer.
        keep: a folder in which what the judge made of each batch is kept (see `kept.py`), so that a stopped walk goes on;
            it belongs to one denoiser and one judge.

    Raises:
        ValueError: for an unknown name, fewer than two noises walked, or where no real face has the attribute or all do.
    """
    i = judge.attributes.index(name)
    kinds = [(real.conds[:, i] == answer).nonzero()[:each, 0] for answer in (1, -1)]
    if not all(map(len, kinds)):
        raise ValueError(
            f"of the real faces {len(kinds[0])} have {name} and {len(kinds[1])} have not: both are needed."
        )
    ends = torch.zeros(2, len(judge.attributes)) if base is None else base.repeat(2, 1)
    ends[:, i] = torch.tensor([-1.0, 1.0])

    def look(noises, conds):
        return probabilities(judge, sample(denoise, noises, conds, solver, steps).cpu())

    def looked(noises, conds):
        """(R, F, K): what the judge makes of every noise under every condition."""
        grid = crossed(noises, conds.to(noises.device))
        jobs = {
            kept.name_of(type(solver).__name__, steps, tensors=part): functools.partial(look, *part)
            for part in zip(*(part.split(batch) for part in grid), strict=True)
        }
        parts = [job() for job in jobs.values()] if keep is None else map(kept.kept, kept.keep(keep, jobs).values())
        return torch.cat(list(parts)).reshape(len(noises), len(conds), -1)

    way = looked(x_T[:walked], walk(*ends, frames))
    found = torch.cat([way[:, [0, -1]], *([looked(x_T[walked:], ends)] if len(x_T) > walked else [])])
    moved = (found[:, 1] - found[:, 0]).mean(0).abs()
    moved_real = (seen[kinds[0]].mean(0) - seen[kinds[1]].mean(0)).abs()
    others = torch.arange(len(moved)) != i
    return Rise(
        name,
        _within_one(mean_of(rank_correlation(way[:, :, i], torch.arange(frames)))),
        rank_correlation(way[:, :, i].mean(0), torch.arange(frames)).item(),
        mean_of(found[:, 1, i] - found[:, 0, i]),
        moved[others].mean().item(),
        moved_real[others].mean().item(),
        (len(kinds[0]), len(kinds[1])),
    )
