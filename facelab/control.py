"""Is what was asked what is read back, for each of many attributes? (lessons 03 and 05)

    balanced = (share read yes of those asked yes + share read no of those asked no) / 2

Chance is one half, however rare the attribute. Only what a request says counts, so a request may say all, one, or three.
The judge errs on real faces too: its own balanced accuracy there is the ceiling, beside which every row stands.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from facelab import kept
from facelab.attributes import Attributes
from facelab.data import Pictures
from facelab.features import as_saved
from facelab.guidance import classifier_free
from facelab.metrics import Difference, Estimate, Proportion, as_html, as_text, difference, proportion, proportion_of
from facelab.sample import DDIM, sample

# Requests


def covering(answers: Tensor, attributes: Attributes, each: int, names: Iterable[str] | None = None, seed=0) -> Tensor:
    """Few rows of `answers` in which every name is answered by at least `each` yes and `each` no.

    The list is shuffled, and of every answer the first `each` rows that give it are taken, in the list's new order. So
    these are a fair sample of all that give it, and what goes with it is what goes with it in the data. All the rows
    together are not: what is rare is common among them. `counted` tells which answers of which rows to read back.

    A row comes twice only where the list has too few, and a warning says so.

    Args:
        answers: (N, K) of -1 and +1, such as the official list of a partition; no picture is needed.
        names: the attributes that count, by default all.

    Returns:
        (B,) indices into `answers`, in the order of the shuffled list, by which `counted` goes.

    Raises:
        ValueError: for an answer that no row gives.
    """
    cells = _rarest_first(answers, attributes, _columns(attributes, names), each)
    _say([_answer(attributes, column, sign, len(rows)) for column, sign, rows in cells if len(rows) < each], each)
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))
    order = order.repeat(math.ceil(each / len(cells[0][2])))
    taken = torch.zeros(len(order), dtype=torch.bool)
    for column, sign, _ in cells:
        taken[(answers[order, column] == sign).nonzero()[:each, 0]] = True
    return order[taken]


def counted(cond: Tensor, attributes: Attributes, each: int, names: Iterable[str] | None = None) -> Tensor:
    """The same requests (B, K), of every name only the first `each` yes and the first `each` no left said.

    What is read back from the rows of `covering` is held against these: each answer then has a fair sample of the rows
    that give it, as the judge's ceiling has all of them. Among all the rows of `covering` those without glasses have hats,
    beards and bald heads far more often than in the data, and are harder to read and to draw for it.
    """
    named = torch.zeros(len(attributes), dtype=torch.bool)
    named[_columns(attributes, names)] = True
    yes, no = cond > 0, cond < 0
    return cond * ((yes.cumsum(0) <= each) & yes | (no.cumsum(0) <= each) & no) * named


def requests(
    answers: Tensor, attributes: Attributes, each: int, said: int | str = "all", names=None, seed: int = 0
) -> Tensor:
    """Conditions (B, K) that ask for each name at least `each` times yes and `each` times no.

    Args:
        answers: (N, K) of -1 and +1; what a request says together, some row says together.
        said: "all" takes whole rows (`covering`, of which `counted` tells what to read back); 1 says one attribute alone
            and leaves the others at 0, "not said"; 3 says it together with two more of `names`, answered as in the same
            row, first those still asked too seldom.
        names: the attributes that are asked for, by default all.

    Raises:
        ValueError: for an answer that no row gives, or more said than there are names.
    """
    if said == "all":
        return answers[covering(answers, attributes, each, names, seed)].float()
    generator, columns = torch.Generator().manual_seed(seed), _columns(attributes, names)
    if not isinstance(said, int) or not 1 <= said <= len(columns):
        raise ValueError(f"said must be 'all' or from 1 to {len(columns)} attributes, got {said!r}.")
    asked, few = [], []
    times = torch.zeros(2, len(attributes), dtype=torch.long)  # no, yes
    for column, sign, having in _rarest_first(answers, attributes, columns, each):
        having, turn = having[torch.randperm(len(having), generator=generator)], 0
        others = columns[columns != column]
        while times[int(sign > 0), column] < each:
            row = answers[having[turn % len(having)]]
            others = others[torch.randperm(len(others), generator=generator)]
            enough = times[(row[others] > 0).long(), others] >= each
            saying = torch.cat([column[None], others[enough.int().argsort(stable=True)][: said - 1]])
            asked.append(torch.zeros(len(attributes)).index_put((saying,), row[saying].float()))
            times[(row[saying] > 0).long(), saying] += 1
            turn += 1
        if said > 1 and turn > len(having):
            few.append(_answer(attributes, column, sign, len(having)))
    _say(few, each)
    return torch.stack(asked)[torch.randperm(len(asked), generator=generator)]


def _columns(attributes: Attributes, names: Iterable[str] | None) -> Tensor:
    return torch.tensor([attributes.index(name) for name in (attributes if names is None else names)])


def _rarest_first(answers: Tensor, attributes: Attributes, columns: Tensor, each: int):
    """[(column, sign, the rows that give this answer)], the answer that fewest give first."""
    if answers.ndim != 2 or answers.shape[1] != len(attributes):
        raise ValueError(f"answers must be (N, {len(attributes)}), got {tuple(answers.shape)}.")
    if each < 1:
        raise ValueError(f"each answer must be asked at least once, got each={each}.")
    cells = [(column, sign, (answers[:, column] == sign).nonzero()[:, 0]) for column in columns for sign in (-1, 1)]
    if never := [_answer(attributes, column, sign, 0) for column, sign, having in cells if len(having) == 0]:
        raise ValueError(f"no row of these answers says {', '.join(never)}: take more rows, or leave the name out.")
    return sorted(cells, key=lambda cell: len(cell[2]))


def _answer(attributes: Attributes, column, sign: int, count: int) -> str:
    return f"{'' if sign > 0 else 'no '}{attributes.names[column]}" + (f" ({count} rows)" if count else "")


def _say(few: list[str], each: int) -> None:
    if few:
        warnings.warn(f"rows are asked for more than once to reach {each} of {', '.join(few)}.", stacklevel=3)


def ask(
    denoise,
    cond: Tensor,
    steps=20,
    scale=2.0,
    seed=0,
    batch=64,
    shape=None,
    progress: bool = False,
    keep=None,
    solver: type = DDIM,
) -> Tensor:
    """The pictures that are drawn for requests: (B, C, H, W) uint8, under classifier-free guidance.

    Picture i is a function of the seed, its request and i, whatever the batch and however many processes draw.

    Args:
        denoise: a Denoiser, or any denoise call that has its `schedule`.
        cond: (B, K) in [-1, 1].
        scale: guidance: 0 ignores, 1 is plain, above 1 insists.
        batch: pictures at once.
        shape: (C, H, W), by default the denoiser's own.
        progress: show a bar.
        keep: a folder in which each batch is kept (see `kept.py`), so that a stopped call goes on and several processes
            share the work; it belongs to one denoiser.
        solver: `DDIM`, `AdamsBashforth`, ...: a deterministic one.

    Raises:
        ValueError: for no request, or none at once.
    """
    if cond.ndim != 2 or len(cond) == 0:
        raise ValueError(f"requests must be (B, K), one at least, got {tuple(cond.shape)}.")
    if batch < 1:
        raise ValueError(f"batch must be at least 1 picture, got {batch}.")
    shape, generator = tuple(shape or denoise.shape), torch.Generator()
    # Kept pictures of DDIM were named before there was a choice.
    words = () if solver is DDIM else (solver.__name__,)
    guided, drawn = classifier_free(denoise, scale), torch.empty(len(cond), *shape, dtype=torch.uint8)

    def noise_from(state, count):
        generator.set_state(state)
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])

    def draw(state, c):
        return as_saved(sample(guided, noise_from(state, len(c)), c, solver(denoise.schedule), steps)).cpu()

    jobs, state = {}, generator.manual_seed(seed).get_state()
    for start in range(0, len(cond), batch):
        c = cond[start : start + batch]
        jobs[kept.name_of(shape, steps, scale, seed, start, *words, tensors=[c.float()])] = functools.partial(
            draw, state, c
        )
        # Only where the generator stands is remembered: the noise of 50,000 pictures would take 2.4 GB.
        noise_from(state, len(c))
        state = generator.get_state()
    with tqdm(total=len(cond), unit=" pictures", disable=not progress) as bar:
        files = {} if keep is None else kept.keep(keep, jobs, bar)
        for part, (name, job) in zip(drawn.split(batch), jobs.items(), strict=True):
            part.copy_(kept.kept(files[name]) if files else job())
            bar.update(0 if files else len(part))
    return drawn


# Readings


class Balanced(NamedTuple):
    """How often yes is read of those told yes, and no of those told no; None where none was told."""

    yes: Proportion | None
    no: Proportion | None

    @property
    def share(self) -> float:
        """Their mean, the balanced accuracy: 0.5 is chance. NaN where one of them is None."""
        return self._mean(0, 0)

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval: distances to the ends add up as squares (Zou and Donner 2008)."""
        return self._mean(1, -1)

    @property
    def high(self) -> float:
        """The upper end"""
        return self._mean(2, 1)

    def _mean(self, end: int, sign: int) -> float:
        if self.yes is None or self.no is None:
            return math.nan
        aside = math.hypot(self.yes[end] - self.yes.share, self.no[end] - self.no.share)
        return (self.yes.share + self.no.share + sign * aside) / 2

    def __str__(self) -> str:
        return "nothing to compare" if math.isnan(self.share) else f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}]"


