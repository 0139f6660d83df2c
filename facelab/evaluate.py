"""What drawn faces are worth: control and distance of one set of weights, as recorded in data/results (lesson 03).

    python -m facelab evaluate --model celeba --out data/results

Requests are rows of the official lists, so that none needs a picture; what is drawn for them is kept in the cache, picture by
picture, so that a stopped evaluation goes on.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from facelab import control, data, metrics
from facelab.attributes import CELEBA, DRAWN
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import cache_dir, device, machine
from facelab.pretrained import Pretrained, load
from facelab.survey import survey

# Those that stand for the forty where each costs hundreds of pictures: common and rare, hair, face, worn.
TWELVE = (
    "Smiling Male Blond_Hair Black_Hair Bangs Eyeglasses Wearing_Hat Heavy_Makeup Wearing_Lipstick No_Beard Bald Gray_Hair"
).split()
JUDGES = {"celeba": "judge", "drawn": "drawn-judge"}


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
        scores[f"asked = read, balanced, mean over the attributes, {words}"] = round(_obeyed(judge, drawn, told), 4)
        distance = metrics.frechet_distance(near, metrics.efficientnet_features(drawn))
        scores[f"distance in EfficientNet-Lite0 features, {words}"] = round(distance, 1)
    return scores


@functools.lru_cache(maxsize=2)
def _halves_of(which: str, count: int) -> tuple[Tensor, Tensor]:
    """The features of `count` real faces, and of as many others."""
    real = data.faces("score", which)
    near, far = (metrics.efficientnet_features(real.images[part]) for part in _halves(count))
    return near, far


def compare_faces(net: Denoiser, which: str, count: int, steps: int = 10) -> dict:
    """What a table of recipes tells of a net that draws faces: asked = read with all said and with one said, and distance."""
    real, judge = data.faces("score", which), load(JUDGES[which]).classifier
    near, far = _halves_of(which, count)
    rows, both = real.conds[:count].float(), (real.conds > 0).any(0) & (real.conds < 0).any(0)
    names = [name for name in TWELVE if name in net.attributes.names and both[net.attributes.index(name)]]
    alone = control.requests(real.conds, net.attributes, max(2, count // 2 // len(names)), 1, names)
    found = {"floor": round(metrics.frechet_distance(near, far), 1)}
    for said, cond, scales in (("all", rows, (1.0, 2.0)), ("one", alone, (2.0,))):
        for scale in scales:
            drawn = control.ask(net, cond, steps, scale)
            found[f"{said} said, scale {scale:g}"] = round(_obeyed(judge, drawn, cond), 4)
            if said == "all":
                distance = metrics.frechet_distance(near, metrics.efficientnet_features(drawn))
                found[f"distance, scale {scale:g}"] = round(distance, 1)
    return found


def _obeyed(judge: AttributeClassifier, drawn: Tensor, cond: Tensor) -> float:
    """asked = read, balanced, the mean over all attributes of which both answers were asked"""
    found = control.balanced_accuracy(control.read(judge, drawn), cond, judge.attributes).values()
    shares = [balanced.share for balanced in found if balanced.yes and balanced.no]
    return sum(shares) / len(shares)


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same parser, which now understands what `evaluate` takes."""
    parser.add_argument("--model", default="celeba", help="weights, a name or a folder that train wrote")
    parser.add_argument("--what", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="by default all of it")
    parser.add_argument(
        "--scales", nargs="+", type=float, default=[1.0, 2.0, 3.0], help="guidance: from these one is chosen"
    )
    parser.add_argument("--each", type=int, default=200, help="yes and no asked for, of each attribute")
    parser.add_argument("--count", type=int, default=600, help="pictures for a distance, against as many real ones")
    parser.add_argument("--steps", type=int, default=20, help="calls of the network a picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables go, as JSON")
    return parser


