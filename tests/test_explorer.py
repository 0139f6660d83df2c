"""The request draws, reads and speaks by itself; the explorer turns it, answers the newest move, and lives through faults."""

import base64
import dataclasses
import html
import io
import json
import random
import re
import subprocess
import sys
import threading
import time
import types

import ipywidgets
import numpy as np
import psutil
import pytest
import torch
from oracle import refused, tiny
from PIL import Image
from torch.testing import assert_close

from facelab import explorer as module
from facelab import photo, plots, pretrained, request
from facelab.__main__ import main
from facelab.attributes import CELEBA, DIGITS, DRAWN, Attributes
from facelab.explorer import AttributeExplorer
from facelab.features import as_saved
from facelab.model import AttributeClassifier
from facelab.pretrained import Pretrained
from facelab.request import NEVER, RARE, RARE_TOGETHER, Request, held, judge_of, sure_of
from facelab.schedule import straight

SHAPE = (3, 8, 8)
FACE = Attributes(("Beard", "Hat", "Smile"), {"face": ("Smile", "Beard"), "worn": ("Hat",)})
IMG = re.compile(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"')


class Drawer:
    """THE call with no network, which each attribute pushes its own way. Where `gate` is set, each call waits for it."""

    def __init__(self):
        self.schedule, self.calls, self.fault, self.gate = straight(), [], None, None

    def __call__(self, x_t, t, cond):
        self.calls.append((x_t, t, cond))
        if self.gate:
            assert self.gate.wait(20)
        if self.fault:
            raise self.fault
        push = (cond * torch.arange(1, cond.shape[1] + 1)).sum(1) / cond.shape[1]
        return torch.tanh(0.5 * x_t + 0.5 * push[:, None, None, None])


def model(attributes=FACE, shape=SHAPE, denoiser=None) -> Pretrained:
    return Pretrained("toy", attributes, shape, {"sha256": "0" * 64}, denoiser=denoiser or Drawer())


def judge(attributes=FACE, shape=SHAPE) -> AttributeClassifier:
    return (
        AttributeClassifier(shape, attributes.names, attributes.exclusive, channels=(8,)).eval().requires_grad_(False)
    )


@pytest.fixture(scope="module")
def digits() -> Pretrained:
    return pretrained.load("digits")


# The request, with no widget


def test_what_is_said_is_the_condition():
    asked = Request(model()).say("Smile", 1).say("Hat", -1).say("Beard", 0.5).say("Hat", 0)
    assert asked.asked == {"Beard": 0.5, "Smile": 1.0}
    assert torch.equal(asked.cond, FACE.encode(Beard=0.5, Smile=1)) and asked.describe() == "Beard 0.5, Smile"
    assert asked != Request(model()) and asked == Request(model()).say("Smile", 1).say("Beard", 0.5)
    # As fine as a recipe tells it, or the picture would not be the recipe's.
    assert Request(model()).say("Hat", 0.123456).said == (0, 0.1235, 0)
    # The words of `encode`: False is a no, and not a silence.
    told = Request(model()).say("Smile", False).say("Hat", True).say("Beard", np.float32(0.5))
    assert told.said == tuple(FACE.encode(Smile=False, Hat=True, Beard=0.5).tolist())
    assert told.describe() == "Beard 0.5, Hat, no Smile"
    seven = Request(model(DIGITS, (1, 8, 8))).say("3", 1).say("7", True)
    assert seven.asked == {"7": 1.0} and seven.say("3", 0.5).asked == {"7": 1.0, "3": 0.5}


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: Request(model()).say("Smil", 1), "did you mean 'Smile'"),
        (lambda: Request(model()).say("Smile", 1.5), "from -1 .* to 1"),
        (lambda: Request(model()).say("Smile", "yes"), "from -1 .* got 'yes'"),
        (lambda: Request(model()).say("Smile", None), "from -1 .* got None"),
        (lambda: Request(model(), said=(1, 0)), "3 numbers"),
        (lambda: Request(model(), steps=0), "steps must be a whole number from 1 to 1000"),
        (lambda: Request(model(), steps=1001), "steps must be a whole number from 1 to 1000"),
        (lambda: Request(model(), people=0), "people must be"),
        (lambda: Request(model(), people=2.5), "people must be a whole number"),
        (lambda: Request(model(), seed=1.5), "seed must be a whole number"),
        (lambda: Request(model(), seed="1"), "seed must be a whole number"),
        (lambda: Request(model(), seed=True), "seed must be a whole number"),
        (lambda: Request(model(), scale="2"), "scale must be from -20 to 20, got '2'"),
        (lambda: Request(model(), said=("a", 0, 0)), "3 numbers"),
        (lambda: Request("celeba"), "needs loaded weights, .* got 'celeba'"),
        (lambda: AttributeExplorer("celeba"), "needs loaded weights, .* got 'celeba'"),
        (lambda: Request(model(), seed=-1), "seed must be"),
        (lambda: Request(model(), scale=float("nan")), "scale must be"),
        (lambda: Request(Pretrained("a judge", FACE, SHAPE, {}, classifier=judge())), "reads pictures"),
        (lambda: judge_of(FACE), "no shipped judge"),
    ],
)
def test_a_request_refuses(wrong, says):
    with refused(says):
        wrong()


