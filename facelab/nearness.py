"""How near drawn faces come to real ones: distances, the report's table 1 redone, and whether faces were learned by heart.

The real pictures are those that score; the floor is other real ones, of the train partition. All are scored at one count.
"""

import argparse
import functools
import re
import time
from typing import NamedTuple

import torch
from torch import Tensor

from facelab import control, data, pretrained
from facelab.features import (
    EFFICIENTNET,
    Extractor,
    extractor,
    features_of,
    inception_file,
    load_features,
    save_features,
)
from facelab.metrics import Estimate, KernelDistance, Proportion, as_text, memorised
from facelab.obeying import Painter, answers_of, blurred, command, drawing, here, judge_of, painter
from facelab.plan import cache_dir
from facelab.scores import LEAST, Score, Scores, evaluate, verdict

BLUR = 1.0  # pixels, of the real faces that are the second control
DRAWN_ROWS = 2000  # drawn faces of the train partition: enough for a floor
RECORDED = "celeba_valid_features"


class Line(NamedTuple):
    """A row of table 1: whose weights, whether they are told anything, and how strongly."""

    of: str
    weights: str
    told: bool
    scale: float


LINES = (
    Line("the report's, unconditional", "unconditional", False, 1.0),
    Line("the report's, conditional", "report", True, 1.0),
    Line("ours, nothing said", "celeba", False, 1.0),
    Line("ours, plain", "celeba", True, 1.0),
    Line("ours, guided at 2", "celeba", True, 2.0),
)


def eyes(told: argparse.Namespace, which: str) -> list[Extractor]:
    """The extractors asked for; "auto" is EfficientNet, Inception where it is at hand or to be downloaded, and the judge."""
    names = ["efficientnet", *(["inception"] if told.download or inception_file() else []), "judge"]
    names = names if told.features == ["auto"] else told.features
    judge = "judge" if which == "celeba" else "drawn-judge"
    return [extractor(judge if name == "judge" else name, told.download, here()) for name in names]


def distance(told: argparse.Namespace) -> tuple[str, dict, str]:
    """One set of weights: nothing said, and told whole rows of answers at every scale."""
    paints = painter(told)
    known, cond = reference(told, paints.which), rows_of(told, paints.which)
    drawn = {f"scale {scale:g}": paints.draw(cond, scale) for scale in (told.scales if paints.listens else [1.0])}
    if paints.listens:
        drawn = {"nothing said": paints.draw(torch.zeros_like(cond), 1.0)} | drawn
    tables, _ = against_real(told, known, drawn)
    about = _about(told, "distance", known.source, "scales") | {"model": str(paints)}
    shown = "\n\n".join(map(str, tables))
    return f"{paints.name}_distance", {"distance": about, "scores": [table.to_json() for table in tables]}, shown


def table_1(told: argparse.Namespace) -> tuple[str, dict, str]:
    """The report's table 1 redone: its two models and ours, each with all scores, control, calls and seconds; and verdicts.

    A line whose weights are not there is named as missing.
    """
    lines = [line._replace(weights=told.model) if line.weights == "celeba" else line for line in LINES]
    ours = painter(told)
    known, cond, judge = reference(told, ours.which), rows_of(told, ours.which), judge_of(ours.which)
    there = {line.weights: _there(line.weights) for line in lines}
    painters = {name: painter(told, name) for name, found in there.items() if found}
    painters = {name: paints for name, paints in painters.items() if paints.which == ours.which}
    drawn, more, missing = {}, {}, [line.of for line in lines if line.weights not in painters]
    for line in (line for line in lines if line.weights in painters):
        paints, told_them = painters[line.weights], cond if line.told else torch.zeros_like(cond)
        drawn[line.of] = paints.draw(told_them, line.scale)
        # Those that are told nothing are read against the same answers: that is chance.
        obeyed = control.mean_obeyed(control.read(judge, drawn[line.of]), cond, ours.attributes, ours.attributes)
        more[line.of] = {
            "control": obeyed,
            "calls": _calls(told, line),
            "seconds": seconds(paints, told_them, line.scale),
        }
    tables, seen = against_real(told, known, drawn)
    verdicts = _verdicts(told, seen, list(drawn))
    about = _about(told, "table-1", known.source) | {
        "weights": {line.of: str(painters[line.weights]) for line in lines if line.weights in painters},
        "missing": missing,
        "control": f"asked = read, balanced, mean over the attributes, by {judge.config._class_name}; chance is 0.5",
        "seconds": f"a picture, {'CPU time' if here().type == 'cpu' else 'wall clock'}, drawn in batches of {TIMED}",
        "verdicts": "the difference of two distances in the features of the first table; below zero A is nearer",
    }
    cells = [("of", "asked = read", "calls", "seconds a picture")]
    cells += [(of, str(row["control"]), row["calls"], f"{row['seconds']:.3f}") for of, row in more.items()]
    shown = [*map(str, tables), as_text(cells), *(f"{a} (A), {b} (B): {v}" for (a, b), v in verdicts.items())]
    shown += [f"{of}: its weights are missing" for of in missing]
    found = {
        "table": about,
        "scores": [table.to_json() for table in tables],
        "asked": {of: {name: control.plain(value) for name, value in row.items()} for of, row in more.items()},
        "verdicts": [{"A": a, "B": b} | control.plain(v) for (a, b), v in verdicts.items()],
    }
    if told.keep_features and told.out:
        _record(told, tables[0], seen, about)
    return "table_1", found, "\n\n".join(shown)


