"""What lessons share: checks that accept the right and name what is wrong, guesses, a training to watch."""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from facelab import lessons, plan
from facelab.exercises import EXERCISES
from facelab.lessons import check, hint, predict, solution, watch
from facelab.model import Denoiser
from facelab.train import Progress

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_is_handed_back(name, capsys):
    reference = EXERCISES[name].reference
    assert getattr(check, name)(reference) is reference
    assert capsys.readouterr().out == f"{name}: right.\n"


@pytest.mark.parametrize(
    ("name", "sentence", "wrong"), [(n, s, w) for n, e in EXERCISES.items() for s, w in e.mistakes.items()]
)
def test_each_plausible_mistake_is_rejected_by_its_own_sentence(name, sentence, wrong):
    assert EXERCISES[name].verdict(wrong) == sentence


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_knows_at_least_three_mistakes_and_two_hints(name):
    assert len(EXERCISES[name].mistakes) >= 3 and len(EXERCISES[name].hints) >= 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda *a: None, "nothing comes back yet"),
        (lambda *a: ..., "nothing comes back yet"),
        (lambda *a: "0.5", "should give a tensor, and gives a str"),
        (lambda *a: torch.zeros(3), "gives shape (3,), and should give"),
        (lambda x, e, a: a**0.5 * x + (1 - a) ** 0.5 * e + 0.01, "off by up to 0.01"),
        (lambda x: x, "stops with TypeError"),
        (lambda x, e, a: x / 0, "32 of its 32 numbers are not finite"),
        (lambda x, e, a: x * a + (a - 1) ** 0.5 * e, "32 of its 32 numbers are not finite"),
        (lambda x, e, a: x + 0j, "it gives complex numbers, and should give real ones"),
        (lambda x, e, a: x.mul_(a) + (1 - a) * e, "both are scaled by their variances"),
        (lambda x, e, a: e.mul_(0) + 7, "off by up to"),
    ],
)
def test_other_answers_get_a_sentence_and_the_lesson_goes_on(answer, says, capsys):
    assert check.add_noise(answer) is EXERCISES["add_noise"].reference
    out = capsys.readouterr().out
    assert out.startswith("add_noise: not yet.") and says.lower() in out.lower() and "hint.add_noise()" in out


def test_an_error_of_several_lines_is_told_in_one():
    def add_noise(x_0, eps, alpha_bar):
        raise RuntimeError("sizes differ:\n  4 here,\n  5 there")

    said = EXERCISES["add_noise"].verdict(add_noise)
    assert said == "it stops with RuntimeError: sizes differ: 4 here, 5 there"


def test_an_answer_that_is_right_in_another_way_is_right():
    def add_noise(x_0, eps, alpha_bar):
        return torch.lerp(torch.zeros_like(x_0), x_0, alpha_bar.sqrt()) + eps * (1 - alpha_bar).sqrt()

    assert check.add_noise(add_noise) is add_noise


def test_a_measurement_that_is_not_recorded_yet_is_told_with_its_command(capsys):
    assert lessons.recorded("celeba_answers", "--what survey")["names"] and capsys.readouterr().out == ""
    assert lessons.recorded("celeba_nothing", "--what nothing") == {}
    told = capsys.readouterr().out
    assert "data/results/celeba_nothing.json is not there" in told and "facelab evaluate --what nothing" in told


def test_hints_come_one_by_one_and_the_solution_is_shown(capsys):
    hints = EXERCISES["ddim_step"].hints
    for i in (0, 1, 2, 2):
        hint.ddim_step()
        assert capsys.readouterr().out == f"hint {i + 1} of {len(hints)}: {hints[i]}\n"
    solution.ddim_step()
    with pytest.raises(AttributeError, match="no exercise 'nothing'.*add_noise"):
        _ = check.nothing


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("0[1-9]*.ipynb")), ids=lambda path: path.stem)
def test_each_exercise_of_a_lesson_is_solved_by_its_solution(notebook, capsys):
    cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text("utf-8"))["cells"]]
    stubs = [cell for cell in cells if re.search(r"^(\w+) = check\.\1\(\1\)$", cell, re.M)]
    assert stubs
    for stub in stubs:
        name = re.search(r"check\.(\w+)", stub)[1]
        head = re.search(r"^def .*:$", stub, re.M)[0]
        reference = EXERCISES[name].reference
        # The stub's own head with the solution's body: what a learner has who copies it.
        body = inspect.getsource(reference).split("\n", 1)[1]
        names = {"check": check, "torch": torch, "math": __import__("math")}
        exec(f"{head}\n{body}\n{name} = check.{name}({name})", names)
        assert f"{name}: right." in capsys.readouterr().out and names[name] is not reference
        exec(stub, names)
        assert f"{name}: not yet." in capsys.readouterr().out and names[name] is reference


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("0[2-7]*.ipynb")), ids=lambda path: path.stem)
def test_a_lesson_opens_with_three_questions_from_earlier_ones(notebook):
    head = "".join(json.loads(notebook.read_text("utf-8"))["cells"][0]["source"])
    opens = r"\*Three questions from earlier lessons, to warm up\.\* (.+) <details><summary>Answers</summary>(.+)</details>$"
    questions, answers = re.search(opens, head).groups()
    assert questions.count("?") == 3 and questions.endswith("?")
    told = {int(number) for number in re.findall(r"\b(0\d)\b", " ".join(re.findall(r"\(lessons? [^)]+\)", answers)))}
    assert told and max(told) < int(notebook.name[:2])