def test_silence_keeps_all_but_the_words():
    asked = Request(model(), (1, 0, -1), seed=5, people=4, scale=3.0, steps=7)
    silent = asked.silent()
    assert silent.asked == {} and (silent.seed, silent.people, silent.steps) == (5, 4, 7)
    assert silent == dataclasses.replace(asked, scale=5.0).silent(), "so that it is drawn once for every guidance"
    # Guided or plain, nothing asked is drawn alike, and plainly.
    assert torch.equal(silent.draw(), dataclasses.replace(silent, scale=3.0).draw())
    assert not torch.equal(silent.draw(), asked.draw())


def test_a_walk_keeps_the_people():
    here, there = Request(model(), (1, 0, -1), seed=5), Request(model(), (0, 0, 1), seed=6)
    assert [here.toward(there, place).said for place in (0, 0.25, 1)] == [(1, 0, -1), (0.75, 0, -0.5), (0, 0, 1)]
    assert here.toward(there, 0.5).seed == 5


def test_a_surprise_is_something_that_goes_together():
    for attributes in (CELEBA, DRAWN):
        start = Request(model(attributes), scale=3.0)
        surprises = [start.surprise(luck) for luck in range(40)]
        assert start.surprise(7) == surprises[7] and len({s.said for s in surprises}) > 30
        assert len({s.seed for s in surprises}) > 35 and {s.scale for s in surprises} == {3.0}
        assert all(1 <= len(s.asked) <= 4 and "Male" in s.asked for s in surprises)
        assert {value for s in surprises for name, value in s.asked.items() if name != "Male"} == {1.0}
        assert {s.asked["Male"] for s in surprises} == {-1.0, 1.0}
        assert not any(" with " in what and share < NEVER for s in surprises for what, share in s.rare().items())
    assert all(sum(Request(model(DIGITS, (1, 8, 8))).surprise(luck).said) == 1 for luck in range(10))
    assert {len(Request(model()).surprise(luck).asked) for luck in range(20)} >= {1, 2}


def test_what_a_judge_reads_is_said_where_it_is_sure():
    sure = torch.tensor([0.76, 0.5, 0.24])
    start = Request(model(), (0, 1, 1), seed=3)
    assert start.as_read(sure).said == (1, 0, -1) and start.as_read(sure).seed == 3
    assert start.as_read(torch.tensor([0.74, 0.26, 0.5])).said == (0, 0, 0)
    assert Request(model(DIGITS, (1, 8, 8))).say("1", 1).as_read(torch.eye(10)[4] * 0.3).asked == {"4": 1.0}


def test_a_preview_is_plain_and_the_picture_guided():
    net = Drawer()
    asked = Request(model(denoiser=net), (1, 0, 0), people=2, scale=3.0, steps=6)
    *_, coarse = asked.frames(3)
    assert [len(x) for x, _, _ in net.calls] == [2, 2, 2]
    net.calls.clear()
    drawn = asked.draw()
    assert [len(x) for x, _, _ in net.calls] == [4] * 6 and drawn.shape == coarse.shape == (2, *SHAPE)
    assert torch.equal(net.calls[0][0][:2], request.noise(2, SHAPE, 0))
    assert drawn.abs().max() <= 1


@pytest.mark.parametrize("scale, told", [(-2.0, 0), (0.0, 0), (0.5, 1), (1.0, 1), (3.0, 1)])
def test_a_preview_without_guidance_asks_for_nothing(scale, told):
    net = Drawer()
    *_, coarse = Request(model(denoiser=net), (1, 0, 0), scale=scale).frames(3)
    assert [cond.tolist() for _, _, cond in net.calls] == [[[told, 0, 0]]] * 3


@pytest.mark.parametrize("people, scale, wishes", [(1, 2.0, {"7": 1}), (4, 1.0, {"3": 0.5, "8": 0.5}), (2, 0.0, {})])
def test_four_lines_draw_the_very_same_picture(digits, people, scale, wishes):
    asked = Request(digits, tuple(DIGITS.encode(**wishes).tolist()), 11, people, scale, 3)
    lines, there = asked.code(), {}
    assert lines.count("\n") == 3
    exec(re.sub("^plots", "shown = plots", lines, flags=re.M), there)
    off = (as_saved(there["pictures"]).int() - as_saved(asked.draw()).int()).abs()
    assert there["shown"].image.size == ((people * (56 + plots.GAP)) - plots.GAP, 56), "it ends in the pictures"
    assert photo.png_bytes(there["pictures"])
    assert there["pictures"].shape == (people, 1, 28, 28) and off.max() <= 1 and (off > 0).float().mean() < 1e-3


