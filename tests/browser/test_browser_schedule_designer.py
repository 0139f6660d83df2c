"""The schedule designer in a real JupyterLab, used as a person uses it: by keys, by mouse, by typing."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from slider import Slider

from facelab.widgets.schedule_designer import PARAMETERS, ScheduleDesign

pytestmark = pytest.mark.slow

SOURCE = "import facelab\n\ndesigner = facelab.ScheduleDesigner()\ndesigner"
CUT = """e => [...e.querySelectorAll('label, .widget-label-basic span, select, input, .widget-html-content')]
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)"""


class Person:
    """Looks at the designer and uses it; controls are found by the names that a screen reader reads."""

    def __init__(self, page):
        self.page = page
        self.output = page.locator(".jp-OutputArea-output").first
        self.curves.wait_for()

    @property
    def curves(self):
        return self.output.get_by_role("img", name="Signal and noise of")

    def field(self, name):
        return self.output.get_by_role("spinbutton", name=name, exact=True)

    def slider(self, name):
        """The one beside that field."""
        return Slider(self.field(name))

    def design(self) -> ScheduleDesign:
        """What the controls show."""
        name = self.output.get_by_role("combobox", name="schedule").input_value()
        key, label, *_ = PARAMETERS.get(name, ("s", None))
        parameter = {key: float(self.field(label).input_value())} if label else {}
        timesteps, t = (int(self.field(field).input_value()) for field in ("timesteps", "show timestep"))
        zero_snr = self.output.get_by_role("checkbox").is_checked()
        return ScheduleDesign(name, timesteps, t=t, zero_snr=zero_snr, **parameter)

    def pixels(self) -> list[Image.Image]:
        """Each image as it is shown, once sliders, fields, text and images agree."""
        for _ in range(150):
            design = self.design()
            knobs = [self.slider(name).place for name in ("timesteps", "show timestep")]
            lines = self.output.get_by_text(design.summary()), self.output.get_by_text(design.mixture())
            alt = self.curves.get_attribute("alt")
            agree = all(line.count() for line in lines) and repr(design.schedule) in alt and design.mixture() in alt
            if agree and knobs == [design.num_timesteps, design.t]:
                break
            self.page.wait_for_timeout(100)
        else:
            raise AssertionError(
                f"fields: {design!r}; sliders: {knobs}; page: {self.output.inner_text()!r}; alt: {alt!r}"
            )
        images = self.output.get_by_role("img").all()
        return [Image.open(io.BytesIO(image.screenshot())).convert("RGB") for image in images]


def differ(before, after) -> list[bool]:
    return [a.size != b.size or bool(ImageChops.difference(a, b).getbbox()) for a, b in zip(before, after, strict=True)]


def test_every_control(notebook):
    person = Person(notebook(SOURCE))
    page, shown = person.page, person.pixels()
    assert person.design() == ScheduleDesign(t=500) and len(shown) == 5
    curves, ratio, here, *strips = range(5)

    def moved(*which):
        nonlocal shown
        before, shown = shown, person.pixels()
        assert [i for i, changed in enumerate(differ(before, shown)) if changed] == list(which)

    # The arrow keys, on the slider of the timestep: the forward process stays.
    person.slider("show timestep").press(*["ArrowRight"] * 3, value="503")
    moved(curves, ratio, here)
    assert person.design().t == 503

    # The mouse drags the number of timesteps to the middle of its slider, and the fraction stays.
    person.slider("timesteps").drag(0.5)
    page.wait_for_timeout(500)
    moved(curves, ratio, here, *strips)
    assert 480 < person.design().num_timesteps < 530 and 0.49 < person.design().t / person.design().num_timesteps < 0.52

    # Typing: the slider follows.
    person.field("timesteps").fill("100")
    page.keyboard.press("Enter")
    moved(curves, ratio, here, *strips)

    # Another schedule shows its own parameter, with its number as one would write it.
    person.output.get_by_role("combobox", name="schedule").select_option("linear")
    person.field("last beta").wait_for()
    assert person.field("offset s").count() == 0
    moved(curves, ratio, here, *strips)
    assert person.field("last beta").input_value() == "0.02"
    assert person.output.get_by_text("60.3 % of the image is left").count() == 1
    person.slider("last beta").press("PageUp", value="0.03")
    page.wait_for_function("e => e.value != '0.02'", arg=person.field("last beta").element_handle())
    moved(curves, ratio, here, *strips)

    # The space bar, on the checkbox.
    person.output.get_by_role("checkbox", name="rescale to zero SNR").focus()
    page.keyboard.press("Space")
    person.output.get_by_text("0 % of the image is left (SNR 0)").wait_for()
    moved(curves, ratio, here, *strips)

    person.output.get_by_role("combobox", name="schedule").select_option("rectified_flow")
    person.output.get_by_role("checkbox", name="has zero terminal SNR").wait_for()
    assert person.output.get_by_role("checkbox").is_disabled() and person.field("last beta").count() == 0
    moved(curves, ratio, here, *strips)


def test_readable_in_both_themes_and_three_widths(notebook, complaints, tmp_path):
    person = Person(notebook(SOURCE))
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        person.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        person.page.wait_for_function("theme => document.body.dataset.jpThemeName == theme", arg=theme)
        for width in (1200, 700, 420):
            person.page.set_viewport_size({"width": width, "height": 1500})
            person.page.wait_for_timeout(500)
            person.page.screenshot(path=folder / f"{theme.split()[1]}-{width}.png".lower())
            assert person.output.evaluate(CUT) == [], f"cut off at {width} pixels"
            inside = person.output.bounding_box()
            for image in person.output.get_by_role("img").all():
                box = image.bounding_box()
                assert inside["x"] <= box["x"] and box["x"] + box["width"] <= inside["x"] + inside["width"] + 1
                assert "white" in image.get_attribute("style") and len(image.get_attribute("alt")) > 20
                assert image.evaluate("e => e.complete && e.naturalWidth > 100")
        assert complaints(person.output) == []
