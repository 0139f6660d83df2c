"""How much memory a table of scores takes: `python tests/benchmarks/memory.py [pictures]`, by default 50,000 of each set.

Pictures of noise under a memory map, 2048 features each from a network that costs nothing, kept under a memory map too. What is
told is the most that the process ever held of its own, and the most that it held with mapped files, which the system may take
back at any time. Linux only.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from facelab.features import Extractor
from facelab.scores import evaluate

SIZE = 2048


def held() -> tuple[float, float]:
    """(own, with mapped files) in GB"""
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
            most[:] = map(max, most, held())

    weights = torch.randn(3 * 16 * 16, SIZE, generator=torch.Generator().manual_seed(0)) / 1000

    def see(pictures):
        return (torch.nn.functional.avg_pool2d(pictures.float(), 4).flatten(1) @ weights).relu()

    eyes = Extractor("noise", SIZE, f"noise, {SIZE} features", see, 256, lambda features: features[:, :1008])
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as top:
        sets = [noise(Path(top) / name, count, seed) for seed, name in enumerate(("real", "other", "fake"))]
        before, start = held(), time.time()
        watcher = threading.Thread(target=watch)
        watcher.start()
        print(evaluate(sets[0], sets[2], eyes, sets[1], keep=Path(top) / "features", progress=True))
        done.set()
        watcher.join()
    print(f"{count:,} pictures of each of three sets, {SIZE} features, {torch.get_num_threads()} threads")
    print(f"at most {most[0]:.2f} GB of its own (before: {before[0]:.2f}), {most[1]:.2f} GB with mapped files")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
