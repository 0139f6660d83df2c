"""How long scores take once images are generated: `python tests/benchmarks/scoring.py [images]`, by default 2,000.

Images of noise, because the time does not depend on their content: generated ones, and twice as many reference images, through
EfficientNet-Lite0, then the table. Aim: 180 seconds on two cores (360 with AVX2 only). CPU time of all threads stands beside it,
because wall-clock time on a busy machine depends on other processes.
"""

import sys
import time

import torch

from facelab.device import machine
from facelab.evaluation.features import extract_features, extractor
from facelab.evaluation.report import evaluate


def timed(call, *args, **options):
    """(result, seconds, seconds of CPU time)"""
    start, spent = time.perf_counter(), time.process_time()
    found = call(*args, **options)
    return found, time.perf_counter() - start, time.process_time() - spent


def main(count: int = 2000):
    network, total = extractor("efficientnet", device=torch.device("cpu")), [0.0, 0.0]
    generator, features = torch.Generator().manual_seed(0), {}
    for name, size in (("generated", count), ("reference", 2 * count)):
        images = torch.randint(0, 256, (size, 3, 64, 64), generator=generator, dtype=torch.uint8)
        features[name], *seconds = timed(extract_features, images, network)
        total = [a + b for a, b in zip(total, seconds, strict=True)]
        print(f"{name + ' images':24}{seconds[0]:8.1f} s{seconds[1]:8.1f} s of CPU time", flush=True)
    table, *seconds = timed(evaluate, features["reference"], features["generated"], network)
    total = [a + b for a, b in zip(total, seconds, strict=True)]
    print(f"{'the table':24}{seconds[0]:8.1f} s{seconds[1]:8.1f} s of CPU time")
    print(f"{'all':24}{total[0]:8.1f} s{total[1]:8.1f} s of CPU time")
    print(f"{count:,} images of each set, {len(table.rows)} rows; {machine()}")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
