"""A training that is stopped resumes to the same bits: by a break, Ctrl-C, kill -9, a full disk, damaged files, a new machine.

Moments are random; FACELAB_SEED, which is printed, repeats them.
"""

import contextlib
import os
import pickle
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import tqdm.auto
import tqdm.std
from oracle import Trap, digits, digits_classifier, random_dataset, refused, tiny

from facelab import training
from facelab.device import machine
from facelab.training import TrainConfig, fit, run_identity, train

SEED = int(os.environ.get("FACELAB_SEED", random.SystemRandom().randrange(10**6)))
CONFIG = TrainConfig(64, 8, ema_decays=(0.9, 0.5))
LONG = TrainConfig(8 * 30, 8, ema_decays=(0.9,))


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(folder, config=CONFIG, **options):
    return fit(tiny(), random_dataset(), config, checkpoint_dir=folder, progress=False, **options)


def stop_at(step, folder, config=CONFIG, **options):
    for progress in train(tiny(), random_dataset(), config, checkpoint_dir=folder, **options):
        if progress.step == step:
            break


def resumed(folder, config=CONFIG, **options):
    """(the first note, the last step) of a training that goes on in `folder`."""
    steps = train(tiny(), random_dataset(), config, checkpoint_dir=folder, **options)
    first = last = next(steps)
    for last in steps:
        pass
    return first.note, last


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    steps = train(tiny(), random_dataset(), CONFIG, checkpoint_dir=tmp_path_factory.mktemp("uninterrupted"))
    return list(steps)[-1]


@pytest.mark.parametrize("step", [1, 7])
def test_a_stopped_training_resumes_to_the_same_bits(uninterrupted, tmp_path, step):
    stop_at(step, tmp_path)
    note, last = resumed(tmp_path)
    assert note == f"resumed at step {step}" and last.losses == uninterrupted.losses
    assert all(equal(last.emas[decay], uninterrupted.emas[decay]) for decay in CONFIG.ema_decays)


def test_dropout_and_running_statistics_resume_to_the_same_bits(tmp_path):
    config = TrainConfig(48, 8, cond_dropout="none")
    cases = (lambda: tiny(dropout=0.3), random_dataset()), (digits_classifier, digits())
    for i, (make, data) in enumerate(cases):
        whole = fit(make(), data, config, checkpoint_dir=tmp_path / f"a{i}", progress=False)
        for progress in train(make(), data, config, checkpoint_dir=tmp_path / f"b{i}"):
            if progress.step == 3:
                break
        torch.manual_seed(99)
        again = fit(make(), data, config, checkpoint_dir=tmp_path / f"b{i}", progress=False)
        assert equal(again[0], whole[0]) and again[1] == whole[1]


@pytest.mark.parametrize("where, name", [(training, "denoising_loss"), (torch.optim.AdamW, "step"), (torch, "save")])
def test_an_interrupt_at_any_moment_loses_nothing(uninterrupted, tmp_path, monkeypatch, where, name):
    real, calls = getattr(where, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            if name == "step":
                real(*args, **kwargs)
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, save_every=0)
    monkeypatch.undo()
    net, losses = trained(tmp_path)
    assert equal(net, uninterrupted.net) and losses == uninterrupted.losses


def test_a_finished_training_is_loaded_or_without_resume_starts_over(uninterrupted, tmp_path):
    trained(tmp_path)
    again = list(train(tiny(), random_dataset(), CONFIG, checkpoint_dir=tmp_path))
    assert len(again) == 1 and again[0].note == "finished earlier, loaded" and equal(again[0].net, uninterrupted.net)
    assert next(train(tiny(), random_dataset(), CONFIG, checkpoint_dir=tmp_path, resume=False)).step == 1


def test_by_default_every_setting_has_a_folder_of_its_own():
    names = {
        run_identity(net, data, config)[0]
        for net in (tiny(), tiny(seed=1))
        for data in (random_dataset(), random_dataset(30))
        for config in (CONFIG, TrainConfig(64, 4))
    }
    assert len(names) == 8


