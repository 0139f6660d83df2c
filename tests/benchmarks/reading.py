"""How fast images are read: `python tests/benchmarks/reading.py`. One thread, CPU time, the methods interleaved.

From memory, from a memory map over a file that the system may or may not hold in its cache, and by decoding JPEG each time
as one would without prepared images. Shuffled batches of 64, as in training, in float32.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["FACELAB_CACHE"] = tempfile.mkdtemp(prefix="facelab-reading-")

import numpy as np
import torch
from PIL import Image

from facelab.attributes import CELEBA
from facelab.data.cache import cached_images
from facelab.data.celeba import to_64
from facelab.data.dataset import AttributeDataset

COUNT, BATCH, ROUNDS, SECONDS = 16_000, 64, 5, 0.25


def smooth(rng, size):
    return Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def jpeg(image, **how):
    content = io.BytesIO()
    image.save(content, "JPEG", **how)
    return content.getvalue()


def methods(rng):
    some = [np.asarray(smooth(rng, (64, 64))).transpose(2, 0, 1) for _ in range(64)]
    cond = np.ones(len(CELEBA), np.int8)
    rows = ((some[i % 64], cond) for i in range(COUNT))
    images, conds, key = cached_images("reading", (3, 64, 64), lambda: (COUNT, rows))
    mapped = AttributeDataset(images, conds, CELEBA, "memory-mapped", "celeba", key)
    in_memory = AttributeDataset(images.clone(), conds, CELEBA, "in memory", "celeba")
    subset = mapped.subset(torch.randperm(COUNT))
    aligned = [jpeg(smooth(rng, (178, 218)), quality=90) for _ in range(64)]
    small = [jpeg(smooth(rng, (64, 64)), quality=95, subsampling=0) for _ in range(64)]

    def decoding(files):
        return lambda rows: torch.from_numpy(np.stack([to_64(files[i % 64]) for i in rows])).float() / 127.5 - 1

    return {
        "from memory": lambda rows: in_memory[rows],
        "from the memory map": lambda rows: mapped[rows],
        "from the memory map, of a subset": lambda rows: subset[rows],
        "decoding 64x64 JPEG": decoding(small),
        "decoding 178x218 JPEG, cropped, reduced": decoding(aligned),
    }


def rate(read, rng) -> float:
    """Images per second of CPU time."""
    count, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        read(rng.integers(0, COUNT, BATCH).tolist())
        count += BATCH
    return count / (time.process_time() - start)


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    measured = {}
    for name, read in (every := methods(rng)).items():
        read(list(range(BATCH)))
    for _ in range(ROUNDS):
        for name, read in every.items():
            measured.setdefault(name, []).append(rate(read, rng))
    print(f"{'images per second of CPU time, one thread':44}{'median':>10}{'from':>10}{'to':>10}")
    for name, rates in measured.items():
        print(f"{name:44}{statistics.median(rates):10,.0f}{min(rates):10,.0f}{max(rates):10,.0f}")


if __name__ == "__main__":
    import shutil

    try:
        sys.exit(main())
    finally:
        shutil.rmtree(Path(os.environ["FACELAB_CACHE"]), ignore_errors=True)
