"""CelebA (Liu et al. 2015, arXiv:1411.7766): 202,599 face images with 40 attributes, for non-commercial research only.

FACELAB_DATA or the cache may hold any part of it: folders or zips (with "celeba" in their names) of images `000001.jpg` and
the lists `list_attr_celeba` and `list_eval_partition` (.txt, Kaggle's .csv, or zipped), or a mirror's parquet files.
An image is the square (0, 20, 178, 198) of the aligned 178x218 one, reduced to 64x64 by a Lanczos filter.
"""

import contextlib
import functools
import hashlib
import io
import os
import re
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facelab.attributes import CELEBA, Attributes
from facelab.data.cache import NoImages, cached_images
from facelab.data.dataset import AttributeDataset
from facelab.device import cache_dir, check_online, data_dirs

VERSION = 1  # of the prepared images: raise it when `to_64` changes
SPLITS = ("train", "valid", "test")  # 0, 1, 2 in list_eval_partition
IMAGE = re.compile(r"(?:^|[/\\])(\d{6})\.(?:jpg|png)$", re.IGNORECASE)
LIST = re.compile(r"(list_attr_celeba|list_eval_partition)\.(txt|csv|zip|txt\.zip)$")
ZIP = re.compile(r"(?!list|identity).*celeba.*\.zip$", re.IGNORECASE)
# size: the hub's repository, and what is announced before the download.
MIRRORS = {
    "20k": ("tpremoli/CelebA-attrs-20k", "25,000 images, 176 MB: 15 seconds at 100 Mbit/s, 3 minutes at 10"),
    "full": ("tpremoli/CelebA-attrs", "202,599 images, 1.4 GB: 2 minutes at 100 Mbit/s, 20 minutes at 10"),
}
BY_HAND = (
    "put img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into a folder that FACELAB_DATA names"
)


def celeba(split: str = "train", download: bool = False, size: str = "20k") -> AttributeDataset:
    """Photos of faces (3, 64, 64) with CelebA's 40 attributes; prepared on the first call, then read from the cache.

    Args:
        split: the official "train", "valid" or "test"; "score" is test where there are test images, else valid.
        download: where no image of the split is available, fetch a mirror from the Hugging Face hub.
        size: of the download: "20k" (25,000 images, 176 MB) or "full" (1.4 GB).
    """
    if split not in (*SPLITS, "score") or size not in MIRRORS:
        raise ValueError(f"split is train, valid, test or score, and size 20k or full, got {split!r} and {size!r}.")
    dataset = _load(split)
    larger = size == "full" and not (cache_dir() / "celeba-full").is_dir()
    if download and (dataset is None or ("parquet" in dataset.source and larger)):
        _download(size)
        dataset = _load(split)
    if dataset is None:
        raise ValueError(
            f"no images of CelebA ({split}) with their two lists are in FACELAB_DATA or the cache: "
            f"celeba(download=True) fetches 176 MB, or {BY_HAND}."
        )
    return dataset


def celeba_available() -> str:
    """ "official files" or "parquet files", what FACELAB_DATA or the cache has of CelebA, else ""."""
    lists, images, shards = _find()
    return "official files" if lists and images else "parquet files" if shards else ""


def celeba_conds(split: str = "train") -> tuple[np.ndarray, Tensor]:
    """(image numbers (N,), conditions (N, 40) in {-1, +1}) of a whole official split; the lists suffice, without images.

    Where only a mirror is available: of its images, numbered from 0.
    """
    lists, _, _ = _find()
    if not lists or split not in SPLITS:
        conds = celeba(split).conds
        return np.arange(len(conds)), conds
    ids, parts, conds = _lists(*lists)
    rows = parts == SPLITS.index(split)
    return ids[rows], torch.from_numpy(conds[rows])


