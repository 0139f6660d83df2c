"""What the benchmarks share: CPU time of calls and of other processes, interleaved."""

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

ROOT = Path(__file__).resolve().parents[2]
CPUINFO = Path("/proc/cpuinfo")
# Windows counts CPU time in 64ths of a second, in which a small network may have taken none.
clock = time.perf_counter if os.name == "nt" else time.process_time


def cpu(call) -> float:
    """Seconds of CPU time of one call."""
    start = clock()
    call()
    return clock() - start


def medians(calls: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` times in turn, after one of each that does not count."""
    for call in calls.values():
        call()
    return in_turn({name: lambda call=call: cpu(call) for name, call in calls.items()}, rounds)


def in_turn(calls: dict, rounds: int) -> dict[str, list[float]]:
    """The same for calls that return their seconds."""
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found


def processor() -> str:
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def children() -> float:
    """CPU seconds of all child processes that have ended; wall-clock time where the system does not report it."""
    if resource is None:
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def child(code: str) -> float:
    """CPU seconds of a new Python process, its start included."""
    before = children()
    env = os.environ | {"PYTHONPATH": str(ROOT), "FACELAB_DEVICE": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL)
    return children() - before
