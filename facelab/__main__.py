"""For people without a notebook at hand: python -m facelab sample | train | evaluate | check."""

import argparse
import sys
from pathlib import Path

import torch

import facelab
from facelab import evaluate, photo, plan, pretrained, train
from facelab.attributes import DIGITS
from facelab.data import at_hand
from facelab.guidance import classifier_free
from facelab.request import CALLS, DIGITS_BY, FACES_BY, SCALE
from facelab.sample import noise, sample

WORDS = {"yes": 1.0, "true": 1.0, "no": -1.0, "false": -1.0}


def _sample(told) -> None:
    digits = bool(told.wish) and all(wish in DIGITS.names for wish in told.wish)
    name = told.model or ("digits" if digits else "celeba")
    model = pretrained.load(name)
    if told.attributes:
        for group, inside in model.attributes.groups.items():
            print(f"{group + ':':12s}{' '.join(inside)}")
        return
    if not told.wish:
        raise ValueError("say what to draw, such as 7 or Smiling=1 Eyeglasses=-1; --attributes prints the names.")
    net = model.denoiser
    if net is None:
        raise ValueError(f"{name!r} reads pictures, it does not draw them: choose another --model.")
    if not 1 <= told.count <= 1000:
        raise ValueError(f"--count must be from 1 to 1000, got {told.count}.")
    if told.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {told.out.name!r}.")
    # Digits exclude each other, so each is a row of its own; of a face all that is said holds at once.
    said = [wish_of(wish, model.attributes) for wish in told.wish]
    if not model.attributes.exclusive:
        twice = {name for wish in said for name in wish if sum(name in other for other in said) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} is said twice: say it once.")
        said = [{name: value for wish in said for name, value in wish.items()}]
    where = plan.device()
    wishes = model.attributes.encode_many(said)
    net, cond = net.to(where), wishes.repeat_interleave(told.count, 0).to(where)
    x_T = noise(told.count, model.shape, told.seed).repeat(len(wishes), 1, 1, 1).to(where)
    solver = (DIGITS_BY if model.attributes.exclusive else FACES_BY)(net.schedule)
    drawn = sample(classifier_free(net, told.scale), x_T, cond, solver, told.steps)
    asked = wishes[0] if len(wishes) == 1 else wishes
    made = photo.recipe(model, asked, scale=told.scale, steps=told.steps, solver=solver, seed=told.seed)
    photo.save_png(drawn, told.out, made, columns=told.count if len(wishes) > 1 else None, side=112)
    print(f"{len(drawn)} of {', '.join(model.attributes.describe(wish) for wish in wishes)}, written to {told.out}")


def wish_of(word: str, attributes) -> dict[str, float]:
    """{name: value} of one word: "7", "Smiling", "Smiling=1", "Young=no", "Male=-0.5".

    Raises:
        ValueError: for an unknown name (the nearest is suggested) or a value that is none.
    """
    name, said, value = word.partition("=")
    attributes.index(name)
    try:
        number = WORDS[value.lower()] if value.lower() in WORDS else float(value) if said else 1.0
    except ValueError:
        raise ValueError(
            f"{name} must be 1 or yes, -1 or no, 0 (not said) or a number between, got {value!r}."
        ) from None
    attributes.encode(**{name: number})
    return {name: number}


def _check(told) -> None:
    for line in report():
        print(line)


def report() -> list[str]:
    """What this machine has, which data and weights would be used, and what is missing: a line each."""
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
    commands = parser.add_subparsers(required=True, metavar="sample | train | evaluate | check")
    sampling = commands.add_parser("sample", help="draw what is asked, into a PNG")
    sampling.add_argument(
        "wish",
        nargs="*",
        help="what to draw: a digit such as 7 (several are drawn in rows), or attributes of one face such as Smiling=1 "
        "Eyeglasses=-1; 1 or yes, -1 or no, 0 is not said, and anything between",
    )
    sampling.add_argument("--attributes", action="store_true", help="print the names that can be said")
    sampling.add_argument("--out", type=Path, default=Path("sample.png"), help="the PNG to write")
    sampling.add_argument(
        "--model", help="weights to use, a name or a folder that train wrote; by default digits or celeba"
    )
    sampling.add_argument("--count", type=int, default=16, help="pictures of each")
    sampling.add_argument("--scale", type=float, default=SCALE, help="guidance: 0 ignores, 1 is plain, above 1 insists")
    sampling.add_argument("--steps", type=int, default=CALLS, help="calls of the network a picture")
    sampling.add_argument("--seed", type=int, default=0)
    sampling.set_defaults(run=_sample)
    commands.add_parser("train", help="train, resume, or load what is finished (train --help)")
    measuring = commands.add_parser(
        "evaluate", help="distance to real faces, control, table 1 of weights that draw faces"
    )
    evaluate.arguments(measuring).set_defaults(run=evaluate.run)
    commands.add_parser("check", help="say what this machine has and what is missing").set_defaults(run=_check)
    told = parser.parse_args(argv)
    try:
        told.run(told)
    except (ValueError, OSError) as wrong:
        print(f"facelab: {' '.join(str(wrong).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped{'; the same command goes on from here' * (argv[:1] == ['evaluate'])}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
