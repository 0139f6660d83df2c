"""What can be trained, with which network and data, and how it is scored: the rows of `python -m facelab train`."""

import argparse
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from facelab import data
from facelab.attributes import DIGITS
from facelab.evaluate import compare_faces, score_faces, score_judge
from facelab.metrics import proportion, read_back
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import NETS, REPORT_RECIPE, Plan, Recipe
from facelab.pretrained import load

RESEARCH = "for non-commercial research only, as CelebA is"
KINDS_OF_NET = ("ours", "small", *NETS)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One thing to train.

    `net(**changes)` builds it, `recipe` says how, on `pictures`; `score(net)` is what its card tells, `compare(net)` what a
    table of recipes tells, beside a row of pictures of the conditions `shown`, each in `steps` calls.
    """

    net: Callable[..., nn.Module]
    recipe: Recipe
    pictures: data.Pictures
    score: Callable[[nn.Module], dict]
    licence: str = "MIT"
    compare: Callable[[nn.Module], dict] | None = None
    shown: Tensor | None = None
    steps: int = 10


def digits(row: Plan, told: argparse.Namespace) -> Subject:
    """The denoiser of lesson 02."""
    pictures, judge = data.mnist("train", told.download), load("digits-judge").classifier

    def read(net, scale):
        return read_back(net, judge, scale, row.asked)

    def net(**changes):
        settings = row.digits_net | {"seed": told.seed} | changes
        return Denoiser(pictures.shape, DIGITS.names, exclusive=True, **settings)

    def score(net):
        scales = {"plain": 1, "guided at 2": 2}
        return {
            f"asked = read, {name}, {10 * row.asked} digits, 10 DDIM calls": str(read(net, scale))
            for name, scale in scales.items()
        }

    def compare(net):
        return {"read": {f"{scale}": read(net, scale)._asdict() for scale in (1, 2)}}

    return Subject(net, row.digits, pictures, score, compare=compare, shown=torch.eye(10))


def digits_judge(row: Plan, told: argparse.Namespace) -> Subject:
    """The classifier that reads digits back."""
    pictures = data.mnist("train", told.download)

    def net(**changes):
        return AttributeClassifier(pictures.shape, DIGITS.names, exclusive=True, **({"seed": told.seed} | changes))

    def score(judge):
        test = data.mnist("test")
        right = proportion(int((judge.read(test[:][0]) == test.classes()).sum()), len(test))
        return {"accuracy on real test digits": str(right), "counted on": test.source}

    return Subject(net, row.judge, pictures, score)


def faces(row: Plan, told: argparse.Namespace) -> Subject:
    """The denoiser of lesson 03: of real or drawn faces, with our network, a small one, or the report's."""
    which, pictures = _faces(row, told, together=True)
    net_of = {"ours": row.faces_net if which == "celeba" else row.drawn_net, "small": row.small_net}
    settings = net_of.get(told.net) or NETS[told.net]
    recipe = {"ours": row.faces, "small": row.small}.get(told.net) or dataclasses.replace(row.faces, **REPORT_RECIPE)

    def net(**changes):
        loud = {"rates": pictures.rates} if settings.get("amplify") else {}
        return Denoiser(pictures.shape, pictures.attributes.names, **(settings | loud | {"seed": told.seed} | changes))

    def score(net):
        return score_faces(net, which, row.scored)

    def compare(net):
        return compare_faces(net, which, row.scored)

    # Five whole descriptions, then five requests that leave nearly everything unsaid.
    alone = [{"Male": False}, {"Male": True}, {"Blond_Hair": True}, {"Eyeglasses": True}, {"Smiling": True}]
    shown = torch.cat([data.faces("score", which).conds[:5].float(), pictures.attributes.encode_many(alone)])
    return Subject(net, recipe, pictures, score, _licence(which), compare, shown, steps=20)


def faces_judge(row: Plan, told: argparse.Namespace) -> Subject:
    """The classifier that reads faces back. Drawn faces are shown to it with attributes that do not go together."""
    which, pictures = _faces(row, told, together=False)
    recipe, settings = row.faces_judge, row.faces_judge_net
    if which == "drawn":
        recipe, settings = dataclasses.replace(recipe, shift=0, lr=2e-3), row.drawn_judge_net

    def net(**changes):
        return AttributeClassifier(
            pictures.shape,
            pictures.attributes.names,
            **(settings | {"rates": pictures.rates, "seed": told.seed} | changes),
        )

    def score(judge):
        return score_judge(judge, data.faces("score", which, together=False))

    return Subject(net, recipe, pictures, score, _licence(which))


def _faces(row, told, together):
    which = told.data or data.which_faces()
    return which, data.faces("train", which, row.drawn, together, told.download)


def _licence(which: str) -> str:
    return RESEARCH if which == "celeba" else "MIT"


SUBJECTS = {"digits": digits, "digits-judge": digits_judge, "faces": faces, "faces-judge": faces_judge}

# From the report's recipe to ours, one change a row: (what changes in the network, what in the training).
COSINE = {"schedule": "cosine"}
WALKS = {
    "digits-recipes": {
        "eps, constant channels": (
            COSINE | {"predicts": "eps", "condition": "channels", "time_shift": "default"},
            {"ticks": "uniform"},
        ),
        "eps, scale-shift": (COSINE | {"predicts": "eps"}, {"ticks": "uniform"}),
        "velocity": (COSINE | {"predicts": "velocity"}, {"ticks": "uniform"}),
        "straight": ({"schedule": "straight", "predicts": "velocity"}, {"ticks": "uniform"}),
        "more mid ticks": ({"schedule": "straight", "predicts": "velocity"}, {"ticks": "logit-normal"}),
    },
    # The last one is ours; those before it that differ in how they are told or forget change one thing of it.
    "faces-recipes": {
        "eps, channels": (
            COSINE
            | {"predicts": "eps", "condition": "channels", "time_shift": "default", "amplify": False, "rates": None},
            {"ticks": "uniform", "forget": "never"},
        ),
        "eps, embedding": (COSINE | {"predicts": "eps"}, {"ticks": "uniform"}),
        "velocity": (COSINE | {"predicts": "velocity"}, {"ticks": "uniform"}),
        "straight": ({}, {"ticks": "uniform"}),
        "told by channels": ({"condition": "channels"}, {}),
        "told nothing": ({"condition": "none"}, {}),
        "not amplified": ({"amplify": False}, {}),
        "the rare no louder": ({"rates": None}, {}),
        "nothing forgotten": ({}, {"forget": "never"}),
        "all or nothing": ({}, {"forget": "whole"}),
        "ours": ({}, {}),
    },
}
