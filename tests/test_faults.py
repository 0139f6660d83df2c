"""What goes wrong on a machine: kills, full and read-only disks, two at once, damaged files, Ctrl-C. Each ends in one
sentence; nothing is lost, nothing is half written, no code is run.

The moments are random and their seeds printed: FACELAB_SEED=N brings them back. A few are tried each time, all of them with
`pytest -m slow`. What other tests hold already is listed in `ELSEWHERE`, and not done again.
"""

import contextlib
import io
import json
import os
import pickle
import random
import re
import signal
import subprocess
import threading
import time
import traceback
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm.auto
import tqdm.std
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train import equal, pictures, tiny

from facelab import evaluate, features, photo, plots, pretrained
from facelab.__main__ import main
from facelab.checkpoints import Shelf
from facelab.download import digest
from facelab.kept import keep, kept
from facelab.model import AttributeClassifier
from facelab.plan import Recipe
from facelab.prepared import prepared
from facelab.recording import Recording, load_recording
from facelab.train import fit, training

resource = pytest.importorskip("resource", reason="Windows has neither fork nor limits for files")
TESTS = Path(__file__).parent
SEED = int(os.environ.get("FACELAB_SEED", random.SystemRandom().randrange(10**6)))
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot copy a running process")
SENTENCE = (ValueError, OSError)


@pytest.fixture(autouse=True)
def seed_is_told():
    print(f"FACELAB_SEED={SEED}")


# Where the rest of it is held. A name that has gone makes this fail.