def test_guess_and_truth_stand_side_by_side(capsys):
    predict("How many?", 50).truth(92.17)
    assert capsys.readouterr().out == "How many?\n  your guess 50   the truth 92.2   off by 42\n"
    for wrong in ("many", None, float("nan"), True):
        with pytest.raises(ValueError, match="a guess is a number"):
            predict("How many?", wrong)


def test_setup_prints_device_precision_plan_and_data_in_one_line(capsys):
    assert lessons.setup() is plan.plan()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert re.match(r"facelab [\d.]+ \| device cpu \| (float32|bfloat16) \| plan ci \| MNIST: ", out)


def steps(count=5, stop=None):
    net = Denoiser((1, 8, 8), channels=(32,), attention=(False,), exclusive=True)
    for i in range(1, count + 1):
        if i == stop:
            raise KeyboardInterrupt
        yield Progress(i, count, 1 / i, [1 / j for j in range(1, i + 1)], count - i, net, i, "hello" if i == 1 else "")


def test_watch_draws_while_it_runs_and_hands_back_net_and_losses():
    drawn = []

    def draw(net):
        drawn.append(net)
        return torch.zeros(3, 1, 8, 8)

    net, losses = watch(steps(10), draw, every=0)
    assert len(losses) == 10 and len(drawn) == 10 and isinstance(net, Denoiser)
    assert watch(steps(3))[1] == pytest.approx([1, 1 / 2, 1 / 3])


def test_what_one_watches_has_a_caption_over_each_column(monkeypatch):
    shown = []
    monkeypatch.setattr(lessons, "display", lambda *a, **k: type("", (), {"update": lambda _, it: shown.append(it)})())
    watch(steps(2), lambda net: torch.zeros(2, 1, 8, 8), every=0, captions=["left", "right"])
    assert "rows: step 1, step 2; captions: left, right" in shown[-1].alt


def test_an_interrupted_watch_says_how_to_go_on(capsys):
    with pytest.raises(KeyboardInterrupt):
        watch(steps(5, stop=3))
    assert "Stopped at step 2. Run this cell again" in capsys.readouterr().out


def test_stations_are_passed_in_order_and_count_what_is_there():
    net = Denoiser((3, 32, 32), ("a", "b"), channels=(16, 32), attention=(False, True), patch=2)
    passed = lessons.stations(net)
    assert [name for name, *_ in passed] == ["stem", "down 1", "down 2", "middle", "up 1", "up 2", "head"]
    assert passed[0][1:3] == (16, 16) and passed[3][1:3] == (32, 8) and passed[-1][1:3] == (12, 16)
    blocks = sum(count for *_, count, _ in passed)
    others = [net.unet.time_embedding, net.unet.conv_norm_out, net.embed]
    assert blocks == sum(p.numel() for p in net.parameters()) - sum(p.numel() for m in others for p in m.parameters())
    assert [told for *_, told in passed] == [False, True, True, True, True, True, False]
    assert not net.unet.conv_in._forward_hooks


def test_a_choice_is_printed_beside_what_it_is(capsys):
    options = ["one", "two"]
    lessons.choose("Which?", options, 2).truth("two")
    assert capsys.readouterr().out == "Which?\n  1  one\n  2  two\nWhich?\n  you said: two   it is: two   (right)\n"
    for guess, says in ((1, "you said: one   it is: two   (look again)"), (0, "no choice   it is: two   (so now you")):
        lessons.choose("Which?", options, guess).truth("two")
        assert says in capsys.readouterr().out
    for wrong in (3, -1, "one", True, None, 1.0):
        with pytest.raises(ValueError, match="choose a number from 1 to 2"):
            lessons.choose("Which?", options, wrong)
