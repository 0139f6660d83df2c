"""What interpolation and editing are worth: two parts of `python -m facelab evaluate`, for lesson 04.

    python -m facelab evaluate --model drawn --what edits --count 200 --steps 50
    python -m facelab evaluate --model drawn --what walks --steps 10 --solver adams-bashforth --scales 2

Edits are held against the true counterfactual, which only drawn faces have. What is drawn is kept, so that a stopped run goes on.
"""

import argparse
import functools
from pathlib import Path

import torch
from torch import Tensor

from facelab import control, data, kept
from facelab.edit import edit
from facelab.guidance import classifier_free
from facelab.likeness import Counterfactuals, Rise, counterfactuals, judged, mean_of, probabilities, psnr, rise
from facelab.metrics import as_text
from facelab.obeying import JUDGES, Painter, command, drawing, here, names_of, painter
from facelab.plan import cache_dir
from facelab.pretrained import load
from facelab.sample import DDIM, AdamsBashforth, noise

BATCH = 20
SCALE, KEEP = 2.0, 0.5  # of an edit: guidance away from what was, and what goes back the way it came
# How a face goes to its noise and comes back: solver, rounds of looking for the noisy end. None is the usual inversion.
WAYS = {"second order": (AdamsBashforth, 1), "first order": (DDIM, 1), "first order, the usual inversion": (DDIM, 0)}
DECIBELS, LOST, RANK, WALKS = 28, 1, 0.9, 10  # the bars


def edits(told: argparse.Namespace) -> tuple[str, dict, str]:
    """`count` held-out drawn faces, there and back in `steps` calls each way; and edited, one answer each, by the second order.

    Args:
        told: count, steps and model of the command line, which reads them.

    Returns:
        the name of the result, what is written in data/results under it, and the lines that are printed.

    Raises:
        ValueError: for any model but the drawn faces, or weights or faces that are not there.
    """
    paints = painter(told)
    if paints.which != "drawn":
        raise ValueError("edits are held against the true picture, which only drawn faces have: take --model drawn.")
    pairs = counterfactuals(told.count)
    back = {name: _made(paints, pairs, *way) for name, way in WAYS.items()}
    best, _, usual = WAYS
    found = judged(_made(paints, pairs, *WAYS[best], SCALE, KEEP), back[best], pairs)
    decibels = {name: mean_of(psnr(made, pairs.before)) for name, made in back.items()}
    there = (~pairs.where).flatten(1).any(1)
    outside = mean_of(psnr(back[usual], pairs.before, ~pairs.where)[there])
    about = {
        "what": "drawn faces that the network never saw, one answer each turned round, beside the same people truly so",
        "model": str(paints),
        "count": told.count,
        "calls": f"{told.steps} there, {told.steps} back",
        "edit": f"guided at {SCALE:g} away from what was; below {KEEP:g} of the largest change a pixel goes back as it came",
        "changes": {name: pairs.changed.count(name) for name in sorted(set(pairs.changed))},
        "units": "there and back, outside: PSNR in dB, peak 255; inside, nearer: rms in levels of 0 to 255",
        "command": f"python -m facelab evaluate --model {paints.name} --what edits --count {told.count} "
        f"--steps {told.steps} --out data/results",
    }
    bars = {
        f"there and back at least {DECIBELS} dB": decibels[best].value >= DECIBELS,
        "inside nearer to the truth than the unedited picture": found.nearer["unedited"].low > 0,
        "inside nearer to the truth than another person with these answers": found.nearer["another"].low > 0,
        f"outside at most {LOST} dB worse than there and back": found.outside["cost"].value <= LOST,
    }
    told_all = {
        "there and back": decibels,
        "inside": found.inside,
        "nearer": found.nearer,
        "outside": found.outside | {usual: outside},
    }
    shown = [f"{part}, {name}: {mean}" for part, row in told_all.items() for name, mean in row.items()]
    shown += _verdicts(bars)
    plain = {part: {name: control.plain(mean) for name, mean in row.items()} for part, row in told_all.items()}
    return f"{paints.name}_edits", {"edits": about} | plain | {"bars": bars}, "\n".join(shown)


