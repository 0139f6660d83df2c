"""Training: what it does, and that nothing stops it for good."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from facelab import checkpoints, pretrained, train
from facelab.__main__ import main
from facelab.attributes import DIGITS
from facelab.data import Pictures
from facelab.model import AttributeClassifier, Denoiser
from facelab.plan import Recipe
from facelab.train import fit, training

NET = {"shape": (1, 8, 8), "names": DIGITS.names, "exclusive": True, "channels": (32, 32), "attention": (False, False)}


def tiny(**changes) -> Denoiser:
    return Denoiser(**(NET | changes))


def pictures(count=40) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Pictures(images, torch.eye(10)[torch.arange(count) % 10], DIGITS, "noise")


RECIPE = Recipe(8 * 8, batch=8, ema=0.9)


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return fit(tiny(), pictures(), RECIPE, keep=tmp_path_factory.mktemp("whole"), progress=False)


def test_training_lowers_the_loss(tmp_path):
    flat = Pictures(torch.full((16, 1, 8, 8), 255, dtype=torch.uint8), torch.eye(10)[:1].repeat(16, 1), DIGITS, "white")
    _, losses = fit(tiny(), flat, Recipe(16 * 20, batch=16, lr=4e-3), keep=tmp_path, progress=False)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_same_settings_give_the_same_bits(undisturbed, tmp_path):
    net, losses = fit(tiny(), pictures(), RECIPE, keep=tmp_path, progress=False)
    assert equal(net, undisturbed[0]) and losses == undisturbed[1]


def test_another_seed_gives_another_run(undisturbed, tmp_path):
    other = Recipe(**(RECIPE.__dict__ | {"seed": 1}))
    assert fit(tiny(), pictures(), other, keep=tmp_path, progress=False)[1] != undisturbed[1]


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_run_that_was_left_goes_on_to_the_same_bits(undisturbed, tmp_path, stop):
    for progress in training(tiny(), pictures(), RECIPE, keep=tmp_path):
        if progress.step == stop:
            break
    steps = training(tiny(), pictures(), RECIPE, keep=tmp_path)
    first = next(steps)
    assert first.step == stop and first.note == f"resumed at step {stop}"
    for last in steps:
        pass
    assert equal(last.net, undisturbed[0]) and last.losses == undisturbed[1]


def test_dropout_and_running_statistics_resume_to_the_same_bits(tmp_path):
    for i, make in enumerate(
        (lambda: tiny(dropout=0.3), lambda: AttributeClassifier((1, 8, 8), channels=(8, 8), exclusive=True))
    ):
        recipe = Recipe(48, batch=8, forget="never")
        whole = fit(make(), pictures(), recipe, keep=tmp_path / f"a{i}", progress=False)
        for progress in training(make(), pictures(), recipe, keep=tmp_path / f"b{i}"):
            if progress.step == 3:
                break
        torch.manual_seed(99)
        again = fit(make(), pictures(), recipe, keep=tmp_path / f"b{i}", progress=False)
        assert equal(again[0], whole[0]) and again[1] == whole[1]


@pytest.mark.parametrize("moment", ["forward", "optimiser", "saving"])
def test_an_interrupt_at_any_moment_loses_nothing(undisturbed, tmp_path, monkeypatch, moment):
    place = {
        "forward": (train._Run, "loss"),
        "optimiser": (torch.optim.AdamW, "step"),
        "saving": (checkpoints, "save_file"),
    }
    where, name = place[moment]
    real, calls = getattr(where, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            if moment == "optimiser":
                real(*args, **kwargs)
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), pictures(), RECIPE, keep=tmp_path, every=0.0, progress=False)
    monkeypatch.undo()
    net, losses = fit(tiny(), pictures(), RECIPE, keep=tmp_path, progress=False)
    assert equal(net, undisturbed[0]) and losses == undisturbed[1]


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_train import tiny, pictures, Recipe, fit
fit(tiny(), pictures(), Recipe(8 * 400, batch=8, ema=0.9), keep={keep!r}, every=0.0, progress=False)
print("finished")
"""


