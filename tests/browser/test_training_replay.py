"""The replay of a training in a real JupyterLab, scrubbed as a person does: by keys, by mouse, by typing."""

import base64
import io

import pytest
from PIL import Image
from slider import Slider

from facelab.widgets import Look, load_recording

pytestmark = pytest.mark.slow

SOURCE = "from facelab.widgets import TrainingReplay\n\nreplay = TrainingReplay()\nreplay"


def test_a_person_scrubs_through_it(notebook, complaints):
    page, start = notebook(SOURCE), Look(load_recording("digits"))
    output, last = page.locator(".jp-OutputArea-output").first, len(start.recording.steps)
    field = output.get_by_role("spinbutton", name="look", exact=True)
    slider = Slider(field)
    seen = []

    def at(place):
        """Field, slider, words and both pictures tell of this look."""
        look = Look(start.recording, place)
        output.get_by_text(look.words(), exact=True).wait_for()
        output.get_by_role("img", name=f"drawn after step {look.step}.").wait_for()
        output.get_by_role("img", name=look.words()).wait_for()
        assert int(field.input_value()) == slider.place == place
        link = output.get_by_role("img").first.get_attribute("src")
        seen.append(Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).tobytes())

    at(1)
    slider.press("ArrowRight", "ArrowRight", value="3")
    at(3)
    field.fill("5")
    page.keyboard.press("Enter")
    at(5)
    slider.drag(1.1)
    at(last)
    field.fill(str(last + 7))  # beyond the end is the end
    page.keyboard.press("Enter")
    at(last)
    slider.press("Home", value="1")
    at(1)
    assert len(set(seen)) == 4 and seen[0] == seen[-1]
    assert complaints(output) == []
