"""Train the weights that come with facelab. The same command resumes a training that was stopped.

    python data/make/train_weights.py celeba --preset full --out DIR
    torchrun --nproc_per_node 2 data/make/train_weights.py celeba --preset full --out DIR

DIR then has the weights in half precision, config.json, card.json with the scores, and the checkpoints; `facelab.load("DIR")`.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import facelab
from facelab.classifier import AttributeClassifier
from facelab.data.celeba import celeba
from facelab.data.dataset import AttributeDataset
from facelab.data.mnist import mnist
from facelab.data.synthetic_faces import synthetic_faces
from facelab.denoiser import Denoiser, haar
from facelab.device import machine
from facelab.evaluation.attribute_accuracy import (
    CLASSIFIERS,
    class_hits,
    classifier_accuracy,
    mean_balanced_accuracy,
    predict_attributes,
)
from facelab.evaluation.features import efficientnet_features
from facelab.evaluation.metrics import frechet_estimate, spectrum_amplitudes
from facelab.evaluation.report import disjoint_rows
from facelab.evaluation.statistics import wilson
from facelab.presets import PRESETS, REPORT_CONFIG, REPORT_NET, REPORT_UNCONDITIONAL_NET, Preset, preset
from facelab.pretrained import half_precision, load, save
from facelab.samplers import default_sampler, generate
from facelab.schedules import SCHEDULES
from facelab.training import TrainConfig, processes, train

RESEARCH = "for non-commercial research only, as CelebA is"
SCALES = (1, 2)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one set of weights is made: data, network (its class and keyword arguments), config, and the scores of its card."""

    data: Callable[[Preset, str], AttributeDataset]
    network: type
    net: Callable[[Preset], dict]
    config: Callable[[Preset], TrainConfig]
    score: Callable
    license: str = "MIT"


def score_mnist(net: Denoiser, dataset: AttributeDataset, sizes: Preset, steps: int = 10) -> dict:
    """Class accuracy and spectrum, unguided and guided."""
    classifier, cond = load("mnist-classifier").classifier, torch.eye(10).repeat(min(sizes.per_class, 100), 1)
    scores = {"images": len(cond), "steps": steps, "sampler": default_sampler(net.schedule).__name__}
    scores["spectrum_of_real_images"] = _rounded(spectrum_amplitudes(dataset.images))
    for scale in SCALES:
        images = generate(net, cond, guidance_scale=scale, steps=steps, seed=1, batch_size=100, progress=True)
        found = {"class_accuracy": str(class_hits(images, cond, classifier))}
        scores[f"guidance_scale_{scale}"] = found | {"spectrum": _rounded(spectrum_amplitudes(images))}
    return scores


