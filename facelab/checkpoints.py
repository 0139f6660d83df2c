"""Checkpoints: the last two of a run, whole or not there at all (used by train.py; lesson 02 stops and resumes a run).

A checkpoint is one safetensors file: weights, average, moments and losses, with settings and place as JSON in its header.
Nothing in it can run, one rename puts it in its place, and its name carries its sha256, so a damaged one is recognised.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from facelab.data import Pictures
from facelab.download import digest
from facelab.plan import Recipe


class Shelf:
    """The last two checkpoints of a run. A checkpoint is one safetensors file (nothing in it can run) with settings and
    place as JSON in its header; its name carries its sha256, so a damaged one is recognised, and one rename puts it there.
    """

    def __init__(self, folder, copy_to, net, recipe, pictures):
        self.folder = Path(folder)
        self.copies = Path(copy_to) / self.folder.name if copy_to else None
        self.about = {
            "net": type(net).__name__,
            "settings": net.settings(),
            "recipe": dataclasses.asdict(recipe),
            "data": pictures.key,
        }
        self.last: Path | None = None

    def _files(self) -> list[Path]:
        """Newest first, the shelf's own before its copies."""
        folders = [self.folder, *([self.copies] if self.copies else [])]
        found = [file for folder in folders if folder.is_dir() for file in folder.glob("step-*-*.safetensors")]
        return sorted(found, key=lambda file: (-int(file.name.split("-")[1]), file.parent != self.folder))

    def clear(self) -> None:
        for file in self._files():
            file.unlink(missing_ok=True)

    def put(self, tensors: dict, place: dict) -> None:
        """Write beside, sync, rename; keep this one and the one before. `place` holds the step and what else it takes."""
        about = {name: json.dumps(value) for name, value in (self.about | {"place": place}).items()}
        beside = self.folder / f".writing-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, beside, metadata=about)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            self.last = self.folder / f"step-{place['step']:09d}-{digest(beside)}.safetensors"
            os.replace(beside, self.last)
            _sync(self.folder)
        except Exception as failed:
            raise ValueError(
                f"no checkpoint could be written to {self.folder} ({failed}): free some space there, or set FACELAB_CACHE."
            ) from failed
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        for old in [file for file in self._files() if file.parent == self.folder][2:]:
            old.unlink(missing_ok=True)
        self._sweep()
        if self.copies:
            self._copy()

    def _sweep(self) -> None:
        """What a killed process had begun to write; an hour old, so that nobody is still at it."""
        # safetensors itself writes to .tmp and some letters, then renames.
        for left in (*self.folder.glob(".writing-*"), *self.folder.glob(".tmp*")):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink()

    def _copy(self) -> None:
        """A whole copy under a temporary name first: a network drive may lose what is being written."""
        beside = self.copies / f".copying-{os.getpid()}"
        try:
            self.copies.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.last, beside)
            os.replace(beside, self.copies / self.last.name)
            for old in sorted(self.copies.glob("step-*.safetensors"))[:-2]:
                old.unlink(missing_ok=True)
        except OSError as failed:
            warnings.warn(f"no copy of the checkpoint could be made in {self.copies} ({failed}).", stacklevel=2)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    def newest(self) -> tuple[tuple[dict, dict] | None, str]:
        """(tensors, place) of the newest whole checkpoint, or None; and what there is to say about it."""
        damaged = []
        for file in self._files():
            try:
                about, tensors = _whole(file)
            except FileNotFoundError:  # another process has tidied up
                continue
            except (OSError, SafetensorError, ValueError):
                damaged.append(file.name)
                continue
            self._compare(file, about)
            self.last, place, steps = file, about["place"], about["recipe"]
            done = place["step"] >= Recipe(**steps).steps
            note = f"finished earlier, loaded from {file.parent.name}" if done else f"resumed at step {place['step']}"
            if damaged:
                note += f" ({', '.join(damaged)} is damaged, so the checkpoint before it is used)"
                warnings.warn(note, stacklevel=2)
            return (tensors, place), note
        if damaged:
            warnings.warn(f"every checkpoint in {self.folder} is damaged: training starts over.", stacklevel=2)
        return None, ""

    def _compare(self, file: Path, about: dict) -> None:
        for name, value in json.loads(json.dumps(self.about)).items():
            if about[name] != value:
                differ = [k for k in value if about[name].get(k) != value[k]] if isinstance(value, dict) else [name]
                raise ValueError(
                    f"{file} is a checkpoint of another run: its {name} differs in {', '.join(differ)}; choose another "
                    "folder, or fresh=True to start over."
                )


def _whole(file: Path) -> tuple[dict, dict]:
    """(what the header tells, tensors); a ValueError where the bytes are not those that its name tells, or are no checkpoint."""
    if not digest(file).startswith(file.stem.split("-")[2]):
        raise ValueError(f"{file} is damaged.")
    with safe_open(file, "pt") as opened:
        about = {name: json.loads(value) for name, value in (opened.metadata() or {}).items()}
        if not {"net", "settings", "recipe", "data", "place"} <= about.keys():
            raise ValueError(f"{file} is no checkpoint.")
        return about, {name: opened.get_tensor(name) for name in opened.keys()}


def _sync(folder: Path) -> None:
    # The rename itself must reach the disk too; Windows cannot open a folder and needs no such thing.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def run_name(net, pictures: Pictures, recipe: Recipe) -> str:
    """A folder's name that is a function of settings, data and seed."""
    about = [type(net).__name__, net.settings(), dataclasses.asdict(recipe), pictures.key]
    return f"{type(net).__name__.lower()}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}"