def run(told: argparse.Namespace) -> None:
    """Measure what is asked for; every part is a file of its own in `out`."""
    if told.each < 1 or told.count < 2:
        raise ValueError(f"--each must be above 0 and --count above 1, got {told.each} and {told.count}.")
    told.out.mkdir(parents=True, exist_ok=True)
    for part in told.what:
        name, found = PARTS[part](told)
        about = {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
        file = told.out / f"{name}.json"
        file.write_text(json.dumps({"about": about} | found, indent=1) + "\n", "utf-8")
        print(f"written to {file}")


def _model(told) -> tuple[Pretrained, str]:
    model = load(told.model, device())
    if model.denoiser is None or model.attributes not in (CELEBA, DRAWN):
        raise ValueError(f"{told.model!r} does not draw faces: evaluate takes weights that do.")
    return model, "celeba" if model.attributes == CELEBA else "drawn"


def _answers(which: str, split: str) -> Tensor:
    return data.celeba_answers(split)[1] if which == "celeba" else data.drawn_faces(2000, split).conds


def _asked(told, model: Pretrained, cond: Tensor, scale: float) -> Tensor:
    where = cache_dir() / "asked" / model.card["sha256"][:16]
    return control.ask(model.denoiser, cond, told.steps, scale, told.seed, progress=True, keep=where)


def _chosen(told) -> tuple[float, dict[str, float]]:
    """The scale whose faces obey best, asked with rows of the train list; the others' shares beside it."""
    model, which = _model(told)
    judge, names = load(JUDGES[which]).classifier, _names(which)
    cond = control.requests(_answers(which, "train"), model.attributes, max(5, told.each // 10), names=names, seed=1)
    shares = {}
    for scale in told.scales:
        found = control.balanced_accuracy(control.read(judge, _asked(told, model, cond, scale)), cond, model.attributes)
        shares[f"{scale:g}"] = round(sum(found[name].share for name in names) / len(names), 4)
    return float(max(shares, key=shares.get)), shares


def _names(which: str) -> list[str]:
    return [name for name in TWELVE if name in (CELEBA if which == "celeba" else DRAWN).names]


def _control(told, said: int | str) -> tuple[str, dict]:
    model, which = _model(told)
    judge, real = load(JUDGES[which]).classifier, data.faces("score", which)
    scale, shares = _chosen(told)
    names = _names(which)
    cond = control.requests(_answers(which, "valid"), model.attributes, told.each, said, names, told.seed)
    drawn = _asked(told, model, cond, scale)
    table = control.control(judge, drawn, cond, real, None if said == "all" else names)
    about = {
        "what": f"asked = read, balanced, beside the judge's on real faces; said: {said}",
        "model": f"{Path(told.model).name}, sha256 {model.card['sha256'][:16]}",
        "judge": f"{JUDGES[which]}, sha256 {load(JUDGES[which]).card['sha256'][:16]}",
        "real": real.source,
        "requests": f"{len(cond)}, at least {told.each} yes and {told.each} no of {', '.join(names)}",
        "scale": scale,
        "scales tried on rows of the train list": shares,
        "calls": told.steps,
        "seed": told.seed,
        "command": f"python -m facelab evaluate --model {Path(told.model).name} --what control-{said} --each {told.each} "
        f"--steps {told.steps} --scales {' '.join(map('{:g}'.format, told.scales))} --out data/results",
    }
    found = {"control": about} | {"rows": table.to_json()["rows"]}
    if said != "all":
        left = control.unsaid(control.read(judge, drawn), cond, control.read(judge, real.images), real)
        found["unsaid"] = [control.plain(row) for row in left]
    return f"{Path(told.model).name}_control_{said}", found


def _distance(told) -> tuple[str, dict]:
    """Plain and at every scale: distance, kernel distance, precision and recall, beside real against other real faces."""
    model, which = _model(told)
    real = data.faces("score", which)
    if len(real) < 2 * told.count:
        raise ValueError(
            f"--count {told.count} needs {2 * told.count} real faces, half of them for the floor; here are {len(real)}."
        )
    one, other = (metrics.efficientnet_features(real.images[part], progress=True) for part in _halves(told.count))
    rows = [{"of": "real, others (the floor)"} | _compared(one, other)]
    cond = real.conds[: told.count].float()
    for scale in told.scales if model.denoiser.config.condition != "none" else [1.0]:
        fake = metrics.efficientnet_features(_asked(told, model, cond, scale))
        rows.append({"of": f"drawn, scale {scale:g}"} | _compared(one, fake))
    about = {
        "what": "distance to real faces in EfficientNet-Lite0's 1280 features; this is not FID",
        "model": f"{Path(told.model).name}, sha256 {model.card['sha256'][:16]}",
        "real": real.source,
        "count": told.count,
        "calls": told.steps,
        "seed": told.seed,
        "command": f"python -m facelab evaluate --model {Path(told.model).name} --what distance --count {told.count} "
        f"--steps {told.steps} --scales {' '.join(map('{:g}'.format, told.scales))} --out data/results",
    }
    return f"{Path(told.model).name}_distance", {"distance": about, "rows": rows}


def _halves(count: int) -> tuple[slice, slice]:
    return slice(count), slice(count, 2 * count)


def _compared(real: Tensor, fake: Tensor) -> dict:
    kernel, shares = metrics.kernel_distance(real, fake), metrics.precision_recall(real, fake)
    return {
        "distance": round(metrics.frechet_distance(real, fake), 2),
        "kernel distance": control.plain(kernel),
        "precision and recall": control.plain(shares),
    }


def _survey(told) -> tuple[str, dict]:
    """The official lists alone: no model, no pictures."""
    answers = torch.cat([data.celeba_answers(split)[1] for split in ("train", "valid", "test")])
    about = {
        "what": "CelebA's 40 answers, all rows of the official list",
        "command": "python -m facelab evaluate --what survey --out data/results",
    }
    return "celeba_answers", {"survey": about} | survey(answers, CELEBA).to_json()


def _judged(told) -> tuple[str, dict]:
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
    all_ = {name: control.plain(found) for name, found in control.ceiling(judge.classifier, real).items()}
    return "judge_on_real_faces", {"judge": about, "all": all_, "groups": groups}


def _features(told) -> tuple[str, dict]:
    """The features of real valid faces, so that anybody can measure a distance to them: numbers, no pictures."""
    real = data.celeba("valid")
    count = min(2000, len(real))
    about = {
        "data": real.source,
        "crop": "(0, 20, 178, 198) of the aligned picture, Lanczos to 64x64",
        "extractor": metrics.EXTRACTOR,
    }
    features = metrics.efficientnet_features(real.images[:count], progress=True)
    metrics.save_features(told.out / "celeba_valid_features.safetensors", features, about)
    return "celeba_valid_features", {"features": about | {"count": count}}


PARTS = {
    "survey": _survey,
    "judge": _judged,
    "features": _features,
    "distance": _distance,
    "control-all": lambda told: _control(told, "all"),
    "control-1": lambda told: _control(told, 1),
    "control-3": lambda told: _control(told, 3),
}