def test_the_code_holds_any_name_and_folder(tmp_path):
    names = ("5_o_Clock_Shadow", "Smile", "Hat")
    folder = pretrained.save(tiny(names=names), tmp_path / 'a "net"', {})
    asked = Request(pretrained.load(str(folder)), (1, 0.25, -1), seed=2, steps=2)
    exec(asked.code(), there := {})
    assert torch.equal(as_saved(there["pictures"]), as_saved(asked.draw()))


def test_a_recipe_says_it_all():
    asked = Request(model(), (1, 0, -0.3), 5, 4, 3.0, 7)
    told = json.loads(json.dumps(asked.recipe()))
    assert (
        told["cond"] == {"Beard": 1.0, "Smile": -0.3}
        and told["sha256"] == "0" * 64
        and told["solver"] == "AdamsBashforth"
    )
    assert [told[key] for key in ("model", "seed", "people", "scale", "steps")] == ["toy", 5, 4, 3.0, 7]


def test_numbers_of_numpy_are_numbers():
    asked = Request(model(), (np.float32(0.5), 0, 0), np.int64(5), np.int64(2), np.float32(2.5), np.int64(3))
    assert (
        json.loads(json.dumps(asked.recipe()))["seed"] == 5 and "seed=5" in asked.code() and "scale=2.5" in asked.code()
    )
    assert asked == Request(model(), (0.5, 0, 0), 5, 2, 2.5, 3)


def test_the_command_draws_the_same(digits, tmp_path):
    folder = pretrained.save(tiny(names=FACE.names), tmp_path / "net", {})
    faces = Request(pretrained.load(str(folder)))
    for asked, words in (
        (faces.say("Hat", -1), ["Hat=-1", "--model", str(folder)]),
        (Request(digits).say("7", 1), ["7"]),
    ):
        main(["sample", *words, "--count", "1", "--out", str(tmp_path / "drawn.png")])
        assert photo.recipe_of(tmp_path / "drawn.png") | {"people": 1} == asked.recipe()
        assert asked.recipe()["solver"] == ("AdamsBashforth" if asked.attributes == faces.attributes else "DDIM")


def test_readings_stand_next_to_what_was_asked():
    sure = torch.tensor([[0.9, 0.2, 0.6], [0.8, 0.4, 0.4], [0.3, 0.1, 0.8]])
    told = Request(model(), (1, 0, -1), people=3).readings(sure)
    assert [(r.name, r.asked, r.yes, r.of, r.obeyed) for r in told] == [
        ("Smile", -1.0, 2, 3, False),
        ("Beard", 1.0, 2, 3, True),
    ]
    assert told[1].sure == pytest.approx(2 / 3)
    assert [r.name for r in Request(model(), people=3).readings(sure)] == ["Beard", "Smile"]
    assert not any(r.obeyed for r in Request(model(), people=3).readings(sure))
    half = Request(model(), (-1, 0, 0), people=2).readings(sure[1:])
    assert not half[0].obeyed, "one of two is not most of them"
    seven = Request(model(DIGITS, (1, 8, 8))).say("7", 1).readings(torch.eye(10)[[6]] * 0.4)
    assert [(r.name, r.yes, r.obeyed) for r in seven] == [("7", 0, False)]
    assert [r.name for r in Request(model(DIGITS, (1, 8, 8))).readings(torch.eye(10)[[6]])] == ["6"]


def test_the_rare_is_marked():
    rates, together = held(CELEBA)
    start = Request(model(CELEBA))

    def rare(**wishes):
        return dataclasses.replace(start, said=tuple(CELEBA.encode(**wishes).tolist())).rare()

    assert rare(Smiling=1, Male=1, Eyeglasses=1, Bald=-1) == {}
    assert rare(Bald=0.3) == {"Bald": pytest.approx(rates[CELEBA.index("Bald")].item())} and rates[4] < RARE
    assert list(rare(Mustache=1, Male=-1)) == ["Mustache", "no Male with Mustache"]
    # Straight and wavy hair: 1,158 of 202,599 by the list itself, goatees without a beard 218.
    assert rare(Straight_Hair=1, Wavy_Hair=1) == {}
    assert rare(Goatee=1, No_Beard=1) == {"Goatee with No_Beard": pytest.approx(218 / 202_599, abs=3e-5)}
    assert rare(Wearing_Lipstick=1, Male=1)["Male with Wearing_Lipstick"] < RARE_TOGETHER
    drawn = dataclasses.replace(Request(model(DRAWN)), said=tuple(DRAWN.encode(Bald=1, Black_Hair=1).tolist())).rare()
    assert set(drawn) == {"Bald", "Bald with Black_Hair"}
    assert Request(model(DIGITS, (1, 8, 8))).say("7", 1).rare() == Request(model(), (1, 1, 1)).rare() == {}


def test_judges_are_those_of_the_attributes():
    for attributes, shape in ((DIGITS, (1, 28, 28)), (CELEBA, (3, 64, 64)), (DRAWN, (3, 64, 64))):
        reads = judge_of(attributes)
        sure = sure_of(reads, torch.zeros(2, *shape))
        assert sure.shape == (2, len(attributes)) and reads.attributes.names == attributes.names
        assert bool(((sure.sum(1) - 1).abs() < 1e-5).all()) == attributes.exclusive
        between = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert torch.equal(sure_of(reads, between), sure_of(reads, as_saved(between))), "as the file would show it"


