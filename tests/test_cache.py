"""Files are complete or absent; images are prepared once, and memory-mapped."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from facelab.data import cache
from facelab.data.cache import NoImages, cached_images
from facelab.device import atomic_write


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path))
    return tmp_path / "prepared"


def build(count=5, announced=5):
    rows = ((np.full((1, 2, 2), i, np.uint8), np.array([1, -1], np.int8)) for i in range(count))
    return lambda: (announced, rows)


def test_a_file_is_written_completely_or_stays_as_it_was(tmp_path):
    file = tmp_path / "deep" / "file.txt"
    with atomic_write(file) as temporary:
        temporary.write_text("first")
        assert not file.exists()
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), atomic_write(file) as temporary:
            temporary.write_text("half")
            raise error
    with pytest.raises(OSError, match=r"file\.txt could not be written \(No space left on device\): free some space"):
        with atomic_write(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert file.read_text() == "first" and os.listdir(file.parent) == ["file.txt"]


def test_images_are_built_once_and_read_by_memory_map(folder):
    images, conds, key = cached_images("test-v1", (1, 2, 2), build())
    assert images.flatten(1)[:, 0].tolist() == [0, 1, 2, 3, 4] and conds.tolist() == [[1, -1]] * 5
    again, _, same = cached_images("test-v1", (1, 2, 2), lambda: pytest.fail("built again"))
    assert torch.equal(again, images) and same == key and len(key) == 16
    fewer, conds, _ = cached_images("test-v2", (1, 2, 2), build(3))
    assert len(fewer) == len(conds) == 3, "fewer than announced, where some cannot be read"
    assert cached_images("test-v3", (1, 2, 2), build())[2] == key, "the key is the content's"
    again[0] = 9
    assert cached_images("test-v1", (1, 2, 2), build())[0][0, 0, 0, 0] == 0, "the file cannot be changed by accident"

    for damaged in ("test-v1.npy", "test-v1.npz"):
        (folder / damaged).write_bytes((folder / damaged).read_bytes()[:100])
        images = cached_images("test-v1", (1, 2, 2), build())[0]
        assert images.flatten(1)[:, 0].tolist() == [0, 1, 2, 3, 4], "built again"


def test_no_image_an_interruption_and_a_full_disk_leave_nothing(folder, monkeypatch, capsys):
    for count in (0, 3):
        with pytest.raises(NoImages):
            cached_images("test", (1, 2, 2), lambda count=count: (count, ()))
        assert ("preparing" in capsys.readouterr().err) == bool(count), "no progress bar of 0 images"

    def interrupted():
        yield from build(2)()[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_images("test", (1, 2, 2), lambda: (5, interrupted()))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="has no room for 5 images: free some space or set FACELAB_CACHE"):
        cached_images("test", (1, 2, 2), build())
    assert os.listdir(folder) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
def test_reading_images_does_not_fill_the_memory():
    def anonymous():
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    count, pixels = 8000, np.arange(3 * 64 * 64).astype(np.uint8).reshape(3, 64, 64)
    rows = ((pixels, np.ones(2, np.int8)) for _ in range(count))
    images, _, _ = cached_images("many", pixels.shape, lambda: (count, rows))
    images[:50].float()
    before = anonymous()
    for start in range(0, count, 50):
        images[start : start + 50].float()
    assert anonymous() - before < 50, "98 MB of pixels must stay on the disk"