@torch.no_grad()
def _made(
    paints: Painter, pairs: Counterfactuals, solver: type, rounds: int, scale: float = 1.0, keep: float | None = None
) -> Tensor:
    """(N, 3, 64, 64): the given pictures edited; with no `keep`, asked for as they are, there and back."""
    net, jobs = paints.net, {}
    wish = pairs.was if keep is None else pairs.wish
    for some in torch.arange(len(wish)).split(BATCH):
        given = pairs.before[some], pairs.was[some], wish[some]
        name = kept.name_of("edit", solver.__name__, paints.steps, scale, rounds, keep, tensors=given)
        by = solver(net.schedule, clip=False)
        jobs[name] = functools.partial(edit, net, *given, by, paints.steps, scale, rounds, keep or 0.0)
    return torch.cat([kept.kept(file) for file in kept.keep(_folder(paints, "edited"), jobs).values()])


def walks(told: argparse.Namespace) -> tuple[str, dict, str]:
    """Each attribute walked from no to yes; its ends drawn on `each` noises, beside real faces without and with it.

    Args:
        told: model, each, steps, solver, seed, scales and names of the command line, which reads them.

    Returns:
        as `edits`.

    Raises:
        ValueError: for weights or faces that are not there, or an unknown name.
    """
    paints = painter(told)
    judge, real = load(JUDGES[paints.which], here()), data.faces("score", paints.which)
    seen, scale = probabilities(judge.classifier, real.images), told.scales[0]
    x_T, guided = noise(told.each, paints.net.shape, told.seed), classifier_free(paints.net, scale)
    folder = _folder(paints, "walked") / f"{judge.card['sha256'][:16]} {scale:g}"
    rows: list[Rise] = []
    for name in names_of(told, paints.attributes):
        by = paints.solver(paints.net.schedule), paints.steps
        rows.append(rise(guided, judge.classifier, name, x_T, *by, real, seen, each=told.each, keep=folder))
    rising = [row.name for row in rows if row.correlation.value >= RANK]
    together = [row.name for row in rows if row.together >= RANK]
    alone = [row.name for row in rows if row.others <= row.others_real]
    both = [name for name in rising if name in alone]
    about = {
        "what": "an attribute walked from no to yes, nothing else said: rank correlation of the judge's probability with "
        "the place on the walk, noise by noise and of its mean over the noises, what it gains, and how far the others move, "
        "on average, beside real faces",
        "model": str(paints),
        "real": real.source,
        "noises": f"{told.each} for the ends, the first {rows[0].correlation.count} for the way",
        "scale": scale,
        "drawn in": drawing(told),
        "seed": told.seed,
        "command": command(told, "walks", "each", "steps", "seed", "scales"),
    }
    bars = {
        f"rank correlation noise by noise at least {RANK} for at least {WALKS} attributes": len(rising) >= WALKS,
        f"rank correlation of the mean at least {RANK} for at least {WALKS} attributes": len(together) >= WALKS,
        f"and the others no more moved than in the data, for at least {WALKS} of them": len(both) >= WALKS,
    }
    cells = [("attribute", "rank correlation", "of the mean", "gained", "others", "in the data")]
    cells += [
        (r.name, str(r.correlation), f"{r.together:.3f}", str(r.gained), f"{r.others:.3f}", f"{r.others_real:.3f}")
        for r in rows
    ]
    shown = [as_text(cells), *_verdicts(bars)]
    plain = {row.name: control.plain(row) for row in rows}
    found = {"walks": about, "rows": plain, "rising": rising, "alone": alone, "bars": bars}
    return f"{paints.name}_walks", found, "\n".join(shown)


def _verdicts(bars: dict[str, bool]) -> list[str]:
    return [f"{'held' if held else 'missed'}: {bar}" for bar, held in bars.items()]


def _folder(paints: Painter, what: str) -> Path:
    return cache_dir() / what / paints.sha256[:16]