def _load(split: str) -> AttributeDataset | None:
    lists, images, shards = files = _find()
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for kind in files for file in kind]
    state = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    for part in ("test", "valid") if split == "score" else (split,):
        official = functools.partial(_official_rows, part, lists, images)
        for kind, build in (("official", official), ("parquet", functools.partial(_parquet_rows, part, shards))):
            with contextlib.suppress(NoImages):
                x, conds, key = cached_images(f"celeba-v{VERSION}-{part}-{kind}-{state}", (3, 64, 64), build)
                source = f"{len(x):,} images of CelebA, {part} ({kind} files)"
                return AttributeDataset(x, conds, CELEBA, source, "celeba", key)
    return None


def _find() -> tuple[list[Path], list[Path], list[Path]]:
    """(the two lists, or none; folders and zips of images; the parquet files of the largest mirror).

    Searches three folders deep: Kaggle puts `img_align_celeba/img_align_celeba` beside its lists.
    """
    lists, images, mirrors = {}, [], [[]]
    places = [place.resolve() for place in data_dirs()]
    for _ in range(2):
        inner = [one for place in places for one in sorted(place.glob("[!.]*/"))]
        places = list(dict.fromkeys(places + inner))
    for place in places:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_file())
        for match in filter(None, map(LIST.match, names)):
            lists.setdefault(match[1], place / match[0])
        images += [place] if any(map(IMAGE.search, names)) else []
        images += [place / name for name in names if ZIP.match(name)]
        shards = [place / name for name in names if re.match(r"(train|valid|test).*\.parquet$", name)]
        mirrors.append([file for file in shards if {*CELEBA} <= {*_parquet(file).schema_arrow.names}])
    largest = max(mirrors, key=lambda shards: sum(file.stat().st_size for file in shards))
    return [lists[name] for name in sorted(lists)] if len(lists) == 2 else [], images, largest


