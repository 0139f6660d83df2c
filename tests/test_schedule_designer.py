"""The schedule designer: its text, charts and images are those of the schedule, and every control changes them."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from oracle import images_in
from PIL import Image

from facelab.images import to_uint8
from facelab.samplers import noise
from facelab.schedules import SCHEDULES
from facelab.widgets import controls
from facelab.widgets.schedule_designer import PARAMETERS, TERMINAL_SNR, ScheduleDesign, ScheduleDesigner

EVERY = [(name, timesteps, zero) for name in SCHEDULES for timesteps in (10, 1000) for zero in (False, True)]
IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def chart_in(svg: bytes) -> tuple[dict, dict]:
    """{colour: heights of the line} and {colour: (position, height) of its dot}, from 0 to 1."""
    lines, dots = {}, {}
    for part in ET.fromstring(svg).iter():
        if part.tag.endswith("polyline"):
            points = [point.split(",") for point in part.get("points").split()]
            lines[part.get("stroke")] = [(170 - float(y)) / 140 for _, y in points]
        elif part.tag.endswith("circle"):
            dots[part.get("fill")] = (float(part.get("cx")) - 38) / 228, (170 - float(part.get("cy"))) / 140
    return lines, dots


@pytest.mark.parametrize("name, timesteps, zero", EVERY)
def test_summary_and_charts_are_those_of_the_schedule(name, timesteps, zero):
    design = ScheduleDesign(name, timesteps, zero_snr=zero, t=timesteps // 3)
    sentence = r"At the last timestep, (\d+), (\S+) % of the image is left \(SNR (\S+)\): (.+)"
    found = re.fullmatch(sentence, design.summary())
    signal, sigma = design.schedule(timesteps - 1)
    assert len(design.schedule) == timesteps == int(found[1]) + 1
    assert float(found[2]) == pytest.approx(100 * signal, rel=6e-3)
    assert float(found[3]) == pytest.approx((signal / sigma) ** 2, rel=6e-3)
    bounds = torch.tensor(list(TERMINAL_SNR)).double()
    assert found[4] == list(TERMINAL_SNR.values())[int((bounds < signal).sum())]
    assert (signal == 0) == (zero or name == "rectified_flow")

    (rates, alt), (ratio, ratio_alt) = images_in("".join(design.charts()))
    lines, dots = chart_in(rates)
    for which, colour in enumerate((controls.BLUE, controls.RED)):
        for t, height in ((0, lines[colour][0]), (timesteps - 1, lines[colour][-1]), (design.t, dots[colour][1])):
            assert height == pytest.approx(design.schedule(t)[which], abs=1e-3)
        assert dots[colour][0] == pytest.approx(design.t / (timesteps - 1), abs=1e-3)
    lines, dots = chart_in(ratio)
    assert 10 ** (15 * dots[controls.GREEN][1] - 9) == pytest.approx(design.schedule.snr(design.t), rel=0.02)
    assert lines[controls.GREEN] == sorted(lines[controls.GREEN], reverse=True)
    for text in (alt, ratio_alt):
        assert repr(design.schedule) in text
        assert all(design.mixture(t) in text for t in (0, timesteps // 3, timesteps - 1))


def test_the_summary_distinguishes_four_terminal_snrs():
    ends = (("linear", 100), ("linear", 700), ("linear", 1000), ("rectified_flow", 1000))
    designs = [ScheduleDesign(*end) for end in ends]
    assert [design.summary().split(": ")[1] for design in designs] == list(TERMINAL_SNR.values())[::-1]
    assert "60.3 % of the image is left (SNR 0.571): sampling from pure noise would start in" in designs[0].summary()


def test_the_images_are_those_of_add_noise():
    design = ScheduleDesign("cosine", 10, t=4)
    (here, alt), (early, early_alt), (late, late_alt) = images_in("".join(design.images(IMAGE)))
    assert "Timestep 4: " in alt and "timesteps 0, 1, 3, 4." in early_alt and "5, 6, 8, 9." in late_alt
    cells = [(here, 0, 0, 22, 4)]
    for png, timesteps in ((early, (0, 1, 3, 4)), (late, (5, 6, 8, 9))):
        cells += [(png, (2 + i * 10) * 11, 22, 11, t) for i, t in enumerate(timesteps)]
    for png, left, top, scale, t in cells:
        x_t = design.schedule.add_noise(IMAGE[None], noise(1, (3, 8, 8)), t).clamp(-1, 1)
        pixels = np.asarray(Image.open(io.BytesIO(png)))[top : top + 8 * scale : scale, left : left + 8 * scale : scale]
        assert (pixels == to_uint8(x_t)[0].permute(1, 2, 0).numpy()).all()


def test_a_parameter_changes_its_own_schedule_only():
    for name, (parameter, _, low, high, _) in PARAMETERS.items():
        for value in (low, high):
            changed = ScheduleDesign(name, **{parameter: value}, zero_snr=True).schedule
            assert not torch.equal(changed.signal, ScheduleDesign(name, zero_snr=True).schedule.signal)
            others = [ScheduleDesign(other, **{parameter: value}) for other in SCHEDULES if other != name]
            assert all(torch.equal(o.schedule.signal, ScheduleDesign(o.name).schedule.signal) for o in others)


@pytest.mark.parametrize("wrong", [{"name": "square"}, {"t": 1000}, {"t": -1}, {"num_timesteps": 0}])
def test_a_design_refuses(wrong):
    with pytest.raises(ValueError, match=r"must be one of|is not in this schedule"):
        ScheduleDesign(**wrong)


@pytest.fixture
def designer():
    return ScheduleDesigner()


@pytest.mark.parametrize(
    "move, expected",
    [
        (lambda d: setattr(d.name, "value", "rectified_flow"), ScheduleDesign("rectified_flow", t=500)),
        (lambda d: setattr(d.num_timesteps.slider, "value", 100), ScheduleDesign(num_timesteps=100, t=50)),
        (lambda d: setattr(d.parameters["cosine"].slider, "value", 0.2), ScheduleDesign(s=0.2, t=500)),
        (lambda d: setattr(d.zero_snr, "value", True), ScheduleDesign(zero_snr=True, t=500)),
        (lambda d: setattr(d.t.slider, "value", 100), ScheduleDesign(t=100)),
        (lambda d: setattr(d.t.number, "value", 900), ScheduleDesign(t=900)),
    ],
)
def test_every_control_changes_figure_text_and_schedule(designer, monkeypatch, move, expected):
    before, redraws, charts = images_in(designer.figure.value), [], ScheduleDesign.charts
    monkeypatch.setattr(ScheduleDesign, "charts", lambda design: redraws.append(design) or charts(design))
    move(designer)
    after = images_in(designer.figure.value)
    assert designer.design == expected
    assert redraws == [expected], "one move, one update"
    assert len(after) == len(before) == 5 and [alt for _, alt in after] != [alt for _, alt in before]
    assert after[0][0] != before[0][0] and after[1][0] != before[1][0]
    # The cosine schedule ends so close to pure noise that zero terminal SNR looks the same.
    assert any(a[0] != b[0] for a, b in zip(after[2:], before[2:], strict=True)) or expected.zero_snr
    assert expected.summary() in designer.text.value and expected.mixture() in designer.text.value


@pytest.mark.parametrize("name", SCHEDULES)
def test_only_the_parameter_of_the_schedule_is_shown(designer, name):
    designer.name.value = name
    shown = [other for other, slider in designer.parameters.items() if slider.layout.display != "none"]
    assert shown == [name] * (name in PARAMETERS) and designer.zero_snr.disabled == (name not in PARAMETERS)
    for value in PARAMETERS[name][2:4] if name in PARAMETERS else ():
        designer.parameters[name].slider.value = value
        assert getattr(designer.design, PARAMETERS[name][0]) == value
        assert designer.design.summary() in designer.text.value


def test_field_and_slider_have_the_same_value(designer):
    for control, value in ((designer.num_timesteps, 40), (designer.t, 7), (designer.parameters["cosine"], 0.123)):
        control.slider.value = value
        assert control.number.value == value and control.number.description
        control.number.value = value + control.slider.step
        assert control.slider.value == pytest.approx(value + control.slider.step)
    designer.parameters["cosine"].slider.value = 0.2 + 3e-16
    assert designer.parameters["cosine"].number.value == 0.2


def test_another_number_of_timesteps_keeps_the_fraction(designer):
    for timesteps, t in ((100, 50), (11, 5), (1000, 500), (10, 5)):
        designer.num_timesteps.slider.value = timesteps
        assert designer.design.t == designer.t.slider.value == designer.t.number.value == t
        assert designer.t.slider.max == designer.t.number.max == timesteps - 1
    designer.num_timesteps.number.value = 5000
    assert designer.design.num_timesteps == 1000


def test_an_error_is_shown_and_the_last_design_stays(designer, monkeypatch):
    before, figure = designer.design, designer.figure.value
    with monkeypatch.context() as broken:
        broken.setitem(SCHEDULES, "sigmoid", lambda *_, **__: 1 / 0)
        designer.name.value = "sigmoid"
        assert "This cannot be shown:</b> division by zero" in designer.text.value
        assert designer.design == before and designer.figure.value == figure
        broken.setattr(ScheduleDesign, "charts", lambda _: (_ for _ in ()).throw(ValueError("<b> & so on")))
        designer.name.value = "linear"
        assert "&lt;b&gt; &amp; so on" in designer.text.value
    designer.name.value = "sigmoid"
    assert ScheduleDesign("sigmoid").summary() in designer.text.value


def test_any_image(designer):
    for image in (IMAGE, IMAGE[:1], IMAGE.numpy(), IMAGE.half()):
        assert len(images_in(ScheduleDesigner(image).figure.value)) == 5
    with pytest.raises(ValueError, match=r"one image \(1 or 3, H, W\), got \(2, 1, 8, 8\)"):
        ScheduleDesigner(torch.zeros(2, 1, 8, 8))
    assert repr(designer).startswith("A schedule designer, now at cosine(1000")