def memory(told: argparse.Namespace) -> tuple[str, dict, str]:
    """Does what is drawn lie nearer to what was trained on than to as many held-out faces, in pixels and in features?"""
    paints = painter(told)
    train, held_out = data.faces("train", paints.which), data.faces("valid", paints.which)
    drawn, generator = paints.draw(rows_of(told, paints.which), 1.0), torch.Generator().manual_seed(told.seed)
    mixed, count = torch.randperm(len(train), generator=generator), min(len(held_out), len(train) // 2)
    learned, others = train.images[mixed[:count]], train.images[mixed[count : 2 * count][: told.count]]
    sets = {
        paints.name: drawn,
        "other train faces (no copies)": others,
        "these train faces (copies)": learned[: told.count],
    }
    eye = eyes(told, paints.which)[0]
    looks = {"pixels": lambda x: x, eye.told: lambda x: features_of(x, eye, True, cache_dir() / "features")}
    found = {}
    for word, look in looks.items():
        known, unknown = look(learned), look(held_out.images)
        found[word] = {of: memorised(look(x), known, unknown, told.seed) for of, x in sets.items()}
    about = {
        "what": f"the share nearer to {count:,} train faces than to as many held-out ones; 0.5 is chance",
        "model": str(paints),
        "train, held out": [train.source, held_out.source],
        "seed": told.seed,
        "command": command(told, "memory", "count", "steps", "seed", *_unusual(told)),
    }
    record = {"memory": about}
    record |= {word: {of: control.plain(share) for of, share in row.items()} for word, row in found.items()}
    return f"{paints.name}_memory", record, recorded_shares(record)


def recorded_shares(record: dict) -> str:
    """What `memory` wrote, as a table for people: a line for each set of pictures, a column for each way to look."""
    looks = [word for word in record if word not in ("about", "memory")]
    cells = [("of", *(word.split(",")[0] for word in looks))]
    cells += [(of, *(str(Proportion(**record[word][of])) for word in looks)) for of in record[looks[0]]]
    return f"{record['memory']['what']}\n{as_text(cells)}"


def recorded_scores(table: dict) -> list[Scores]:
    """The scores that `table_1` wrote, in each network's features, with floor and controls."""
    return [
        Scores(
            tuple(Score(**_told(row)) for row in one["rows"]),
            one["count"],
            one["features"].split(",")[0],
            one["features"],
            one["seed"],
        )
        for one in table["scores"]
    ]


def recorded_control(table: dict) -> str:
    """What `table_1` wrote of each line's asked = read, calls and seconds, for people; and which weights were missing."""
    cells = [("of", "asked = read", "calls", "seconds a picture")]
    cells += [
        (of, str(Estimate(**row["control"])), row["calls"], f"{row['seconds']:.3f}")
        for of, row in table["asked"].items()
    ]
    return "\n".join([as_text(cells), *(f"{of}: its weights are missing" for of in table["table"]["missing"])])


def _told(row: dict) -> dict:
    """A row of scores as it was before it was written."""
    kinds = (Estimate, KernelDistance, Estimate, Proportion, Proportion)
    values = [value and kind(**value) for kind, value in zip(kinds, list(row.values())[1:], strict=True)]
    return dict(zip(Score._fields, [row["of"], *values], strict=True))


def kept_features(table: str) -> dict[str, Tensor]:
    """{line: features (N, D)} that `--keep-features` left in data/results, the real ones first; {} where there are none."""
    found = {}
    for file in sorted(pretrained.shipped_dir("results").glob(f"{table}_*.safetensors")):
        features, about = load_features(str(file))
        found[about["line"]] = features
    order = ["real", *(line.of for line in LINES)]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


# What they share


def rows_of(told: argparse.Namespace, which: str) -> Tensor:
    """(count, K): whole rows of answers, at random from the valid list: what real faces look like, none of them in particular."""
    rows, generator = answers_of(which, "valid"), torch.Generator().manual_seed(told.seed)
    if len(rows) < told.count:
        raise ValueError(
            f"--count must be at most {len(rows)}, for so many rows of answers are there; got {told.count}."
        )
    return rows[torch.randperm(len(rows), generator=generator)[: told.count]].float()


class Reference(NamedTuple):
    """What drawn faces are compared with, and by whose eyes; without pictures, the recorded features."""

    eyes: list[Extractor]
    source: str
    real: Tensor | None = None
    other: Tensor | None = None


def reference(told: argparse.Namespace, which: str) -> Reference:
    """Everything that may be missing is looked for here, before hours go into drawing.

    Raises:
        ValueError, OSError: for too few real faces, too low a count, or features that are not to be had.
    """
    if told.count < LEAST:
        raise ValueError(f"--count must be at least {LEAST}, got {told.count}.")
    if told.replicates < 0 or told.replicates == 1:
        raise ValueError(f"--replicates must be 0, or at least 2 for a standard deviation, got {told.replicates}.")
    looking, generator = eyes(told, which), torch.Generator().manual_seed(told.seed)
    if which == "celeba" and data.which_faces() != "celeba":
        if [eye.name for eye in looking] != [EFFICIENTNET]:
            raise ValueError("without CelebA there are only recorded features of it: take --features efficientnet.")
        return Reference(looking, f"recorded features of {load_features(RECORDED)[1]['data']}")
    score, train = data.faces("score", which), data.faces("train", which, min(DRAWN_ROWS, data.DRAWN_COUNTS["train"]))
    if min(len(score), len(train)) < told.count:
        raise ValueError(f"--count {told.count} needs as many real faces, and {len(score)} score, {len(train)} train.")
    source = f"{score.source}; the floor: {train.source}"
    return Reference(looking, source, *(some(faces, told.count, generator) for faces in (score, train)))


def against_real(told, known: Reference, drawn: dict[str, Tensor]) -> tuple[list[Scores], dict[str, Tensor]]:
    """(a table for each extractor, {set: features of the first extractor})."""
    tables, first = [], {}
    for eye in known.eyes:
        look = functools.partial(features_of, extractor=eye, progress=True, keep=cache_dir() / "features")
        seen = {name: look(pictures) for name, pictures in drawn.items()}
        if known.real is None:
            # Half of the recorded features are the floor.
            real, other, sets = load_features(RECORDED)[0], None, seen
            count = min(told.count, len(real) // 2)
        else:
            real, other, count = look(known.real), look(known.other), told.count
            sets = seen | {f"other real ones, blurred by {BLUR:g} pixel (a control)": look(blurred(known.other, BLUR))}
        tables.append(evaluate(real, sets, eye, other, count=count, seed=told.seed, replicates=told.replicates))
        first = first or {"real": real} | seen
    return tables, first


def some(faces: data.Pictures, count: int, generator: torch.Generator) -> Tensor:
    """(count, C, H, W) of the faces, at random."""
    return faces.take(torch.randperm(len(faces), generator=generator)[:count]).images


TIMED = 4  # pictures a batch, of which the time is taken


def seconds(paints: Painter, cond: Tensor, scale: float) -> float:
    """The time that a picture takes: CPU time of all threads on a CPU, else wall clock."""
    clock = time.process_time if next(paints.net.parameters()).device.type == "cpu" else time.perf_counter
    control.ask(paints.net, cond[:TIMED], 1, scale)  # the first call pays for what later ones reuse
    start = clock()
    control.ask(paints.net, cond[:TIMED], paints.steps, scale, solver=paints.solver)
    return (clock() - start) / len(cond[:TIMED])


def _there(name: str) -> bool:
    """Whether there are weights of that name, shipped or in a folder; damaged ones are there, and loading them says so."""
    return name in pretrained.names() or bool(re.search(r"[/\\]", name))


def _calls(told, line: Line) -> str:
    return f"{told.steps}" if line.scale == 1 else f"{told.steps} x 2"


def _verdicts(told, seen: dict[str, Tensor], names: list[str]) -> dict:
    """Of every two lines; A's distance minus B's, to the same real pictures."""
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {(a, b): verdict(seen["real"], seen[a], seen[b], told.replicates, told.seed) for a, b in pairs}


def _record(told, table: Scores, seen: dict[str, Tensor], about: dict) -> None:
    """The features of every line, so that anybody can redo the table: numbers, no pictures."""
    for name, features in seen.items():
        slug = re.sub(r"\W+", "_", name)
        words = {
            "line": name,
            "data": f"{name}; {about['real']}",
            "crop": "64x64, as drawn",
            "extractor": table.told,
            "seed": told.seed,
        }
        save_features(told.out / f"table_1_{slug}.safetensors", features[: told.keep_features], words)


def _unusual(told) -> list[str]:
    """Flags that are worth repeating only where something else than usual was told."""
    usual = {"features": ["auto"], "replicates": 0, "keep_features": 0}
    return [flag for flag, value in usual.items() if getattr(told, flag) != value]


def _about(told, part: str, real: str, *flags: str) -> dict:
    return {
        "what": "distance to real faces, beside the floor (other real faces) and the controls (broken sets)",
        "real": real,
        "count": told.count,
        "drawn in": drawing(told),
        "intervals of distances": f"{told.replicates or 'no'} bootstrap replicates"
        + ", by influence" * (not told.replicates),
        "seed": told.seed,
        "command": command(told, part, "count", "steps", "seed", *flags, *_unusual(told)),
    }
