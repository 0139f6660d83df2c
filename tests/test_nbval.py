"""Notebooks that fail without an error message, run as the project runs its own: each fails, and says why."""

import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbval")

ROOT = Path(__file__).parents[1]
TAGGED = "# on purpose\n"  # in the table below, stands for the tag raises-exception
LATE = "after the last cell: "

THREAD = """
import threading, time
def fail(seconds):
    time.sleep(seconds)
    raise ValueError
thread = threading.Thread(target=fail, args=[{}], daemon={})
thread.start()
"""
TASK = """
import asyncio
async def fail():
    await asyncio.sleep(0.1)
    raise ValueError
{}
"""
SWALLOWS = """
import time
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("never mind")
"""
PRINTS_ON = """
import time
while True:
    try:
        time.sleep(0.2)
        print("still here")
    except KeyboardInterrupt:
        pass
"""
IN_FUNCTION = """
def echo(word):
    !test {word} = hello
    words = !echo {word}
    return words
assert echo("hello") == ["hello"]
"""

# for each run of pytest: its options, and notebooks as (cell, regular expression of its report, None if it passes)
RUNS = {
    "unseen": (
        [],
        {
            "healthy.ipynb": [
                ("assert get_ipython().execution_count == 1", None),
                ("assert not {'watch', 'overlooked', 'notes', 'ip', 'gc', 'asyncio'} & set(globals())", None),
                ("import os\nassert os.environ['FACELAB_PRESET'] == 'ci'", None),
                ("import sys, warnings\nprint('no harm', file=sys.stderr)\nwarnings.warn('nor here')", None),
                (IN_FUNCTION, None),
                (TASK.format("task = asyncio.create_task(fail())"), None),
                ("try:\n    await task\nexcept ValueError:\n    pass", None),
                ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", None),
            ],
            "each_cell.ipynb": [
                ("!exit 3", "exit code 3: exit 3"),
                ("!false\n!true", "exit code 1: false"),
                ("files = !ls /nowhere", "exit code 2: ls /nowhere"),
                ("%system exit 4", "exit code 4: exit 4"),
                ("%pip install ./nowhere", "exit code 1: .*pip install ./nowhere"),
                ("%%bash\nexit 5", "exit status 5"),
                ("%nosuchmagic", "UsageError"),
                (TAGGED + "!false", None),
                (TAGGED + "1 / 0", None),
                (THREAD.format(0, False) + "thread.join()", "thread .* failed: ValueError"),
                (TASK.format("asyncio.create_task(fail())\nawait asyncio.sleep(0.3)"), "never retrieved: ValueError"),
                (THREAD.format(0.5, False), None),
                ("thread.join()", "thread .* failed: ValueError"),
                (
                    "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 9))\nexcept OSError:\n    pass",
                    "tried to reach another machine: socket",
                ),
                ("'well again'", None),
            ],
            "late_thread.ipynb": [(THREAD.format(2, False), LATE + "thread .* failed: ValueError")],
            "late_daemon.ipynb": [(THREAD.format(0.5, True), LATE + "thread .* failed: ValueError")],
            "kept_task.ipynb": [
                (TASK.format("asyncio.create_task(fail())"), None),
                ("1 + 1", LATE + "nobody awaited .*ValueError"),
            ],
            "sub/folder/deep.ipynb": [("!exit 6", "exit code 6: exit 6"), ("1 + 1", None)],
        },
    ),
    "dead": (
        [],
        {
            "dies.ipynb": [
                ("import os, signal", None),
                ("os.kill(os.getpid(), signal.SIGKILL)", "the kernel died in Cell 1"),
                ("1 + 1", "not run: the kernel died in Cell 1"),
                (TAGGED + "1 + 1", "not run: the kernel died in Cell 1"),
            ],
            "dies_late.ipynb": [
                ("import os, threading\nthreading.Timer(2, os._exit, [1]).start()", LATE + "the kernel died")
            ],
        },
    ),
    "slow": (
        ["--nbval-cell-timeout=3"],
        {
            "swallows.ipynb": [
                ("1 + 1", None),
                (SWALLOWS, "timeout in Cell 1"),
                ("1 + 1", "not run: timeout in Cell 1"),
                (TAGGED + "1 + 1", "not run: timeout in Cell 1"),
            ],
            "sub/tagged.ipynb": [(TAGGED + SWALLOWS, "timeout in Cell 0"), ("1 + 1", "not run: timeout in Cell 0")],
            "prints_on.ipynb": [(PRINTS_ON, "Timeout of 3 seconds"), ("1 + 1", "not run: timeout in Cell 0")],
        },
    ),
}
CELLS = [
    pytest.param(name, number, says, id=f"{name}-{number}")
    for _, notebooks in RUNS.values()
    for name, cells in notebooks.items()
    for number, (_, says) in enumerate(cells)
]


def plant(folder, notebooks):
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, cells in notebooks.items():
        book = nbformat.v4.new_notebook()
        for source, _ in cells:
            tags = ["raises-exception"] if source.startswith(TAGGED) else []
            book.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
        path = folder / "notebooks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, path)
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder / "notebooks")
    (folder / "tests").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests/here_only.py", folder / "tests")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """{(notebook, cell): (report, seconds)} of all runs, which go side by side."""
    top = tmp_path_factory.mktemp("planted")
    env = {name: value for name, value in os.environ.items() if name not in ("FACELAB_PRESET", "PYTEST_ADDOPTS")}
    pytest_ = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "--color=no"]
    started, found = [], {}
    for run, (options, notebooks) in RUNS.items():
        plant(top / run, notebooks)
        with open(top / run / "log.txt", "w") as log:
            command = [*pytest_, *options, "--junitxml=report.xml", "notebooks"]
            started.append(subprocess.Popen(command, cwd=top / run, env=env, stdout=log, stderr=log))
    end = time.monotonic() + 400
    for process in started:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:  # its tests fail because no report is there
            process.kill()
    for report in top.glob("*/report.xml"):
        for case in ET.parse(report).iter("testcase"):
            text = "".join(f"{part.tag}: {part.text}" for part in case)  # a pass has no parts
            found[case.get("classname"), case.get("name")] = text, float(case.get("time"))
    return found


@pytest.mark.parametrize(("notebook", "cell", "says"), CELLS)
def test_cell(reports, notebook, cell, says):
    text, _ = reports["notebooks." + notebook.replace("/", "."), f"Cell {cell}"]
    assert re.search(says, text) if says else not text


def test_a_dead_kernel_is_seen_at_once(reports):
    taken = [seconds for (notebook, _), (_, seconds) in reports.items() if "dies" in notebook]
    assert taken and sum(taken) < 60  # and not the 900 of the project's cell timeout
