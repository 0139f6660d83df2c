"""What obedience and haste cost: the same requests from the same noises, louder and louder, or in fewer and fewer calls.

For lesson 04: `python -m facelab evaluate --what scales calls`. Distances are to real faces, in the features of
EfficientNet-Lite0, beside the floor: other real faces, as many.
"""

import argparse
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from facelab import control
from facelab.features import extractor, features_of
from facelab.metrics import Estimate, as_text, difference, frechet_difference, frechet_estimate, proportion
from facelab.nearness import reference, rows_of
from facelab.obeying import SOLVERS, Painter, answers_of, command, drawing, here, judge_of, painter
from facelab.plan import cache_dir

LOUDER = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
FEWER = (5, 10, 20, 50, 100)
FEW, MANY, MORE = 20, 100, 1.05  # what a solver may lose of its own distance in few calls instead of many
ASKED, LEAK = "Smiling", "Male"


def scales(told: argparse.Namespace) -> tuple[str, dict, str]:
    """Asked = read and the distance for `count` whole rows of answers at each scale; and one attribute asked alone, `each` yes
    and no: how far its own reading moves, and how far another's does, of which nothing was said."""
    paints = painter(told)
    judge = judge_of(paints.which)
    ruler = _ruler(told, paints)
    cond, names = rows_of(told, paints.which), paints.attributes
    yes, no = (names.encode(**{ASKED: wish}).expand(told.each, -1) for wish in (True, False))
    data_moves = _moved(answers_of(paints.which, "valid").float(), answers_of(paints.which, "valid"), names)
    rows = []
    for scale in LOUDER:
        drawn = paints.draw(cond, scale)
        # Asked apart, both start from the same noises, so that what moves was moved by asking.
        seen = torch.cat([control.read(judge, paints.draw(alone, scale)) for alone in (yes, no)])
        obeyed = control.mean_obeyed(control.read(judge, drawn), cond, names, names)
        row = {"scale": scale, "asked = read": control.plain(obeyed), "distance": control.plain(ruler.distance(drawn))}
        rows.append(
            row | {name: control.plain(moved) for name, moved in _moved(seen, torch.cat([yes, no]), names).items()}
        )
    about = _about(told, paints, ruler, "scales", "steps", "each") | {
        "moved": f"share read yes where {ASKED} is asked for, less the share where its absence is; {LEAK} is not asked",
        "moved in the data": {name: control.plain(moved) for name, moved in data_moves.items()},
    }
    cells = [("scale", "asked = read", "distance", f"{ASKED} moved", f"{LEAK} moved")]
    cells += [
        (
            f"{r['scale']:g}",
            f"{r['asked = read']['value']:.3f}",
            f"{r['distance']['value']:.1f}",
            *(f"{r[name]['value']:+.2f}" for name in (ASKED, LEAK)),
        )
        for r in rows
    ]
    return f"{paints.name}_scales", {"loudness": about, "rows": rows}, f"floor {ruler.floor}\n{as_text(cells)}"


def calls(told: argparse.Namespace) -> tuple[str, dict, str]:
    """The distance of `count` faces, plain, by each solver in so many calls; and what the nearest one in few calls gains by many.

    All solvers get the same noises and requests.
    """
    paints, solvers = painter(told), {name: SOLVERS[name] for name in told.solvers}
    ruler, cond = _ruler(told, paints), rows_of(told, paints.which)
    found = {
        solver.__name__: {str(n): ruler.distance(paints.draw(cond, 1.0, n, solver)) for n in told.calls}
        for solver in solvers.values()
    }
    about = _about(told, paints, ruler, "calls", "solvers", "calls")
    cells = [("calls", *map(str, told.calls)), *((name, *map(str, row.values())) for name, row in found.items())]
    shown, bar = f"floor {ruler.floor}\n{as_text(cells)}", None
    if {FEW, MANY} <= set(told.calls):
        best = min(solvers.values(), key=lambda solver: found[solver.__name__][str(FEW)].value)
        few, many = (found[best.__name__][str(n)].value for n in (FEW, MANY))
        seen = [ruler.see(paints.draw(cond, 1.0, n, best)) for n in (FEW, MANY)]
        bar = {
            "what": f"the distance in {FEW} calls over that in {MANY}, of the solver nearest in {FEW}; at most {MORE}",
            "solver": best.__name__,
            "ratio": round(few / many, 4),
            "held": few <= MORE * many,
            # Taken as drawn independently, so the interval is wider than it need be: both start from one noise.
            "difference": control.plain(frechet_difference(ruler.real, *seen)),
        }
        shown += f"\n{best.__name__}: {few:.1f} in {FEW} calls is {few / many:.3f} times {many:.1f} in {MANY}"
    plain = {name: {n: control.plain(value) for n, value in row.items()} for name, row in found.items()}
    # Some of the solvers have a file of their own, for they may be compared at a higher count.
    some = "".join(f"_{name}" for name in solvers) if len(solvers) < len(SOLVERS) else ""
    return f"{paints.name}_calls{some}", {"haste": about, "distance": plain, "bar": bar}, shown


class Ruler(NamedTuple):
    """Features of real faces, how features are seen in drawn ones, the floor (other real faces), and what the faces are."""

    real: Tensor
    see: Callable
    floor: Estimate
    source: str

    def distance(self, pictures: Tensor) -> Estimate:
        return frechet_estimate(self.real, self.see(pictures))


def _ruler(told, paints: Painter) -> Ruler:
    eye = extractor("efficientnet", where=here())
    told = argparse.Namespace(**vars(told) | {"features": ["efficientnet"]})
    known = reference(told, paints.which)
    if known.real is None:
        raise ValueError("scales and calls are measured beside real pictures: put CelebA where FACELAB_DATA points.")
    see = functools.partial(features_of, extractor=eye, progress=True, keep=cache_dir() / "features")
    real, other = see(known.real), see(known.other)
    return Ruler(real, see, frechet_estimate(real, other), known.source)


def _moved(seen: Tensor, cond: Tensor, names) -> dict:
    """How far the readings of the asked attribute and of the other one move between those asked yes and no."""
    yes, no = cond[:, names.index(ASKED)] > 0, cond[:, names.index(ASKED)] < 0
    found = {}
    for name in (ASKED, LEAK):
        read = seen[:, names.index(name)] > 0
        found[name] = difference(*(proportion(int(read[part].sum()), int(part.sum())) for part in (yes, no)))
    return found


def _about(told, paints: Painter, ruler: Ruler, part: str, *flags: str) -> dict:
    return {
        "what": "distance in EfficientNet-Lite0's 1280 features; this is not FID",
        "model": str(paints),
        "real": ruler.source,
        "count": told.count,
        "floor": control.plain(ruler.floor),
        "drawn in": drawing(told) if part == "scales" else [f"{n} calls" for n in told.calls],
        "seed": told.seed,
        "command": command(told, part, "count", "seed", *flags),
    }
