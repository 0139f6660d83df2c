"""How much memory a table of scores takes: `python tests/benchmarks/memory.py [images]`, by default 50,000 of each set.

Images of noise under a memory map, with 2048 features each from a network that costs nothing. It prints the largest private
memory of the process, and the largest with mapped files, which the system may take back at any time. Linux only.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from facelab.evaluation.features import Extractor
from facelab.evaluation.report import evaluate

SIZE = 2048


def used() -> tuple[float, float]:
    """(private, with mapped files) in GB"""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    own, files = (int(lines[name].split()[0]) / 1e6 for name in ("RssAnon", "RssFile"))
    return own, own + files


def noise(file: Path, count: int, seed: int) -> torch.Tensor:
    with open(file, "wb") as out:
        for start in range(0, count, 1000):
            rng = np.random.default_rng((seed, start))
            out.write(rng.integers(0, 256, (min(1000, count - start), 3, 64, 64), np.uint8).tobytes())
    return torch.from_numpy(np.memmap(file, np.uint8, "c", shape=(count, 3, 64, 64)))


def main(count: int = 50_000):
    most, done = [0.0, 0.0], threading.Event()

    def watch():
        while not done.wait(0.05):
            most[:] = map(max, most, used())

    weights = torch.randn(3 * 16 * 16, SIZE, generator=torch.Generator().manual_seed(0)) / 1000

    def extract(images):
        return (torch.nn.functional.avg_pool2d(images.float(), 4).flatten(1) @ weights).relu()

    network = Extractor("noise", SIZE, f"noise, {SIZE} features", extract, 256, lambda features: features[:, :1008])
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as top:
        reference, generated = noise(Path(top) / "a", 2 * count, 0), noise(Path(top) / "b", count, 1)
        before, start = used(), time.time()
        watcher = threading.Thread(target=watch)
        watcher.start()
        print(evaluate(reference, generated, network, count, progress=True))
        done.set()
        watcher.join()
    print(f"{count:,} images of each of three sets, {SIZE} features, {torch.get_num_threads()} threads")
    print(f"at most {most[0]:.2f} GB private (before: {before[0]:.2f}), {most[1]:.2f} GB with mapped files")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
