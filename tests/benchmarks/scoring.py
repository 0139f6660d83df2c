"""How long scores take once faces are drawn: `python tests/benchmarks/scoring.py [pictures] [replicates]`, by default 2,000 and 50.

Pictures of noise, for the time does not depend on what is in them, seen by EfficientNet-Lite0: drawn ones, real ones, and
other real ones for the floor. Then the whole table with bootstrap replicates. The bar is 180 seconds on two cores (360 with
AVX2 only); CPU time of all threads stands beside it, for on a busy machine the clock tells of others.
"""

import sys
import time

import torch

from facelab.features import extractor, features_of
from facelab.plan import machine
from facelab.scores import evaluate


def took(do, *told, **more):
    """(what it gives, seconds on the clock, seconds of CPU time)"""
    start, spent = time.perf_counter(), time.process_time()
    found = do(*told, **more)
    return found, time.perf_counter() - start, time.process_time() - spent


def main(count: int = 2000, replicates: int = 50):
    eye, total = extractor("efficientnet", where=torch.device("cpu")), [0.0, 0.0]
    generator, seen = torch.Generator().manual_seed(0), {}
    for name in ("drawn", "real", "other real"):
        pictures = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
        seen[name], *seconds = took(features_of, pictures, eye)
        total = [a + b for a, b in zip(total, seconds, strict=True)]
        print(f"{name + ' ones seen':24}{seconds[0]:8.1f} s{seconds[1]:8.1f} s of CPU time", flush=True)
    told = {"features": eye, "other": seen["other real"], "replicates": replicates}
    table, *seconds = took(evaluate, seen["real"], seen["drawn"], **told)
    total = [a + b for a, b in zip(total, seconds, strict=True)]
    print(f"{'the table':24}{seconds[0]:8.1f} s{seconds[1]:8.1f} s of CPU time")
    print(f"{'all':24}{total[0]:8.1f} s{total[1]:8.1f} s of CPU time")
    print(f"{count:,} pictures of each set, {replicates} replicates for each of {len(table.rows)} rows; {machine()}")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
