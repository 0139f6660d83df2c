"""A training is recorded as it goes, kept in one file, and scrubbed through as it was."""

import dataclasses
import io
import types

import numpy as np
import pytest
import torch
from oracle import pictures, refused, tiny
from PIL import Image
from test_widgets import drawn, imgs

from facelab import train, widgets
from facelab.plan import Recipe
from facelab.pretrained import load
from facelab.recording import Recorder, Recording, load_recording
from facelab.widgets import Look, TrainingReplay

LOSSES = torch.tensor([8.0, 4.0, 2.0, 1.0] * 25).sort(descending=True).values


@pytest.fixture
def recording() -> Recording:
    seen = torch.randint(0, 256, (3, 6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Recording(LOSSES, torch.tensor([1, 40, 100]), seen, {"command": "train"})


def steps(count):
    """What `training` yields, as far as a recorder looks; the net is the number of the step."""
    return (
        types.SimpleNamespace(step=i, steps=count, losses=[1 / j for j in range(1, i + 1)], net=i)
        for i in range(1, count + 1)
    )


def test_more_looks_in_the_beginning_and_one_at_the_end():
    recorder = Recorder(lambda net: torch.full((2, 1, 4, 4), net / 100 - 1), looks=8)
    assert [now.step for now in recorder(steps(100))] == list(range(1, 101)), "the steps are handed on"
    kept = recorder.recording({"what": "a toy"})
    assert kept.steps.tolist() == [1, 2, 4, 7, 14, 27, 52, 100] and kept.about == {"what": "a toy"}
    assert kept.pictures.shape == (8, 2, 1, 4, 4) and kept.pictures[-1].unique().tolist() == [128]
    assert torch.allclose(kept.losses, 1 / torch.arange(1, 101))


def test_what_a_young_net_draws_far_out_of_range_is_kept_all_the_same():
    recorder = Recorder(lambda net: torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1), looks=1)
    list(recorder(steps(3)))
    assert recorder.recording().pictures[-1].flatten().tolist() == [0, 255]


def test_a_real_training_is_recorded(tmp_path):
    net, recipe = tiny(), Recipe(32, 8)
    recorder = Recorder(lambda net: net(torch.zeros(2, *net.shape), 500, torch.zeros(3)).detach(), looks=3)
    *_, last = recorder(train.training(net, pictures(), recipe, keep=tmp_path))
    kept = recorder.recording()
    assert kept.steps.tolist() == [1, 2, 4] and kept.losses.tolist() == pytest.approx(last.losses)
    assert not torch.equal(kept.pictures[0], kept.pictures[-1])
    again = Recorder(recorder.draw, looks=3)
    list(again(train.training(tiny(), pictures(), recipe, keep=tmp_path)))
    assert again.recording().steps.tolist() == [4], "a finished one is looked at as it is"


def test_nothing_seen_is_told():
    with refused("nothing was recorded"):
        Recorder(None).recording()
    with refused("one look or more"):
        Recorder(None, looks=0)


def test_what_is_kept_comes_back(recording, tmp_path):
    file = recording.save(tmp_path / "new" / "a_training.safetensors")
    back = load_recording(file)
    assert torch.equal(back.losses, recording.losses) and torch.equal(back.pictures, recording.pictures)
    assert back.steps.tolist() == [1, 40, 100] and back.about == {"command": "train"}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    with refused("is damaged: its sha256 is not what it tells"):
        load_recording(file)
    file.write_bytes(file.read_bytes()[:100])
    for wrong in (file, tmp_path / "none.safetensors", "nobody's"):
        with refused("there is no recorded training"):
            load_recording(wrong)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"steps": torch.tensor([1, 1, 3])}, "rising"),
        ({"steps": torch.tensor([0, 1, 3])}, "rising"),
        ({"steps": torch.tensor([1, 2, 101])}, "from 1 to 100"),
        ({"steps": torch.tensor([1, 2])}, "2 looks need pictures"),
        ({"pictures": torch.zeros(3, 6, 1, 8, 8)}, "uint8"),
    ],
)
def test_a_recording_refuses(recording, wrong, says):
    with refused(says):
        dataclasses.replace(recording, **wrong)


