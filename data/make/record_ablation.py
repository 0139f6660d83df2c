"""Comparisons of lessons 02 and 03: digit models that differ in one thing, each trained with the same budget from several seeds.

    python data/make/record_ablation.py preconditioning --out data/results/mnist_preconditioning.json
    python data/make/record_ablation.py prediction --out data/results/mnist_ablation.json
    python data/make/record_ablation.py conditioning --out data/results/mnist_conditioning.json

Everything else is equal: network, images, learning rate, seeds. A stopped run continues with the next training.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

from scipy.stats import t as student
from tqdm.auto import tqdm

from facelab.data.mnist import mnist
from facelab.denoiser import Denoiser
from facelab.device import machine
from facelab.evaluation.attribute_accuracy import class_accuracy
from facelab.evaluation.statistics import Interval
from facelab.presets import preset
from facelab.pretrained import load
from facelab.samplers import DDIM, DDPM
from facelab.training import train

FLOW = {"prediction_type": "v", "schedule": "rectified_flow"}
NOISE = {"prediction_type": "eps", "schedule": "linear"}
# comparison: {kind: settings of the network}, {column: sampler, steps, guidance scale}
COMPARISONS = {
    # The plain U-Net works on the same 2x2 blocks of pixels, but predicts the noise directly.
    "preconditioning": (
        {"plain U-Net": NOISE | {"sigma_data": None}, "preconditioned": NOISE},
        {"DDIM, 20 steps": (DDIM, 20, 1), "DDIM, 20 steps, guidance scale 2": (DDIM, 20, 2)},
    ),
    "prediction": (
        {
            "noise prediction": NOISE,
            "v-prediction": {"prediction_type": "v", "schedule": "linear"},
            "rectified flow": FLOW,
        },
        {
            "DDIM, 10 steps": (DDIM, 10, 1),
            "DDIM, 50 steps": (DDIM, 50, 1),
            "ancestral, 50 steps": (DDPM, 50, 1),
        },
    ),
    "conditioning": (
        {
            "embedding": FLOW,
            "concatenated channels": FLOW | {"conditioning": "channels"},
            "no condition": FLOW | {"conditioning": "none"},
        },
        {"DDIM, 10 steps": (DDIM, 10, 1)},
    ),
}
IMAGES = {"preconditioning": 30_000, "prediction": 15_000, "conditioning": 15_000}  # seen by each training, at most
PER_CLASS = 30  # generated digits of each class


def over_seeds(values: list[float]) -> Interval:
    """The mean of one value for each seed, with its 95 % interval (Student's t)."""
    mean, n = statistics.fmean(values), len(values)
    half = student.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5
    return Interval(mean, mean - half, mean + half, len(values))


def images(comparison: str, sizes) -> int:
    return min(IMAGES[comparison], sizes.mnist_ddpm.total_images)


def one_training(comparison: str, kind: str, seed: int, sizes) -> dict:
    """Train one network from this seed; the share of digits that are classified as their class, for each sampler."""
    digits, classifier = mnist("train"), load("mnist-classifier").classifier
    kinds, columns = COMPARISONS[comparison]
    settings = sizes.mnist_net | kinds[kind]
    net = Denoiser(digits.shape, digits.attributes.names, exclusive=True, seed=seed, **settings)
    config = dataclasses.replace(sizes.mnist_ddpm, seed=seed, total_images=images(comparison, sizes))
    for now in tqdm(train(net, digits, config), total=config.steps, desc=f"{kind}, seed {seed}"):  # noqa: B007
        pass
    accuracy = {
        name: class_accuracy(now.net, classifier, scale, PER_CLASS, steps, sampler).value
        for name, (sampler, steps, scale) in columns.items()
    }
    return {"kind": kind, "seed": seed, "minutes": round(now.seconds / 60, 1), "accuracy": accuracy}


def table(comparison: str, runs: list[dict]) -> dict:
    """Mean over the seeds of every kind and sampler, with its interval."""
    kinds, columns = COMPARISONS[comparison]
    rows = {kind: [run["accuracy"] for run in runs if run["kind"] == kind] for kind in kinds}
    return {
        kind: {name: over_seeds([row[name] for row in of_kind])._asdict() for name in columns}
        for kind, of_kind in rows.items()
        if len(of_kind) > 1
    }


def main(argv: list[str] | None = None) -> None:
    """Record all trainings that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", help="the sizes of the trainings; the records in data/results are of `laptop`")
    args = parser.parse_args(argv)
    sizes, name = preset(args.preset), args.comparison
    runs = json.loads(args.out.read_text())["runs"] if args.out.is_file() else []
    known = {(run["kind"], run["seed"]) for run in runs}
    wanted = [(kind, seed) for seed in range(args.seeds) for kind in COMPARISONS[name][0]]
    for kind, seed in [one for one in wanted if one not in known]:
        runs.append(one_training(name, kind, seed, sizes))
        command = f"python data/make/record_ablation.py {name} --preset {sizes.name} --seeds {args.seeds} --out FILE"
        about = {"images": images(name, sizes), "digits": 10 * PER_CLASS, "machine": machine()}
        record = {"command": command, **about, "table": table(name, runs), "runs": runs}
        args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
