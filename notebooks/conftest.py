"""Failures that nbval does not see.

nbval fails a cell if the kernel publishes an error. A cell can fail without one. It fails here if it catches the interrupt of
its timeout, kills its kernel, leaves a thread or a task that fails later, runs a shell command or a magic that fails, or
connects to another machine.
"""

import inspect
import os
import time
from ast import literal_eval
from pathlib import Path
from queue import Empty

import pytest
from nbval import plugin
from nbval.kernel import RunningKernel

os.environ.setdefault("FACELAB_PRESET", "ci")
# Two threads beside a busy process are many times slower than one, and at preset ci one is nearly as fast.
os.environ.setdefault("OMP_NUM_THREADS", "1")

STEP = 0.5  # seconds between two checks that the kernel is alive
STUCK = 60  # seconds of silence between two cells after which a kernel counts as lost
GRACE = 5  # seconds for which an interrupted cell may go on printing
HERE_ONLY = (Path(__file__).resolve().parents[1] / "tests/here_only.py").read_text("utf-8")
OVERLOOKED = "__import__('IPython').get_ipython().overlooked({})"
LINGER = {"running": 10, "daemons": 1}  # seconds to wait for what still runs after the last cell


def watch():
    """Record what fails unseen. This runs in the kernel, which receives it as source: it can use nothing of this file."""
    import asyncio
    import gc
    import threading

    from IPython import get_ipython
    from IPython.utils import _process_common as process

    def thread_failed(args):
        if args.exc_type is not SystemExit:  # Python ignores it as well
            notes.append(["thread", f"thread {getattr(args.thread, 'name', '?')} failed: {args.exc_value!r}"])
        print_thread_error(args)

    def task_failed(loop, context):
        if context.get("exception"):
            notes.append(["task", f"{context['message']}: {context['exception']!r}"])
        print_task_error(loop, context)

    def command_ended(command, code):
        if code:
            notes.append(["command", f"command failed with exit code {code}: {command}"])
        return code

    def handler_noted(command, callback, *args, **kwargs):
        def finish(popen):
            out = callback(popen)
            command_ended(command, popen.returncode)
            return out

        return handler(command, finish, *args, **kwargs)

    def task_names():
        return {task.get_coro().__qualname__ for task in asyncio.all_tasks()}

    def overlooked(end):
        if end:
            # asyncio reports a task's error when the task is deleted: never, if it has a name or was a cell's value
            futures = [thing for thing in gc.get_objects() if issubclass(type(thing), asyncio.Future)]
            notes.extend(["task", f"nobody awaited {future!r}"] for future in futures if future._log_traceback)
        threads = [thread for thread in threading.enumerate() if thread not in own_threads]
        return {
            "notes": [notes.pop(0) for _ in notes.copy()],  # one by one: a thread may be adding
            "running": [t.name for t in threads if not t.daemon] + sorted(task_names() - own_tasks),
            "daemons": [t.name for t in threads if t.daemon],
        }

    ip, notes = get_ipython(), []
    # tasks by name, because the kernel creates new ones for each message
    own_threads, own_tasks = threading.enumerate(), task_names()

    print_thread_error, threading.excepthook = threading.excepthook, thread_failed
    Loop = asyncio.BaseEventLoop  # the class, since a thread may run a loop of its own
    print_task_error, Loop.default_exception_handler = Loop.default_exception_handler, task_failed

    # not ip.system and ip.getoutput but what they call: they look up {names} in their caller's frame, which a wrapper is not
    shell = type(ip).system_piped.__globals__
    system, shell["system"] = shell["system"], lambda command: command_ended(command, system(command))
    handler, process.process_handler = process.process_handler, handler_noted

    here_only(lambda what: notes.append(["network", f"tried to reach another machine: {what}"]))  # noqa: F821
    ip.overlooked = overlooked


class Lost(Exception):
    """The kernel can run no more cells."""


