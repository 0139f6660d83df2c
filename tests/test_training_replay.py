"""A training is recorded while it runs, saved in one file, and shown as it was."""

import dataclasses
import io
import types

import numpy as np
import pytest
import torch
from oracle import random_dataset, tiny
from PIL import Image
from test_schedule_designer import chart_in, images_in

from facelab.training import TrainConfig, train
from facelab.widgets import controls
from facelab.widgets.training_replay import HistoryRecorder, TrainingHistory, TrainingReplay, load_history

LOSSES = torch.tensor([8.0, 4.0, 2.0, 1.0] * 25).sort(descending=True).values


@pytest.fixture
def history() -> TrainingHistory:
    images = torch.randint(0, 256, (3, 6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TrainingHistory(LOSSES, torch.tensor([1, 40, 100]), images, {"command": "train"})


def progress(count):
    """What `train` yields; the number of the step stands for the network."""
    for i in range(1, count + 1):
        yield types.SimpleNamespace(step=i, steps=count, losses=[1 / j for j in range(1, i + 1)], net=i)


def test_more_records_in_the_beginning_and_one_at_the_end():
    recorder = HistoryRecorder(lambda net: torch.full((2, 1, 4, 4), net / 100 - 1), times=8)
    assert [now.step for now in recorder(progress(100))] == list(range(1, 101)), "every step is passed on"
    history = recorder.history({"what": "a toy"})
    assert history.steps.tolist() == [1, 2, 4, 7, 14, 27, 52, 100] and history.about == {"what": "a toy"}
    assert history.images.shape == (8, 2, 1, 4, 4) and history.images[-1].unique().tolist() == [128]
    assert torch.allclose(history.losses, 1 / torch.arange(1, 101))


def test_images_far_out_of_range_are_clipped():
    recorder = HistoryRecorder(lambda net: torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1), times=1)
    list(recorder(progress(3)))
    assert recorder.history().images[-1].flatten().tolist() == [0, 255]


def test_a_real_training_is_recorded(tmp_path):
    config = TrainConfig(32, 8)
    recorder = HistoryRecorder(lambda net: net(torch.zeros(2, *net.shape), 500, torch.zeros(3)).detach(), times=3)
    *_, last = recorder(train(tiny(), random_dataset(), config, checkpoint_dir=tmp_path))
    history = recorder.history()
    assert history.steps.tolist() == [1, 2, 4] and history.losses.tolist() == pytest.approx(last.losses)
    assert not torch.equal(history.images[0], history.images[-1])
    again = HistoryRecorder(recorder.generate, times=3)
    list(again(train(tiny(), random_dataset(), config, checkpoint_dir=tmp_path)))
    assert again.history().steps.tolist() == [4], "of a finished training the end is recorded"


def test_nothing_to_record():
    with pytest.raises(ValueError, match="nothing was recorded"):
        HistoryRecorder(None).history()
    with pytest.raises(ValueError, match="must be 1 or more"):
        HistoryRecorder(None, times=0)


def test_a_saved_history_is_loaded_and_a_damaged_one_is_refused(history, tmp_path):
    file = history.save(tmp_path / "new" / "a_training.safetensors")
    loaded = load_history(file)
    assert torch.equal(loaded.losses, history.losses) and torch.equal(loaded.images, history.images)
    assert loaded.steps.tolist() == [1, 40, 100] and loaded.about == {"command": "train"}
    file.write_bytes(file.read_bytes()[:100])
    for wrong in (file, tmp_path / "none.safetensors", "nobody's"):
        with pytest.raises(ValueError, match="there is no training history"):
            load_history(wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"steps": torch.tensor([1, 1, 3])}, "must increase"),
        ({"steps": torch.tensor([0, 1, 3])}, "must increase"),
        ({"steps": torch.tensor([1, 2, 101])}, "within 1 to 100"),
        ({"steps": torch.tensor([1, 2])}, "2 steps need images"),
        ({"images": torch.zeros(3, 6, 1, 8, 8)}, "uint8"),
    ],
)
def test_a_history_refuses(history, wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(history, **wrong)


def test_chart_figure_and_summary_are_those_of_the_history(history):
    assert history.smoothed[0] == 8 and history.smoothed[39] == LOSSES[38:40].mean() and len(history.smoothed) == 100
    assert history.summary(1) == "After step 40 of 100 the loss is 4."
    ((_, svg, alt),) = images_in(history.chart(1))
    lines, dots = chart_in(svg)
    assert lines[controls.BLUE][0] == pytest.approx(1) and lines[controls.BLUE][-1] == pytest.approx(0)
    position, height = dots[controls.BLUE]
    assert position == pytest.approx(39 / 99, abs=1e-3)
    assert height == pytest.approx(2 / 3, abs=1e-3), "4 between 1 and 8 on a log scale"
    assert b">1</text>" in svg and b">100</text>" in svg, "steps are counted from 1"
    assert "falls from 8 to 1" in alt and history.summary(1) in alt
    ((kind, png, alt),) = images_in(history.figure(1))
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert (pixels[20 : 20 + 80 : 10, 20 : 20 + 80 : 10] == history.images[1, 0, 0].numpy()).all()
    assert kind == "png" and alt == "6 images from the same noise, generated after step 40."


def test_the_shipped_training_of_digits():
    history = TrainingReplay().history
    assert history.losses[-100:].mean() < 0.3 * history.losses[:10].mean() and "command" in history.about
    from facelab.pretrained import load

    classifier = load("mnist-classifier").classifier
    right = [classifier.predict(images.float() / 127.5 - 1) == torch.arange(10) for images in history.images[[0, -1]]]
    assert right[0].sum() <= 3 and right[1].sum() >= 7


def test_the_slider_moves_figure_and_text(history):
    replay = TrainingReplay(history)
    for index in (2, 1, 0):
        replay.slider.slider.value = index + 1
        assert replay.index == index and replay.slider.number.value == index + 1
        assert history.summary(index) in replay.text.value
        assert replay.figure.value == controls.row([history.figure(index), history.chart(index)])
    assert replay.slider.number.description and replay.slider.number.max == 3
    assert repr(replay) == "A recorded training. After step 1 of 100 the loss is 8. Run this cell to move through it."


def test_an_error_is_shown_and_the_last_figure_stays(history, monkeypatch):
    replay = TrainingReplay(history)
    with monkeypatch.context() as broken:
        broken.setattr(TrainingHistory, "chart", lambda *_: 1 / 0)
        replay.slider.number.value = 2
        assert "This cannot be shown:</b> division by zero" in replay.text.value and replay.index == 0
    replay.slider.number.value = 3
    assert history.summary(2) in replay.text.value


def test_a_constant_loss_and_a_single_step():
    one = TrainingHistory(torch.ones(1), torch.tensor([1]), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8))
    for history in (one, dataclasses.replace(one, losses=torch.ones(5))):
        assert len(images_in(TrainingReplay(history).figure.value)) == 2
