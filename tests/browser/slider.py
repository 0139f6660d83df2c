"""A slider on the page, found and moved in the same way with ipywidgets 7 and 8."""

import os

# Notebook 7 takes the arrow keys for itself, a bare IntSlider's too: there the number beside a slider is the way by keyboard.
KEYS_ARE_TAKEN = os.environ.get("PAGES") == "notebook"


class Slider:
    """ipywidgets 8 has noUiSlider's handle, with role and value; 7 has jQuery UI's, with neither.

    Args:
        field: a locator of the number beside it, in the same row.
    """

    def __init__(self, field):
        self.field = field
        self.handle = _around(field, "widget-hbox").locator("[role=slider], .ui-slider-handle")

    @property
    def place(self) -> float:
        """Its value: that of the handle, or the text beside it."""
        value = self.handle.get_attribute("aria-valuenow")
        return float(value or _around(self.handle, "widget-slider").locator(".widget-readout").text_content())

    def press(self, *keys: str, value: str) -> None:
        """By the keys, which lead to that value; where the page takes them, it is typed into the field."""
        if KEYS_ARE_TAKEN:
            self.field.fill(value)
            keys = ("Enter",)
        else:
            self.handle.focus()
        for key in keys:
            self.handle.page.keyboard.press(key)

    def drag(self, share: float) -> None:
        """By the mouse, to this share of the rail: 0 its left end, 1 its right, above it beyond."""
        knob, rail = self.handle.bounding_box(), _around(self.handle, "noUi-base", "ui-slider").bounding_box()
        mouse, height = self.handle.page.mouse, knob["y"] + knob["height"] / 2
        mouse.move(knob["x"] + knob["width"] / 2, height)
        mouse.down()
        mouse.move(rail["x"] + share * rail["width"], height + 3, steps=12)
        mouse.up()


def _around(element, *classes: str):
    """The nearest one around it that has one of these classes."""
    having = " or ".join(f"contains(concat(' ', @class, ' '), ' {name} ')" for name in classes)
    return element.locator(f"xpath=ancestor::*[{having}][1]")