def run_child(keep, kill_at=None):
    """Train in a process of its own; kill -9 it when checkpoint number `kill_at` lies on the shelf."""
    code = CHILD.format(tests=os.path.dirname(__file__), keep=str(keep))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen, deadline = set(), time.monotonic() + 100
    while kill_at is not None and time.monotonic() < deadline and child.poll() is None:
        seen |= {file.name for file in keep.glob("step-*")}
        if len(seen) >= kill_at:
            child.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            break
    out = child.communicate(timeout=200)[0]
    return child.returncode, out


@pytest.mark.slow
def test_kill_9_twice_in_different_places_ends_in_the_same_bits(tmp_path):
    assert run_child(tmp_path / "whole")[0] == 0
    for kill_at in (7, 31):
        assert run_child(tmp_path / "killed", kill_at)[0] != 0
    code, out = run_child(tmp_path / "killed")
    assert code == 0, out
    newest = [sorted((tmp_path / name).glob("step-*"))[-1] for name in ("whole", "killed")]
    a, b = (load_file(file) for file in newest)
    assert newest[0].name.startswith("step-000000400") and all(torch.equal(a[name], b[name]) for name in a)


def test_one_kill_9_ends_in_a_checkpoint_that_resumes(tmp_path):
    assert run_child(tmp_path, kill_at=4)[0] != 0
    steps = training(tiny(), pictures(), Recipe(8 * 400, batch=8, ema=0.9), keep=tmp_path)
    assert next(steps).note.startswith("resumed at step")
    assert next(steps).step > 3
    steps.close()


def test_a_finished_run_is_loaded_and_says_so(undisturbed, tmp_path):
    fit(tiny(), pictures(), RECIPE, keep=tmp_path, progress=False)
    again = list(training(tiny(), pictures(), RECIPE, keep=tmp_path))
    assert len(again) == 1 and "finished earlier" in again[0].note and equal(again[0].net, undisturbed[0])


def test_fresh_starts_over(tmp_path):
    fit(tiny(), pictures(), RECIPE, keep=tmp_path, progress=False)
    assert next(training(tiny(), pictures(), RECIPE, keep=tmp_path, fresh=True)).step == 1


def test_by_default_a_changed_setting_starts_a_run_of_its_own():
    names = {
        checkpoints.run_name(net, data, recipe)
        for net in (tiny(), tiny(seed=1))
        for data in (pictures(), pictures(30))
        for recipe in (RECIPE, Recipe(64, batch=4))
    }
    assert len(names) == 8


def test_the_last_two_checkpoints_are_kept_each_with_its_sha256(tmp_path):
    fit(tiny(), pictures(), RECIPE, keep=tmp_path, every=0.0, progress=False)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert [name.split("-")[1] for name in files] == ["000000007", "000000008"]
    assert all(checkpoints.digest(tmp_path / name) == name.split("-")[2].split(".")[0] for name in files)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_it_is_said(undisturbed, tmp_path, damage):
    for progress in training(tiny(), pictures(), RECIPE, keep=tmp_path, every=0.0):
        if progress.step == 5:
            break
    newest = sorted(tmp_path.glob("step-*"))[-1]
    body = bytearray(newest.read_bytes())
    body[len(body) // 2] ^= 1
    newest.write_bytes({"flipped": body, "truncated": body[:1000], "empty": b""}[damage])
    with pytest.warns(UserWarning, match="is damaged, so the checkpoint before it is used"):
        steps = training(tiny(), pictures(), RECIPE, keep=tmp_path)
        assert next(steps).note.startswith("resumed at step 4")
    for last in steps:
        pass
    assert equal(last.net, undisturbed[0])


def test_where_all_are_damaged_training_starts_over_and_says_so(tmp_path):
    fit(tiny(), pictures(), RECIPE, keep=tmp_path, every=0.0, progress=False)
    for file in tmp_path.glob("step-*"):
        file.write_bytes(b"rubbish")
    with pytest.warns(UserWarning, match="every checkpoint .* damaged"):
        assert next(training(tiny(), pictures(), RECIPE, keep=tmp_path)).step == 1


def test_a_checkpoint_of_another_net_is_refused_and_kept(tmp_path):
    fit(tiny(), pictures(), RECIPE, keep=tmp_path, progress=False)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="another run: its settings differs in channels.*fresh=True"):
        fit(tiny(channels=(32, 64)), pictures(), RECIPE, keep=tmp_path, progress=False)
    assert sorted(tmp_path.iterdir()) == before