def score_faces(net: Denoiser, dataset: AttributeDataset, sizes: Preset, steps: int = 20) -> dict:
    """Attribute accuracy, Fréchet distance and spectrum; conditions are of other images than the reference is."""
    rows, near, far = disjoint_rows(len(dataset), *3 * [min(sizes.scored_images, len(dataset) // 3)])
    classifier, cond = load(CLASSIFIERS[dataset.name]).classifier, dataset.conds[rows].float()
    reference, other = (efficientnet_features(dataset.images[part]) for part in (near, far))
    scores = {
        "evaluated_on": dataset.source,
        "images": len(rows),
        "steps": steps,
        "sampler": default_sampler(net.schedule).__name__,
        "features": "EfficientNet-Lite0",
        "frechet_distance_of_two_real_sets": str(frechet_estimate(reference, other)),
        "spectrum_of_real_images": _rounded(spectrum_amplitudes(dataset.images[near])),
    }
    for scale in SCALES if net.config.conditioning != "none" else (1,):
        images = generate(net, cond, guidance_scale=scale, steps=steps, progress=True)
        accuracy = mean_balanced_accuracy(predict_attributes(classifier, images), cond, net.attributes)
        scores[f"guidance_scale_{scale}"] = {
            "attribute_accuracy": str(accuracy),
            "frechet_distance": str(frechet_estimate(reference, efficientnet_features(images))),
            "spectrum": _rounded(spectrum_amplitudes(images)),
        }
    return scores


def score_classifier(net: AttributeClassifier, dataset: AttributeDataset, sizes: Preset) -> dict:
    """Accuracy on images that it was not trained on; with several attributes also balanced, and that of the majority class."""
    if net.attributes.exclusive:
        hits = (net.predict(dataset[:][0]) == dataset.classes()).sum()
        return {"evaluated_on": dataset.source, "accuracy": str(wilson(int(hits), len(dataset)))}
    balanced, predicted = classifier_accuracy(net, dataset), predict_attributes(net, dataset.images)
    correct = [wilson(int(hits), len(dataset)) for hits in (predicted == dataset.conds.sign()).sum(0)]
    majority = (dataset.conds > 0).float().mean(0)
    return {
        "evaluated_on": dataset.source,
        "mean_balanced_accuracy": str(mean_balanced_accuracy(predicted, dataset.conds, net.attributes)),
        "balanced_accuracy": {name: str(found) for name, found in balanced.items()},
        "accuracy": dict(zip(net.attributes, map(str, correct), strict=True)),
        "majority_class_accuracy": _rounded(
            dict(zip(net.attributes, majority.maximum(1 - majority).tolist(), strict=True))
        ),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _mnist(sizes: Preset, split: str) -> AttributeDataset:
    return mnist("train" if split == "train" else "test")


def _celeba(sizes: Preset, split: str) -> AttributeDataset:
    return celeba(split)


def _synthetic(sizes: Preset, split: str, correlated: bool = True) -> AttributeDataset:
    return synthetic_faces(sizes.synthetic_images if split == "train" else None, split, correlated)


def _independent(sizes: Preset, split: str) -> AttributeDataset:
    # Independent attributes, so that the classifier cannot predict one from another that often occurs with it.
    return _synthetic(sizes, split, correlated=False)


def _weak(net: dict) -> dict:
    """The narrower network that autoguidance moves away from."""
    return net | {"block_out_channels": tuple(min(c, 16 << level) for level, c in enumerate(net["block_out_channels"]))}


def _report(sizes: Preset) -> TrainConfig:
    return dataclasses.replace(
        REPORT_CONFIG, total_images=sizes.celeba.total_images, batch_size=sizes.celeba.batch_size
    )


DDPM = {"schedule": "linear", "prediction_type": "eps"}  # Ho et al. 2020
RECIPES = {
    "mnist": Recipe(_mnist, Denoiser, lambda p: p.mnist_net | {"timestep_shift": 3.0}, lambda p: p.mnist, score_mnist),
    "mnist-ddpm": Recipe(_mnist, Denoiser, lambda p: p.mnist_net | DDPM, lambda p: p.mnist_ddpm, partial(score_mnist, steps=50)),
    "mnist-classifier": Recipe(_mnist, AttributeClassifier, lambda p: {}, lambda p: p.mnist_classifier, score_classifier),
    "celeba": Recipe(_celeba, Denoiser, lambda p: p.celeba_net, lambda p: p.celeba, score_faces, RESEARCH),
    "celeba-weak": Recipe(_celeba, Denoiser, lambda p: _weak(p.celeba_net), lambda p: p.celeba, score_faces, RESEARCH),
    "celeba-classifier": Recipe(
        _celeba,
        AttributeClassifier,
        lambda p: p.celeba_classifier_net,
        lambda p: p.attribute_classifier,
        score_classifier,
        RESEARCH,
    ),
    "synthetic": Recipe(_synthetic, Denoiser, lambda p: p.synthetic_net, lambda p: p.celeba, score_faces),
    "synthetic-weak": Recipe(_synthetic, Denoiser, lambda p: _weak(p.synthetic_net), lambda p: p.celeba, score_faces),
    "synthetic-classifier": Recipe(
        _independent,
        AttributeClassifier,
        lambda p: p.synthetic_classifier_net,
        lambda p: dataclasses.replace(p.attribute_classifier, shift=0, lr=2e-3),
        score_classifier,
    ),
    "report-conditional": Recipe(_celeba, Denoiser, lambda p: REPORT_NET, _report, score_faces, RESEARCH),
    "report-unconditional": Recipe(_celeba, Denoiser, lambda p: REPORT_UNCONDITIONAL_NET, _report, score_faces, RESEARCH),
}  # fmt: skip


def build(recipe: Recipe, dataset: AttributeDataset, sizes: Preset, **changes) -> nn.Module:
    """The untrained network of a recipe; attributes are standardized where it normalizes its condition, or classifies them."""
    settings = recipe.net(sizes)
    if settings.get("normalize_cond") or (recipe.network is AttributeClassifier and not dataset.attributes.exclusive):
        settings = settings | {"frequencies": dataset.frequencies}
    about = {"attributes": dataset.attributes.names, "exclusive": dataset.attributes.exclusive}
    return recipe.network(dataset.shape, **about, **settings | changes)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("name", choices=RECIPES)
    add("--preset", choices=PRESETS, help="how much, by default what fits this machine")
    add("--out", type=Path, required=True, metavar="DIR", help="where weights, card and checkpoints are written")
    add("--images", type=int, help="images seen in all, instead of the preset's")
    add("--batch-size", type=int)
    add("--lr", type=float, help="the highest learning rate; a later stage needs less")
    add("--seed", type=int, default=0, help="of the initial weights and of the training")
    add("--rare-fraction", type=float, help="the share of each batch that is sampled by rare attribute values")
    add("--ema", type=float, nargs="+", metavar="DECAY", help="the first is saved as the weights, others beside it")
    add("--schedule", choices=SCHEDULES, help="the noise schedule")
    add("--timestep-sampling", choices=("uniform", "logit-normal", "edm"))
    add("--loss-weighting", choices=("none", "min-snr", "edm"))
    add(
        "--net",
        type=json.loads,
        default={},
        metavar="JSON",
        help='changes of the network, such as {"layers_per_block": 2}',
    )
    add("--init-from", metavar="WEIGHTS", help="another training stage, from the weights of this name or folder")
    add(
        "--backup",
        type=Path,
        metavar="DIR",
        help="copy every checkpoint there too, and resume from it on a new machine",
    )
    add("--fresh", dest="resume", action="store_false", help="delete the checkpoints and start over")
    add("--resume", action="store_true", default=True, help="the default: continue from the last checkpoint")
    add(
        "--max-minutes", type=float, default=math.inf, help="stop after that time, with the EMA in progress.safetensors"
    )
    return parser


def command(args: argparse.Namespace, sizes: Preset) -> str:
    """What to type for the same weights, without the folders."""
    words = [f"python data/make/train_weights.py {args.name} --preset {sizes.name}"]
    default = vars(arguments().parse_args([args.name, "--out", "DIR"]))
    for name, value in vars(args).items():
        if value != default[name] and name not in ("name", "preset", "out", "backup", "resume", "max_minutes"):
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            text = " ".join(
                f"'{v}'" if name == "net" else Path(v).name if name == "init_from" else f"{v}" for v in values
            )
            words.append(f"--{name.replace('_', '-')}" + (f" {text}" if value is not True else ""))
    return " ".join([*words, "--out DIR"])


def prepare(args: argparse.Namespace):
    """(network, dataset, config, preset, stages before this one) of a command."""
    sizes, recipe, stages = preset(args.preset), RECIPES[args.name], []
    dataset, config = recipe.data(sizes, "train"), recipe.config(sizes)
    names = {"images": "total_images", "ema": "ema_decays", "init_from": ""}
    given = {names.get(name, name): value for name, value in vars(args).items() if value is not None}
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    config = dataclasses.replace(config, **{name: value for name, value in given.items() if name in fields})
    config = dataclasses.replace(config, ema_decays=tuple(config.ema_decays))
    if args.init_from:
        before = load(args.init_from)
        net = warm_start(before.denoiser or before.classifier, args.net)
        config = dataclasses.replace(config, init_from=before.card["sha256"][:16])
        keys = ("command", "data", "config", "steps", "machine", "minutes", "date", "sha256")
        stages = [*before.card.get("stages", []), {key: before.card[key] for key in keys if key in before.card}]
    else:
        changes = {"schedule": args.schedule} if args.schedule else {}
        net = build(recipe, dataset, sizes, seed=args.seed, **changes, **args.net)
    return net, dataset, config, sizes, stages


def warm_start(net: nn.Module, changes: dict) -> nn.Module:
    """The network with `changes` of its settings and the trained weights of `net`; layers of another shape start untrained.

    With `sigma_data` a network that predicts v on sub-grids of pixels becomes one on Haar bands. The two differ by an orthonormal
    matrix, which the first and the last convolution absorb, and by rates of each timestep (`Denoiser._precondition`), for which
    their means stand: F is about -v sqrt(V) / sd.
    """
    new = type(net)(**net.settings() | changes)
    fresh, state = new.state_dict(), net.state_dict()
    same = {name: v for name, v in state.items() if name in fresh and fresh[name].shape == v.shape}
    new.load_state_dict(same, strict=False)
    if (
        changes.get("sigma_data")
        and net.config.sigma_data is None
        and net.config.patch_size == new.config.patch_size == 2
    ):
        sd = torch.tensor(new.config.sigma_data).repeat(net.shape[0])[:, None]
        size = (new.schedule.signal**2 * sd**2 + new.schedule.sigma**2).sqrt()
        first, last = new.unet.conv_in, new.unet.conv_out
        with torch.no_grad():
            first.weight.copy_(_to_bands(first.weight) * size.mean(1)[:, None, None])
            scale = -(size / sd).mean(1)
            last.weight.copy_(_to_bands(last.weight.transpose(0, 1)).transpose(0, 1) * scale[:, None, None, None])
            last.bias.copy_(_to_bands(last.bias[None, :, None, None]).flatten() * scale)
    return new


def _to_bands(weight):
    # (A, 4C, H, W) of the sub-grids of pixels -> that of the bands LL, LH, HL, HH.
    return haar(F.pixel_shuffle(weight, 2))


def run(args: argparse.Namespace) -> None:
    """Train, then write weights and card; only the first process prints and writes."""
    accelerator = processes()
    first, count = accelerator.is_main_process, accelerator.num_processes
    if count > 1 and args.max_minutes < math.inf:
        raise ValueError("--max-minutes is for one process, because several would stop at different steps.")
    net, dataset, config, sizes, stages = prepare(args)
    if first:
        print(f"{dataset.source}\n{count} process{'es' if count > 1 else ''}", flush=True)
    options = {"checkpoint_dir": args.out / "checkpoints", "backup_dir": args.backup, "resume": args.resume}
    steps, started = train(net, dataset, config, **options), time.monotonic()
    with tqdm(total=config.steps, unit="step", disable=not first) as bar:
        for now in steps:
            bar.update(now.step - bar.n)
            bar.set_postfix_str(f"loss {statistics.fmean(now.losses[-50:] or [math.nan]):.4f} {now.note}")
            if time.monotonic() - started > 60 * args.max_minutes and now.step < config.steps:
                break
    steps.close()  # writes the last checkpoint
    if not first:
        return
    if now.step < config.steps:
        args.out.mkdir(parents=True, exist_ok=True)
        save_file(half_precision(now.net), args.out / "progress.safetensors")
        print(f"stopped after step {now.step:,} of {config.steps:,}; the same command continues")
        return
    finish(args, now, dataset, config, sizes, stages)


def finish(args, now, dataset, config, sizes, stages) -> None:
    """Weights and card of a finished training; the scores come last, because a score that fails must not cost a training."""
    recipe, decay = RECIPES[args.name], config.ema_decays[0]
    card = {
        "what": f"{args.name}: {type(now.net).__name__}, trained by facelab {facelab.__version__}",
        "data": dataset.source,
        "license": recipe.license,
        "command": command(args, sizes),
        "config": dataclasses.asdict(config),
        "steps": config.steps,
        "machine": machine(),
        "minutes": round(now.seconds / 60, 1),
        "date": time.strftime("%Y-%m-%d"),
        "last_loss": round(statistics.fmean(now.losses[-50:]), 4),
    }
    card |= {"stages": stages} if stages else {}
    save(now.net, args.out, card | {"scores": {}})
    for other in config.ema_decays[1:]:
        save_file(
            half_precision(now.emas[other]), args.out / f"ema_{other:g}.safetensors", metadata={"first": f"{decay:g}"}
        )
    save(now.net, args.out, card | {"scores": recipe.score(now.net, recipe.data(sizes, "score"), sizes)})
    print(f"written to {args.out}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; 2 and one line on standard error where its input is wrong."""
    try:
        run(arguments().parse_args(argv))
    except (ValueError, OSError) as error:
        process = f"process {os.environ['RANK']}: " if "RANK" in os.environ else ""
        print(process + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        return 130
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
