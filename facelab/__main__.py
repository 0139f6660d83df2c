"""For people without a notebook at hand: python -m facelab sample | train | check."""

import argparse
import sys
from pathlib import Path

import torch

import facelab
from facelab import plan, plots, pretrained, train
from facelab.data import at_hand
from facelab.guidance import classifier_free
from facelab.sample import DDIM, noise, sample


def _sample(told) -> None:
    model = pretrained.load(told.model)
    net = model.denoiser
    if net is None:
        raise ValueError(f"{told.model!r} reads pictures, it does not draw them: choose another --model.")
    wishes = [model.attributes.encode(**{wish: True}) for wish in told.wish]
    if not 1 <= told.count <= 1000:
        raise ValueError(f"--count must be from 1 to 1000, got {told.count}.")
    where = plan.device()
    net, cond = net.to(where), torch.stack(wishes).repeat_interleave(told.count, 0).to(where)
    x_T = noise(told.count, model.shape, told.seed).repeat(len(wishes), 1, 1, 1).to(where)
    drawn = sample(classifier_free(net, told.scale), x_T, cond, DDIM(net.schedule), told.steps)
    plots.show(drawn, told.count if len(wishes) > 1 else None, side=112).save(told.out)
    print(f"{len(drawn)} of {', '.join(model.attributes.describe(wish) for wish in wishes)}, written to {told.out}")


def _check(told) -> None:
    for line in report():
        print(line)


def report() -> list[str]:
    """What this machine has, which data and weights would be used, and what is missing: about ten lines."""
    here, row = plan.device(), plan.plan()
    lines = [
        f"facelab    {facelab.__version__}, {'a clone' if plan.is_clone() else 'installed without a clone'}",
        f"Python     {sys.version.split()[0]}, torch {torch.__version__}",
        f"device     {plan.machine()}",
        f"plan       {row.name} (FACELAB_PLAN chooses one of {', '.join(plan.PLANS)})",
        f"written to {plan.cache_dir()}",
    ]
    lines += [f"data       {name}: {what}" for name, what in at_hand().items()]
    for name in pretrained.names():
        try:
            card = pretrained.load(name).card
            lines.append(f"weights    {name}: {card['parameters']:,} parameters, whole (sha256 {card['sha256'][:8]})")
        except ValueError as wrong:
            lines.append(f"weights    {name}: {wrong}")
    missing = [] if "official" in at_hand()["MNIST"] else ["the official MNIST: mnist(download=True), 11 MB"]
    missing += [] if here.type != "cpu" else ["a GPU: training is slower, sampling is fine"]
    return [*lines, f"missing    {'; '.join(missing) or 'nothing'}"]


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 and one line on standard error where the input is wrong."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:
        return train.main(argv[1:])
    parser = argparse.ArgumentParser("facelab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="sample | train | check")
    sampling = commands.add_parser("sample", help="draw what is asked, into a PNG")
    sampling.add_argument("wish", nargs="+", help="what to draw, such as 7; several are drawn in rows")
    sampling.add_argument("--out", type=Path, default=Path("sample.png"), help="the PNG to write")
    sampling.add_argument("--model", default="digits", help="weights to use, a name or a folder that train wrote")
    sampling.add_argument("--count", type=int, default=16, help="pictures of each")
    sampling.add_argument("--scale", type=float, default=2.0, help="guidance: 0 ignores, 1 is plain, above 1 insists")
    sampling.add_argument("--steps", type=int, default=10, help="calls of the network a picture")
    sampling.add_argument("--seed", type=int, default=0)
    sampling.set_defaults(run=_sample)
    commands.add_parser("train", help="train, resume, or load what is finished (train --help)")
    commands.add_parser("check", help="say what this machine has and what is missing").set_defaults(run=_check)
    told = parser.parse_args(argv)
    try:
        told.run(told)
    except (ValueError, OSError) as wrong:
        print(f"facelab: {' '.join(str(wrong).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
