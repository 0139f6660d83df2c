"""Pictures prepared once: uint8 pixels under a memory map, beside them whose they are, the answers and a checksum.

`<name>-v<recipe>.npy` holds the pixels as numpy writes them, the `.npz` of the same name ids, answers and the sha256 of
the `.npy`. Nothing in them can run, and the `.npz` is renamed into its place last: where it stands, the pixels are whole.
"""

import errno
import functools
import hashlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from facelab.download import digest
from facelab.plan import cache_dir

Row = tuple[str, np.ndarray, np.ndarray]  # id, pixels (C, H, W) uint8, answers (K,) int8


class Prepared(NamedTuple):
    """images (N, C, H, W) uint8 under a memory map, conds (N, K) int8, ids (N,), and a key that names exactly these."""

    images: Tensor
    conds: Tensor
    ids: np.ndarray
    key: str


def prepared(name: str, recipe: str, make: Callable[[], tuple[int, Iterable[Row]]], what: str) -> Prepared:
    """What `make` gives, prepared once into the cache and from then on read by memory map.

    Args:
        name: names the sources and everything that was chosen, so that nothing else is found under it.
        recipe: version of the way from source to pixels; what another one prepared is replaced, which is said.
        make: -> (how many at most, their rows one by one); called only where nothing sound is in the cache.
        what: a word for people, for the progress bar.

    Raises:
        ValueError: where `make` gives no row.
        OSError: where the cache cannot be written; one sentence with the way out.
    """
    file = cache_dir() / "prepared" / f"{name}-v{recipe}.npy"
    if _trouble(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                # While this one waited, another process may have prepared them.
                if trouble := _trouble(file):
                    others = [old for old in file.parent.glob(f"{name}-v*.npz") if old.stem != file.stem]
                    trouble = "by another recipe" if others else trouble
                    if trouble != "not yet":
                        warnings.warn(f"{what} had been prepared {trouble}: prepared anew.", stacklevel=2)
                    _write(file, *make(), what)
                    for old in others:
                        old.unlink()
                        old.with_suffix(".npy").unlink(missing_ok=True)
        except OSError as error:
            # EFBIG: some disks hold no file above 4 GB.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise OSError(
                error.errno,
                f"{what} could not be prepared in {file.parent} ({error.strerror}): "
                "make room there, or let FACELAB_CACHE name another folder",
            ) from error
    pixels, answers = np.load(file, mmap_mode="c"), _answers(file)
    key = hashlib.sha256(str(answers["sha256"]).encode() + answers["conds"].tobytes()).hexdigest()[:16]
    # Mode "c": nothing reaches the file, and torch takes it as writable without a copy.
    return Prepared(torch.from_numpy(pixels), torch.from_numpy(answers["conds"]), answers["ids"], key)


def ready(name: str, recipe: str) -> bool:
    """Whether they lie prepared in the cache; their checksum is looked at when they are read."""
    return (cache_dir() / "prepared" / f"{name}-v{recipe}.npz").is_file()


def _answers(file: Path) -> dict[str, np.ndarray]:
    with np.load(file.with_suffix(".npz"), allow_pickle=False) as inside:
        return {part: inside[part] for part in ("ids", "conds", "sha256")}


def _trouble(file: Path) -> str:
    """Why what is there cannot be used; "" where it can."""
    if not file.with_suffix(".npz").is_file():
        return "not yet"
    try:
        answers, about, pixels = _answers(file), file.stat(), np.load(file, mmap_mode="r")
        whole = _sha256(file, about.st_size, about.st_mtime_ns) == answers["sha256"]
        same = len(pixels) == len(answers["ids"]) == len(answers["conds"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        whole = same = False
    return "" if whole and same else "but is damaged"


@functools.lru_cache(maxsize=16)
def _sha256(file: Path, size: int, time: int) -> str:
    """Once a process for a file that nobody has touched since: 2.5 GB take some seconds."""
    return digest(file)


def _write(file: Path, total: int, rows: Iterable[Row], what: str) -> None:
    """Row by row into files beside the right ones, which are renamed when all is there."""
    part, beside = file.with_suffix(".npy.part"), file.with_suffix(".npz.part")
    ids, conds, width, shape = [], bytearray(), 0, ()
    try:
        # An ordinary file and not a memory map, in which a full disk would end the process without a word.
        with open(part, "wb") as out, tqdm(total=total, desc=f"preparing {what}", unit=" pictures", leave=False) as bar:
            for one, pixels, cond in rows:
                if not ids:
                    shape, width = pixels.shape, len(cond)
                    _head(out, (0, *shape))
                out.write(np.ascontiguousarray(pixels, np.uint8))
                conds += np.ascontiguousarray(cond, np.int8).tobytes()
                ids.append(one)
                bar.update()
            if not ids:
                raise ValueError(f"{what}: not one picture could be prepared.")
            out.seek(0)
            _head(out, (len(ids), *shape))
            _settle(out)
        answers = np.frombuffer(conds, np.int8).reshape(len(ids), width)
        with open(beside, "wb") as out:
            np.savez(out, ids=np.array(ids), conds=answers, sha256=np.array(digest(part)))
            _settle(out)
        file.with_suffix(".npz").unlink(missing_ok=True)
        os.replace(part, file)
        os.replace(beside, file.with_suffix(".npz"))
    finally:
        part.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)


def _head(out, shape: tuple[int, ...]) -> None:
    """numpy leaves room for a growing first axis, so that the header can be written again when the count is known."""
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _settle(out) -> None:
    out.flush()
    os.fsync(out.fileno())
