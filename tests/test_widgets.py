"""The schedule designer: what it says and draws is what the schedule holds, and every control moves it."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from facelab import plots, schedule, widgets
from facelab.sample import noise
from facelab.widgets import SHAPES, VERDICTS, Design, ScheduleDesigner

IMG = re.compile(r'<img src="data:image/([a-z+]+);base64,([^"]+)" alt="([^"]+)"')
EVERY = [(kind, ticks, zero) for kind in schedule.SCHEDULES for ticks in (10, 1000) for zero in (False, True)]
PICTURE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def imgs(code: str) -> list[tuple[str, bytes, str]]:
    """(kind, bytes, alt) of each <img>."""
    return [(kind, base64.b64decode(data), alt) for kind, data, alt in IMG.findall(code)]


def drawn(svg: bytes) -> tuple[dict, dict]:
    """{colour: the curve's heights} and {colour: (place, height) of its dot}; heights and places from 0 to 1."""
    tree, tag = ET.fromstring(svg), "{http://www.w3.org/2000/svg}"
    curves = {
        line.get("stroke"): [(170 - float(point.split(",")[1])) / 140 for point in line.get("points").split()]
        for line in tree.iter(f"{tag}polyline")
    }
    dots = {
        dot.get("fill"): ((float(dot.get("cx")) - 38) / 228, (170 - float(dot.get("cy"))) / 140)
        for dot in tree.iter(f"{tag}circle")
    }
    return curves, dots


# The state, with no widget


@pytest.mark.parametrize("kind, ticks, zero", EVERY)
def test_words_are_the_schedule_s_own(kind, ticks, zero):
    design = Design(kind, ticks, zero_snr=zero, tick=ticks // 2)
    said = re.fullmatch(r"At the last tick, (\d+), (\S+) % of the picture is left \(SNR (\S+)\): (.+)", design.words())
    signal, sigma = design.schedule(ticks - 1)
    assert len(design.schedule) == ticks == int(said[1]) + 1
    assert float(said[2]) == pytest.approx(100 * signal, rel=6e-3)
    assert float(said[3]) == pytest.approx((signal / sigma) ** 2, rel=6e-3)
    start = torch.tensor(list(VERDICTS)).double()
    assert said[4] == list(VERDICTS.values())[int((start < signal).sum())]
    assert (signal == 0) == (zero or kind == "straight")


def test_words_tell_four_ends_apart():
    ends = [Design("linear", 100), Design("linear", 700), Design("linear"), Design("straight")]
    verdicts = [design.words().split(": ")[1] for design in ends]
    assert verdicts == list(VERDICTS.values())[::-1]
    assert "60.3 % of the picture is left (SNR 0.571): sampling from pure noise would start in" in ends[0].words()


@pytest.mark.parametrize("kind, ticks, zero", EVERY)
def test_charts_are_the_schedule_s_own(kind, ticks, zero):
    design = Design(kind, ticks, zero_snr=zero, tick=ticks // 3)
    (_, rates, alt), (_, ratio, ratio_alt) = imgs("".join(design.charts()))
    curves, dots = drawn(rates)
    for which, colour in enumerate((widgets.BLUE, widgets.RED)):
        for t, height in ((0, curves[colour][0]), (ticks - 1, curves[colour][-1]), (ticks // 3, dots[colour][1])):
            assert height == pytest.approx(design.schedule(t)[which], abs=1e-3)
        assert dots[colour][0] == pytest.approx(design.tick / (ticks - 1), abs=1e-3)
    curves, dots = drawn(ratio)
    assert 10 ** (15 * dots[widgets.GREEN][1] - 9) == pytest.approx(design.schedule.snr(design.tick), rel=0.02)
    assert curves[widgets.GREEN] == sorted(curves[widgets.GREEN], reverse=True)
    for words in (alt, ratio_alt):
        assert repr(design.schedule) in words
        assert all(design.look(t) in words for t in (0, ticks // 3, ticks - 1))


def test_pictures_are_add_noise_s_own():
    design = Design("cosine", 10, tick=4)
    here, *strips = imgs("".join(design.pictures(PICTURE)))
    assert "Tick 4: " in here[2] and "ticks 0, 1, 3, 4." in strips[0][2] and "ticks 5, 6, 8, 9." in strips[1][2]
    eps = noise(1, (3, 8, 8))

    def seen(png, left, zoom):
        pixels = np.asarray(Image.open(io.BytesIO(png)))
        return pixels[: 8 * zoom : zoom, left : left + 8 * zoom : zoom]

    def truth(t):
        return plots.to_uint8(design.schedule.add_noise(PICTURE[None], eps, t))[0]

    assert (seen(here[1], 0, 21) == truth(4)).all()
    for i, t in enumerate((0, 1, 3, 4)):
        assert (seen(strips[0][1], i * (8 * 11 + plots.GAP), 11) == truth(t)).all()
    assert (seen(strips[1][1], 3 * (8 * 11 + plots.GAP), 11) == truth(9)).all()


def test_shape_bends_its_own_kind_only():
    for kind, (name, _, low, high, _) in SHAPES.items():
        for value in (low, high):
            bent = Design(kind, **{name: value}, zero_snr=True).schedule
            assert not torch.equal(bent.signal, Design(kind, zero_snr=True).schedule.signal)
            others = [Design(other, **{name: value}) for other in schedule.SCHEDULES if other != kind]
            assert all(torch.equal(other.schedule.signal, Design(other.kind).schedule.signal) for other in others)


@pytest.mark.parametrize("wrong", [{"kind": "square"}, {"tick": 1000}, {"tick": -1}, {"ticks": 0}])
def test_design_refuses(wrong):
    with pytest.raises(ValueError, match=r"must be one of|outside this schedule"):
        Design(**wrong)


# The widget


@pytest.fixture
def designer():
    return ScheduleDesigner()


@pytest.mark.parametrize(
    "move, expected",
    [
        (lambda d: setattr(d.kind, "value", "straight"), Design("straight", tick=500)),
        (lambda d: setattr(d.ticks.slider, "value", 100), Design(ticks=100, tick=50)),
        (lambda d: setattr(d.shapes["cosine"].slider, "value", 0.2), Design(s=0.2, tick=500)),
        (lambda d: setattr(d.zero_snr, "value", True), Design(zero_snr=True, tick=500)),
        (lambda d: setattr(d.tick.slider, "value", 100), Design(tick=100)),
        (lambda d: setattr(d.tick.number, "value", 900), Design(tick=900)),
    ],
)
def test_every_control_moves_picture_words_and_schedule(designer, monkeypatch, move, expected):
    before, redraws, charts = imgs(designer.seen.value), [], Design.charts
    monkeypatch.setattr(Design, "charts", lambda design: redraws.append(design) or charts(design))
    move(designer)
    after = imgs(designer.seen.value)
    assert designer.design == expected
    assert torch.equal(designer.schedule.signal, expected.schedule.signal) and len(designer.schedule) == expected.ticks
    assert redraws == [expected], "one move is one redraw"
    assert len(after) == len(before) == 5 and [alt for *_, alt in after] != [alt for *_, alt in before]
    assert after[0][1] != before[0][1] and after[1][1] != before[1][1]
    # Cosine ends so near to pure noise that pure noise looks the same.
    assert any(now[1] != then[1] for now, then in zip(after[2:], before[2:], strict=True)) or expected.zero_snr
    assert expected.words() in designer.said.value and expected.look() in designer.said.value


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_has_its_dial_shown_alone(designer, kind):
    designer.kind.value = kind
    name, _, low, high, _ = SHAPES[kind]
    for value in (low, high):
        designer.shapes[kind].slider.value = value
        assert getattr(designer.design, name) == value
        assert designer.design.words() in designer.said.value
    assert [k for k, dial in designer.shapes.items() if dial.layout.display != "none"] == [kind]
    assert not designer.zero_snr.disabled


def test_straight_has_no_shape_and_says_so(designer):
    designer.kind.value = "straight"
    assert all(dial.layout.display == "none" for dial in designer.shapes.values())
    assert designer.zero_snr.disabled and designer.zero_snr.description == "ends in pure noise by itself"


def test_field_and_slider_follow_each_other(designer):
    for dial, value in ((designer.ticks, 40), (designer.tick, 7), (designer.shapes["cosine"], 0.123)):
        dial.slider.value = value
        assert dial.number.value == value
        dial.number.value = value + dial.slider.step
        assert dial.slider.value == pytest.approx(value + dial.slider.step)
        assert dial.number.description
    designer.shapes["cosine"].slider.value = 0.2 + 3e-16
    assert designer.shapes["cosine"].number.value == 0.2


def test_looking_stays_at_its_place(designer):
    for ticks, tick in ((100, 50), (11, 5), (1000, 500), (10, 5)):
        designer.ticks.slider.value = ticks
        assert designer.design.tick == designer.tick.slider.value == designer.tick.number.value == tick
        assert designer.tick.slider.max == designer.tick.number.max == ticks - 1
    designer.ticks.number.value = 5000
    assert designer.design.ticks == 1000


def test_fault_is_told_and_survived(designer, monkeypatch):
    before, pictures = designer.design, designer.seen.value
    with monkeypatch.context() as broken:
        broken.setitem(schedule.SCHEDULES, "sigmoid", lambda *_, **__: 1 / 0)
        designer.kind.value = "sigmoid"
        assert "This cannot be drawn:</b> division by zero" in designer.said.value
        assert designer.design == before and designer.seen.value == pictures
        broken.setattr(Design, "charts", lambda _: (_ for _ in ()).throw(ValueError("<b> & so on")))
        designer.kind.value = "linear"
        assert "&lt;b&gt; &amp; so on" in designer.said.value
    designer.kind.value = "cosine"
    assert before.words() in designer.said.value, "back at what was shown, the fault is forgotten"
    designer.kind.value = "sigmoid"
    assert Design("sigmoid").words() in designer.said.value and designer.schedule.name == "sigmoid"


def test_any_picture(designer):
    for picture in (PICTURE, PICTURE[:1], PICTURE.numpy(), PICTURE.half()):
        assert len(imgs(ScheduleDesigner(picture).seen.value)) == 5
    with pytest.raises(ValueError, match=r"one picture \(1 or 3, H, W\), got \(2, 1, 8, 8\)"):
        ScheduleDesigner(torch.zeros(2, 1, 8, 8))
    assert repr(designer) == "A designer of schedules, now cosine(1000). Run this cell to move it."
