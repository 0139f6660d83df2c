"""How long a drawn face takes: `python tests/benchmarks/drawing.py`. CPU time on one thread; 3 ms a picture are 20,000 a minute."""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from facelab.drawn import answers, draw_many

COUNT, ROUNDS = 200, 5

if __name__ == "__main__":
    conds, took = answers(COUNT, seed=3).float(), []
    for _ in range(ROUNDS):
        start = time.process_time()
        draw_many(conds, range(COUNT))
        took.append((time.process_time() - start) / COUNT)
    print(f"{min(took) * 1e3:.2f} ms a picture, the best of {ROUNDS} rounds: 20,000 in {20_000 * min(took):.0f} s")
