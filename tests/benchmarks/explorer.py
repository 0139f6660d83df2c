"""How soon the attribute explorer shows a face: `python tests/benchmarks/explorer.py [rounds]`. Wall-clock time.

From a press on an attribute to the first pixels (a preview, or the image itself where that is as fast) and to the finished
image with the classifier's predictions, without the browser. Aim: .4 s and 1.5 s where bfloat16 is fast.
"""

import statistics
import sys
import time

from facelab import load
from facelab.device import machine
from facelab.widgets.explorer import ExplorerState, StateSampler


def seconds(sampler: StateSampler, state: ExplorerState) -> tuple[float, float]:
    start = time.perf_counter()
    if steps := sampler.preview_steps(state, 1):
        for _ in sampler.preview(state, steps):
            pass
    first = time.perf_counter() - start
    sampler.images(state)
    finished = time.perf_counter() - start
    return first if steps else finished, finished


def main(rounds: int = 5, model=None) -> None:
    sampler = StateSampler(model or load("celeba"))
    state = ExplorerState(sampler.model.attributes)
    name = next(iter(state.attributes))
    states = [state.set(name, 1.0).replace(seed=seed) for seed in range(rounds + 1)]
    first, finished = zip(*[seconds(sampler, one) for one in states][1:], strict=True)
    print(f"first pixels {statistics.median(first):.2f} s, finished {statistics.median(finished):.2f} s; {machine()}")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
