"""MNIST from the official files, from a download, or embedded."""

import functools
import gzip
import hashlib
import http.server
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from oracle import serving

from facelab.data import mnist as module
from facelab.data.mnist import FILES, mnist, mnist_available


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Small files in the official form, with their checksums."""
    rng, folder, known = np.random.default_rng(0), tmp_path / "official", {}
    folder.mkdir()
    for name in FILES:
        count = 60 if "train" in name else 20
        if "images" in name:
            body = struct.pack(">4i", 2051, count, 28, 28) + rng.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
        else:
            body = struct.pack(">2i", 2049, count) + (np.arange(count) % 10).astype(np.uint8).tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(body, mtime=0))
        known[name] = hashlib.md5(body).hexdigest()
    monkeypatch.setattr(module, "FILES", known)
    monkeypatch.setenv("FACELAB_DATA", str(folder))
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    return folder


def test_the_official_files_are_read(official):
    before = sorted(official.rglob("*"))
    digits = mnist("train")
    assert len(digits) == 60 and digits.shape == (1, 28, 28) and digits.name == "mnist" and mnist_available()
    assert digits.classes().tolist() == [i % 10 for i in range(60)] and len(mnist("test")) == 20
    raw = gzip.decompress((official / "train-images-idx3-ubyte.gz").read_bytes())[16 : 16 + 784]
    assert digits.images[0].flatten().tolist() == list(raw)
    assert sorted(official.rglob("*")) == before, "nothing is written into FACELAB_DATA"


@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw"])
def test_unpacked_files_one_folder_down_and_in_torchvisions_layout(official, tmp_path, monkeypatch, inside):
    folder = tmp_path / "other" / inside
    folder.mkdir(parents=True, exist_ok=True)
    for packed in official.glob("*.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "other"))
    assert mnist("test").name == "mnist"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "html", "empty"])
def test_a_damaged_file_is_named_in_one_sentence(official, damage):
    file = official / "t10k-images-idx3-ubyte.gz"
    body = file.read_bytes()
    flipped = body[:-200] + bytes([body[-200] ^ 1]) + body[-199:]
    damaged = {"truncated": body[: len(body) // 2], "html": b"<html>quota</html>", "empty": b"", "flipped": flipped}
    file.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged.*delete it") as error:
        mnist("test")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        mnist("valid")


def test_without_files_the_embedded_digits_are_used_and_say_so(no_data):
    train, test = mnist("train"), mnist("test")
    assert (len(train), len(test)) == (4000, 1000) and train.name == test.name == "mnist-5000" and not mnist_available()
    assert "4,000 of the 5,000 embedded" in train.source and "no official MNIST files in FACELAB_DATA" in train.source
    assert test.classes().bincount().tolist() == [100] * 10 and train.classes()[:100].unique().numel() == 10
    # The same images in the same order as in earlier releases, from which recorded results come.
    assert (train.key, test.key) == ("380e6d2eaa4cabaf", "57d8b88455976212")


def test_offline_a_download_warns_and_the_embedded_digits_are_used(no_data):
    with pytest.warns(UserWarning, match="MNIST could not be downloaded.*FACELAB_OFFLINE.*5,000 embedded digits"):
        digits = mnist("test", download=True)
    assert digits.name == "mnist-5000" and "the download failed" in digits.source


def test_a_download_is_made_once(official, no_data, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(official))
    resources = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in sorted(official.glob("*.gz"))]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(module, "check_online", lambda what: None)
    with serving(handler) as server:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        assert mnist("test", download=True).name == "mnist"
    assert mnist("train", download=True).name == mnist("train").name == "mnist", "without the server"


def test_the_files_in_facelab_data_are_the_official_ones():
    folders = [Path(one) for one in os.environ.get("FACELAB_DATA", "").split(os.pathsep) if one]
    if not any(folder.glob("**/train-images-idx3-ubyte*") for folder in folders):
        pytest.skip("no official MNIST files in FACELAB_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        digits = mnist("test")
    assert "10,000 official" in digits.source and digits.classes()[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.equal(digits.conds.sum(1), torch.ones(10_000, dtype=torch.int64))
