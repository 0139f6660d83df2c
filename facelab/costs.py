"""What obedience and haste cost: the same requests from the same noises, louder and louder, or in fewer and fewer calls.

For lesson 04: `python -m facelab evaluate --what scales calls`. Distances are to real faces, in the features of
EfficientNet-Lite0, beside the floor: other real faces, as many.
"""

import argparse

import torch
from torch import Tensor

from facelab import control
from facelab.features import extractor, features_of
from facelab.metrics import as_text, difference, frechet_distance, proportion
from facelab.nearness import reference, rows_of
from facelab.obeying import Painter, answers_of, command, drawing, here, judge_of, painter
from facelab.plan import cache_dir
from facelab.sample import DDIM, AdamsBashforth, Heun

LOUDER = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
FEWER = (5, 10, 20, 50, 100)
SOLVERS = (DDIM, Heun, AdamsBashforth)
ASKED, LEAK = "Smiling", "Male"


def scales(told: argparse.Namespace) -> tuple[str, dict, str]:
    """Asked = read and the distance for `count` whole rows of answers at each scale; and one attribute asked alone, `each` yes
    and no: how far its own reading moves, and how far another's does, of which nothing was said."""
    paints = painter(told)
    judge = judge_of(paints.which)
    away, floor, source = _ruler(told, paints)
    cond, names = rows_of(told, paints.which), paints.attributes
    yes, no = (names.encode(**{ASKED: wish}).expand(told.each, -1) for wish in (True, False))
    data_moves = _moved(answers_of(paints.which, "valid").float(), answers_of(paints.which, "valid"), names)
    rows = []
    for scale in LOUDER:
        drawn = paints.draw(cond, scale)
        # Asked apart, both start from the same noises, so that what moves was moved by asking.
        seen = torch.cat([control.read(judge, paints.draw(alone, scale)) for alone in (yes, no)])
        obeyed = control.mean_obeyed(control.read(judge, drawn), cond, names, names)
        row = {"scale": scale, "asked = read": control.plain(obeyed), "distance": round(away(drawn), 2)}
        rows.append(
            row | {name: control.plain(moved) for name, moved in _moved(seen, torch.cat([yes, no]), names).items()}
        )
    about = _about(told, paints, source, floor, "scales", "each") | {
        "moved": f"share read yes where {ASKED} is asked for, less the share where its absence is; {LEAK} is not asked",
        "moved in the data": {name: control.plain(moved) for name, moved in data_moves.items()},
    }
    cells = [("scale", "asked = read", "distance", f"{ASKED} moved", f"{LEAK} moved")]
    cells += [
        (
            f"{r['scale']:g}",
            f"{r['asked = read']['value']:.3f}",
            f"{r['distance']:.1f}",
            *(f"{r[name]['value']:+.2f}" for name in (ASKED, LEAK)),
        )
        for r in rows
    ]
    return f"{paints.name}_scales", {"loudness": about, "rows": rows}, f"floor {floor:.1f}\n{as_text(cells)}"


def calls(told: argparse.Namespace) -> tuple[str, dict, str]:
    """The distance of `count` faces, plain, by each solver in 5 to 100 calls."""
    paints = painter(told)
    away, floor, source = _ruler(told, paints)
    cond = rows_of(told, paints.which)
    found = {
        solver.__name__: {str(n): round(away(paints.draw(cond, 1.0, n, solver)), 2) for n in FEWER}
        for solver in SOLVERS
    }
    about = _about(told, paints, source, floor, "calls")
    cells = [("calls", *map(str, FEWER)), *((name, *map("{:.1f}".format, row.values())) for name, row in found.items())]
    return f"{paints.name}_calls", {"haste": about, "distance": found}, f"floor {floor:.1f}\n{as_text(cells)}"


def _ruler(told, paints: Painter):
    """(pictures -> their distance to real faces, the floor, what these are)."""
    eye = extractor("efficientnet", where=here())
    told = argparse.Namespace(**vars(told) | {"features": ["efficientnet"]})
    known = reference(told, paints.which)
    if known.real is None:
        raise ValueError("scales and calls are measured beside real pictures: put CelebA where FACELAB_DATA points.")
    look = [features_of(x, eye, True, cache_dir() / "features") for x in (known.real, known.other)]

    def away(pictures: Tensor) -> float:
        return frechet_distance(look[0], features_of(pictures, eye, True, cache_dir() / "features"))

    return away, frechet_distance(*look), known.source


def _moved(seen: Tensor, cond: Tensor, names) -> dict:
    """How far the readings of the asked attribute and of the other one move between those asked yes and no."""
    yes, no = cond[:, names.index(ASKED)] > 0, cond[:, names.index(ASKED)] < 0
    found = {}
    for name in (ASKED, LEAK):
        read = seen[:, names.index(name)] > 0
        found[name] = difference(*(proportion(int(read[part].sum()), int(part.sum())) for part in (yes, no)))
    return found


def _about(told, paints: Painter, source: str, floor: float, part: str, *flags: str) -> dict:
    return {
        "what": "distance in EfficientNet-Lite0's 1280 features; this is not FID",
        "model": str(paints),
        "real": source,
        "count": told.count,
        "floor": round(floor, 2),
        "drawn in": drawing(told) if part == "scales" else [f"{n} calls" for n in FEWER],
        "seed": told.seed,
        "command": command(told, part, "count", "steps", "seed", *flags),
    }
