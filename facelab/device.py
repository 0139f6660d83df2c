"""This machine: device and arithmetic precision, folders, downloads; FACELAB_DEVICE, _PRECISION, _DATA, _CACHE, _OFFLINE."""

import contextlib
import functools
import hashlib
import os
import platform
import timeit
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError

ROOT = Path(__file__).resolve().parent.parent


def device() -> torch.device:
    """FACELAB_DEVICE, else the first that is available of cuda, mps and cpu."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, found in available.items() if found]
    name = os.environ.get("FACELAB_DEVICE") or usable[0]
    if name.split(":")[0] not in usable:
        raise ValueError(f"FACELAB_DEVICE={name!r} is not available here: use {' or '.join(usable)}.")
    return torch.device(name)


def precision(kind: str | None = None) -> torch.dtype:
    """The dtype of a network's arithmetic on this kind of device; its weights stay float32.

    CUDA: bfloat16, or float16 before compute capability 8. CPU: FACELAB_PRECISION, else bfloat16 where it multiplies
    matrices at least 1.5 times faster than float32 (on some CPUs it is 16 times slower). Otherwise float32.
    """
    kind = kind or device().type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return _cpu_precision(os.environ.get("FACELAB_PRECISION", "")) if kind == "cpu" else torch.float32


@functools.cache
def _cpu_precision(name: str) -> torch.dtype:
    if name not in ("", "float32", "bfloat16"):
        raise ValueError(f"FACELAB_PRECISION must be float32 or bfloat16, got {name!r}.")
    a, b = torch.ones(320, 320), torch.ones(320, 320, dtype=torch.bfloat16)
    fast = not name and 1.5 * min(timeit.repeat(lambda: b @ b, number=1)) < min(timeit.repeat(lambda: a @ a, number=1))
    return torch.bfloat16 if fast or name == "bfloat16" else torch.float32


def machine() -> str:
    """One line for cards and records: processor, threads, precision, versions."""
    here = device()
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    chip = torch.cuda.get_device_name(here) if here.type == "cuda" else cpu
    kind = str(precision(here.type)).removeprefix("torch.")
    return f"{here.type}: {chip}, {kind}; Python {platform.python_version()}, torch {torch.__version__}"


def is_clone() -> bool:
    """Whether facelab runs from a clone of its repository, not from an installed wheel."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "notebooks").is_dir()


def cache_dir() -> Path:
    """Where everything is written: FACELAB_CACHE, else the clone's data/cache, else ~/.cache/facelab."""
    default = ROOT / "data/cache" if is_clone() else Path.home() / ".cache/facelab"
    return Path(os.environ.get("FACELAB_CACHE") or default).expanduser()


def data_dirs() -> list[Path]:
    """Where data are looked for: the folders of FACELAB_DATA, then the cache, each followed by its subfolders."""
    names = os.environ.get("FACELAB_DATA", "").split(os.pathsep)
    folders = [Path(name).expanduser().resolve() for name in names if name]
    for folder in folders:
        if not folder.is_dir() or not any(folder.iterdir()):
            raise ValueError(f"FACELAB_DATA names {folder}, which has no files: put the data there, or unset it.")
    there = [folder for folder in (*folders, cache_dir()) if folder.is_dir()]
    return [place for f in there for place in (f, *sorted(p for p in f.glob("[!.]*") if p.is_dir()))]


def shipped_dir(kind: str = "pretrained") -> Path:
    """The shipped weights, or the recorded `results`: in the clone, or inside the installed package."""
    return ROOT / "data" / kind if is_clone() else Path(__file__).resolve().parent / f"_{kind}"


def check_online(what: str) -> None:
    """Raise where `what` may not be downloaded: while FACELAB_OFFLINE is set, and in tests."""
    if os.environ.get("FACELAB_OFFLINE", "0") not in ("", "0") or "PYTEST_CURRENT_TEST" in os.environ:
        raise ValueError(f"{what} must be downloaded, but FACELAB_OFFLINE is set: unset it or use FACELAB_DATA.")


def digest(file: Path | str) -> str:
    """The sha256 of a file in hexadecimal."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(file: Path | str, temporary: str | None = None) -> Iterator[Path]:
    """A temporary path beside `file` to write to, renamed to `file` when the block ends; on failure `file` is unchanged.

    Processes may write the same file at once, unless they agree on the name `temporary`.
    """
    file = Path(file)
    part = file.with_name(temporary or f".{file.stem}-{os.getpid()}{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, file)
    except FileNotFoundError:  # of another file, because the folder exists
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by an error of its own
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{file} could not be written ({reason}): free some space or choose another folder.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
