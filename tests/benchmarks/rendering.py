"""How long a synthetic face takes: `python tests/benchmarks/rendering.py`. CPU time on one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from timing import cpu

from facelab.data.synthetic_faces import render_many, sample_attributes

COUNT, ROUNDS = 200, 5

if __name__ == "__main__":
    conds = sample_attributes(COUNT, seed=3).float()
    best = min(cpu(lambda: render_many(conds, range(COUNT))) / COUNT for _ in range(ROUNDS))
    print(f"{best * 1e3:.2f} ms per image, the best of {ROUNDS} rounds: 20,000 in {20_000 * best:.0f} s")
