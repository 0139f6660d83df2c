"""Weights that come with facelab, each with its card: data, command, steps, machine, time, scores, sha256.

They are stored in half precision as `save_pretrained` lays them out, and used in float32.
"""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from facelab.attributes import CELEBA, DIGITS, DRAWN, Attributes
from facelab.download import digest
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import shipped_dir
from facelab.plots import Illustration
from facelab.schedule import Schedule
from facelab.written import whole

WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS = {"Denoiser": Denoiser, "AttributeClassifier": AttributeClassifier}
# Known names get their groups back, which no config needs to repeat.
KNOWN = {known.names: known for known in (DIGITS, CELEBA, DRAWN)}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained network with all that is needed to use it.

    `denoiser` (or, for a judge, `classifier`) is in eval mode; `shape` is (C, H, W) of a picture; `card` says where the
    weights come from.
    """

    name: str
    attributes: Attributes
    shape: tuple[int, int, int]
    card: dict
    denoiser: Denoiser | None = None
    classifier: AttributeClassifier | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule that the denoiser was trained on."""
        return self.denoiser.schedule


def names(folder: Path | None = None) -> list[str]:
    """What can be loaded."""
    folder = folder or shipped_dir()
    return sorted(inside.name for inside in folder.glob("*/") if (inside / "config.json").is_file())


def load(name: str, device=None) -> Pretrained:
    """The shipped weights called `name` ("digits", "digits-judge", ...), or those in a folder that `train` wrote.

    Raises:
        ValueError: for an unknown name, a damaged file, or weights of another architecture.
    """
    folder = Path(name) if (Path(name) / "config.json").is_file() else shipped_dir() / name
    if not (folder / "config.json").is_file():
        raise ValueError(f"there are no weights called {name!r}: there are {', '.join(names()) or 'none'}.")
    if not (folder / "card.json").is_file():
        raise ValueError(f"{folder} has no card.json, so nothing tells whether its weights are whole.")
    config, card = _told(folder / "config.json", "_class_name"), _told(folder / "card.json", "sha256")
    kind = KINDS.get(config.get("_class_name"))
    if kind is None:
        raise ValueError(
            f"{folder / 'config.json'} describes a {config.get('_class_name')}, not a {' or '.join(KINDS)}."
        )
    file = folder / WEIGHTS
    if not file.is_file() or digest(file) != card["sha256"]:
        raise ValueError(f"{file} is missing or damaged (its sha256 is not the card's): fetch the repository anew.")
    net = kind.from_config(config)
    try:
        fill(net, load_file(file), file)
    except SafetensorError as error:
        raise ValueError(f"{file} holds no weights ({error}): fetch the repository anew.") from error
    net = net.eval().requires_grad_(False)
    if device is not None:
        net = net.to(device)
    attributes = KNOWN.get(net.attributes.names, net.attributes)
    return Pretrained(name, attributes, net.shape, card, **{"denoiser" if kind is Denoiser else "classifier": net})


def _told(file: Path, key: str) -> dict:
    """What a JSON file beside the weights tells, `key` among it."""
    try:
        told = json.loads(file.read_bytes())
        if key not in told:
            raise ValueError(f"without {key}")
    except (ValueError, TypeError) as error:  # broken letters are a ValueError too
        raise ValueError(f"{file} is damaged ({' '.join(str(error).split())}): fetch the repository anew.") from error
    return told


def fill(net, tensors: dict[str, torch.Tensor], file) -> None:
    """Put stored weights into `net`, in float32; a ValueError of one sentence where they are another network's."""
    want, have = ({name: tuple(t.shape) for name, t in d.items()} for d in (net.state_dict(), tensors))
    differ = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
    if differ:
        first = differ[0]
        raise ValueError(
            f"{file} holds weights of another architecture: {len(differ)} tensors differ, first {first} "
            f"(needed {want.get(first)}, found {have.get(first)})."
        )
    net.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})


def save(net, folder, card: dict) -> Path:
    """Write weights in half precision, config and card to `folder`; the card gets its sha256, bytes and parameters.

    Raises:
        OSError: where they cannot be written, in one sentence; each file is the old one or the new one.
    """
    folder = Path(folder)
    with whole(folder / "config.json") as beside:
        beside.write_text(net.to_json_string(), "utf-8")
    halves = {n: (t.half() if t.is_floating_point() else t).cpu().contiguous() for n, t in net.state_dict().items()}
    file = folder / WEIGHTS
    with whole(file) as beside:
        save_file(halves, beside, metadata={"format": "pt"})
    facts = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "bytes": file.stat().st_size,
        "sha256": digest(file),
    }
    # The card last: until it is there, its sha256 tells that these weights are not its own.
    with whole(folder / "card.json") as beside:
        beside.write_text(json.dumps(card | facts, indent=1) + "\n", "utf-8")
    return folder


def results(name: str) -> dict:
    """A recorded measurement, data/results/<name>.json, with the command that made it.

    Raises:
        ValueError: where there is none of that name.
    """
    return json.loads(_recorded(f"{name}.json").read_text("utf-8"))


def figure(name: str, alt: str) -> Illustration:
    """A recorded picture, data/results/<name>.png."""
    return Illustration(_recorded(f"{name}.png").read_bytes(), alt)


def _recorded(name: str) -> Path:
    file = shipped_dir("results") / name
    if not file.is_file():
        there = ", ".join(sorted(path.name for path in file.parent.glob("*")))
        raise ValueError(f"there is no recorded result {name!r}: there are {there or 'none'}.")
    return file
