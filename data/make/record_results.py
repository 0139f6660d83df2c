"""Measure shipped weights, and write what lessons and README quote to data/results.

    python data/make/record_results.py guidance --model celeba --count 192 --steps 10 --out data/results

Reference images and the rows of labels that condition generated images are chosen independently. Generated images are cached by
the weights' sha256 and everything else that they depend on, so a stopped command continues.
"""

import argparse
import functools
import hashlib
import itertools
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from facelab.attributes import CELEBA, SYNTHETIC
from facelab.data.celeba import celeba, celeba_conds, label_statistics
from facelab.data.dataset import AttributeDataset
from facelab.data.synthetic_faces import SPLIT_SIZES, default_faces, people
from facelab.device import atomic_write, cache_dir, device, machine
from facelab.evaluation import attribute_accuracy as accuracy
from facelab.evaluation import report
from facelab.evaluation.features import efficientnet_features, extractor, inception_file, save_features
from facelab.evaluation.metrics import frechet_difference, frechet_estimate, memorization, precision_recall
from facelab.evaluation.statistics import Interval, to_jsonable
from facelab.images import to_uint8
from facelab.pretrained import load, names
from facelab.samplers import DDIM, AdamsBashforth, Heun, generate

SAMPLERS = {"ddim": DDIM, "heun": Heun, "adams-bashforth": AdamsBashforth}
TABLE1 = {  # name: weights, conditioned on labels, guidance scale
    "report, unconditional": ("report-unconditional", False, 1.0),
    "report, conditional": ("report-conditional", True, 1.0),
    "facelab, unconditional": ("celeba", False, 1.0),
    "facelab, guidance scale 1": ("celeba", True, 1.0),
    "facelab, guidance scale 2": ("celeba", True, 2.0),
}
DISTANCE = "Fréchet distance in EfficientNet-Lite0's features (not FID)"


class Run:
    """Weights that are measured, with the command's options: their conditions, generated images, and reference."""

    def __init__(self, args: argparse.Namespace, name: str = ""):
        self.args, self.name = args, name or args.model
        self.model = load(self.name, device())
        self.attributes, self.sha256 = self.model.attributes, self.model.card["sha256"]
        if self.model.denoiser is None or self.attributes not in (CELEBA, SYNTHETIC):
            raise ValueError(f"{self.name!r} generates no faces: take the weights of a face model.")
        self.data = "celeba" if self.attributes == CELEBA else "synthetic"

    @functools.cached_property
    def faces(self) -> AttributeDataset:
        """Real images with labels, on which the model was not trained."""
        return default_faces("score", self.data)

    @functools.cached_property
    def classifier(self):
        return load(accuracy.CLASSIFIERS[self.data], device()).classifier

    @functools.cached_property
    def labels(self) -> Tensor:
        """(N, K) labels of the whole validation split, without images."""
        return celeba_conds("valid")[1] if self.data == "celeba" else people(SPLIT_SIZES["train"], "valid")[0]

    @property
    def cond(self) -> Tensor:
        """(count, K) random rows of labels, chosen independently of the reference images."""
        return self.labels[report.disjoint_rows(len(self.labels), self.args.count, seed=self.args.seed + 1)[0]].float()

    def images(self, cond: Tensor, guidance_scale: float = 1.0, weak: "Run | None" = None, **options) -> Tensor:
        """(B, C, H, W) uint8 images generated for conditions (B, K)."""
        scale = 1.0 if self.model.denoiser.config.conditioning == "none" else guidance_scale
        options = {"steps": self.args.steps, "sampler": self.args.sampler, "guidance_scale": scale} | options
        words = self.args.seed, tuple(cond.shape), self.model.schedule.shift, *sorted(options.items())
        words = repr((self.sha256, weak and weak.sha256, words)).encode()
        digest = hashlib.sha256(words + cond.float().numpy().tobytes()).hexdigest()
        if not (file := cache_dir() / "generated" / f"{digest[:24]}.safetensors").is_file():
            options["sampler"] = SAMPLERS[options["sampler"]]
            images = generate(self.model, cond, seed=self.args.seed, weak=weak and weak.model, progress=True, **options)
            with atomic_write(file) as part:
                save_file({"images": to_uint8(images)}, part)
        return load_file(file)["images"]

    def accuracy(self, images: Tensor, cond: Tensor) -> Interval:
        """Mean balanced accuracy over the attributes; chance is 0.5."""
        return accuracy.mean_balanced_accuracy(self.predict(images), cond, self.attributes)

    def predict(self, images: Tensor) -> Tensor:
        return accuracy.predict_attributes(self.classifier, images)

    def reference_images(self) -> list[Tensor]:
        """`count` real images as the reference, and as many others."""
        rows = report.disjoint_rows(len(self.faces), self.args.count, self.args.count, seed=self.args.seed)
        return [self.faces.images[part] for part in rows]

    def networks(self) -> list:
        """The feature extractors of --features; "auto" is EfficientNet, the classifier, and Inception where it is there."""
        auto = ["efficientnet", accuracy.CLASSIFIERS[self.data]]
        auto += ["inception"] if self.args.download or inception_file() else []
        wanted = auto if self.args.features == ["auto"] else self.args.features
        return [extractor(name, self.args.download) for name in wanted]

    def about(self, measures: str, **more) -> dict:
        """What every record says about itself."""
        facts = {"measures": measures, "model": str(self), "reference": self.faces.source}
        return facts | {key: getattr(self.args, key) for key in ("sampler", "steps", "count", "seed")} | more

    def __str__(self) -> str:
        return f"{self.name}, sha256 {self.sha256[:16]}"