def test_precision_and_threads_are_those_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "precision", lambda kind: torch.bfloat16)
    torch.set_num_threads(2)
    for progress in training(tiny(), pictures(), Recipe(8 * 3, batch=8), keep=tmp_path):
        if progress.step == 1:
            break
    monkeypatch.setattr(train, "precision", lambda kind: torch.float32)
    torch.set_num_threads(1)
    seen = []
    real = train.denoising_loss
    monkeypatch.setattr(train, "denoising_loss", lambda *a: seen.append((a[5], torch.get_num_threads())) or real(*a))
    fit(tiny(), pictures(), Recipe(8 * 3, batch=8), keep=tmp_path, progress=False)
    assert set(seen) == {(torch.bfloat16, 2)} and torch.get_num_threads() == 1


# A network drive: slow, and it loses what was written last.


def test_copies_are_whole_and_bring_back_a_lost_run(undisturbed, tmp_path, monkeypatch):
    here, drive = tmp_path / "here" / "run", tmp_path / "drive"
    real, temporary = shutil.copyfile, []

    def slowly(source, target):
        temporary.append(os.path.basename(target))
        time.sleep(0.05)
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", slowly)
    for progress in training(tiny(), pictures(), RECIPE, keep=here, copy_to=drive, every=0.0):
        if progress.step == 6:
            break
    copies = sorted((drive / "run").glob("*"))
    assert [file.name.split("-")[1] for file in copies] == ["000000005", "000000006"]
    assert all(name.startswith(".copying") for name in temporary)
    copies[-1].unlink()  # the drive lost its newest file, and the machine with the first folder is gone
    shutil.rmtree(here)
    steps = training(tiny(), pictures(), RECIPE, keep=here, copy_to=drive)
    assert next(steps).note == "resumed at step 5"
    for last in steps:
        pass
    assert equal(last.net, undisturbed[0])


def test_a_drive_that_fails_is_reported_and_training_goes_on(tmp_path, monkeypatch):
    def gone(*args):
        raise OSError("Transport endpoint is not connected")

    monkeypatch.setattr(shutil, "copyfile", gone)
    with pytest.warns(UserWarning, match="no copy .*Transport endpoint"):
        _, losses = fit(tiny(), pictures(), RECIPE, keep=tmp_path / "run", copy_to=tmp_path / "drive", progress=False)
    assert len(losses) == RECIPE.steps


def test_a_slow_folder_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    saves, real = [], checkpoints.save_file
    clock = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 0.2) or clock[0])

    def slow(*args, **kwargs):
        saves.append(clock[0])
        clock[0] += 5
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoints, "save_file", slow)
    fit(tiny(), pictures(), Recipe(8 * 60, batch=8), keep=tmp_path, every=1.0, progress=False)
    assert 1 <= len(saves) <= 3


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_a_full_or_read_only_disk_is_one_sentence_and_leaves_no_rubbish(tmp_path, monkeypatch, reason):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, reason)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(ValueError, match=f"no checkpoint could be written to .*{reason}.*free some space") as told:
        fit(tiny(), pictures(), RECIPE, keep=tmp_path, progress=False)
    assert "\n" not in str(told.value) and list(tmp_path.iterdir()) == []


# Bad input.


def test_a_loss_that_is_no_number_stops_and_names_tick_batch_and_checkpoint(tmp_path, monkeypatch):
    real = Denoiser.forward
    calls = []

    def poisoned(self, x_t, *args, **kwargs):
        calls.append(1)
        said = real(self, x_t, *args, **kwargs)
        return said * torch.nan if len(calls) == 4 else said

    monkeypatch.setattr(Denoiser, "forward", poisoned)
    with pytest.raises(
        ValueError, match=r"not a number at tick \d+.* of batch 3: .*last good checkpoint is .*step-000000003"
    ):
        fit(tiny(), pictures(), RECIPE, keep=tmp_path, every=0.0, progress=False)
    assert all(t.isfinite().all() for file in tmp_path.glob("step-*") for t in load_file(file).values())