class Kernel(RunningKernel):
    """nbval's kernel, checked while it works, and queried after each cell for failures that nbval does not see."""

    lost = None  # why it can run no more cells
    hush = None  # when an interrupted cell has to stop printing

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # {} is its namespace, so that none of its names appears in the lesson's
        self.ask(f"exec({HERE_ONLY + inspect.getsource(watch) + 'watch()'!r}, {{}})")

    def await_reply(self, msg_id, timeout=None):
        """Wait in short steps, because a dead kernel never replies."""
        end = time.monotonic() + timeout
        while True:
            try:
                message = self.get_message("shell", timeout=STEP)
            except Empty:
                if not self.is_alive():
                    raise Lost("the kernel died") from None
            else:
                if message["parent_header"].get("msg_id") == msg_id:
                    self.reply = message["content"]
                    return
            if time.monotonic() > end:
                self.hush = time.monotonic() + GRACE
                raise Empty

    def get_message(self, stream, timeout=None):
        if self.hush and time.monotonic() > self.hush:
            raise Empty  # nbval would wait for an interrupted cell for as long as it prints
        return super().get_message(stream, timeout=timeout)

    def ask(self, expression):
        """The value of an expression that is a literal; it changes neither execution counts nor history nor names."""
        quiet = {"silent": True, "store_history": False, "allow_stdin": False, "stop_on_error": False}
        try:
            self.await_reply(self.kc.execute("", user_expressions={"value": expression}, **quiet), timeout=STUCK)
        except Empty:
            raise Lost(f"the kernel was silent for {STUCK} seconds") from None
        value = self.reply["user_expressions"]["value"]
        if value["status"] != "ok":
            raise Lost(f"the kernel could not be queried: {value['ename']}: {value['evalue']}")
        return literal_eval(value["data"]["text/plain"])

    def after_cell(self, cell):
        reply, tags = self.reply, cell.cell.metadata.get("tags", [])
        notes = self.ask(OVERLOOKED.format(False))["notes"]
        unseen = [text for kind, text in notes if kind != "command" or "raises-exception" not in tags]
        if reply["status"] != "ok" and not cell.options["check_exception"]:  # a wrong %magic publishes no error
            unseen.append(f"{reply.get('ename', reply['status'])}: {reply.get('evalue')}")
        return unseen

    def after_last_cell(self):
        notes, start = [], time.monotonic()
        try:
            while True:
                state = self.ask(OVERLOOKED.format(False))
                notes += state["notes"]
                if time.monotonic() - start >= max((LINGER[what] for what in LINGER if state[what]), default=0):
                    break
                time.sleep(STEP / 2)
            notes += self.ask(OVERLOOKED.format(True))["notes"]
        except Lost as lost:
            notes.append(["kernel", str(lost)])
        return [text for _, text in notes]


plugin.RunningKernel = Kernel


# first, because nbval marks the cells after a timeout as xfail, and pytest would count them as expected failures
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    if not isinstance(item, plugin.IPyNbCell) or item.options["skip"]:
        return (yield)
    kernel, error, unseen = item.parent.kernel, None, []
    if kernel.lost:
        item.raise_cell_error(f"not run: {kernel.lost}")
    kernel.lost = f"{item.name} was cut off"  # stays if ctrl-c ends the run here: a busy kernel cannot be queried
    try:
        yield
    except Exception as exc:
        error = exc
    try:
        if item.parent.timed_out:
            raise Lost("timeout")
        unseen = kernel.after_cell(item)
        kernel.lost = None
    except Lost as lost:
        kernel.lost = f"{lost} in {item.name}"
        unseen = [kernel.lost]
    if isinstance(error, plugin.NbCellError) or (error and not kernel.lost):
        raise error
    if unseen:
        item.raise_cell_error("\n".join(unseen))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    late = []
    if isinstance(item, plugin.IPyNbCell) and (nextitem is None or nextitem.parent is not item.parent):
        kernel = item.parent.kernel
        late = kernel.after_last_cell() if kernel and not kernel.lost else []
    yield
    if late:
        pytest.fail("after the last cell: " + "\n".join(late), pytrace=False)
