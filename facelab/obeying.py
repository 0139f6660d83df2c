"""How well drawn faces obey: the parts of `python -m facelab evaluate` that ask, draw, and let the judge read (lesson 05).

What is drawn for a request is kept in the cache, so that every part reuses it, a stopped one goes on, and several processes
share the work. Requests are rows of the official lists, so that none needs a picture.
"""

import argparse
import dataclasses
import itertools
import os
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from facelab import control, data, leakage, pretrained
from facelab.attributes import CELEBA, DRAWN, Attributes
from facelab.features import as_saved
from facelab.metrics import as_text, proportion
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import cache_dir, device
from facelab.sample import DDIM, AdamsBashforth, Heun

# Those that stand for the forty where each costs hundreds of pictures: common and rare, hair, face, worn.
TWELVE = (
    "Smiling Male Blond_Hair Black_Hair Bangs Eyeglasses Wearing_Hat Heavy_Makeup Wearing_Lipstick No_Beard Bald Gray_Hair"
).split()
JUDGES = {"celeba": "judge", "drawn": "drawn-judge"}
HALVES, EVERY = (-1.0, -0.5, 0.0, 0.5, 1.0), "all of these"
SOLVERS = {"ddim": DDIM, "heun": Heun, "adams-bashforth": AdamsBashforth}


@dataclasses.dataclass(frozen=True)
class Painter:
    """Weights that draw faces of `which` data, and how they are asked: calls a picture, solver, and the seed of their noise."""

    name: str
    net: Denoiser
    which: str
    sha256: str
    steps: int
    seed: int
    solver: type = DDIM

    @property
    def attributes(self) -> Attributes:
        return self.net.attributes

    def draw(self, cond: Tensor, scale: float, steps: int | None = None, solver: type | None = None) -> Tensor:
        """(B, C, H, W) uint8, kept; weights that take no condition are asked plainly, for it would change nothing."""
        where = cache_dir() / "asked" / self.sha256[:16]
        scale, steps = scale if self.listens else 1.0, steps or self.steps
        solver = solver or self.solver
        return control.ask(self.net, cond, steps, scale, self.seed, progress=True, keep=where, solver=solver)

    @property
    def listens(self) -> bool:
        """Whether it takes a condition at all."""
        return self.net.config.condition != "none"

    def __str__(self) -> str:
        return f"{self.name}, sha256 {self.sha256[:16]}"


def here() -> torch.device:
    """This machine's device; among several processes on one machine, each a GPU of its own."""
    found, turn = device(), os.environ.get("LOCAL_RANK", "")
    if found.type == "cuda" and turn:
        return torch.device("cuda", int(turn) % torch.cuda.device_count())
    return found


def painter(told: argparse.Namespace, name: str | None = None) -> Painter:
    """The weights called `name`, by default told's model.

    Raises:
        ValueError: for weights that are not there, or draw no faces.
    """
    name = name or told.model
    model = pretrained.load(name, here())
    if model.denoiser is None or model.attributes not in (CELEBA, DRAWN):
        raise ValueError(f"{name!r} does not draw faces: evaluate takes weights that do.")
    which = "celeba" if model.attributes == CELEBA else "drawn"
    return Painter(
        Path(name).name, model.denoiser, which, model.card["sha256"], told.steps, told.seed, SOLVERS[told.solver]
    )


def judge_of(which: str) -> AttributeClassifier:
    """The judge who reads these faces."""
    return pretrained.load(JUDGES[which], here()).classifier


def answers_of(which: str, split: str) -> Tensor:
    """(N, K) rows of which requests are made."""
    if which == "celeba":
        return data.celeba_answers(split)[1]
    # As many as there are to train on, whatever the split: of 2,000 people 46 have the rarest answer, and none need be drawn.
    return data.drawn_people(data.DRAWN_COUNTS["train"], split)[0]


def names_of(told: argparse.Namespace, attributes: Attributes) -> list[str]:
    """The attributes that are asked for one by one."""
    if told.names == ["all"]:
        return list(attributes)
    return [
        attributes.names[attributes.index(name)] for name in told.names or TWELVE if told.names or name in attributes
    ]


def command(told: argparse.Namespace, part: str, *flags: str) -> str:
    """The words that do this again."""
    words = [f"--model {Path(told.model).name} --what {part}"]
    for flag in flags:
        value = getattr(told, flag)
        if value is not None:
            many = value if isinstance(value, (list, tuple)) else [value]
            told_as = (f"{one:g}" if isinstance(one, float) else str(one) for one in many)
            words.append(f"--{flag.replace('_', '-')} {' '.join(told_as)}")
    if "steps" in flags:
        words.append(f"--solver {told.solver}")
    if told.names and "each" in flags:
        words.append(f"--names {' '.join(told.names)}")
    return f"python -m facelab evaluate {' '.join(words)} --out data/results"