# The explorer, with no browser


def explore(attributes=FACE, shape=SHAPE, **more) -> AttributeExplorer:
    made = AttributeExplorer(model(attributes, shape), judge(attributes, shape))
    made.wait()
    return made


@pytest.fixture
def explorer():
    return explore()


def imgs(explorer) -> list[tuple[np.ndarray, str]]:
    """(pixels, alt) of each picture that is shown."""
    found = IMG.findall(explorer.seen.value)
    return [(np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))), alt) for code, alt in found]


def named(widget, name):
    """The one button of that name, wherever it is."""
    found, todo = [], [widget]
    while todo:
        one = todo.pop()
        todo += getattr(one, "children", ())
        found += [one] if getattr(one, "description", None) == name and hasattr(one, "click") else []
    assert len(found) == 1, f"{len(found)} buttons are called {name!r}"
    return found[0]


def press(explorer, name):
    named(explorer, name).click()
    explorer.wait()


def is_shown(explorer):
    """Picture, words, controls and code all say what is asked."""
    asked = explorer.request
    pixels, alt = imgs(explorer)[-1]
    assert (pixels.reshape(8, 8, -1) == plots.to_uint8(asked.draw())[-1]).all()
    assert f"drawn for: {asked.describe()}; seed {asked.seed}" in alt and "review" not in alt
    assert f"<b>Asked:</b> {asked.describe()}." in explorer.said.value and "The judge reads" in explorer.said.value
    assert explorer.wishes.values == asked.said and explorer.now.value == explorer.fault.value == ""
    assert [getattr(asked, field) for _, field in explorer._fields] == [c.value for c, _ in explorer._fields]
    assert html.escape(asked.code()) in explorer.code.value
    assert torch.equal(explorer.cond, asked.cond) and torch.equal(explorer.picture, asked.draw())
    assert explorer.recipe() == asked.recipe()


def test_the_first_picture_is_there_unasked(explorer):
    is_shown(explorer)
    assert explorer.request.describe() == "anything"
    assert repr(explorer) == "An explorer of toy, asking for: anything. Run this cell to move it."


def test_each_attribute_has_three_ways(explorer):
    for i, name in enumerate(FACE):
        for button, value in (
            (name, 1),
            (name, 0),
            (f"no {name}", -1),
            (name, 1),
            (f"no {name}", -1),
            (f"no {name}", 0),
        ):
            press(explorer, button)
            assert explorer.cond[i] == value and explorer.cond.abs().sum() == abs(value)
            chip, yes, no = explorer.wishes.chips[name]
            lit = [kind for kind in ("yes", "no") if f"facelab-is-{kind}" in chip._dom_classes]
            assert lit == {1: ["yes"], 0: [], -1: ["no"]}[value]
            assert f"{name}: {['not said', 'yes', 'no'][value]}" in yes.tooltip
            is_shown(explorer)


@pytest.mark.parametrize("attributes", [CELEBA, DRAWN, DIGITS, FACE], ids=["celeba", "drawn", "digits", "toy"])
def test_the_attributes_stand_as_a_person_thinks(attributes):
    shape = (1, 8, 8) if attributes.exclusive else SHAPE
    shown = explore(attributes, shape)
    groups = [[chip.children[0].description for chip in group.children[1].children] for group in shown.wishes.children]
    assert groups == [[name.replace("_", " ") for name in names] for names in attributes.groups.values()]
    heads = [group.children[0].children[0].value for group in shown.wishes.children]
    assert heads == (
        ["<b>choose one</b>"] if attributes.exclusive else [f"<b>{name}</b>" for name in attributes.groups]
    )
    assert {len(box.children) for box, *_ in shown.wishes.chips.values()} == {1 if attributes.exclusive else 2}
    is_shown(shown)


def test_of_digits_one_is_chosen():
    shown = explore(DIGITS, (1, 8, 8))
    press(shown, "3")
    press(shown, "7")
    assert shown.request.asked == {"7": 1.0} and shown.request.steps == 10
    assert [name for name, (chip, *_) in shown.wishes.chips.items() if "facelab-is-yes" in chip._dom_classes] == ["7"]
    press(shown, "as sliders")
    shown.wishes.dials["3"].slider.value = 0.5
    shown.wait()
    assert shown.request.asked == {"3": 0.5, "7": 1.0} and shown.wishes.dials["3"].slider.min == 0
    is_shown(shown)


