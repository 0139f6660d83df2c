"""The replay of a training in a real JupyterLab, used as a person uses it: by keys, by mouse, by typing."""

import base64
import io

import pytest
from PIL import Image
from slider import Slider

from facelab.widgets.training_replay import load_history

pytestmark = pytest.mark.slow

SOURCE = "import facelab\n\nreplay = facelab.TrainingReplay()\nreplay"


def test_every_control(notebook, complaints):
    page, history = notebook(SOURCE), load_history("mnist")
    output, last = page.locator(".jp-OutputArea-output").first, len(history.steps)
    field = output.get_by_role("spinbutton", name="recorded step", exact=True)
    slider = Slider(field)
    shown = []

    def at(place):
        """Field, slider, text and both images agree."""
        output.get_by_text(history.summary(place - 1), exact=True).wait_for()
        output.get_by_role("img", name=f"generated after step {int(history.steps[place - 1])}.").wait_for()
        output.get_by_role("img", name=history.summary(place - 1)).wait_for()
        assert int(field.input_value()) == slider.place == place
        link = output.get_by_role("img").first.get_attribute("src")
        shown.append(Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).tobytes())

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
    assert len(set(shown)) == 4 and shown[0] == shown[-1]
    assert complaints(output) == []
