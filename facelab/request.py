"""A request: all that decides a picture, in plain Python (lesson 04; the explorer turns it).

    pictures = ask(model.denoiser, encode_many([asked] * people), steps, scale, seed, solver=solver)

It is a frozen value: `say`, `surprise`, `toward` hand back another one, and `frames` draws it station by station.
"""

import dataclasses
import functools
import itertools
import json
import numbers
import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from facelab import drawn, photo
from facelab.attributes import CELEBA, DIGITS, DRAWN, Attributes, number, value_of
from facelab.features import as_saved
from facelab.guidance import classifier_free
from facelab.model import AttributeClassifier
from facelab.pretrained import Pretrained, load, results
from facelab.sample import DDIM, AdamsBashforth, noise, trajectory
from facelab.survey import survey

# How it is drawn where nobody says more: the solver of digits, that of faces, the calls of the network a picture, and
# guidance. Ten calls of second order come about as near as twenty of DDIM (lesson 04).
DIGITS_BY, FACES_BY, CALLS, SCALE = DDIM, AdamsBashforth, 10, 2.0
# An answer that fewer faces give than one in twenty, or a pair that fewer give than one in two hundred, a network has
# hardly seen: what it draws then is a guess.
RARE, RARE_TOGETHER, NEVER = 0.05, 0.005, 0.0005
JUDGES = {CELEBA: "judge", DRAWN: "drawn-judge", DIGITS: "digits-judge"}