def test_device_precision_and_threads_are_those_of_the_machine_that_resumes(tmp_path, monkeypatch):
    """Bug 2: a run that began in float16 on a GPU went on in float16 on a CPU."""
    monkeypatch.setattr(training, "precision", lambda kind: torch.bfloat16)
    stop_at(1, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["machine"] == machine()
    monkeypatch.setattr(training, "precision", lambda kind: torch.float32)
    used, loss = [], training.denoising_loss
    spy = lambda *a, dtype, **k: used.append(dtype) or loss(*a, dtype=dtype, **k)  # noqa: E731
    monkeypatch.setattr(training, "denoising_loss", spy)
    threads = torch.get_num_threads()
    note, _ = resumed(tmp_path)
    assert note == "resumed at step 1" and set(used) == {torch.float32} and torch.get_num_threads() == threads


# Kills, each in a copy of this process
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")


def killed(work, seconds: float, how=signal.SIGKILL) -> bool:
    """Whether the signal came before `work` was done."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):  # a lock shared with a killed process is never released
                bar.set_lock(threading.RLock())
            work()
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, how)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def check_kills(tmp_path, count: int) -> None:
    print(f"FACELAB_SEED={SEED}")
    started = time.monotonic()
    net, losses = trained(tmp_path / "whole", LONG, save_every=0)
    seconds, moments, landed = time.monotonic() - started, random.Random(SEED), 0
    for i in range(4 * count):
        folder = tmp_path / f"{i}"
        landed += killed(lambda folder=folder: trained(folder, LONG, save_every=0), moments.uniform(0, seconds))
        again, found = trained(folder, LONG, save_every=0)
        assert equal(again, net) and found == losses
        assert sorted(file.name for file in folder.iterdir()) == ["checkpoint.pt", "previous.pt"]
        if landed == count:
            return
    raise AssertionError(f"only {landed} of {4 * count} kills came before the end")


@needs_fork
@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_a_random_moment_ends_in_the_same_bits(tmp_path, count):
    check_kills(tmp_path, count)


@needs_fork
def test_ctrl_c_at_random_moments_ends_in_the_same_bits(tmp_path, uninterrupted):
    moments = random.Random(SEED)
    for _ in range(3):
        killed(lambda: trained(tmp_path, save_every=0), moments.uniform(0, 1), signal.SIGINT)
    net, losses = trained(tmp_path)
    assert equal(net, uninterrupted.net) and losses == uninterrupted.losses


@pytest.mark.parametrize("kind", ["flipped bit", "truncated", "empty", "pickle", "a checkpoint that runs code"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(uninterrupted, tmp_path, kind):
    stop_at(5, tmp_path / "run", save_every=0)
    file, trap = tmp_path / "run/checkpoint.pt", Trap(tmp_path / "executed")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    half = content[: len(content) // 2]
    new = {"flipped bit": content, "truncated": half, "empty": b"", "pickle": pickle.dumps(trap)}
    file.write_bytes(new.get(kind, b""))
    if kind not in new:
        torch.save({"run": {}, "trap": trap}, file)
    with pytest.warns(UserWarning, match=r"checkpoint.pt is damaged: the one before it is used"):
        note, last = resumed(tmp_path / "run")
    assert note == "resumed at step 4" and equal(last.net, uninterrupted.net)
    assert not (tmp_path / "executed").exists()


def test_where_both_are_damaged_training_starts_over(tmp_path):
    stop_at(3, tmp_path, save_every=0)
    for file in tmp_path.glob("*.pt"):
        file.write_bytes(b"rubbish")
    with pytest.warns(UserWarning, match="damaged"):
        assert next(train(tiny(), random_dataset(), CONFIG, checkpoint_dir=tmp_path)).step == 1


def test_a_checkpoint_of_another_training_is_refused_and_stays(tmp_path):
    trained(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with refused(r"another run, network block_out_channels differs: use another folder or resume=False"):
        fit(tiny(block_out_channels=(32, 64)), random_dataset(), CONFIG, checkpoint_dir=tmp_path, progress=False)
    with refused(r"config lr differs"):
        trained(tmp_path, TrainConfig(64, 8, lr=0.1, ema_decays=(0.9, 0.5)))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_checkpoint_of_facelab_0_1_is_named(tmp_path):
    (tmp_path / "step-000000003-abcdef.safetensors").write_bytes(b"old")
    with refused("has checkpoints of facelab 0.1: use another folder"):
        trained(tmp_path)


def test_a_full_disk_is_a_warning_and_the_training_goes_on(uninterrupted, tmp_path, monkeypatch):
    """Bug 18: it ended the training."""

    def full(state, file):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match="step .* could not be saved: .*No space left .*training goes on"):
        net, losses = trained(tmp_path, save_every=0)
    assert equal(net, uninterrupted.net) and list(tmp_path.iterdir()) == []


def test_a_real_full_disk_too(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows has no limits for files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.warns(UserWarning, match="could not be saved"):
            stop_at(2, tmp_path, save_every=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_folder_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    clock, saves, save = [0.0], [], torch.save
    monkeypatch.setattr(training.time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 0.2) or clock[0])

    def slow(*args):
        saves.append(clock[0])
        clock[0] += 5
        return save(*args)

    monkeypatch.setattr(torch, "save", slow)
    trained(tmp_path, LONG, save_every=1.0)
    assert 1 <= len(saves) <= 4


def test_a_backup_brings_a_lost_machine_back(uninterrupted, tmp_path):
    here, drive = tmp_path / "here", tmp_path / "drive"
    stop_at(6, here, backup_dir=drive, save_every=0)
    (copies,) = drive.iterdir()
    assert copies.name == run_identity(tiny(), random_dataset(), CONFIG)[0]
    assert sorted(file.name for file in copies.iterdir()) == ["checkpoint.pt", "previous.pt"]
    shutil.rmtree(here)
    (copies / "checkpoint.pt").unlink()  # a network drive may lose its newest file
    note, last = resumed(tmp_path / "elsewhere", backup_dir=drive)
    assert note == "resumed at step 5" and equal(last.net, uninterrupted.net)


def test_a_backup_that_fails_is_a_warning(uninterrupted, tmp_path, monkeypatch):
    failed = OSError("Transport endpoint is not connected")
    monkeypatch.setattr(shutil, "copyfile", mock.Mock(side_effect=failed))
    with pytest.warns(UserWarning, match="Transport endpoint"):
        _, losses = trained(tmp_path / "run", backup_dir=tmp_path / "drive")
    assert losses == uninterrupted.losses and (tmp_path / "run/checkpoint.pt").is_file()
