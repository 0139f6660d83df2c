"""Train the correct model and each of the eight published faults at one size, and measure what each fault costs (lesson 06).

    python data/make/record_faults.py --preset ci --total-images 6400 --per-class 30 --out DIR

Writes DIR/faults.json and DIR/faults.png (a row of ten digits for each run). Checkpoints are in DIR, so a stopped run is resumed.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facelab.course.faults import CORRECT, FAULTS, OTHER_SEED, RUNS, base_run, enabled
from facelab.data.mnist import mnist
from facelab.device import machine
from facelab.evaluation.attribute_accuracy import class_hits
from facelab.evaluation.features import extract_features, extractor
from facelab.evaluation.metrics import frechet_difference, frechet_estimate
from facelab.evaluation.statistics import difference
from facelab.images import to_uint8
from facelab.presets import PRESETS, Preset, preset
from facelab.pretrained import load
from facelab.samplers import DDIM, generate
from facelab.training import fit

SCALES = (1, 2)


def generate_digits(net, per_class: int, guidance_scale: float) -> Tensor:
    """(10 per_class, 1, 28, 28): `per_class` images of every digit in ten steps of DDIM."""
    cond = torch.eye(10).repeat(per_class, 1)
    return generate(net, cond, guidance_scale=guidance_scale, steps=10, sampler=DDIM, seed=1, batch_size=100)


def run(name: str, digits, size: Preset, out: Path, total_images: int, per_class: int):
    """Train and sample with the fault enabled: (losses, {guidance scale: images})."""
    # Faults that only change sampling share the correct model; the others have its config, and so need a folder of their own.
    shared = name in {fault.name for fault in FAULTS.values() if not fault.trains}
    folder = out / "checkpoints" / (CORRECT if shared else name).replace(",", "").replace(" ", "-")
    with enabled(name):
        net, config = base_run(size, seed=1 if name == OTHER_SEED else 0, total_images=total_images)
        net, losses = fit(net, digits, config, checkpoint_dir=folder)
        return losses, {scale: generate_digits(net, per_class, scale) for scale in SCALES}


def measure(images: dict[int, Tensor], correct: dict[int, Tensor], real: Tensor, classifier) -> dict:
    """Class accuracy and Fréchet distance to `real` features at each guidance scale, also minus those of the correct model."""
    row = {key: {} for key in ("accuracy", "distance", "accuracy_difference", "distance_difference")}
    for scale in images:
        both = images[scale], correct[scale]
        cond = torch.eye(10).repeat(len(both[0]) // 10, 1)
        accuracy = [class_hits(x, cond, classifier) for x in both]
        features = [extract_features(x, _extractor()) for x in both]
        row["accuracy"][str(scale)] = accuracy[0]._asdict()
        row["distance"][str(scale)] = frechet_estimate(real, features[0])._asdict()
        row["accuracy_difference"][str(scale)] = difference(*accuracy)._asdict()
        row["distance_difference"][str(scale)] = frechet_difference(real, *features)._asdict()
    return row


def _extractor():
    return extractor("mnist-classifier", device=torch.device("cpu"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=tuple(PRESETS))
    parser.add_argument("--total-images", type=int, help="images of each training, instead of the preset's")
    parser.add_argument("--per-class", type=int, help="generated images of each digit, instead of the preset's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    size, digits, classifier = preset(args.preset), mnist("train"), load("mnist-classifier").classifier
    net, config = base_run(size, total_images=args.total_images)
    per_class = args.per_class or size.per_class
    real = extract_features(mnist("test")[:2000][0], _extractor())
    what = f"one network, data set, seed and number of images, one line changed; {10 * per_class} digits, 10 DDIM steps"
    about = {"what": what, "data": digits.source, "features": _extractor().description}
    about |= {"config": dataclasses.asdict(config), "network": net.settings(), "machine": machine()}
    options = f"--preset {size.name} --total-images {config.total_images} --per-class {per_class} --out DIR"
    about |= {"command": f"python data/make/record_faults.py {options}", "rows": []}
    correct, tops = None, []
    for name in RUNS:
        print(name, flush=True)
        losses, images = run(name, digits, size, args.out, config.total_images, per_class)
        correct = correct or images
        curve = [round(float(part.mean()), 4) for part in np.array_split(losses, min(25, len(losses)))]
        about["rows"].append({"run": name, **measure(images, correct, real, classifier), "losses": curve})
        tops.append(images[2][:10])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "faults.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    sheet = to_uint8(torch.stack(tops))[:, :, 0].transpose(1, 2).flatten(2).flatten(0, 1)
    Image.fromarray(sheet.numpy()).save(args.out / "faults.png", optimize=True)


if __name__ == "__main__":
    main()
