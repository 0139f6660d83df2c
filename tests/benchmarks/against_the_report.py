"""Our network for faces beside the report's: `python tests/benchmarks/against_the_report.py`. About seven minutes with AVX2 only.

CPU time on one thread, both interleaved in one run, as the median of the ratios of neighbours:

- a training step of 16 pictures, forward, backward and optimiser, in the precision that is fastest here;
- 16 guided faces and one, in the calls that `python -m facelab sample` makes, beside 1,000 ancestral calls of the report's
  network (timed from 20 of them) and beside the report's network with our solver and our number of calls, so that what the
  calls save and what the network saves stand apart.

Weights do not change the time, so both networks are new.
"""

import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from facelab.attributes import CELEBA
from facelab.data import Pictures
from facelab.guidance import classifier_free
from facelab.model import Denoiser
from facelab.plan import FACES as OURS
from facelab.plan import NETS, PATIENT, REPORT_RECIPE, Recipe, machine
from facelab.request import CALLS, FACES_BY, SCALE
from facelab.sample import DDPM, noise, sample
from facelab.train import _Run

SHAPE, PAIRS, TIMED, ALL = (3, 64, 64), 5, 20, 1000


# Windows counts CPU time in 64ths of a second, in which a small network may have taken none.
clock = time.perf_counter if os.name == "nt" else time.process_time


def cpu(call) -> float:
    start = clock()
    call()
    return clock() - start


def medians(calls: dict, pairs: int = PAIRS) -> dict[str, list[float]]:
    """Seconds of each, `pairs` times in turn, after one of each that is not counted."""
    for call in calls.values():
        call()
    found = {name: [] for name in calls}
    for _ in range(pairs):
        for name, call in calls.items():
            found[name].append(cpu(call))
    return found


def said(name: str, found: dict, ours: str, theirs: str) -> None:
    ratios = sorted(b / a for a, b in zip(found[ours], found[theirs], strict=True))
    print(
        f"{name:48s} {statistics.median(found[ours]):8.3f} s  {statistics.median(found[theirs]):9.3f} s  "
        f"{statistics.median(ratios):7.2f} times  [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    luck = torch.Generator().manual_seed(0)
    pictures = Pictures(
        torch.randint(0, 256, (64, *SHAPE), generator=luck, dtype=torch.uint8),
        torch.randint(0, 2, (64, len(CELEBA)), generator=luck) * 2 - 1,
        CELEBA,
        "noise",
    )
    ours = Denoiser(SHAPE, CELEBA.names, **OURS)
    report = Denoiser(SHAPE, CELEBA.names, **NETS["report"])
    sizes = [sum(p.numel() for p in net.parameters()) for net in (ours, report)]
    print(f"{machine()}\nours {sizes[0]:,} parameters, the report's {sizes[1]:,}\n")
    print(f"{'':48s} {'ours':>10s}  {'the other':>11s}")

    runs = {
        "ours": _Run(ours, pictures, Recipe(16_000, 16, **PATIENT)),
        "report": _Run(report, pictures, Recipe(16_000, 16, flip=True, **REPORT_RECIPE)),
    }

    def step(run):
        run.apply(run.forward_and_back(None))
        run.step += 1

    said(
        "training step, 16 pictures",
        medians({name: lambda run=run: step(run) for name, run in runs.items()}),
        "ours",
        "report",
    )
    ours.eval()
    report.eval()

    solver, calls, scale = FACES_BY, CALLS, SCALE
    cond = CELEBA.encode(Smiling=True)
    for count in (16, 1):
        x_T = noise(count, SHAPE)

        def ancestral(x_T=x_T):
            sample(report, x_T, cond, DDPM(report.schedule, generator=torch.Generator().manual_seed(0)), TIMED)

        ways = {
            "ours": lambda x_T=x_T: sample(classifier_free(ours, scale), x_T, cond, solver(ours.schedule), calls),
            "as many": lambda x_T=x_T: sample(
                classifier_free(report, scale), x_T, cond, solver(report.schedule), calls
            ),
            "ancestral": ancestral,
        }
        found = medians(ways, 3 if count == 16 else PAIRS)
        found["ancestral"] = [seconds * ALL / TIMED for seconds in found["ancestral"]]
        faces = "16 guided faces" if count == 16 else "one guided face"
        said(f"{faces}, {calls} calls, and {ALL} ancestral calls", found, "ours", "ancestral")
        said("  of that the network (same solver and calls)", found, "ours", "as many")
        said("  of that the calls (the report's network)", found, "as many", "ancestral")


if __name__ == "__main__":
    main()
