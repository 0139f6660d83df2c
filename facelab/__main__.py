"""Without a notebook: `python -m facelab sample 7 --out seven.png`, and `python -m facelab check`."""

import argparse
import sys
from importlib.metadata import metadata, version
from pathlib import Path

from facelab import device, images, pretrained
from facelab.attributes import DIGITS
from facelab.data.celeba import celeba_available
from facelab.data.mnist import mnist_available
from facelab.presets import preset
from facelab.samplers import default_sampler, generate

WORDS = {"": 1, "yes": 1, "no": -1}


def sample(args) -> None:
    """Write a PNG with `--count` images of each digit, or of a face with all the attributes."""
    pairs = [text.partition("=") for text in args.values]
    name = args.model or ("mnist" if all(pair[0] in DIGITS.names for pair in pairs) else "celeba")
    model = pretrained.load(name, device.device())
    try:
        values = [(name, WORDS[value] if value in WORDS else float(value)) for name, _, value in pairs]
    except ValueError:
        raise ValueError("write an attribute as Smiling=1 or yes, -1 or no, or a number between.") from None
    rows = [{name: value} for name, value in values] if model.attributes.exclusive else [dict(values)]
    cond = model.attributes.encode_many(rows)
    how = {"guidance_scale": args.guidance_scale, "steps": args.steps, "seed": args.seed}
    made = generate(model, cond.repeat_interleave(args.count, 0), **how)
    record = images.generation_record(model, cond, sampler=default_sampler(model.schedule), **how, n=args.count)
    images.save_png(made, args.out, record, columns=args.count if len(rows) > 1 else None, scale=args.scale)
    print(f"{args.out}: {args.count} of {'; '.join(map(model.attributes.describe, cond))}")


def check(args=None) -> None:
    """Print what this machine has, which data and weights are used, and what to mend."""
    packages = ("torch", "torchvision", "diffusers", "accelerate", "ipywidgets")
    print(f"machine   {device.machine()}\nversions  {', '.join(f'{name} {version(name)}' for name in packages)}")
    print(f"preset    {preset().name} (FACELAB_PRESET)\ncache     {device.cache_dir()}")
    print(f"MNIST     {'the official files' if mnist_available() else '5,000 embedded digits'}")
    print(f"faces     {'CelebA' if celeba_available() else 'synthetic (no CelebA in FACELAB_DATA)'}")
    for name in pretrained.names():
        try:
            card = pretrained.load(name).card
            print(f"weights   {name}: {card['parameters']:,} parameters, sha256 {card['sha256'][:8]}")
        except ValueError as error:
            print(f"weights   {name}: {error}")
    project = (device.ROOT / "pyproject.toml").read_text("utf-8") if device.is_clone() else str(metadata("facelab"))
    if "YOUR_ACCOUNT" in project:
        print("address   github.com/YOUR_ACCOUNT is a placeholder: `python notebooks/make.py address` replaces it.")
    if version("ipywidgets") == "8.1.9":
        print("widgets   ipywidgets 8.1.9 shows nothing in VS Code: there, pip install 'ipywidgets!=8.1.9'.")


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2, and one line on standard error, for wrong input."""
    parser = argparse.ArgumentParser("facelab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="sample | check")
    sampling = commands.add_parser("sample", help="generate images into a PNG")
    sampling.add_argument("values", nargs="+", help="digits, such as 7, or attributes of a face: Smiling=1 Bald=-1")
    sampling.add_argument("--out", type=Path, default=Path("sample.png"))
    sampling.add_argument("--model", help="a name, or a folder of weights; by default mnist or celeba")
    options = {"--count": 16, "--guidance-scale": 2.0, "--steps": 10, "--seed": 0, "--scale": 2}
    for option, default in options.items():
        sampling.add_argument(option, type=type(default), default=default, help=f"by default {default}")
    sampling.set_defaults(run=sample)
    commands.add_parser("check", help="this machine, data, weights, and what to mend").set_defaults(run=check)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"facelab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