# Parts: each returns (name of the record, the record)


def spacing(args) -> tuple[str, dict]:
    """Distance, precision, recall and attribute accuracy by the shift of the sampler's timesteps."""
    run, rows = Run(args), []
    real, other = map(efficientnet_features, run.reference_images())
    seen = {}
    for run.model.schedule.shift in args.shifts:
        images = run.images(run.cond)
        seen[run.model.schedule.shift] = found = efficientnet_features(images)
        row = {"timestep_shift": run.model.schedule.shift} | scores_of(real, found)
        row["difference_from_first"] = frechet_difference(real, found, seen[args.shifts[0]])
        rows.append(row | {"attribute_accuracy": run.accuracy(images, run.cond)})
    about = run.about(f"{DISTANCE} by the spacing of timesteps, unguided", real_images=scores_of(real, other))
    return f"{args.model}_spacing", {"about": about, "rows": rows}


def tables_of(run: Run, sets: dict[str, Tensor]) -> list[dict]:
    count, seed = run.args.count, run.args.seed
    return [report.evaluate(run.faces.images, sets, net, count, seed, True).to_json() for net in run.networks()]


def guidance(args) -> tuple[str, dict]:
    """Distance, precision, recall and attribute accuracy at each guidance scale; with --weak also at scales of autoguidance."""
    run, rows, weak = Run(args), [], Run(args, args.weak) if args.weak else None
    real, other = map(efficientnet_features, run.reference_images())
    for weak_scale, scale in itertools.product(args.weak_scales if weak else [1.0], args.scales):
        autoguided = {"weak": weak, "weak_scale": weak_scale} if weak_scale != 1 else {}
        images = run.images(run.cond, scale, **autoguided)
        row = {"guidance_scale": scale, "weak_scale": weak_scale} | scores_of(real, efficientnet_features(images))
        rows.append(row | {"attribute_accuracy": run.accuracy(images, run.cond)})
    facts = {"real_images": scores_of(real, other)} | ({"weak": str(weak)} if weak else {})
    measures = f"{DISTANCE}, precision, recall and attribute accuracy (chance 0.5) by guidance"
    return f"{args.model}_guidance", {"about": run.about(measures, **facts), "rows": rows}


def scores_of(real: Tensor, found: Tensor) -> dict[str, Interval]:
    precision, recall = precision_recall(real, found)
    return {"frechet_distance": frechet_estimate(real, found), "precision": precision, "recall": recall}


def table1(args) -> tuple[str, dict]:
    """The report's table 1 redone: its two models and facelab's; scores, attribute accuracy, NFE, seconds."""
    lines = {of: line for of, line in TABLE1.items() if line[0] in names()}
    runs, sets, rows = {weights: Run(args, weights) for weights, _, _ in lines.values()}, {}, {}
    run = runs["celeba"]
    for of, (weights, conditioned, scale) in lines.items():
        given = run.cond if conditioned else torch.zeros_like(run.cond)
        sets[of] = runs[weights].images(given, scale)
        # Unconditional images are compared with the same labels: that is chance.
        rows[of] = {"weights": weights, "attribute_accuracy": run.accuracy(sets[of], run.cond)}
        rows[of] |= {"nfe": args.steps * (1 if scale == 1 else 2), "seconds": seconds(runs[weights], given, scale)}
    missing = [of for of in TABLE1 if of not in lines]
    about = run.about("table 1 of the report, redone; seconds an image, of the CPU where it is one", missing=missing)
    return "table1", {"about": about, "scores": tables_of(run, sets), "models": rows}


def seconds(run: Run, cond: Tensor, scale: float, count: int = 4) -> float:
    clock = time.process_time if device().type == "cpu" else time.perf_counter
    options = {"guidance_scale": scale, "sampler": SAMPLERS[run.args.sampler]}
    generate(run.model, cond[:1], steps=1, **options)  # warms up
    start = clock()
    generate(run.model, cond[:count], steps=run.args.steps, **options)
    return round((clock() - start) / count, 4)