def test_no_pictures_and_pictures_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        fit(tiny(), Pictures(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, 10), DIGITS, ""), RECIPE)
    with pytest.raises(ValueError, match=r"built for \(1, 16, 16\).*pictures are \(1, 8, 8\)"):
        fit(tiny(shape=(1, 16, 16)), pictures(), RECIPE)


def test_the_average_is_an_average_and_in_eval_mode(tmp_path):
    net = tiny(dropout=0.5)
    averaged, _ = fit(net, pictures(), RECIPE, keep=tmp_path, progress=False)
    assert not averaged.training and not equal(averaged, net)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(averaged(x, 500, torch.eye(10)[:2]), averaged(x, 500, torch.eye(10)[:2]))


def test_the_average_forgets_as_it_should():
    update, kept = train._moving_average(0.9), [torch.zeros(3)]
    for count in range(30):
        update(kept, [torch.ones(3)], torch.tensor(count))
    left = torch.prod(torch.tensor([min(0.9, (1 + n) / (10 + n)) for n in range(30)]))
    assert torch.allclose(1 - kept[0], left.expand(3), atol=1e-6)


def test_learning_rate_clip_and_optimiser_reach_the_step(tmp_path, monkeypatch):
    rates, norms = [], []
    real, clip = torch.optim.Adam.step, torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.optim.Adam, "step", lambda s, *a: rates.append(s.param_groups[0]["lr"]) or real(s, *a))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: norms.append(most) or clip(p, most))
    recipe = Recipe(64, batch=8, optimiser="adam", clip=0.25, lr=0.01)
    fit(tiny(), pictures(), recipe, keep=tmp_path, progress=False)
    assert rates == [recipe.lr_at(step) for step in range(8)] and set(norms) == {0.25}


def test_the_time_left_is_said_after_a_few_steps(tmp_path):
    notes = [progress.note for progress in training(tiny(), pictures(), RECIPE, keep=tmp_path)]
    assert "on this machine" in notes[4] and notes[4].startswith("about")


# The command line.


def command(*words, **env):
    told = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | env
    )
    return told.returncode, told.stdout, told.stderr.replace("\r", "\n")


def test_train_writes_weights_card_and_checkpoints_and_resumes(tmp_path, capsys, monkeypatch):
    env = {"FACELAB_DATA": ""}
    monkeypatch.setenv("FACELAB_DATA", "")
    words = ("facelab.train", "--plan", "ci", "--pictures", "128", "--out", str(tmp_path))
    code, out, err = command(*words, **env)
    assert code == 0, err
    assert {"config.json", "card.json", "diffusion_pytorch_model.safetensors", "checkpoints"} <= set(
        os.listdir(tmp_path)
    )
    from facelab.pretrained import load

    assert load(str(tmp_path)).card["steps"] == 8
    # The other command is the same function; what it prints comes through capsys.
    assert main(["train", "digits", *words[1:]]) == 0 and "finished earlier" in capsys.readouterr().err
    assert main(["sample", "7", "--model", str(tmp_path), "--out", str(tmp_path / "seven.png")]) == 0
    assert (tmp_path / "seven.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_leg_goes_on_from_the_first_and_tells_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELAB_DATA", "")
    words = ("train", "digits", "--plan", "ci", "--pictures", "64")
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    begun = {}
    whole = train._Run.__init__

    def init(self, net, *rest):
        begun.update({name: value.clone() for name, value in net.state_dict().items()})
        whole(self, net, *rest)

    monkeypatch.setattr(train._Run, "__init__", init)
    assert main([*words, "--lr", "5e-4", "--start", str(tmp_path / "one"), "--out", str(tmp_path / "two")]) == 0
    one, two = (pretrained.load(str(tmp_path / leg)) for leg in ("one", "two"))
    for name, value in one.denoiser.state_dict().items():
        assert torch.equal(begun[name], value)
    assert two.card["recipe"]["start"] == one.card["sha256"][:16] and one.card["recipe"]["start"] == ""
    assert [leg["sha256"] for leg in two.card["legs"]] == [one.card["sha256"]] and "legs" not in one.card
    assert two.card["recipe"]["lr"] == 5e-4 != one.card["recipe"]["lr"]
    assert (
        two.card["command"].endswith("--lr 0.0005 --start one --out DIR") and two.card["sha256"] != one.card["sha256"]
    )