ELSEWHERE = {
    "download refused": "test_download test_every_address_is_named_with_its_reason_in_order",
    "download stalled": "test_download test_a_stall_in_the_middle",
    "download cut": "test_download test_a_cut_is_resumed_where_it_happened",
    "download 404, 403, wrong length, redirect loop, wrong content": "test_download test_reasons",
    "download interrupted": "test_download test_an_interrupt_keeps_what_has_come",
    "download, disk full": "test_download test_a_full_disk",
    "download, two processes": "test_download test_two_processes_fetch_once",
    "data truncated, flipped, HTML, empty": "test_data test_a_damaged_file_is_named_in_one_sentence_with_the_way_out",
    "picture truncated, HTML, empty, of another size": "test_celeba test_what_cannot_be_used_is_named_in_one_warning",
    "zip bomb, flipped bit in a zip": "test_celeba test_zip_bombs_flipped_bytes_and_locked_members_are_left_out",
    "zip bomb that lies": "test_celeba test_however_much_would_come_out_no_more_than_the_limit_is_unpacked",
    "path traversal in a zip": "test_celeba test_a_zip_under_any_folder_name_and_nothing_is_unpacked",
    "list with CRLF": "test_celeba test_lists_in_every_form",
    "list with a missing row": "test_celeba test_a_wrong_list_is_named_with_its_line",
    "preparation interrupted": "test_celeba test_an_interrupted_preparation_leaves_nothing_behind",
    "checkpoint damaged": "test_train test_a_damaged_checkpoint_gives_way_to_the_one_before_and_it_is_said",
    "checkpoint of another net": "test_train test_a_checkpoint_of_another_net_is_refused_and_kept",
    "training interrupted at each stage": "test_train test_an_interrupt_at_any_moment_loses_nothing",
    "measuring interrupted": "test_evaluate test_what_was_drawn_and_seen_is_reused_and_a_kill_loses_one_batch",
    "scoring weights that could run code": "test_features test_weights_of_another_sha256_are_never_opened",
    "upload of too many bytes": "test_photo test_a_file_too_large_is_not_read_to_its_end",
    "upload of too many pixels, or no picture": "test_photo test_what_is_no_picture_gets_one_sentence",
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_it_is_held_where_it_is_said_to_be(what):
    file, name = ELSEWHERE[what].split()
    assert re.search(rf"^def {name}\(", (TESTS / f"{file}.py").read_text("utf-8"), re.M)


# Everything that is written, each small and the same every time: {what: (write it into a folder, how much it is)}


def few():
    """In place of a training's tensors."""
    return {"w": torch.arange(6_000.0), "losses": torch.ones(3, dtype=torch.float64)}


def checkpoint(folder):
    Shelf(folder, None, tiny(), Recipe(8), pictures()).put(few(), {"step": 3})


def batches(folder):
    keep(folder, {f"{i}": lambda i=i: torch.arange(3_000.0) + i for i in range(3)})


def pixels(folder):
    rows = [(f"{i}", np.full((3, 16, 16), i, np.uint8), np.ones(4, np.int8)) for i in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACELAB_CACHE", str(folder))
        prepared("some", "1", lambda: (40, rows), "pictures")


def eyes(folder):
    about = {"data": "noise", "crop": "none", "extractor": "none"}
    features.save_features(folder / "some.safetensors", torch.arange(8_000.0).reshape(100, 80), about)


def recording(folder):
    Recording(torch.ones(9), torch.tensor([1, 9]), torch.zeros(2, 10, 3, 16, 16, dtype=torch.uint8)).save(
        folder / "some.safetensors"
    )


def weights(folder):
    pretrained.save(AttributeClassifier((1, 8, 8), channels=(16, 16), exclusive=True), folder, {"what": "a test"})


def table(folder):
    told = Namespace(each=1, count=2, steps=1, out=folder, what=["noise"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(evaluate.PARTS, "noise", lambda told: ("noise", {"rows": list(range(3_000))}, "shown"))
        patch.setattr(evaluate.time, "strftime", lambda form: "today")
        evaluate.run(told)


def drawing(folder):
    luck = torch.Generator().manual_seed(0)
    folder.mkdir(exist_ok=True)
    photo.save_png(torch.rand(3, 64, 64, generator=luck), folder / "some.png")


def illustration(folder):
    luck = torch.Generator().manual_seed(0)
    plots.show(torch.rand(4, 3, 64, 64, generator=luck)).save(folder / "some.png")


WRITERS = {
    write.__name__: write
    for write in (checkpoint, batches, pixels, eyes, recording, weights, table, drawing, illustration)
}


def contents(folder: Path) -> dict[str, object]:
    """{name: what is in it}, of all files but locks, by which processes wait for each other."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".lock":
            name = str(file.relative_to(folder))
            if file.suffix == ".safetensors" and not file.name.startswith("."):  # the order of what it tells varies
                if name.startswith("step-"):
                    name, _, told = name.removesuffix(".safetensors").rpartition("-")
                    assert digest(file) == told, "a checkpoint's name tells its sha256"
                with safe_open(file, "pt") as opened:
                    found[name] = opened.metadata(), {key: opened.get_tensor(key).tolist() for key in opened.keys()}
            elif file.suffix == ".npz":  # it tells the time as well
                with np.load(file, allow_pickle=False) as inside:
                    found[name] = {part: inside[part].tolist() for part in inside}
            else:
                found[name] = file.read_bytes()
    return found


def whole_or_absent(folder: Path, right: dict) -> None:
    found = contents(folder)
    assert found.items() <= right.items(), f"half written: {sorted(n for n in found if found[n] != right.get(n))}"


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """{writer: what it writes where nothing goes wrong}"""
    found = {}
    for name, write in WRITERS.items():
        write(folder := tmp_path_factory.mktemp(name))
        found[name] = contents(folder)
        assert found[name]
    return found


# Full and read-only disks. A disk of one megabyte where one can be mounted (as root on Linux); elsewhere no file may grow
# beyond what is left, which stops the same writes, and a folder that nobody may write into.

DISK = 1 << 20


class Disk:
    def __init__(self, top: Path):
        self.top = top
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(top)]
        with contextlib.suppress(OSError):
            self.mounted = subprocess.run(mount, capture_output=True).returncode == 0

    mounted = False

    @contextlib.contextmanager
    def with_room_for(self, room: int):
        if self.mounted:
            filler, used = self.top / "filler", sum(f.stat().st_size + 4095 for f in self.top.rglob("*") if f.is_file())
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as out:
                while room == 0 or out.tell() < DISK - used - room:
                    out.write(b"\0" * 4096)
            try:
                yield
            finally:
                filler.unlink()
        else:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @contextlib.contextmanager
    def read_only(self, folder: Path):
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(self.top)], check=True, capture_output=True)
        else:
            folder.chmod(0o555)
            if os.access(folder, os.W_OK):
                pytest.skip("nothing is read-only to this user, and no disk can be mounted")
        try:
            yield
        finally:
            if self.mounted:
                subprocess.run(["mount", "-o", "remount,rw", str(self.top)], check=True, capture_output=True)
            else:
                folder.chmod(0o755)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    disk = Disk(tmp_path_factory.mktemp("disk"))
    yield disk
    if disk.mounted:
        subprocess.run(["umount", "-l", str(disk.top)], check=True)


@pytest.fixture
def folder(disk, request):
    """An empty folder on that disk."""
    folder = disk.top / "here"
    folder.mkdir()
    yield folder
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()


def refused(write, folder) -> str:
    with pytest.raises(SENTENCE) as told, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(folder)
    message = str(told.value)
    assert "\n" not in message and str(folder) in message and re.search("space|room|writable|another folder", message)
    return message


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_nothing_is_half_written(disk, folder, right, name):
    for room in (0, 4096):
        with disk.with_room_for(room):
            refused(WRITERS[name], folder)
        whole_or_absent(folder, right[name])
    WRITERS[name](folder)
    assert contents(folder) == right[name], "and where there is room again, all is written"


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_there_outlives_a_full_disk(disk, folder, right, name):
    WRITERS[name](folder)
    before = contents(folder)
    with disk.with_room_for(0), contextlib.suppress(*SENTENCE):
        WRITERS[name](folder)
    assert contents(folder) == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_is_one_sentence(disk, folder, right, name):
    with disk.read_only(folder):
        refused(WRITERS[name], folder)
    whole_or_absent(folder, right[name])


def test_a_copy_on_a_full_disk_is_a_warning_and_training_goes_on(disk, folder, tmp_path):
    shelf = Shelf(tmp_path / "run", folder, tiny(), Recipe(8), pictures())
    with disk.with_room_for(0), pytest.warns(UserWarning, match="no copy of the checkpoint could be made"):
        shelf.put(few(), {"step": 3})
    assert len(contents(tmp_path)) == 1 and contents(folder) == {}


# Kills and interrupts at random moments


RECIPE = Recipe(8 * 30, batch=8, ema=0.9)


def train_on(folder):
    return fit(tiny(), pictures(), RECIPE, keep=folder, every=0.0, progress=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(the averaged net, its losses, seconds that it took)"""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    return *train_on(folder), time.monotonic() - started


def apart() -> None:
    """In a copy of this process: tqdm's lock is shared with the original, which would wait for ever for one that died with it."""
    for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):
        bar.set_lock(threading.RLock())


def killed(work, after: float) -> bool:
    """Whether kill -9 came before `work` was done, in a copy of this process."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            apart()
            work()
        os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kills(tmp_path, undisturbed, count):
    net, losses, seconds = undisturbed
    luck, landed, tried = random.Random(SEED), 0, 0
    while landed < count and tried < 4 * count:
        tried += 1
        folder = tmp_path / f"{tried}"
        landed += killed(lambda folder=folder: train_on(folder), luck.uniform(0, seconds))
        again, heard = train_on(folder)
        assert equal(again, net) and heard == losses, f"FACELAB_SEED={SEED}, kill {tried}"
        left = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
        assert len(left) == 2, left
    assert landed == count, f"only {landed} of {tried} kills came in time"


@FORKS
def test_a_training_killed_at_random_moments_ends_in_the_same_bits(tmp_path, undisturbed):
    kills(tmp_path, undisturbed, 2)


@FORKS
@pytest.mark.slow
def test_a_training_killed_twenty_times_ends_in_the_same_bits(tmp_path, undisturbed):
    kills(tmp_path, undisturbed, 20)


@pytest.mark.parametrize("begun", [".writing-1", ".tmpHxrRpM"])
def test_what_a_kill_left_is_swept_later(tmp_path, begun):
    old, new = tmp_path / begun, tmp_path / f"{begun}-2"
    old.write_bytes(b"half")
    new.write_bytes(b"somebody is at it")
    os.utime(old, (0, 0))
    checkpoint(tmp_path)
    assert not old.exists() and new.exists()


def disturbed(name, folder, right, seconds, luck, how):
    how(lambda: WRITERS[name](folder), luck.uniform(0, 1.2 * seconds))
    found = {n: content for n, content in contents(folder).items() if Path(n).suffix != ".part" and n[0] != "."}
    found = {n: content for n, content in found.items() if "/." not in n}
    assert found.items() <= right.items(), f"FACELAB_SEED={SEED}: {name} is half written"
    WRITERS[name](folder)
    again = contents(folder)
    assert right.items() <= again.items(), f"FACELAB_SEED={SEED}: {name} is not whole afterwards"


def interrupted(work, after: float) -> None:
    """Ctrl-C after so many seconds, in a copy of this process: what else it reaches (a lock, a fork's hooks) goes with it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            apart()
            work()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            code = 0
        except KeyboardInterrupt:
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    time.sleep(after)
    os.kill(child, signal.SIGINT)
    assert os.waitpid(child, 0)[1] == 0, "Ctrl-C ended in another error, told above"


def many(name, tmp_path, right, how, count):
    started = time.monotonic()
    WRITERS[name](tmp_path / "first")
    seconds, luck = time.monotonic() - started, random.Random(SEED)
    for i in range(count):
        disturbed(name, tmp_path / f"{i}", right[name], seconds, luck, how)


@FORKS
@pytest.mark.parametrize("name", WRITERS)
def test_kills_leave_nothing_half_written(tmp_path, right, name):
    many(name, tmp_path, right, killed, 2)


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_twenty_kills_leave_nothing_half_written(tmp_path, right, name):
    many(name, tmp_path, right, killed, 20)


@FORKS
@pytest.mark.parametrize("name", WRITERS)
def test_ctrl_c_leaves_nothing_half_written(tmp_path, right, name):
    many(name, tmp_path, right, interrupted, 3)


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_twenty_times_ctrl_c_leaves_nothing_half_written(tmp_path, right, name):
    many(name, tmp_path, right, interrupted, 20)


@FORKS
def test_ctrl_c_at_random_moments_of_a_training_loses_nothing(tmp_path, undisturbed):
    net, losses, seconds = undisturbed
    luck = random.Random(SEED)
    for _ in range(4):
        interrupted(lambda: train_on(tmp_path), luck.uniform(0, seconds / 3))
    again, heard = train_on(tmp_path)
    assert equal(again, net) and heard == losses, f"FACELAB_SEED={SEED}"


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (("sample", "7"), "facelab.__main__.sample"),
        (("sample", "7"), "facelab.photo.save_png"),
        (("sample", "7"), "facelab.pretrained.load"),
        (("train", "digits", "--plan", "ci", "--out"), "facelab.data.mnist"),
        (("train", "digits", "--plan", "ci", "--out"), "facelab.train.training"),
        (("train", "digits", "--plan", "ci", "--pictures", "16", "--out"), "facelab.train.save"),
        (("evaluate", "--count", "2"), "facelab.evaluate.cache_dir"),
        (("check",), "facelab.pretrained.load"),
    ],
)
def test_ctrl_c_at_each_stage_of_a_command_is_one_line_and_130(words, stage, tmp_path, monkeypatch, capsys):
    def ctrl_c(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setenv("FACELAB_DATA", "")
    monkeypatch.chdir(tmp_path)
    if words[0] == "evaluate":
        monkeypatch.setitem(evaluate.PARTS, "distance", ctrl_c)
    else:
        monkeypatch.setattr(stage, ctrl_c)
    words = [*words, str(tmp_path / "out")] if words[-1] == "--out" else list(words)
    assert main(words) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("Stopped") and "Traceback" not in "".join(said)
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("card.json"))


# Two processes, one cache


def both(work) -> None:
    """In two copies of this process at once; each must succeed."""
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                work()
                code = 0
            os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


@FORKS
@pytest.mark.parametrize("name", WRITERS)
def test_two_processes_write_into_one_folder(tmp_path, right, name):
    for _ in range(2):
        both(lambda: WRITERS[name](tmp_path))
        assert contents(tmp_path) == right[name]


@FORKS
def test_two_processes_train_the_same_run_in_one_folder(tmp_path, undisturbed):
    def work():
        net, losses = train_on(tmp_path)
        assert equal(net, undisturbed[0]) and losses == undisturbed[1]

    both(work)
    work()


# Damaged files: what is read back says so in one sentence, or is made again; whatever it holds, it does not run


class Trap:
    """Pickled, it writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def png() -> bytes:
    Image.new("RGB", (64, 64), "red").save(out := io.BytesIO(), "PNG")
    return out.getvalue()


DAMAGES = ("truncated", "zero bytes", "empty", "flipped bit", "HTML", "another file", "pickled object", "another net")


def damage(file: Path, kind: str, trap: Path) -> None:
    body = bytearray(file.read_bytes())
    if kind == "flipped bit":
        body[-5] ^= 1
    file.write_bytes(
        {
            "truncated": bytes(body[: len(body) // 2]),
            "zero bytes": b"\0" * len(body),
            "empty": b"",
            "flipped bit": bytes(body),
            "HTML": b"<!doctype html><title>Quota exceeded</title>",
            "another file": png(),
            "pickled object": pickle.dumps(Trap(trap)),
            "another net": b"",
        }[kind]
    )
    if kind == "another net":
        save_file({"somebody.else": torch.zeros(3)}, file, metadata={"format": "pt"})


READERS = {
    "weights": (weights, lambda folder: pretrained.load(str(folder)), pretrained.WEIGHTS),
    "config": (weights, lambda folder: pretrained.load(str(folder)), "config.json"),
    "card": (weights, lambda folder: pretrained.load(str(folder)), "card.json"),
    "recording": (recording, lambda folder: load_recording(folder / "some.safetensors"), "some.safetensors"),
    "features": (eyes, lambda folder: features.load_features(str(folder / "some.safetensors")), "some.safetensors"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("what", READERS)
def test_a_damaged_file_is_one_sentence_and_nothing_in_it_runs(tmp_path, what, kind):
    if kind == "flipped bit" and what in ("config", "card"):
        pytest.skip("words for people; what they tell of the weights is compared with these")
    write, read, name = READERS[what]
    write(tmp_path / "here")
    read(tmp_path / "here")
    damage(tmp_path / "here" / name, kind, tmp_path / "ran")
    with pytest.raises(ValueError) as told:
        read(tmp_path / "here")
    message = str(told.value)
    assert "\n" not in message and message.endswith(".") and ("here" in message or "some" in message)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_weights_are_refused_even_where_the_card_agrees(tmp_path, kind):
    if kind == "flipped bit":
        pytest.skip("whoever writes the card as well may write what weights he likes")
    weights(tmp_path)
    damage(tmp_path / pretrained.WEIGHTS, kind, tmp_path / "ran")
    card = json.loads((tmp_path / "card.json").read_text())
    card["sha256"] = digest(tmp_path / pretrained.WEIGHTS)
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"another architecture|holds no weights"):
        pretrained.load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_batch_is_made_again(tmp_path, kind):
    batches(tmp_path)
    before = contents(tmp_path)
    damage(tmp_path / "1.safetensors", kind, tmp_path / "ran")
    batches(tmp_path)
    assert contents(tmp_path) == before and kept(tmp_path / "1.safetensors")[0] == 1


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_pixels_are_prepared_again_and_it_is_said(tmp_path, right, kind):
    for name in ("prepared/some-v1.npy", "prepared/some-v1.npz"):
        pixels(tmp_path)
        damage(tmp_path / name, kind, tmp_path / "ran")
        with pytest.warns(UserWarning, match="but is damaged: prepared anew"):
            pixels(tmp_path)
        assert contents(tmp_path) == right["pixels"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_with_a_name_that_fits_gives_way_too(tmp_path, kind):
    """As by somebody who meant it: the name tells the right sha256 of wrong bytes."""
    for now in training(tiny(), pictures(), RECIPE, keep=tmp_path, every=0.0):
        if now.step == 4:
            break
    newest = max(tmp_path.glob("step-*"))
    if kind == "flipped bit":
        pytest.skip("numbers that somebody meant")
    damage(newest, kind, tmp_path / "ran")
    newest.rename(tmp_path / f"step-000000004-{digest(newest)}.safetensors")
    with pytest.warns(UserWarning, match="is damaged, so the checkpoint before it is used"):
        steps = training(tiny(), pictures(), RECIPE, keep=tmp_path)
        assert next(steps).note.startswith("resumed at step 3")
    steps.close()
    assert not (tmp_path / "ran").exists()


def test_no_shipped_file_is_of_a_kind_that_can_run():
    shipped = {
        file.suffix for file in (TESTS.parent / "data").rglob("*") if file.is_file() and "cache" not in file.parts
    }
    assert shipped <= {".safetensors", ".json", ".png", ".md", ".gitignore", ""}
    for file in (TESTS.parent / "data").rglob("*.safetensors"):
        load_file(file)