def drawing(told: argparse.Namespace) -> str:
    """How each picture is drawn, for people: "20 DDIM calls"."""
    return f"{told.steps} {SOLVERS[told.solver].__name__} calls"


# Parts: each takes what was told and gives (name of the file, what is in it, the same for people)


def obeying(told: argparse.Namespace, said: int | str) -> tuple[str, dict, str]:
    """Asked = read for every attribute at every scale, beside the judge's ceiling; with one said, what else moved."""
    paints = painter(told)
    judge, real, names = judge_of(paints.which), data.faces("score", paints.which), names_of(told, paints.attributes)
    top, seen_real = control.ceiling(judge, real), control.read(judge, real.images)
    cond = control.requests(answers_of(paints.which, "valid"), paints.attributes, told.each, said, names, told.seed)
    # What the drawn pictures' readings are held against; of whole rows only a fair sample of each answer.
    held = control.counted(cond, paints.attributes, told.each, names) if said == "all" else cond
    scale, shares = _chosen(told, paints, judge, names)
    scales, chosen = {}, None
    for tried in told.scales:
        drawn = paints.draw(cond, tried)
        table, seen = (
            control.control(judge, drawn, held, top, None if said == "all" else names),
            control.read(judge, drawn),
        )
        mean = control.mean_obeyed(seen, held, names, paints.attributes)
        scales[f"{tried:g}"] = {"mean": control.plain(mean), "rows": table.to_json()["rows"]}
        if tried == scale:
            chosen = table, seen
    table, seen = chosen
    wanted = f"{told.each} yes and {told.each} no of {', '.join(names)}"
    fair = f"counted: {wanted}, each a fair sample of the rows that say so"
    about = {
        "what": f"asked = read, balanced, beside the judge's on real faces (the ceiling); chance is 0.5; said: {said}",
        "model": str(paints),
        "judge": f"{JUDGES[paints.which]}, sha256 {pretrained.load(JUDGES[paints.which]).card['sha256'][:16]}",
        "real": real.source,
        "requests": f"{len(cond)}, {fair if said == 'all' else f'at least {wanted}'}",
        "scale": scale,
        "scales tried on rows of the train list": shares,
        "drawn in": drawing(told),
        "seed": told.seed,
        "command": command(told, f"control-{said}", "each", "steps", "seed", "scales"),
    }
    found = {"control": about, "rows": scales[f"{scale:g}"]["rows"], "scales": scales}
    shown = [f"{about['what']}; scale {scale:g}", str(table)]
    people = [name for name in leakage.PEOPLE if name in paints.attributes.names]
    if said == "all":
        split = control.obeyed_by(seen, cond, paints.attributes, people, held)
        found["by people"] = {w: {n: control.plain(b) for n, b in rows.items()} for w, rows in split.items()}
        # What the same pictures would say if all rows counted, a crowd in which everything rare is common.
        crowd = control.balanced_accuracy(seen, cond, paints.attributes)
        found["all rows counted"] = {name: control.plain(crowd[name]) for name in names}
    else:
        found["unsaid"] = [control.plain(row) for row in control.unsaid(seen, cond, seen_real, real)]
    if said == 1:
        leaks = leakage.leakage(seen, cond, seen_real, real)
        rows = leakage.amplification(seen, cond, seen_real, real)
        means = {name: control.plain(mean) for name, mean in leakage.mean_amplification(rows).items()}
        found |= {"leakage": leaks.to_json(), "amplification": [control.plain(row) for row in rows]}
        found["amplification, mean"] = means
        shown += ["what else moved, beyond the data", str(leaks)]
    return f"{paints.name}_control_{said}", found, "\n".join(shown)