def test_a_leg_with_rare_answers_tells_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FACELAB_DATA", "")
    words = ("train", "faces", "--data", "drawn", "--plan", "ci", "--pictures", "32", "--out", str(tmp_path))
    monkeypatch.setattr(
        train.SUBJECTS["faces"].__globals__["data"], "DRAWN_COUNTS", {"train": 60, "valid": 60, "test": 60}
    )
    assert main([*words, "--evenly", "0.5"]) == 0
    card = pretrained.load(str(tmp_path)).card
    assert card["recipe"]["evenly"] == 0.5 and card["command"].endswith("--evenly 0.5 --out DIR")
    assert main([*words, "--evenly", "2"]) == 2 and "evenly must be a share from 0 to 1" in capsys.readouterr().err


def test_a_leg_keeps_the_loudness_that_it_finds(tmp_path):
    def begun(of, rates):
        net = lambda **changes: tiny(**({"seed": 5, "rates": rates} | changes))  # noqa: E731
        subject = train.Subject(net, Recipe(1), None, None)
        return train._begun(subject, pretrained.load(str(of)), "before")

    rates = (0.02,) + (0.5,) * 9
    for name, told in (("plain", None), ("loud", rates)):
        pretrained.save(tiny(seed=3, rates=told), tmp_path / name, {})
    x_t, whole = torch.randn(4, 1, 8, 8), torch.eye(10)[:4] * 2 - 1
    loud = pretrained.load(str(tmp_path / "loud")).denoiser
    on = begun(tmp_path / "loud", (0.9,) * 10)
    assert tuple(on.config.rates) == rates and torch.equal(on(x_t, 500, whole), loud(x_t, 500, whole))
    plain = pretrained.load(str(tmp_path / "plain")).denoiser
    on = begun(tmp_path / "plain", rates)
    assert tuple(on.config.rates) == rates
    assert_close(on(x_t, 500, whole), plain(x_t, 500, whole), atol=1e-4, rtol=1e-4)
    assert torch.equal(begun(tmp_path / "plain", None)(x_t, 500, whole), plain(x_t, 500, whole))


def test_a_leg_leaves_an_attention_of_the_middle_behind(tmp_path):
    attends = {"attention": (False, True)}
    pretrained.save(tiny(seed=3, **attends), tmp_path, {})
    before = pretrained.load(str(tmp_path))
    subject = train.Subject(lambda **changes: tiny(seed=5, middle=False, **attends, **changes), Recipe(1), None, None)
    had, has = before.denoiser.state_dict(), train._begun(subject, before, "before").state_dict()
    assert all(torch.equal(value, had[name]) for name, value in has.items())
    assert had.keys() - has.keys() == {name for name in had if "mid_block.attentions" in name} != set()


def test_weights_of_another_net_cannot_be_started_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FACELAB_DATA", "")
    assert main(["train", "digits", "--plan", "ci", "--start", "digits", "--out", str(tmp_path)]) == 2
    assert "another architecture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sample", "eleven"), "no attribute 'eleven'"),
        (("sample", "7", "--steps", "0"), "steps must be"),
        (("sample", "7", "--steps", "1001"), "steps must be"),
        (("sample", "7", "--scale", "loud"), "invalid float value"),
        (("sample", "7", "--scale", "nan"), "finite number"),
        (("sample", "7", "--model", "cats"), "no weights called 'cats'"),
        (("sample", "7", "--out", "/nowhere/at/all.png"), "/nowhere/at/all.png"),
        (("train", "digits", "--out", "x", "--plan", "huge"), "invalid choice: 'huge'"),
        (("train", "digits", "--out", "x", "--pictures", "0"), "pictures"),
    ],
)
def test_wrong_words_on_the_command_line_are_one_line_and_exit_code_2(words, says, capsys):
    with contextlib.suppress(SystemExit) as _:
        code = None
        code = main(list(words))
    err = capsys.readouterr().err
    assert says in err.splitlines()[-1] and "Traceback" not in err
    assert code in (2, None)


def test_check_says_in_few_lines_what_is_here(capsys):
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 8 + len(pretrained.names()), "one for each of the weights, and eight more"
    for word in ("Python", "device", "plan", "MNIST", "weights    digits", "missing"):
        assert word in out