def read(judge, pictures: Tensor, batch: int = 500) -> Tensor:
    """What the judge sees in pictures (B, C, H, W), uint8 or in [-1, 1]: (B, K) of -1 and +1.

    Raises:
        ValueError: for a judge whose attributes exclude each other: `metrics.asked_is_read` is for these.
    """
    if judge.attributes.exclusive:
        raise ValueError("control is for attributes that do not exclude each other; for digits take asked_is_read.")
    return torch.cat([judge.read(as_saved(part).float() / 127.5 - 1) for part in pictures.split(batch)]).to(torch.int8)


def balanced_accuracy(seen: Tensor, told: Tensor, attributes: Attributes) -> dict[str, Balanced]:
    """{name: how well what was seen agrees with what was told}.

    Args:
        seen: (B, K) of -1 and +1, a judge's readings.
        told: (B, K), the requests, or the answers that real pictures have; what is 0, not said, does not count.

    Raises:
        ValueError: for shapes that do not fit.
    """
    _fit(seen, told, attributes)

    def agreeing(column, sign):
        there = told[:, column].sign() == sign
        return proportion(int((seen[there, column] == sign).sum()), int(there.sum())) if there.any() else None

    return {name: Balanced(agreeing(i, 1), agreeing(i, -1)) for i, name in enumerate(attributes)}


