"""What is computed once and kept, batch by batch: a run that was stopped goes on, and several processes share the work.

Each batch is a file whose name tells all that it depends on. Who finds it there goes on to the next; who finds another process
at work on it takes another batch first, and waits at the end. So processes need not know of each other: `torchrun
--nproc_per_node 4 -m facelab evaluate ...` shares the work, and so does the same command in two terminals.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from facelab.written import whole


def name_of(*words, tensors: Sequence[Tensor] = ()) -> str:
    """24 digits that name exactly these words and these tensors."""
    told = hashlib.sha256(repr((words, [(tuple(x.shape), x.dtype) for x in tensors])).encode())
    for x in tensors:
        for part in x.split(4096) if x.ndim else [x]:  # a memory map is not brought into memory as a whole
            told.update(part.cpu().contiguous().numpy())
    return told.hexdigest()[:24]


def keep(folder: Path, jobs: dict[str, Callable[[], Tensor]], bar: tqdm | None = None) -> dict[str, Path]:
    """{name: the file that holds what its job gives}, for `kept`; a job is called only where nobody has done it.

    Args:
        folder: one that belongs to whatever the names do not tell.
        jobs: name -> what computes one batch (B, ...), the same in every process.
        bar: moves by B for each batch that is there.

    Raises:
        OSError: where the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{os.getpid()}"
        beside.touch()
        beside.unlink(missing_ok=True)  # another thread of this process tries the folder by the same name
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}): let FACELAB_CACHE name another folder."
        ) from error
    files = {name: folder / f"{name}.safetensors" for name in jobs}
    left = dict(files)
    for patience in (0, -1):  # first what is free, then what others had in hand
        for name, file in list(left.items()):
            lock = file.with_suffix(".lock")
            if not _length(file):
                try:
                    with FileLock(lock, timeout=patience):
                        if not _length(file):
                            rows = jobs[name]().cpu().contiguous()
                            with whole(file) as beside:
                                save_file({"kept": rows}, beside, metadata={"sha256": _sha256(rows)})
                        # Whoever still waits for this lock looks for the file first.
                        with contextlib.suppress(OSError):
                            lock.unlink()
                except Timeout:
                    continue
            del left[name]
            if bar is not None:
                bar.update(_length(file))
    return files


def kept(file: Path) -> Tensor:
    """What one of these files holds."""
    return load_file(file)["kept"]


def _length(file: Path) -> int:
    """How many rows a whole file holds; 0 where there is none, or a damaged one."""
    with contextlib.suppress(OSError, SafetensorError):
        with safe_open(file, "pt") as opened:
            rows, told = opened.get_tensor("kept"), (opened.metadata() or {}).get("sha256")
            # What an earlier version kept tells none.
            return len(rows) if told in (None, _sha256(rows)) else 0
    return 0


def _sha256(rows: Tensor) -> str:
    return hashlib.sha256(rows.numpy()).hexdigest()