def memorized(args) -> tuple[str, dict]:
    """Are generated images nearer to training images than to as many held-out ones, in pixels and in features?"""
    run = Run(args)
    train, held_out = (default_faces(split, run.data) for split in ("train", "valid"))
    count, rows = min(len(held_out), len(train) // 2), {}
    known, others = (train.images[part] for part in report.disjoint_rows(len(train), count, count, seed=args.seed))
    sets = {"generated": run.images(run.cond), "other training images (new)": others[: args.count]}
    sets |= {"these training images (copies)": known[: args.count]}
    for space, extract in {"pixels": lambda x: x, "EfficientNet-Lite0": efficientnet_features}.items():
        near, far = extract(known), extract(held_out.images)
        rows[space] = {of: memorization(extract(images), near, far, args.seed) for of, images in sets.items()}
    measures = f"share of images nearer to {count:,} training images than to as many held-out ones; 0.5 is chance"
    return f"{args.model}_memorization", {"about": run.about(measures, train=train.source), "rows": rows}


def features(args) -> tuple[None, dict]:
    """Features of CelebA's valid images, against which anybody can measure a distance: numbers, no images."""
    real = celeba("valid")
    rows = report.disjoint_rows(len(real), min(1000, len(real)), seed=args.seed)[0]
    about = {"images": real.source, "crop": "(0, 20, 178, 198) of the aligned image, Lanczos to 64x64"}
    about |= {"extractor": extractor("efficientnet").description, "count": len(rows), "seed": args.seed}
    found = efficientnet_features(real.images[rows])
    if args.out:
        save_features(args.out / "celeba_valid_features.safetensors", found, **about)
    return None, {"about": about}  # the features are in a file of their own, which says the same


def labels(args) -> tuple[str, dict]:
    """Frequencies and correlations of all of CelebA's labels, to four digits."""
    rows = torch.cat([celeba_conds(split)[1] for split in ("train", "valid", "test")])
    found = label_statistics(rows, CELEBA)._asdict()
    found |= {key: found[key].round(decimals=4) for key in ("frequencies", "correlations")}
    return "celeba_labels", {"about": {"measures": "CelebA's labels, all rows"}} | found


def classifier(args) -> tuple[str, dict]:
    """Balanced accuracy of the classifier on real images: all of them, and by sex and age."""
    run, groups = Run(args), {}
    predicted = run.predict(run.faces.images)
    cells = {"all": {}, "women": {"Male": False}, "men": {"Male": True}}
    for who in ("women", "men"):
        cells |= {f"{who}, {age}": cells[who] | {"Young": age == "young"} for age in ("young", "older")}
    for group, values in cells.items():
        cond = run.attributes.encode(**values)
        rows = ((run.faces.conds == cond) | (cond == 0)).all(1)
        found = accuracy.balanced_accuracy(predicted[rows], run.faces.conds[rows], run.attributes)
        intervals = {name: Interval(*one[:3]) for name, one in found.items()}
        groups[group] = {"count": int(rows.sum()), "balanced_accuracy": intervals}
    about = {"measures": "balanced accuracy of the classifier on real images", "images": run.faces.source}
    about["classifier"] = load(accuracy.CLASSIFIERS[run.data]).card["sha256"][:16]
    return f"{run.data}_classifier", {"about": about, "groups": groups}


PARTS = {
    "spacing": spacing, "guidance": guidance, "table1": table1,
    "memorization": memorized, "features": features,
    "labels": labels, "classifier": classifier,
}  # fmt: skip


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("part", choices=sorted(PARTS))
    add("--model", default="celeba", help="name or folder of the weights")
    add("--count", type=int, default=600, help="images of a set")
    add("--scales", nargs="+", type=float, default=[1.0, 2.0, 4.0], help="guidance scales")
    add("--weak", help="guidance: name or folder of the weak network's weights, for autoguidance")
    add("--weak-scales", nargs="+", type=float, default=[1.0, 1.5, 2.0], help="scales of autoguidance")
    add("--shifts", nargs="+", type=float, default=[1.0, 2.0, 3.0, 4.0], help="spacing: the schedule's shift")
    add("--steps", type=int, default=10)
    add("--sampler", choices=SAMPLERS, default="adams-bashforth")
    extractors = "feature extractors: inception, efficientnet, or a classifier's name"
    add("--features", nargs="+", default=["auto"], help=extractors)
    add("--download", action="store_true", help="download Inception's weights if they are missing (96 MB)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="DIR", help="where the record is written; without it, it is only printed")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Measure one part, print its record, and write it where --out names a folder."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments().parse_args(argv)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)  # before hours of measuring
    name, record = PARTS[args.part](args)
    words = ["data/results" if word == str(args.out) else word for word in argv]
    facts = {"command": shlex.join(["python", "data/make/record_results.py", *words]), "machine": machine()}
    record["about"] |= facts | {"date": time.strftime("%Y-%m-%d")}
    text = json.dumps(to_jsonable(record), indent=1, allow_nan=False)
    print(text)
    if args.out and name:
        with atomic_write(args.out / f"{Path(name).name}.json") as part:
            part.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