def _fit(seen: Tensor, told: Tensor, attributes: Attributes) -> None:
    if seen.shape != told.shape or seen.ndim != 2 or seen.shape[1] != len(attributes):
        raise ValueError(f"both must be (B, {len(attributes)}), got {tuple(seen.shape)} and {tuple(told.shape)}.")


def mean_obeyed(seen: Tensor, cond: Tensor, names: Iterable[str], attributes: Attributes, seed: int = 0) -> Estimate:
    """The mean of the balanced accuracies of all names of which both answers were asked.

    All attributes are read from the same pictures, so the interval is that of 200 bootstrap replicates of pictures,
    value plus or minus 1.96 standard deviations.

    Raises:
        ValueError: where of no name both answers were asked, or for shapes that do not fit.
    """
    _fit(seen, cond, attributes)
    columns = _columns(attributes, names)
    columns = columns[((cond[:, columns] > 0).any(0) & (cond[:, columns] < 0).any(0))]
    if len(columns) == 0:
        raise ValueError("of no attribute both answers were asked, so nothing can be balanced.")
    seen, cond = seen[:, columns], cond[:, columns]
    asked = torch.stack([cond > 0, cond < 0]).double()
    right = asked * torch.stack([seen > 0, seen < 0])
    picks = torch.randint(len(cond), (200, len(cond)), generator=torch.Generator().manual_seed(seed))
    weights = torch.cat([torch.ones(1, len(cond)), torch.stack([pick.bincount(minlength=len(cond)) for pick in picks])])
    weights = weights.double()
    # An answer that a replicate leaves out is left out of its mean.
    shares = (weights @ right / (weights @ asked)).mean(0)
    value, sd = shares[0].nanmean().item(), shares[1:].nanmean(1).std().item()
    return Estimate(value, max(0.0, value - 1.96 * sd), min(1.0, value + 1.96 * sd))


