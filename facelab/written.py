"""Files that are whole or not there at all: written beside their place, put there by one rename."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def whole(file: Path | str) -> Iterator[Path]:
    """A path beside `file` to write to. When the block ends it is renamed to `file`; where it fails, `file` is what it was.

    Raises:
        OSError: where it cannot be written; one sentence with the way out.
    """
    file = Path(file)
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, file)
    except (OSError, SafetensorError) as failed:  # safetensors has a word of its own for a full disk
        why = getattr(failed, "strerror", None) or failed
        raise OSError(f"{file} could not be written ({why}): make room there, or choose another folder.") from failed
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
