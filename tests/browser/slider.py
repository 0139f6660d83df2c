"""A slider on the page, found and moved alike whichever ipywidgets draws it."""

import os

# Notebook 7 takes the arrow keys for itself, a bare IntSlider's too: there the number beside a slider is the way by keyboard.
KEYS_ARE_TAKEN = os.environ.get("PAGES") == "notebook"


class Slider:
    """ipywidgets 8 draws noUiSlider's handle, which tells role and value; 7 draws jQuery UI's, which tells neither.

    Args:
        inside: a locator of what holds this slider and no other.
    """

    def __init__(self, inside):
        self.handle = inside.locator("[role=slider], .ui-slider-handle")

    @property
    def place(self) -> float:
        """What it stands at: as the handle tells, or as it is written beside it, seen or unseen."""
        told = self.handle.get_attribute("aria-valuenow")
        return float(told or self._around("widget-slider").locator(".widget-readout").text_content())

    def press(self, *keys: str, field, value: str) -> None:
        """By the keys, which lead to that value; where the page takes them, it is typed into the field beside the slider."""
        if KEYS_ARE_TAKEN:
            field.fill(value)
        else:
            self.handle.focus()
        for key in ("Enter",) if KEYS_ARE_TAKEN else keys:
            self.handle.page.keyboard.press(key)

    def drag(self, share: float) -> None:
        """By the mouse, to this share of the rail: 0 its left end, 1 its right, above it beyond."""
        knob, rail = self.handle.bounding_box(), self._around("noUi-base", "ui-slider").bounding_box()
        mouse, height = self.handle.page.mouse, knob["y"] + knob["height"] / 2
        mouse.move(knob["x"] + knob["width"] / 2, height)
        mouse.down()
        mouse.move(rail["x"] + share * rail["width"], height + 3, steps=12)
        mouse.up()

    def _around(self, *classes: str):
        """The nearest element around the handle that has one of these classes."""
        having = " or ".join(f"contains(concat(' ', @class, ' '), ' {name} ')" for name in classes)
        return self.handle.locator(f"xpath=ancestor::*[{having}][1]")
