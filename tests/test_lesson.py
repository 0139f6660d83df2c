"""What the lessons share: setup, predictions, check, hint and solution, a training with live figures."""

import json
import re

import pytest
import torch

from facelab import presets
from facelab.course import lesson, setup
from facelab.course.exercises import EXERCISES
from facelab.course.lesson import check, hint, predict, solution, watch
from facelab.denoiser import Denoiser
from facelab.training import Progress


def test_setup_prints_device_precision_preset_and_data_and_returns_the_preset(capsys):
    assert setup() is presets.preset()
    out = capsys.readouterr().out
    pattern = r"facelab [\d.]+ on the CPU, (float32|bfloat16) arithmetic\npreset ci .*\ndigits: .* MNIST .*\nfaces: "
    assert re.match(pattern, out) and "/" not in out, "no folder of this machine, which saved notebooks would show"


def test_a_prediction_is_printed_beside_the_computed_value(capsys):
    predict("How many?", 50).truth(92.17)
    assert capsys.readouterr().out == "How many?\n  your prediction 50   computed 92.2   difference 42\n"
    for wrong in ("many", None, float("nan"), True):
        with pytest.raises(ValueError, match="a prediction is a number"):
            predict("How many?", wrong)


def test_a_choice_is_printed_beside_the_correct_option(capsys):
    options = ["one", "two"]
    lesson.choose("Which?", options, 2).truth("two")
    assert capsys.readouterr().out == "Which?\n  1  one\n  2  two\nWhich?\n  you chose: two   it is: two   (right)\n"
    for answer, printed in ((1, "chose: one   it is: two   (not"), (0, "chose: nothing   it is: two   (no choice")):
        lesson.choose("Which?", options, answer).truth("two")
        assert printed in capsys.readouterr().out
    for wrong in (3, -1, "one", True, None, 1.0):
        with pytest.raises(ValueError, match="choose a number from 1 to 2"):
            lesson.choose("Which?", options, wrong)


def test_check_returns_the_own_function_if_it_is_correct_and_else_the_reference(capsys):
    def add_noise(x_0, eps, alpha_bar):
        return torch.lerp(torch.zeros_like(x_0), x_0, alpha_bar.sqrt()) + eps * (1 - alpha_bar).sqrt()

    own = add_noise
    assert check(own) is own and capsys.readouterr().out == "add_noise: right.\n"

    def add_noise(x_0, eps, alpha_bar): ...

    assert check(add_noise) is EXERCISES["add_noise"].reference
    out = capsys.readouterr().out
    assert out.startswith("add_noise: not yet. It returns nothing yet") and 'hint("add_noise")' in out
    with pytest.raises(ValueError, match="no exercise '<lambda>': the exercises are add_noise, "):
        check(lambda: 0)


def test_hints_come_one_by_one_and_the_solution_is_source_text(capsys):
    hints = EXERCISES["ddim_step"].hints
    for i in (0, 1, 2, 2):
        hint("ddim_step")
        assert capsys.readouterr().out == f"hint {i + 1} of {len(hints)}: {hints[i]}\n"
    assert solution("ddim_step").startswith("def ddim_step(x_t, ") and isinstance(solution("ddim_step"), str)


def steps(count=5, stop=None):
    net = Denoiser((1, 8, 8), block_out_channels=(32,), attention=(False,), exclusive=True)
    for i in range(1, count + 1):
        if i == stop:
            raise KeyboardInterrupt
        losses, note = [1 / j for j in range(1, i + 1)], "resumed" if i == 1 else ""
        yield Progress(i, count, 1 / i, losses, net, i, note, {0.999: net})


def test_watch_samples_images_while_it_runs_and_returns_net_and_losses(monkeypatch):
    shown = []
    handle = type("Handle", (), {"update": lambda _, figure: shown.append(figure)})()
    monkeypatch.setattr(lesson, "display", lambda figure, **_: shown.append(figure) or handle)
    net, losses = watch(steps(3), lambda net: torch.zeros(2, 1, 8, 8), every=0, captions=["left", "right"])
    assert losses == pytest.approx([1, 1 / 2, 1 / 3]) and isinstance(net, Denoiser)
    assert len(shown) == 4 and "rows: step 1, step 3; captions: left, right" in shown[-1].alt
    assert "loss" in shown[-1].alt
    watch(steps(12), lambda net: torch.zeros(2, 1, 8, 8), every=0)
    assert "rows: step 1, step 3, step 6, step 12" in shown[-1].alt
    assert watch(steps(3))[1] == losses, "without images"


def test_an_interrupted_training_prints_how_to_go_on(capsys):
    closed = []

    def interrupted():
        try:
            yield from steps(5, stop=3)
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        watch(interrupted())
    assert closed and "Stopped at step 2. Run this cell again" in capsys.readouterr().out


def test_an_iterator_without_steps_gets_one_sentence():
    """Bug 24: it was an AttributeError of None."""
    used = steps(2)
    watch(used)
    for empty in (used, []):
        with pytest.raises(ValueError, match=r"there are no training steps.*make a new one with train\(\.\.\.\)"):
            watch(empty)


@pytest.mark.parametrize(
    ("conditioning", "first", "blocks"),
    [("embedding", "", "t + condition"), ("channels", "condition", "t"), ("none", "", "t")],
)
def test_the_stages_of_a_unet_are_in_order_and_complete(conditioning, first, blocks):
    settings = {"block_out_channels": (16, 32), "attention": (False, True), "patch_size": 2}
    net = Denoiser((3, 32, 32), ("a", "b"), conditioning=conditioning, **settings)
    stages = lesson.unet_stages(net)
    assert [s.name for s in stages] == ["x_t", "in", "down 1", "down 2", "middle", "up 1", "up 2", "out", "output"]
    assert [(s.channels, s.side) for s in stages[:2]] == [(3, 32), (16, 16)] and stages[4][1:3] == (32, 8)
    assert [s.inputs for s in stages] == ["", first, *[blocks] * 5, "", ""]
    others = [net.unet.time_embedding, net.unet.conv_norm_out, *([net.embed] if conditioning != "none" else [])]
    parameters = sum(p.numel() for p in net.parameters()) - sum(p.numel() for m in others for p in m.parameters())
    assert sum(s.parameters for s in stages) == parameters and not net.unet.conv_in._forward_hooks


def test_the_summary_lists_and_saves_what_is_solved(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lesson, "_solved", {})
    check(EXERCISES["add_noise"].reference)

    def slerp(x_a, x_b, share):
        return x_a

    check(slerp)
    assert check.summary(tmp_path / "solved.json") == {"add_noise": True, "slerp": False}
    assert "1 of 2 solved" in capsys.readouterr().out
    assert json.loads((tmp_path / "solved.json").read_text("utf-8")) == {"add_noise": True, "slerp": False}