def test_a_group_opens_into_sliders(explorer):
    group, other = explorer.wishes.children
    turn = group.children[0].children[1]
    assert turn.tooltip == "face as sliders" and not explorer.wishes.dials
    press(explorer, "no Smile")
    turn.click()
    assert list(explorer.wishes.dials) == ["Smile", "Beard"] and turn.tooltip == "face as buttons"
    assert group.children[1].layout.display == "none" != group.children[2].layout.display
    dial = explorer.wishes.dials["Smile"]
    assert dial.number.value == dial.slider.value == -1 and dial.number.description == "Smile"
    asks = count_asks(explorer)
    dial.slider.value = 0.4
    explorer.wait()
    assert explorer.request.asked == {"Smile": 0.4} and asks == [explorer.request], "one move, asked once"
    assert explorer.wishes.chips["Smile"][1].description == "Smile 0.4"
    explorer.ask(explorer.request.say("Smile", 1))
    explorer.wait()
    assert dial.slider.value == 1 and len(asks) == 2
    turn.click()
    assert group.children[2].layout.display == "none" != group.children[1].layout.display
    is_shown(explorer)


def count_asks(explorer) -> list[Request]:
    asks, ask = [], explorer.ask
    explorer.ask = lambda request: (asks.append(request), ask(request))
    return asks


@pytest.mark.parametrize("control, value", [("seed", 12), ("scale", 4.5), ("steps", 7), ("people", 4)])
def test_each_dial_moves_the_request(explorer, control, value):
    asks, before = count_asks(explorer), explorer.request
    getattr(explorer, control).value = value
    explorer.wait()
    assert asks == [explorer.request] == [dataclasses.replace(before, **{control: value})]
    assert getattr(explorer, control).description
    is_shown(explorer)
    assert len(imgs(explorer)) == explorer.request.people


def test_another_person_keeps_the_words(explorer):
    random.seed(0)
    press(explorer, "Smile")
    before = explorer.request
    press(explorer, "Another person")
    assert explorer.request.said == before.said and explorer.request.seed != before.seed
    before = explorer.request
    press(explorer, "Surprise me")
    assert explorer.request.seed != before.seed and explorer.request.asked
    is_shown(explorer)
    explorer.beside.value = True
    press(explorer, "From what is asked now")
    press(explorer, "Reset")
    assert explorer.request == explorer.start and not explorer.beside.value and not explorer.marks
    is_shown(explorer)


def test_with_and_without_are_the_same_noise(explorer):
    press(explorer, "Another person")
    press(explorer, "Smile")
    explorer.beside.value = True
    explorer.wait()
    (before, without), (after, with_it) = imgs(explorer)
    assert (before == plots.to_uint8(explorer.request.silent().draw())[0]).all()
    assert "drawn for: anything" in without and "drawn for: Smile" in with_it
    assert explorer.seen.value.index("without what you asked") < explorer.seen.value.index("with it")
    is_shown(explorer)
    press(explorer, "Smile")
    assert len(imgs(explorer)) == 1, "nothing is asked, so there is nothing to compare"


def test_a_walk_from_here_to_there(explorer):
    assert explorer.place.disabled
    press(explorer, "no Smile")
    press(explorer, "From what is asked now")
    assert explorer.place.disabled
    press(explorer, "Smile")
    press(explorer, "Hat")
    press(explorer, "To what is asked now")
    assert not explorer.place.disabled and "From <b>no Smile</b> to <b>Hat, Smile</b>" in explorer.route.value
    press(explorer, "Another person")
    seed = explorer.request.seed
    for place, asked in ((0.25, {"Hat": 0.25, "Smile": -0.5}), (1, {"Hat": 1, "Smile": 1}), (0, {"Smile": -1})):
        explorer.place.value = place
        explorer.wait()
        assert explorer.request.asked == asked and explorer.request.seed == seed
        is_shown(explorer)


def photograph(kind="PNG") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((20, 30), 90).convert("RGB").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    "of", [lambda content: ({"content": memoryview(content)},), lambda c: {"me.png": {"content": c}}]
)
def test_a_picture_of_one_s_own_sets_the_sliders(explorer, of):
    content = photograph()
    explorer.judge.layers[-1].bias[:] = torch.tensor([3.0, 0.0, -3.0])
    explorer.judge.layers[-1].weight[:] = 0
    explorer.upload.notify_change({"name": "value", "type": "change", "new": of(content), "old": None, "owner": None})
    explorer.wait()
    assert explorer.request.asked == {"Beard": 1.0, "Smile": -1.0}
    pixels, alt = imgs(explorer)[-1]
    assert (pixels == plots.to_uint8(photo.open_photo(content, 8)[None])[0]).all() and "Your picture" in alt
    press(explorer, "Another person")
    assert len(imgs(explorer)) == 2, "it stays beside"
    press(explorer, "Reset")
    assert len(imgs(explorer)) == 1
    assert "Nothing leaves this machine" in module.OWN and "whose owner said yes" in module.OWN


def test_a_grey_model_reads_a_grey_picture():
    shown = explore(DIGITS, (1, 8, 8))
    shown.look(photograph("JPEG"))
    shown.wait()
    assert shown.own.shape == (1, 8, 8) and sum(shown.request.said) == 1