class Reading(NamedTuple):
    """One attribute: what was asked of it (0: nothing), in how many of the pictures the judge reads yes, and how sure
    it is of yes on average.
    """

    name: str
    asked: float
    yes: int
    of: int
    sure: float

    @property
    def obeyed(self) -> bool:
        """Whether most of the pictures show what was asked."""
        return self.asked != 0 and 2 * (self.yes if self.asked > 0 else self.of - self.yes) > self.of


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a model, and how.

    Args:
        model: trained weights that draw.
        said: the condition, a number in [-1, 1] for each attribute; by default nothing is said.
        seed: the noise: who it is.
        people: pictures, each from noise of its own.
        scale: guidance: 0 ignores, 1 is plain, above 1 insists.
        steps: calls of the network a picture.

    Raises:
        ValueError: for what is no weights, or weights that do not draw, or a number of another kind or outside its range.
    """

    model: Pretrained = dataclasses.field(repr=False, compare=False)
    said: tuple[float, ...] = ()
    seed: int = 0
    people: int = 1
    scale: float = SCALE
    steps: int = CALLS

    def __post_init__(self):
        if not isinstance(self.model, Pretrained):
            raise ValueError(f"a request needs loaded weights, such as load('celeba'), got {self.model!r}.")
        if self.model.denoiser is None:
            raise ValueError(f"{self.model.name!r} reads pictures, it does not draw them: load other weights.")
        said = tuple(map(number, self.said)) or (0.0,) * len(self.attributes)
        if len(said) != len(self.attributes) or not all(-1 <= value <= 1 for value in said):
            raise ValueError(f"said must be {len(self.attributes)} numbers from -1 to 1, got {self.said}.")
        object.__setattr__(self, "said", said)
        spans = {"seed": (0, 2**31), "people": (1, 64), "steps": (1, len(self.model.schedule)), "scale": (-20, 20)}
        for field, (low, high) in spans.items():
            told, what = getattr(self, field), "from" if field == "scale" else "a whole number from"
            if not low <= number(told) <= high or not (field == "scale" or isinstance(told, numbers.Integral)):
                raise ValueError(f"{field} must be {what} {low} to {high}, got {told!r}.")
            object.__setattr__(self, field, number(told) if field == "scale" else int(told))  # as JSON holds it

    @property
    def attributes(self) -> Attributes:
        """The names that can be said."""
        return self.model.attributes

    @property
    def cond(self) -> Tensor:
        """The condition (K,), to go on with by hand."""
        return torch.tensor(self.said)

    @property
    def asked(self) -> dict[str, float]:
        """{name: value} of what is said."""
        return {name: value for name, value in zip(self.attributes, self.said, strict=True) if value}

    @property
    def solver(self) -> type:
        """What draws it: the solver that `python -m facelab sample` takes for such pictures."""
        return DIGITS_BY if self.attributes.exclusive else FACES_BY

    # Other requests

    def say(self, name: str, value: float) -> "Request":
        """The same with one answer changed; where attributes exclude each other, a yes unsays the others.

        Args:
            value: as in `Attributes.encode`: True or 1 yes, False or -1 no, 0 not said.

        Raises:
            ValueError: for an unknown name (the nearest is suggested) or another value.
        """
        at, value = self.attributes.index(name), value_of(name, value)
        said = [0.0] * len(self.said) if self.attributes.exclusive and value == 1 else list(self.said)
        said[at] = round(value, 4)  # as fine as a recipe tells it
        return dataclasses.replace(self, said=tuple(said))

    def silent(self) -> "Request":
        """Nothing said, on the same noise: the picture without what was asked."""
        return dataclasses.replace(self, said=(), scale=1.0)

    def toward(self, there: "Request", place: float) -> "Request":
        """On the way from what is said here (place 0) to what is said there (1): the same people all along.

        Raises:
            ValueError: for another model's attributes, or a place that leads out of [-1, 1].
        """
        way = zip(self.said, there.said, strict=True)
        return dataclasses.replace(self, said=tuple(round(a + place * (b - a), 4) for a, b in way))

    def surprise(self, luck: int) -> "Request":
        """Another person, and something to ask for: a few answers that go together in the data. `luck` draws them."""
        dice, names = random.Random(luck), self.attributes.names
        if self.attributes.exclusive:
            wishes = {dice.choice(names): 1.0}
        else:
            # The drawn faces' answers come at CelebA's own rates, so that they serve for both.
            known = dict(zip(DRAWN, drawn.answers(1, luck)[0].tolist(), strict=True)) if {*DRAWN} <= {*names} else {}
            told = known or {name: dice.choice((-1, 1)) for name in names}
            yes = [name for name in names if told.get(name, 0) > 0 and name not in ("Male", "No_Beard")]
            wishes = dict.fromkeys(dice.sample(yes, min(3, len(yes))), 1.0)
            wishes |= {"Male": float(told["Male"])} if "Male" in told else {}
        said = tuple(self.attributes.encode(**wishes).tolist())
        return dataclasses.replace(self, said=said, seed=dice.randrange(1, 10_000))

    def as_read(self, sure: Tensor) -> "Request":
        """What a judge reads in a picture, said: `sure` (K,) from `sure_of`. Where it is less than three quarters sure,
        nothing is said.
        """
        if self.attributes.exclusive:
            return dataclasses.replace(self, said=()).say(self.attributes.names[int(sure.argmax())], 1)
        said = (sure > 0.75).float() - (sure < 0.25).float()
        return dataclasses.replace(self, said=tuple(said.tolist()))

    # The pictures

    def frames(self, coarse: int | None = None) -> Iterator[Tensor]:
        """From noise to pictures, steps + 1 frames (people, C, H, W) in [-1, 1]; to let go of it ends the work.

        `coarse` draws a preview: so many calls, plain, each half of a guided one; at a scale of 0 or below they ask for
        nothing, for that is nearer to it than what is said.
        """
        net = self.model.denoiser
        guided = classifier_free(net, self.scale) if self.asked and not coarse else net
        x_T = noise(self.people, self.model.shape, self.seed)
        cond = torch.zeros_like(self.cond) if coarse and self.scale <= 0 else self.cond
        return trajectory(guided, x_T, cond, self.solver(self.model.schedule), coarse or self.steps)

    def draw(self) -> Tensor:
        """The pictures (people, C, H, W) in [-1, 1]; what the network raises comes through."""
        *_, last = self.frames()
        return last.clamp(-1, 1)

    # Words

    def describe(self) -> str:
        """What is asked, in words: "Smiling, no Eyeglasses"."""
        return self.attributes.describe(self.cond).replace("_", " ")

    def recipe(self) -> dict:
        """All that it takes to draw the very same picture, as JSON holds it."""
        how = {"scale": self.scale, "steps": self.steps, "solver": self.solver.__name__, "seed": self.seed}
        return photo.recipe(self.model, self.cond, **how, people=self.people)

    def code(self) -> str:
        """Four lines that draw the very same picture, `pictures` (people, C, H, W) in [-1, 1], and show it."""
        asked = json.dumps({name: int(value) if value == int(value) else value for name, value in self.asked.items()})
        many = f"[{asked}]" if self.people == 1 else f"[{asked}] * {self.people}"
        how = {"steps": self.steps, "scale": self.scale, "seed": self.seed, "solver": f"sample.{self.solver.__name__}"}
        told = ", ".join(f"{name}={value}" for name, value in how.items())
        return "\n".join([
            "from facelab import control, plots, pretrained, sample",
            f"model = pretrained.load({json.dumps(self.model.name)})",
            f"pictures = control.ask(model.denoiser, model.attributes.encode_many({many}), {told}) / 127.5 - 1",
            f"plots.show(pictures, {self.people})",
        ])  # fmt: skip

    def readings(self, sure: Tensor) -> list[Reading]:
        """What a judge reads next to what was asked, in the order of the groups: `sure` (people, K) from `sure_of`.

        Where nothing is asked, the five attributes that it reads most surely.
        """
        yes = (sure == sure.amax(1, keepdim=True)) if self.attributes.exclusive else sure > 0.5
        every = {
            name: Reading(name, value, int(yes[:, i].sum()), len(sure), sure[:, i].mean().item())
            for i, (name, value) in enumerate(zip(self.attributes, self.said, strict=True))
        }
        ordered = [every[name] for names in self.attributes.groups.values() for name in names]
        if self.asked:
            return [reading for reading in ordered if reading.asked]
        seen = sorted((r for r in ordered if 2 * r.yes > r.of), key=lambda r: -r.sure)
        return seen[: 1 if self.attributes.exclusive else 5]

    def rare(self) -> dict[str, float]:
        """{what: its share of the data's faces} for what they hold too rarely to be trusted: answers and pairs of them.

        Of the pairs the three rarest; where one of the two is rare by itself, only those that practically never occur.
        """
        if (data := held(self.attributes)) is None:
            return {}
        rates, together = data
        signs = {self.attributes.index(name): 1 if value > 0 else -1 for name, value in self.asked.items()}
        share = {i: (rates[i] if sign > 0 else 1 - rates[i]).item() for i, sign in signs.items()}
        words = {i: ("" if sign > 0 else "no ") + self.attributes.names[i] for i, sign in signs.items()}
        alone = {words[i]: share[i] for i in signs if share[i] < RARE}
        pairs = {}
        for a, b in itertools.combinations(signs, 2):
            spread = (share[a] * (1 - share[a]) * share[b] * (1 - share[b])) ** 0.5
            both = share[a] * share[b] + signs[a] * signs[b] * together[a, b].item() * spread
            if both < (RARE_TOGETHER if min(share[a], share[b]) >= RARE else NEVER):
                pairs[f"{words[a]} with {words[b]}"] = max(0.0, both)
        return alone | dict(sorted(pairs.items(), key=lambda pair: pair[1])[:3])


@functools.cache
def held(attributes: Attributes) -> tuple[Tensor, Tensor] | None:
    """What the faces that the shipped weights learned from hold: the share of yes (K,) and the correlations (K, K)."""
    if attributes == CELEBA:
        told = results("celeba_answers")
        return torch.tensor(told["rates"]), torch.tensor(told["correlations"])
    if attributes == DRAWN:
        told = survey(drawn.answers(12_000), DRAWN)
        return told.rates, told.correlations
    return None


def judge_of(attributes: Attributes) -> AttributeClassifier:
    """The shipped judge that reads these attributes.

    Raises:
        ValueError: where there is none, or its weights are missing.
    """
    if attributes not in JUDGES:
        raise ValueError("no shipped judge reads these attributes, so what the picture shows is not told.")
    return load(JUDGES[attributes]).classifier


@torch.no_grad()
def sure_of(judge: AttributeClassifier, pictures: Tensor) -> Tensor:
    """How sure a judge is of yes, (B, K) from 0 to 1, in pictures (B, C, H, W) in [-1, 1] as they would be saved."""
    logits = judge(as_saved(pictures).float() / 127.5 - 1).cpu()
    return logits.softmax(1) if judge.attributes.exclusive else logits.sigmoid()