# The replay


def test_a_look_is_the_recording_s_own(recording):
    look = Look(recording, 2)
    assert look.step == 40 and torch.equal(look.pictures, recording.pictures[1].float() / 127.5 - 1)
    assert look.smooth[0] == 8 and look.smooth[39] == recording.losses[38:40].mean() and len(look.smooth) == 100
    assert look.words() == "After step 40 of 100 the loss is 4."
    ((_, svg, alt),) = imgs(look.chart())
    curves, dots = drawn(svg)
    assert curves[widgets.BLUE][0] == pytest.approx(1) and curves[widgets.BLUE][-1] == pytest.approx(0)
    place, height = dots[widgets.BLUE]
    assert place == pytest.approx(39 / 99, abs=1e-3) and height == pytest.approx(2 / 3, abs=1e-3), (
        "4 of 1 to 8, by doublings"
    )
    assert b">1</text>" in svg and b">100</text>" in svg, "steps are counted from 1"
    assert "falls from 8 to 1" in alt and look.words() in alt
    ((kind, png, alt),) = imgs(look.picture())
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert (pixels[: 8 * 11 : 11, : 8 * 11 : 11] == recording.pictures[1, 0, 0].numpy()).all()
    assert kind == "png" and alt == "6 pictures of the same seeds, drawn after step 40."
    for at in (0, 4):
        with refused("looks 1 to 3"):
            Look(recording, at)


def test_the_shipped_digits_grow_from_fog():
    replay = TrainingReplay()
    kept, judge = replay.look.recording, load("digits-judge").classifier
    read = [int((judge.read(Look(kept, at).pictures) == torch.arange(10)).sum()) for at in (1, len(kept.steps))]
    assert read[0] <= 3 and read[1] >= 7 and kept.about["command"].endswith("--record --out DIR")
    assert kept.losses[-100:].mean() < 0.3 * kept.losses[:10].mean()


def test_scrubbing_moves_all(recording):
    replay = TrainingReplay(recording)
    for at in (3, 2, 1):
        replay.dial.slider.value = at
        look = Look(recording, at)
        assert replay.look == look and replay.dial.number.value == at
        assert look.words() in replay.said.value
        assert replay.seen.value == widgets._row([look.picture(), look.chart()])
    assert replay.dial.number.description and replay.dial.number.max == 3
    assert repr(replay) == "A training to scrub through. After step 1 of 100 the loss is 8. Run this cell to move it."


def test_a_fault_of_the_replay_is_told_and_survived(recording, monkeypatch):
    replay = TrainingReplay(recording)
    with monkeypatch.context() as broken:
        broken.setattr(Look, "chart", lambda _: 1 / 0)
        replay.dial.number.value = 2
        assert "This cannot be drawn:</b> division by zero" in replay.said.value and replay.look.at == 1
    replay.dial.number.value = 3
    assert Look(recording, 3).words() in replay.said.value


def test_a_constant_loss_and_one_step_can_be_drawn():
    one = Recording(torch.ones(1), torch.tensor([1]), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8))
    flat = dataclasses.replace(one, losses=torch.ones(5))
    for kept in (one, flat):
        assert len(imgs(TrainingReplay(kept).seen.value)) == 2


def test_train_records_what_draws(tmp_path, monkeypatch, capsys):
    told = ["digits", "--plan", "ci", "--pictures", "64", "--out", str(tmp_path), "--record"]
    assert train.main(told) == 0
    kept = load_recording(tmp_path / "training.safetensors")
    assert (
        kept.pictures.shape[1:] == (10, 1, 28, 28)
        and "train digits" in kept.about["command"]
        and "--record" in kept.about["command"]
    )
    assert len(kept.losses) == 4 and kept.steps.tolist() == [1, 2, 3, 4]
    assert train.main(["digits-judge", *told[1:]]) == 2 and "draws nothing" in capsys.readouterr().err
