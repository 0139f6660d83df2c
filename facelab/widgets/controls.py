"""What the widgets share: a slider with a name for screen readers, images side by side, and an SVG line chart."""

import html

import ipywidgets
import torch
from torch import Tensor

BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
LABEL = {"description_width": "120px"}
# The style of an image: on white, so that a dark theme does not swallow black lines.
WHITE = "background: white; padding: 4px; border-radius: 4px; max-width: 100%; box-sizing: border-box; margin: 0"


class LabelledSlider(ipywidgets.HBox):
    """A slider and a number field with the same value. The field has the accessible name that ipywidgets' sliders lack.

    With `live` the slider reports every value that it passes, otherwise only where it comes to rest.
    """

    def __init__(self, label: str, value, low, high, step, live: bool = True):
        kinds = {int: (ipywidgets.BoundedIntText, ipywidgets.IntSlider)}
        number, slider = kinds.get(type(step), (ipywidgets.BoundedFloatText, ipywidgets.FloatSlider))
        span = {"value": value, "min": low, "max": high, "step": step}
        self.number = number(**span, description=label, style=LABEL, layout={"width": "220px", "flex": "none"})
        layout = {"flex": "1 1 160px", "max_width": "480px"}
        self.slider = slider(**span, readout=False, continuous_update=live, layout=layout)
        rounded = (lambda value: round(value, 6),) * 2  # a slider's own value is 0.020000000000000004
        ipywidgets.link((self.slider, "value"), (self.number, "value"), transform=rounded)
        super().__init__([self.number, self.slider], layout={"flex_flow": "row wrap"})


def row(images: list[str]) -> str:
    """HTML of images side by side, or one below the other in a narrow window."""
    return f'<div style="display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 6px">{"".join(images)}</div>'


def one_sentence(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    text = str(error).strip().split("\n")[0]
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "There is not enough memory: show one image instead of four, or close other notebooks."
    return text or type(error).__name__


def status(show) -> str:
    """The HTML text that `show()` returns, or its error in one sentence."""
    try:
        text = show()
    except Exception as error:  # otherwise it would disappear in a log
        text = f"<b>This cannot be shown:</b> {html.escape(one_sentence(error))}"
    return f'<div role="status" style="line-height: 1.5; margin: 4px 0">{text}</div>'


def line_chart(lines: dict[str, tuple[Tensor, str]], grid: dict[float, str], at: int) -> bytes:
    """An SVG of {name: (heights (N,) in [0, 1], colour)}, with a dot at index `at`; ten times as fast as matplotlib.

    Grey lines are thin, behind the others and without a dot. `grid` labels heights.
    """
    count = len(next(iter(lines.values()))[0])

    def x(index):
        return round(38 + 228 * index / max(1, count - 1), 1)

    def y(height):
        return round(170 - 140 * min(max(height, 0), 1), 1)

    names = "".join(f'<tspan fill="{colour}" dx="8">{name}</tspan>' for name, (_, colour) in lines.items())
    parts = [f'<text x="30" y="15">{names}</text>', f'<path d="M{x(at)} 26V174" stroke="{GREY}"/>']
    parts += [f'<text x="{x(i)}" y="188" text-anchor="middle">{i}</text>' for i in (0, count - 1)]
    for height, label in grid.items():
        parts.append(f'<path d="M38 {y(height)}H266" stroke="#dddddd"/>')
        parts.append(f'<text x="33" y="{y(height) + 4}" text-anchor="end">{label}</text>')
    some = torch.linspace(0, count - 1, min(count, 200)).round().long()
    for heights, colour in sorted(lines.values(), key=lambda line: line[1] != GREY):
        points = " ".join(f"{x(i)},{y(h)}" for i, h in zip(some.tolist(), heights[some].tolist(), strict=True))
        width = 1 if colour == GREY else 2
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        if colour != GREY:
            parts.append(f'<circle cx="{x(at)}" cy="{y(heights[at].item())}" r="4" fill="{colour}"/>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="282" height="196" viewBox="0 0 282 196"'
    return f'{head} font-family="sans-serif" font-size="12" fill="#222222">{"".join(parts)}</svg>'.encode()