def _chosen(told, paints: Painter, judge, names: list[str]) -> tuple[float, dict[str, float]]:
    """The scale whose faces obey best, asked with rows of the train list; the others' shares beside it."""
    each = max(5, told.each // 10)
    cond = control.requests(answers_of(paints.which, "train"), paints.attributes, each, names=names, seed=told.seed + 1)
    shares = {}
    for scale in told.scales:
        seen = control.read(judge, paints.draw(cond, scale))
        held = control.counted(cond, paints.attributes, each, names)
        shares[scale] = round(control.mean_obeyed(seen, held, names, paints.attributes).value, 4)
    return max(shares, key=shares.get), {f"{scale:g}": share for scale, share in shares.items()}


def halves(told: argparse.Namespace) -> tuple[str, dict, str]:
    """Half requests: the share read yes where an attribute is asked for by -1, -0.5, 0, 0.5 and 1, from the same noise."""
    paints = painter(told)
    judge, names, each = judge_of(paints.which), names_of(told, paints.attributes), max(5, told.each // 5)
    columns = torch.tensor([paints.attributes.index(name) for name in names]).repeat_interleave(each)
    scales, at = (
        {f"{scale:g}": {name: {} for name in [EVERY, *names]} for scale in told.scales},
        torch.arange(len(columns)),
    )
    for scale, value in itertools.product(told.scales, HALVES):
        cond = torch.zeros(len(columns), len(paints.attributes))
        cond[at, columns] = value
        # Where nothing is asked there is nothing to insist on: one drawing serves every scale.
        drawn = paints.draw(cond, scale if value else 1.0)
        hits = (control.read(judge, drawn)[at, columns] > 0).reshape(-1, each).sum(1).tolist()
        for name, yes in zip(names, hits, strict=True):
            scales[f"{scale:g}"][name][f"{value:g}"] = proportion(yes, each)
        scales[f"{scale:g}"][EVERY][f"{value:g}"] = proportion(sum(hits), each * len(names))
    about = {
        "what": "the share read yes, where this attribute alone is asked for by so much",
        "model": str(paints),
        "each": each,
        "drawn in": drawing(told),
        "seed": told.seed,
        "command": command(told, "halves", "each", "steps", "seed", "scales"),
    }
    cells = [("scale", "attribute", *map("{:g}".format, HALVES))]
    cells += [(scale, name, *map(str, row.values())) for scale, rows in scales.items() for name, row in rows.items()]
    found = {
        scale: {name: {value: control.plain(share) for value, share in row.items()} for name, row in rows.items()}
        for scale, rows in scales.items()
    }
    return f"{paints.name}_halves", {"halves": about, "scales": found}, f"{about['what']}\n{as_text(cells)}"


def drawn_judge(told: argparse.Namespace) -> tuple[str, dict, str]:
    """The drawn faces' judge, judged: on held-out drawings together as in CelebA, independent, and blurred as samples are."""
    paints, judge = painter(told), judge_of("drawn")
    if paints.which != "drawn":
        raise ValueError("the judge of drawn faces is judged beside samples of drawn faces: take --model drawn.")
    held_out = {
        word: data.drawn_faces(split="test", together=word == "together") for word in ("together", "independent")
    }
    cond = held_out["together"].conds[: min(told.count, 200)].float()
    sigma = matching_blur(held_out["together"].images, paints.draw(cond, told.scales[0]))
    soft = held_out["together"]
    soft = data.Pictures(
        blurred(soft.images, sigma), soft.conds, soft.attributes, f"{soft.source}, blurred by {sigma:.2f}"
    )
    found = {word: control.ceiling(judge, faces) for word, faces in (held_out | {"blurred": soft}).items()}
    about = {
        "what": "the judge of drawn faces on held-out drawings whose attributes are known: balanced accuracy",
        "blurred": f"by a Gaussian of {sigma:.3f} pixels, which makes them as soft as samples of {paints}",
        "count": len(soft),
        "command": command(told, "drawn-judge", "count", "steps", "seed", "scales"),
    }
    cells = [("attribute", *found)]
    cells += [(name, *(str(top[name].balanced) for top in found.values())) for name in judge.attributes]
    told_all = {word: {name: control.plain(row) for name, row in top.items()} for word, top in found.items()}
    return "drawn_judge", {"judge": about} | told_all, f"{about['what']}; {about['blurred']}\n{as_text(cells)}"


# Blur


def softness(pictures: Tensor) -> float:
    """How little neighbouring pixels differ: minus the mean squared Laplacian of pictures (N, C, H, W) in [-1, 1]."""
    x = as_saved(pictures).float() / 127.5 - 1
    middle = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return -(around - 4 * middle).square().mean().item()


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """The pictures, uint8, blurred by a Gaussian of so many pixels; 0 leaves them as they are."""
    if sigma <= 0:
        return as_saved(pictures)
    side = 2 * int(3 * sigma + 1) + 1
    parts = (gaussian_blur(as_saved(part).float(), side, sigma).round() for part in pictures.split(500))
    return torch.cat([part.clamp(0, 255).to(torch.uint8) for part in parts])


def matching_blur(real: Tensor, drawn: Tensor, most: float = 3.0) -> float:
    """The sigma by which real pictures become as soft as drawn ones: from 0, where drawn ones are no softer, to `most`."""
    low, high, some = 0.0, most, real[:500]
    if softness(some) >= softness(drawn):
        return 0.0
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (middle, high) if softness(blurred(some, middle)) < softness(drawn) else (low, middle)
    return (low + high) / 2
