"""Weights that come with facelab, each with its card: data, command, config, steps, machine, scores, sha256.

They are stored in half precision in diffusers' layout, and used in float32.
"""

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from facelab.attributes import Attributes
from facelab.classifier import AttributeClassifier
from facelab.denoiser import Denoiser
from facelab.device import atomic_write, digest, shipped_dir
from facelab.schedules import Schedule

WEIGHTS = "diffusion_pytorch_model.safetensors"
NETWORKS = {"Denoiser": Denoiser, "AttributeClassifier": AttributeClassifier}
RENAMED = {
    "digits": "mnist", "digits-judge": "mnist-classifier", "judge": "celeba-classifier", "drawn": "synthetic",
    "drawn-judge": "synthetic-classifier", "report": "report-conditional", "unconditional": "report-unconditional",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained network in eval mode, a denoiser or a classifier, with the card that says where its weights come from."""

    name: str
    attributes: Attributes
    shape: tuple[int, int, int]
    card: dict
    denoiser: Denoiser | None = None
    classifier: AttributeClassifier | None = None

    @property
    def schedule(self) -> Schedule:
        """The noise schedule that the denoiser was trained on."""
        if self.denoiser is None:
            raise ValueError(f"{self.name} is a classifier, which has no schedule.")
        return self.denoiser.schedule


def names() -> list[str]:
    """What `load` takes."""
    return sorted(file.parent.name for file in shipped_dir().glob("*/config.json"))


def load(name: str | Path, device=None) -> Pretrained:
    """The shipped weights of this name ("celeba", "mnist-classifier", ...), or those in a folder that `save` wrote."""
    folder = Path(name) if (Path(name) / "config.json").is_file() else shipped_dir() / name
    if not (folder / "config.json").is_file():
        new = f"they are now {RENAMED[name]!r}" if name in RENAMED else f"there are {', '.join(names()) or 'none'}"
        raise ValueError(f"there are no weights {str(name)!r}: {new}.")
    config, card = _read_json(folder / "config.json", "_class_name"), _read_json(folder / "card.json", "sha256")
    file, network = folder / WEIGHTS, NETWORKS.get(config["_class_name"])
    if network is None:
        raise ValueError(f"{folder / 'config.json'} is of a {config['_class_name']}, not a {' or '.join(NETWORKS)}.")
    if not file.is_file() or digest(file) != card["sha256"]:
        raise ValueError(f"{file} is missing or damaged (its sha256 is not the card's): fetch it again.")
    net = network.from_config(config)
    try:
        net.load_state_dict(load_file(file))
    except SafetensorError as error:
        raise ValueError(f"{file} holds no weights ({error}): fetch it again.") from error
    except RuntimeError as error:
        raise ValueError(
            f"{file} has weights of another architecture than its config.json: fetch both again."
        ) from error
    net = net.eval().requires_grad_(False).to(device or "cpu")
    kind = "denoiser" if network is Denoiser else "classifier"
    return Pretrained(str(name), net.attributes, net.shape, card, **{kind: net})


def _read_json(file: Path, key: str) -> dict:
    try:
        content = json.loads(file.read_bytes())
        content[key]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is missing or damaged ({' '.join(str(error).split())}): fetch it again.") from error
    return content


def half_precision(net) -> dict:
    """The network's state on the CPU, in float16 where it is floating point."""
    return {n: (t.half() if t.is_floating_point() else t).cpu().contiguous() for n, t in net.state_dict().items()}


def save(net, folder: Path | str, card: dict) -> Path:
    """Write config, weights in half precision, and the card with their sha256, each file completely or not at all."""
    folder, file = Path(folder), Path(folder) / WEIGHTS
    with atomic_write(folder / "config.json") as part:
        part.write_text(net.to_json_string(), "utf-8")
    with atomic_write(file) as part:
        save_file(half_precision(net), part, metadata={"format": "pt"})
    facts = {"parameters": sum(p.numel() for p in net.parameters()), "bytes": file.stat().st_size}
    # The card comes last: until then its sha256 shows that the weights are not those that it describes.
    with atomic_write(folder / "card.json") as part:
        part.write_text(json.dumps(card | facts | {"sha256": digest(file)}, indent=1) + "\n", "utf-8")
    return folder
