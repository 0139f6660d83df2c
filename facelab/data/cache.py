"""Images that are prepared once and memory-mapped from then on."""

import contextlib
import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from facelab.device import atomic_write, cache_dir


class NoImages(ValueError):
    """There is no image to prepare."""


def cached_images(name: str, shape: tuple, build) -> tuple[Tensor, Tensor, str]:
    """(images (N, *shape) uint8, memory-mapped; conds (N, K) int8; a key that identifies both), built on the first call.

    `name` must identify the sources, every option and the version of the code that builds; `build()` returns an upper bound of
    N and an iterable of (pixels, cond).
    """
    file = cache_dir() / "prepared" / f"{name}.npy"
    # A file that is absent or damaged is built again.
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _read(file)
    count, rows = build()
    if not count:
        raise NoImages(f"{name}: there are no images.")
    file.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(file.parent).free < 1.1 * count * np.prod(shape):  # a memory map cannot report a full disk
        raise OSError(f"{file.parent} has no room for {count:,} images: free some space or set FACELAB_CACHE.")
    conds = []
    with atomic_write(file) as temporary:
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, *shape))
        for image, cond in tqdm(rows, f"preparing {name.split('-')[0]}", count, unit=" images", leave=False):
            pixels[len(conds)] = image
            conds.append(cond)
        if not conds:
            raise NoImages(f"{name}: none of {count:,} images can be read.")
        pixels.flush()
    conds, content = np.array(conds, np.int8), hashlib.sha256(pixels[: len(conds)])
    content.update(conds)
    with atomic_write(file.with_suffix(".npz")) as temporary:
        np.savez(temporary, conds=conds, key=np.array(content.hexdigest()[:16]))
    return _read(file)


def _read(file: Path) -> tuple[Tensor, Tensor, str]:
    with np.load(file.with_suffix(".npz")) as arrays:
        conds, key = torch.from_numpy(arrays["conds"]), str(arrays["key"])
    # Mode "c" (copy on write): nothing reaches the file, and torch accepts the array as writable.
    return torch.from_numpy(np.load(file, mmap_mode="c")[: len(conds)]), conds, key