def test_the_picture_is_saved_with_its_recipe(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer.people.value = 4
    press(explorer, "Hat")
    for name in ("facelab-1.png", "facelab-2.png"):
        press(explorer, "Save the PNG")
        assert photo.recipe_of(tmp_path / name) == explorer.recipe() and name in explorer.saved.value
        assert Image.open(tmp_path / name).size[0] > 4 * 8
    with refused("end in .png"):
        explorer.save("face.jpg")


@pytest.mark.skipif(not hasattr(ipywidgets.Widget, "_repr_mimebundle_"), reason="ipywidgets 7 shows the widget alone")
def test_a_saved_notebook_shows_a_still_in_its_place():
    still = plots.Illustration(plots.show(torch.zeros(*SHAPE)).png, "Six states.")
    shown = AttributeExplorer(model(), judge(), still)._repr_mimebundle_()
    assert 'alt="Six states."' in shown["text/html"] and any("widget-view" in kind for kind in shown)
    assert "text/html" not in explore()._repr_mimebundle_()


def test_six_states_are_one_person():
    six = module.six_states(model(CELEBA), side=8)
    assert six.alt == module.SIX_IN_WORDS and len(module.SIX) == 6
    start = Request(model(CELEBA), seed=module.FIRST)
    drawn = [request.draw() for request in (start, start.say("Smiling", 1))]
    pixels = np.asarray(six.image)
    for i, picture in enumerate(drawn):
        left = i * (8 + plots.GAP)
        assert (pixels[:8, left : left + 8] == plots.to_uint8(picture)[0]).all()


# The work: newest first, nothing queued


def test_old_work_is_dropped_and_never_queued(explorer, monkeypatch):
    net, gate = explorer.request.model.denoiser, threading.Event()
    monkeypatch.setattr(module, "PREVIEW", 0.0001)
    drawn, draw = [], explorer._drawn
    monkeypatch.setattr(
        explorer, "_drawn", lambda request, *how: (drawn.append((request, how)), draw(request, *how))[1]
    )
    net.gate = gate
    for value in range(1, 11):
        explorer.ask(explorer.start.say("Smile", value / 10))
    gate.set()
    explorer.wait()
    whole = [request.asked["Smile"] for request, how in drawn if how[0] is None]
    assert whole == [1.0] or whole == [0.1, 1.0], "the first may have begun, the last is drawn, nothing between"
    assert len({request for request, _ in drawn}) <= 2
    is_shown(explorer)


def test_what_is_newer_stops_the_picture_but_not_the_preview(explorer, monkeypatch):
    monkeypatch.setattr(module, "PREVIEW", 0.0001)
    net, calls = explorer.request.model.denoiser, []
    first, second = explorer.start.say("Smile", 1), explorer.start.say("Hat", 1)
    call = type(net).__call__

    def moving(self, x_t, t, cond):
        calls.append((len(x_t), tuple(cond[0].tolist())))
        if len(calls) == 5:  # two plain calls of the preview, and into the picture
            explorer.ask(second)
        return call(self, x_t, t, cond)

    monkeypatch.setattr(Drawer, "__call__", moving)
    seen = []
    explorer.seen.observe(lambda change: seen.append(change["new"]), "value")
    explorer.ask(first)
    explorer.wait()
    assert [size for size, said in calls if said == first.said] == [1, 1, 2, 2, 2]
    assert [size for size, said in calls if said == second.said] == [1, 1] + [2] * 10
    alts = [IMG.findall(page)[0][1] for page in seen]
    assert ["A preview of" in alt for alt in alts] == [True, True, False] and "Hat" in alts[-1]


def test_a_quick_net_needs_no_preview(explorer):
    seen = []
    explorer._pace = {1: 1e-5}
    explorer.seen.observe(lambda change: seen.append(change["new"]), "value")
    press(explorer, "Smile")
    assert len(seen) == 1 and "preview" not in seen[0]


def test_previews_take_as_many_calls_as_fit(explorer):
    asked = explorer.start.say("Smile", 1)
    for pace, steps in ((0.09, 3), (0.045, 6), (1.0, 2), (0.028, 10), (0.014, 0)):
        explorer._pace = {1: pace}
        assert explorer._fitting(asked, 1) == steps
    explorer._pace = {1: 0.028}
    assert explorer._fitting(dataclasses.replace(asked, scale=1.0), 1) == 0, "plain, the picture costs half"
    assert explorer._fitting(asked, 2) == 5, "two are drawn where the one stands beside the other"


def test_the_way_back_costs_nothing(explorer, monkeypatch):
    press(explorer, "Smile")
    calls = explorer.request.model.denoiser.calls
    calls.clear()
    press(explorer, "Smile")
    press(explorer, "Smile")
    assert calls == []
    is_shown(explorer)
    monkeypatch.setattr(module, "KEPT", 3)
    for seed in range(5):
        explorer.seed.value = seed
        explorer.wait()
    assert [request.seed for request in explorer._kept] == [2, 3, 4]
    for seed in (2, 5):
        explorer.seed.value = seed
        explorer.wait()
    assert [request.seed for request in explorer._kept] == [4, 2, 5], "what was looked at last goes last"


def test_long_work_is_told(explorer, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    told = []
    explorer.now.observe(lambda change: told.append(change["new"]), "value")
    press(explorer, "Smile")
    assert "Refining: 0 of 10 calls." in told[0]
    assert explorer.now.value == ""


def test_in_colab_all_is_there_when_the_callback_ends(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(threading, "Thread", None)
    shown = AttributeExplorer(model(), judge())
    is_shown(shown)
    shown.wishes.children[0].children[0].children[1].click()
    sliders = [box.children[1] for box in (*shown.wishes.dials.values(), *shown.dials.children[1:3])]
    # Every place a slider passes would be drawn to the end, one after the other.
    assert len(sliders) == 4 and not any(slider.continuous_update for slider in sliders)
    named(shown, "Smile").click()
    is_shown(shown)


def test_a_fault_stays_while_the_picture_is_drawn(explorer, monkeypatch, tmp_path):
    """What went wrong and how far the work is are told in two places."""
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    net = explorer.request.model.denoiser
    for fail in (
        lambda: explorer._try(lambda: explorer.look(b"no picture")),
        lambda: explorer._button("", "", no_space).click(),
    ):
        net.gate = threading.Event()
        explorer.ask(dataclasses.replace(explorer.request, seed=explorer.request.seed + 1))
        fail()
        net.gate.set()
        explorer.wait()
        assert "This did not work" in explorer.fault.value and explorer.now.value == ""
    press(explorer, "Hat")
    is_shown(explorer)


def no_space():
    raise ValueError("'facelab-1.png' cannot be written (No space left on device).")


def test_a_fault_of_what_nobody_asks_for_any_more_is_not_told(explorer):
    net = explorer.request.model.denoiser
    net.gate, net.fault = threading.Event(), ValueError("the net is ill.")
    explorer.ask(explorer.start.say("Smile", 1))
    while not net.calls[-1][2].any():
        time.sleep(0.01)
    explorer.ask(explorer.start)
    net.gate.set()
    explorer.wait()
    net.fault = None
    is_shown(explorer)


def test_the_picture_is_never_the_preview(explorer, monkeypatch):
    monkeypatch.setattr(explorer, "_work", lambda: None)
    explorer._busy = False
    explorer.ask(explorer.request.say("Hat", -1))
    assert_close(explorer.picture, explorer.request.draw(), rtol=0, atol=0)


def test_by_hand_more_can_be_asked_than_the_controls_hold(explorer):
    explorer.ask(dataclasses.replace(explorer.request, people=3, scale=12.0))
    explorer.wait()
    assert len(imgs(explorer)) == 3 and explorer.people.label == "a row of 3" and explorer.request.scale == 12
    press(explorer, "Smile")
    assert (
        explorer.people.value == explorer.request.people == 3
        and explorer.request.scale == 12
        and explorer.fault.value == ""
    )


def test_threads_are_as_many_as_before(explorer):
    before = torch.get_num_threads()
    with module._one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_the_place_on_the_walk_follows_what_is_asked(explorer):
    press(explorer, "no Smile")
    press(explorer, "From what is asked now")
    press(explorer, "Smile")
    press(explorer, "To what is asked now")
    assert explorer.place.value == 1 and "not on this way" not in explorer.route.value
    for place in (0.5, 0.33):
        explorer.place.value = place
        explorer.wait()
        assert explorer.place.value == place and "not on this way" not in explorer.route.value
        press(explorer, "Hat")
        assert explorer.place.value == 0 and "not on this way" in explorer.route.value
        press(explorer, "Hat")
        explorer.place.value = place  # the same place again is a move
        explorer.wait()
        assert explorer.request.said == (0, 0, pytest.approx(2 * place - 1))
    press(explorer, "no Smile")
    assert explorer.place.value == 0 and "not on this way" not in explorer.route.value
    is_shown(explorer)


def test_a_tooltip_says_the_number(explorer):
    for value, said in ((0.3, "0.3"), (-0.3, "-0.3"), (1, "yes"), (-1, "no"), (0, "not said")):
        explorer.ask(explorer.request.say("Smile", value))
        assert all(button.tooltip.startswith(f"Smile: {said};") for button in explorer.wishes.chips["Smile"][1:])


def test_two_explorers_do_not_meet():
    one, two = explore(), explore()
    named(one, "Smile").click()
    named(two, "no Hat").click()
    one.wait()
    two.wait()
    is_shown(one)
    is_shown(two)
    assert one.request.asked == {"Smile": 1} and two.request.asked == {"Hat": -1}


# Faults


@pytest.mark.parametrize(
    "fault, says",
    [
        (ValueError("the <b>net</b> is ill.\nA second line."), "the &lt;b&gt;net&lt;/b&gt; is ill."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "not enough memory"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_a_fault_is_told_and_survived(explorer, fault, says):
    before = explorer.seen.value
    explorer.request.model.denoiser.fault = fault
    press(explorer, "Smile")
    assert says in explorer.fault.value and "A second line" not in explorer.fault.value
    assert explorer.seen.value == before and explorer.request.asked == {"Smile": 1}
    explorer.request.model.denoiser.fault = None
    press(explorer, "Hat")
    assert explorer.request.asked == {"Hat": 1, "Smile": 1}
    is_shown(explorer)


def test_without_a_judge_the_picture_is_shown_all_the_same(monkeypatch):
    def missing(_):
        raise ValueError("the judge's weights are missing: fetch them.")

    monkeypatch.setattr(module, "judge_of", missing)
    shown = AttributeExplorer(model())
    shown.wait()
    assert "weights are missing: fetch them." in shown.said.value and len(imgs(shown)) == 1
    shown.upload.notify_change(
        {"name": "value", "type": "change", "new": ({"content": photograph()},), "old": (), "owner": None}
    )
    assert "weights are missing" in shown.fault.value and shown.own is None
    shown.judge = judge()
    press(shown, "Smile")
    is_shown(shown)


def test_a_bad_picture_is_told_and_nothing_moves(explorer):
    press(explorer, "Smile")
    before = explorer.request
    explorer.upload.notify_change(
        {"name": "value", "type": "change", "new": ({"content": b"no picture"},), "old": (), "owner": None}
    )
    assert "no picture that can be read" in explorer.fault.value and explorer.request == before
    with refused("no picture that can be read"):
        explorer.look(b"no picture")
    press(explorer, "Hat")
    is_shown(explorer)


def test_a_full_disk_is_told(explorer, monkeypatch):
    def full(*_, **__):
        raise ValueError("'facelab-1.png' cannot be written (No space left on device).")

    monkeypatch.setattr(photo, "save_png", full)
    press(explorer, "Save the PNG")
    assert "No space left" in explorer.fault.value


def test_what_is_no_request_to_its_model_moves_nothing(explorer):
    before = explorer.request
    other = Pretrained("other", FACE, SHAPE, {"sha256": "1" * 64}, denoiser=Drawer())
    for wrong in ("Smile", None, {"Smile": 1}, Request(other, (1, 0, 0))):
        with refused("its own model"):
            explorer.ask(wrong)
    assert explorer.request == before
    is_shown(explorer)


def test_weights_that_do_not_draw_are_refused():
    with refused("reads pictures, it does not draw"):
        AttributeExplorer(Pretrained("judge", FACE, SHAPE, {}, classifier=judge()))


@pytest.mark.parametrize(
    "attributes, count",
    [(FACE, 50), (DIGITS, 50), pytest.param(CELEBA, 500, marks=pytest.mark.slow)],
    ids=["faces", "digits", "celeba"],
)
def test_random_moves(attributes, count, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PREVIEW", 0.0005)
    shown, luck = explore(attributes, (1, 8, 8) if attributes.exclusive else SHAPE), random.Random(0)
    for turn in (group.children[0].children[1] for group in shown.wishes.children):
        turn.click()
    moves = [lambda name=name: named(shown, name).click() for name in ("Surprise me", "Reset", "Save the PNG")]
    moves += [lambda end=end: named(shown, f"{end} what is asked now").click() for end in ("From", "To")]
    moves += [lambda: setattr(shown.place, "value", luck.random()), lambda: shown.look(photograph())]
    moves += [lambda c=c, v=v: setattr(c, "value", luck.choice(v)) for c, v in (
        (shown.seed, range(9)), (shown.scale, (0, 1, 2.5, 8)), (shown.steps, (1, 3, 20)), (shown.people, (1, 4)),
        (shown.beside, (True, False)),
    )]  # fmt: skip
    for name, (_, *buttons) in shown.wishes.chips.items():
        moves += [button.click for button in buttons]
        moves.append(lambda dial=shown.wishes.dials[name]: setattr(dial.slider, "value", luck.uniform(-1, 1)))
    told = []
    shown.fault.observe(lambda change: told.append(change["new"]), "value")
    for turn in range(count):
        luck.choice(moves)()
        if turn == 100:
            early = psutil.Process().memory_info().rss
        if luck.random() < 0.3:
            shown.wait()
    shown.wait()
    assert not [words for words in told if "did not work" in words]
    if count > 100:
        assert psutil.Process().memory_info().rss - early < 50e6
    shown.own = None
    shown.ask(shown.request)
    shown.wait()
    is_shown(shown)


LEAVING = """
import atexit, dataclasses
from facelab import pretrained, request
from facelab.explorer import AttributeExplorer

calls, frames = [], request.Request.frames

def counted(self, coarse=None):
    for frame in frames(self, coarse):
        calls.append(coarse)
        yield frame

request.Request.frames = counted
atexit.register(lambda: print(len(calls)))
explorer = AttributeExplorer(pretrained.load("digits"))
explorer.ask(dataclasses.replace(explorer.request, steps=1000, people=4))
"""


def test_who_leaves_in_the_middle_leaves_at_once_and_in_peace():
    """Python ends while a thousand calls are under way: the drawing is given up between two of them, and nothing aborts."""
    run = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "") and int(run.stdout) < 500
