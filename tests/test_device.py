"""Device, precision and folders, and the environment variables that override them."""

import os
from pathlib import Path

import pytest
import torch
from oracle import refused

from facelab import device


def test_the_device_is_the_one_named_or_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("FACELAB_DEVICE", raising=False)
    assert device.device() == torch.device("cuda")
    monkeypatch.setenv("FACELAB_DEVICE", "cpu")
    assert device.device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("FACELAB_DEVICE", "cuda:1")
    with refused("FACELAB_DEVICE='cuda:1' is not available here: use .*cpu"):
        device.device()


@pytest.mark.parametrize(("faster", "dtype"), [(4.0, torch.bfloat16), (0.1, torch.float32)])
def test_precision_on_a_cpu_is_measured_once(monkeypatch, faster, dtype):
    measured = iter([1.0 / faster, 1.0])
    monkeypatch.delenv("FACELAB_PRECISION", raising=False)
    monkeypatch.setattr(device.timeit, "repeat", lambda *args, **kwargs: [next(measured)])
    device._cpu_precision.cache_clear()
    try:
        assert device.precision("cpu") == dtype == device.precision("cpu")
    finally:
        device._cpu_precision.cache_clear()


def test_precision_of_gpus_and_from_the_environment(monkeypatch):
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert device.precision("cuda") == dtype
    assert device.precision("mps") == torch.float32
    for name in ("float32", "bfloat16"):
        monkeypatch.setenv("FACELAB_PRECISION", name)
        assert device.precision("cpu") == getattr(torch, name) and f", {name};" in device.machine()
    monkeypatch.setenv("FACELAB_PRECISION", "half")
    with refused("FACELAB_PRECISION must be float32 or bfloat16, got 'half'"):
        device.precision("cpu")


def test_data_are_looked_for_in_named_folders_then_in_the_cache(monkeypatch, tmp_path):
    cache, data, more = (tmp_path / name for name in ("cache", "data", "more"))
    for folder in (cache / "mnist", data / "sub", data / ".hidden", more / "x"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("FACELAB_CACHE", str(cache))
    monkeypatch.setenv("FACELAB_DATA", os.pathsep.join(map(str, (data, more))))
    assert device.data_dirs() == [data, data / "sub", more, more / "x", cache, cache / "mnist"]
    assert device.cache_dir() == cache
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        monkeypatch.setenv("FACELAB_DATA", str(tmp_path / name))
        with pytest.raises(ValueError, match=f"FACELAB_DATA names .*{name}, which has no files"):
            device.data_dirs()


def test_without_a_clone_everything_is_in_the_package_and_the_home(monkeypatch, tmp_path):
    assert device.is_clone() and device.shipped_dir() == device.ROOT / "data/pretrained"
    monkeypatch.setattr(device, "ROOT", tmp_path)
    monkeypatch.delenv("FACELAB_CACHE", raising=False)
    assert device.cache_dir() == Path.home() / ".cache/facelab"
    assert device.shipped_dir("results") == Path(device.__file__).parent / "_results"


def test_nothing_is_downloaded_offline(monkeypatch):
    with refused("weights must be downloaded, but FACELAB_OFFLINE is set"):
        device.check_online("weights")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("FACELAB_OFFLINE", "0")
    device.check_online("weights")