@functools.lru_cache(maxsize=2)
def _lists(labels: Path, partition: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image numbers (N,), splits (N,), conditions (N, 40)) of the images that are in both lists."""
    (names, table), (_, parts) = _table(labels), _table(partition)
    names = names[-40:]
    if {*names} != {*CELEBA} or table.shape[1] != 41:
        raise ValueError(f"{labels} must name CelebA's 40 attributes and have 40 values a row: replace it.")
    ids, rows, others = np.intersect1d(table[:, 0], parts[:, 0], return_indices=True)
    columns = [1 + names.index(name) for name in CELEBA]
    return ids, parts[others, 1], to_signs(table[rows][:, columns], labels)


def _table(file: Path) -> tuple[list[str], np.ndarray]:
    """(the words of the header, the numbers (N, columns), in the first column the image's) of a list in any form."""
    try:
        archive = zipfile.ZipFile(file) if file.suffix == ".zip" else None
        content = archive.read(archive.namelist()[0]) if archive else file.read_bytes()
        lines = content.decode("utf-8-sig").replace(",", " ").splitlines()
        start = next(i for i, line in enumerate(lines) if IMAGE.search(line.partition(" ")[0]))
        table = np.loadtxt(lines[start:], np.int32, converters={0: lambda name: int(name[:6])}, ndmin=2)
        return lines[start - 1].split() if start else [], table
    except (OSError, ValueError, IndexError, StopIteration, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as CelebA's official list ({error}): replace it.") from error


def to_signs(values: np.ndarray, file: Path) -> np.ndarray:
    """The one place where encodings meet: -1/+1, 0/1 and False/True become -1/+1, int8."""
    found = {*np.unique(values).tolist()}
    if not (found <= {-1, 1} or found <= {0, 1}):
        raise ValueError(f"{file}: labels must be -1 and 1, or 0 and 1, got {sorted(found)[:5]}.")
    return np.where(values > 0, 1, -1).astype(np.int8)


def _official_rows(split: str, lists: list[Path], images: list[Path]):
    """(count, rows) for `cached_images`, in the order of ids; the first folder or zip that has an image counts."""
    if not lists:
        return 0, ()
    index = {}
    for place in images:
        try:
            archive = None if place.is_dir() else zipfile.ZipFile(place)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{place} is damaged ({error}): replace it.") from error
        for name in archive.namelist() if archive else sorted(os.listdir(place)):
            if match := IMAGE.search(name):
                index.setdefault(int(match[1]), (archive.read, name) if archive else (Path.read_bytes, place / name))
    ids, parts, conds = _lists(*lists)
    rows = [i for i in np.flatnonzero(parts == SPLITS.index(split)) if ids[i] in index]
    return len(rows), _decoded((f"{ids[i]:06d}", functools.partial(*index[ids[i]]), conds[i]) for i in rows)


def _parquet_rows(split: str, files: list[Path]):
    shards = {file: _parquet(file) for file in files if file.name.startswith(split)}

    def rows():
        for file, shard in shards.items():
            for batch in shard.iter_batches(256, columns=["image", *CELEBA]):
                conds = to_signs(np.stack([batch[name] for name in CELEBA], 1), file)
                for image, cond in zip(batch["image"], conds, strict=True):
                    yield file.name, image["bytes"].as_py, cond

    return sum(shard.metadata.num_rows for shard in shards.values()), _decoded(rows())


def _parquet(file: Path):
    try:
        from pyarrow.parquet import ParquetFile

        return ParquetFile(file)
    except ImportError:
        raise ValueError("CelebA's parquet files are read with pyarrow: pip install pyarrow.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): fetch it again.") from error


def _decoded(rows):
    """(pixels, cond) from (a name, a function that reads the image file, cond); one warning names what is unreadable."""
    failed = []
    for name, read, cond in rows:
        try:
            image = to_64(read())
        except (OSError, ValueError, SyntaxError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            failed.append(f"{name}: {error}")
        else:
            yield image, cond
    if failed:
        warnings.warn(f"{len(failed):,} images of CelebA cannot be read ({'; '.join(failed[:3])}).", stacklevel=2)


def to_64(content: bytes) -> np.ndarray:
    """(3, 64, 64) uint8 of a JPEG or PNG of 178x218 or 64x64."""
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as opened:
        image = opened.convert("RGB")
    if image.size == (178, 218):
        # Crop first: with `resize(box=...)` the filter would use rows outside of the square.
        image = image.crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.LANCZOS)
    if image.size != (64, 64):
        raise ValueError(f"{image.width}x{image.height} pixels instead of 178x218 or 64x64")
    return np.asarray(image).transpose(2, 0, 1)


def _download(size: str) -> None:
    """Into a folder that is renamed when it is complete; an interrupted download continues there."""
    from huggingface_hub import HfApi, hf_hub_download

    repository, amount = MIRRORS[size]
    check_online(f"CelebA ({repository})")
    print(
        f"CelebA is for non-commercial research only. From huggingface.co/datasets/{repository}: {amount}.", flush=True
    )
    folder, partial = (cache_dir() / f"{dot}celeba-{size}" for dot in ("", "."))
    try:
        import pyarrow.parquet  # noqa: F401 - fails before the download rather than after it

        for name in HfApi().list_repo_files(repository, repo_type="dataset"):
            if name.endswith(".parquet"):
                hf_hub_download(repository, name, repo_type="dataset", local_dir=partial)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except Exception as error:
        raise OSError(f"CelebA could not be downloaded from the hub, {repository} ({error}): {BY_HAND}.") from error


class LabelStatistics(NamedTuple):
    """Of `count` conditions: the share of "yes" (K,) and the correlations (K, K)."""

    names: tuple[str, ...]
    count: int
    frequencies: Tensor
    correlations: Tensor


def label_statistics(conds: Tensor, attributes: Attributes) -> LabelStatistics:
    """Frequencies and correlations (0 for an attribute that never varies) of labels (N, K) in {-1, +1}."""
    if conds.ndim != 2 or len(conds) == 0 or conds.shape[1] != len(attributes):
        raise ValueError(f"label_statistics takes labels (N, {len(attributes)}), N > 0, got {tuple(conds.shape)}.")
    yes = (conds > 0).double()
    correlations = torch.corrcoef(yes.T).nan_to_num(0.0)
    return LabelStatistics(attributes.names, len(yes), yes.mean(0), correlations)
