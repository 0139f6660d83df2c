"""MNIST (LeCun et al. 1998): the official files where they are available, else 5,000 digits that come with the package."""

import functools
import gzip
import hashlib
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision

from facelab.attributes import DIGITS
from facelab.data.dataset import AttributeDataset
from facelab.device import cache_dir, check_online, data_dirs

# The md5 of each unpacked file.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def mnist(split: str = "train", download: bool = False) -> AttributeDataset:
    """Handwritten digits (1, 28, 28); the condition is +1 for the digit and 0 for the nine others.

    The official files (60,000 for training, 10,000 for testing) in FACELAB_DATA or the cache, packed or unpacked, also in
    torchvision's layout; with `download` torchvision fetches them (11 MB). Otherwise 5,000 embedded digits, of which every
    fifth is for testing. `.name` is "mnist" or "mnist-5000".
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
    reason = "no official MNIST files in FACELAB_DATA or the cache"
    if download and not mnist_available():
        try:
            check_online("MNIST (11 MB)")
            torchvision.datasets.MNIST(cache_dir(), download=True)
        except (OSError, RuntimeError, ValueError) as error:
            reason = "the download failed"
            warnings.warn(f"MNIST could not be downloaded ({error}): using the 5,000 embedded digits.", stacklevel=2)
    files = [_find(name) for name in FILES if name.startswith("train" if split == "train" else "t10k")]
    if all(files):
        images, labels = _read(files[0])[16:].reshape(-1, 28, 28), _read(files[1])[8:]
        source, name = f"{len(labels):,} official MNIST digits, {split}", "mnist"
    else:
        images, labels = _embedded(split)
        source, name = f"{len(labels):,} of the 5,000 embedded MNIST digits, {split} ({reason})", "mnist-5000"
    conds = torch.nn.functional.one_hot(torch.tensor(labels, dtype=torch.int64), 10)
    return AttributeDataset(torch.tensor(images)[:, None], conds, DIGITS, source, name)


def mnist_available() -> bool:
    """Whether the four official files are in FACELAB_DATA or the cache."""
    return all(map(_find, FILES))


def _find(name: str) -> Path | None:
    """The first file of that name, packed or unpacked; torchvision stores its own in MNIST/raw."""
    places = [place for folder in data_dirs() for place in (folder, folder / "raw")]
    return next((file for place in places for file in (place / f"{name}.gz", place / name) if file.is_file()), None)


def _read(file: Path) -> np.ndarray:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error):
        content = b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != FILES[file.name.removesuffix(".gz")]:
        raise ValueError(f"{file} is damaged or not the official file (its md5 differs): delete it or replace it.")
    return np.frombuffer(content, np.uint8)


@functools.cache
def _embedded(split: str) -> tuple[np.ndarray, np.ndarray]:
    # The file is sorted by class: every fifth image is the same share of each; then the order is shuffled.
    rows = torch.arange(5000)
    rows = rows[(rows % 5 == 4) == (split == "test")]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))].numpy()
    with np.load(Path(__file__).with_name("mnist_5000.npz")) as arrays:
        return arrays["images"][rows], arrays["labels"][rows]