def obeyed_by(
    seen: Tensor, cond: Tensor, attributes: Attributes, people: Iterable[str], told: Tensor | None = None
) -> dict[str, dict[str, Balanced]]:
    """{answer: {name: how well requests that give this answer are obeyed}}, for "Male", "no Male", ...: whom errors hit.

    Args:
        seen, cond: as for `balanced_accuracy`.
        people: the names whose answers split the requests.
        told: (B, K), the answers that count (`counted`); by default all that are said.
    """
    found, told = {}, cond if told is None else told
    for name in people:
        for sign, word in ((1, name), (-1, f"no {name}")):
            there = cond[:, attributes.index(name)].sign() == sign
            found[word] = balanced_accuracy(seen[there], told[there], attributes)
    return found


class Ceiling(NamedTuple):
    """A judge on real pictures: its balanced accuracy (always saying the majority's answer has 0.5), and its plain one
    beside that of always saying the majority's answer.
    """

    balanced: Balanced
    plain: Proportion | None
    majority: float


def ceiling(judge, pictures: Pictures) -> dict[str, Ceiling]:
    """{name: how well the judge reads real pictures whose answers are known}; what is not said there does not count."""
    seen, told, found = read(judge, pictures.images), pictures.conds, {}
    for i, (name, balanced) in enumerate(balanced_accuracy(seen, told, pictures.attributes).items()):
        said = told[:, i] != 0
        yes, count = int((told[:, i] > 0).sum()), int(said.sum())
        plain = proportion(int((seen[said, i] == told[said, i]).sum()), count) if count else None
        found[name] = Ceiling(balanced, plain, max(yes, count - yes) / count if count else math.nan)
    return found


# Tables


class Row(NamedTuple):
    """One attribute: asked = read, the judge on real pictures, and how far the first lies below the second."""

    name: str
    obeyed: Balanced
    ceiling: Balanced
    below: Difference


@dataclasses.dataclass(frozen=True)
class Control:
    """The rows, and what they are of: the caller's words on model, kind of request, scale, steps, seeds."""

    rows: tuple[Row, ...]
    about: dict

    def further_below(self, points: float) -> list[str]:
        """Names whose estimate lies more than so many points (hundredths) below the ceiling, or is not known."""
        return [row.name for row in self.rows if not row.below.value <= points / 100 + 1e-9]

    def to_json(self) -> dict:
        """Plain dictionaries; null where nothing was asked."""
        return {"about": self.about, "rows": [plain(row) for row in self.rows]}

    def _cells(self) -> list[tuple[str, ...]]:
        head = ("attribute", "asked = read", "ceiling", "below it", "asked yes", "asked no")
        counts = [[str(half.count if half else 0) for half in row.obeyed] for row in self.rows]
        shown = [tuple(map(str, row)) for row in self.rows]
        return [head, *((*cells, *count) for cells, count in zip(shown, counts, strict=True))]

    def __str__(self) -> str:
        return as_text(self._cells())

    def _repr_html_(self) -> str:
        return as_html(self._cells())


def control(judge, drawn: Tensor, cond: Tensor, real: Pictures | dict[str, Ceiling], names=None, **about) -> Control:
    """How well pictures obey their requests, attribute by attribute, beside the judge's own ceiling.

    Args:
        drawn: (B, C, H, W), uint8 or in [-1, 1]: what was drawn for cond.
        cond: (B, K): 0 is not said and does not count, for the rest the sign does.
        real: real pictures with their answers, or their `ceiling`.
        names: the rows of the table, by default every attribute that is said anywhere.
        about: what to keep beside the table, as JSON holds it.

    Raises:
        ValueError: for a real set of other attributes than the judge's, or shapes that do not fit.
    """
    if isinstance(real, Pictures) and real.attributes != judge.attributes:
        raise ValueError("the real pictures have other attributes than those the judge reads.")
    top = ceiling(judge, real) if isinstance(real, Pictures) else real
    obeyed = balanced_accuracy(read(judge, drawn), cond, judge.attributes)
    names = [name for name, found in obeyed.items() if found.yes or found.no] if names is None else names
    rows = [(name, obeyed[name], top[name].balanced) for name in names]
    return Control(tuple(Row(name, o, c, difference(c, o)) for name, o, c in rows), about)


class Unsaid(NamedTuple):
    """An attribute where it was not asked for: the share read yes in drawn pictures, in real ones, and how much more."""

    name: str
    drawn: Proportion
    real: Proportion
    more: Difference


def unsaid(seen: Tensor, cond: Tensor, seen_real: Tensor, real: Pictures) -> list[Unsaid]:
    """Does what nobody asked for come at its rate in the data? One row for each attribute that some request leaves out.

    Each request is compared with the real pictures that agree with all it says, so that asking for a beard may bring men.
    Both sides are the same judge's readings. The interval of `real` is that of the Kish effective count.

    Args:
        seen: (B, K) readings of what was drawn for cond (B, K).
        seen_real: (N, K) readings of the real pictures.

    Raises:
        ValueError: where no real picture agrees with any request.
    """
    kinds, kind = cond.sign().unique(dim=0, return_inverse=True)
    agrees = (kinds @ real.conds.to(kinds).T == kinds.abs().sum(1, keepdim=True)).double()
    share = agrees / agrees.sum(1, keepdim=True)  # NaN where nobody agrees
    usable = agrees.any(1)[kind]
    if not usable.any():
        raise ValueError("no real picture agrees with any of the requests, so nothing can be compared.")
    rows = []
    for i, name in enumerate(real.attributes):
        left_out = usable & (cond[:, i] == 0)
        if count := int(left_out.sum()):
            weights = kind[left_out].bincount(minlength=len(kinds)).double() @ share.nan_to_num() / count
            alike = 1 / weights.square().sum().item()
            rate = min(1.0, (weights @ (seen_real[:, i] > 0).double()).item())
            told = proportion_of(rate, round(alike))
            found = proportion(int((seen[left_out, i] > 0).sum()), count)
            rows.append(Unsaid(name, found, told, difference(found, told)))
    return rows


def plain(value):
    """Named tuples as dictionaries, with their intervals; NaN as None."""
    if isinstance(value, Balanced):
        return {end: plain(getattr(value, end)) for end in ("share", "low", "high", "yes", "no")}
    if hasattr(value, "_asdict"):
        return {name: plain(inside) for name, inside in value._asdict().items()}
    return None if isinstance(value, float) and math.isnan(value) else value
