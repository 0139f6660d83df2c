"""Widgets to play with in a lesson: the schedule designer (lesson 01), a training to scrub through (lesson 02).

What is shown is plain Python, a `Design` or a `Look`, which draws and speaks with no widget at hand; the widget only turns it.
Everything happens in the callback itself, for Colab shows nothing that a background thread changes.
"""

import base64
import dataclasses
import functools
import html

import ipywidgets
import torch
from torch import Tensor

from facelab import plots
from facelab.recording import Recording, load_recording
from facelab.sample import noise
from facelab.schedule import SCHEDULES, Schedule, cosine

# What bends each kind: its argument (of the schedule's function and of Design), label, lowest, highest value, step.
SHAPES = {
    "linear": ("last", "last beta", 0.001, 0.3, 0.001),
    "cosine": ("s", "offset s", 0.0, 0.3, 0.001),
    "sigmoid": ("tau", "temperature tau", 0.3, 3.0, 0.05),
}
# What the signal left at the last tick means for sampling, each up to its bound. For the trace see Lin et al. 2023.
VERDICTS = {
    0.0: "pure noise (zero terminal SNR), which is where sampling starts.",
    0.01: "next to nothing, so sampling may start from pure noise.",
    0.1: "a trace, which a network learns to rely on and pure noise does not hold.",
    1.0: "sampling from pure noise would start in the wrong place.",
}
BLUE, RED, GREEN, GREY = *plots.COLOURS[:3], "#777777"
WIDE = {"description_width": "120px"}
PAPER = (
    "background: white; padding: 4px; border-radius: 4px; max-width: 100%; box-sizing: border-box; margin: 0; "
    "object-fit: contain"
)


@dataclasses.dataclass(frozen=True)
class Design:
    """A schedule in the making, and the tick one looks at.

    Args:
        kind: a name in `SCHEDULES`.
        ticks: how many, 2 or more.
        last, s, tau: what bends `linear`, `cosine` and `sigmoid`; each is kept while another kind is looked at.
        zero_snr: end in pure noise; `straight` does so anyway.
        tick: from 0 to ticks - 1.

    Raises:
        ValueError: for an unknown kind or a tick outside the schedule; `schedule` raises its own for the rest.
    """

    kind: str = "cosine"
    ticks: int = 1000
    last: float = 0.02
    s: float = 0.008
    tau: float = 1.0
    zero_snr: bool = False
    tick: int = 0

    def __post_init__(self):
        if self.kind not in SCHEDULES:
            raise ValueError(f"kind must be one of {', '.join(SCHEDULES)}, got {self.kind!r}.")
        if not 0 <= self.tick < self.ticks:
            raise ValueError(f"tick {self.tick} is outside this schedule: from 0 to {self.ticks - 1}.")

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The schedule, to go on with by hand."""
        shape = {name: getattr(self, name) for name in SHAPES.get(self.kind, ())[:1]}
        made = SCHEDULES[self.kind](self.ticks, **shape)
        return made.zero_terminal_snr() if self.zero_snr and made.variance_preserving else made

    def words(self) -> str:
        """How much of the picture is left at the last tick, and what that means."""
        end = self.ticks - 1
        signal, _ = self.schedule(end)
        verdict = next(words for most, words in VERDICTS.items() if signal <= most)
        share = f"{100 * signal:.3g} % of the picture is left (SNR {self.schedule.snr(end):.3g})"
        return f"At the last tick, {end}, {share}: {verdict}"

    def look(self, tick: int | None = None) -> str:
        """The mixture at a tick, by default at the one looked at."""
        tick = self.tick if tick is None else tick
        signal, sigma = self.schedule(tick)
        return f"Tick {tick}: {signal:.3g} picture + {sigma:.3g} noise (SNR {self.schedule.snr(tick):.3g})."

    def charts(self) -> list[str]:
        """Two <img>: the two rates, and their SNR on a log scale; thin behind them the usual cosine."""
        made, usual = self.schedule, cosine(self.ticks)
        rates = {"picture (signal)": (made.signal, BLUE), "noise (sigma)": (made.sigma, RED)}
        rates |= {"thin: cosine": (usual.signal, GREY), "": (usual.sigma, GREY)}
        # From 10^-9 to 10^6 whatever the schedule, so that the curve moves and not its frame.
        snrs = {"SNR, log scale": (made, GREEN), "thin: cosine": (usual, GREY)}
        snrs = {name: ((2 * (s.signal / s.sigma).log10() + 9) / 15, ink) for name, (s, ink) in snrs.items()}
        powers = {1 / 15: "10⁻⁸", 5 / 15: "10⁻⁴", 9 / 15: "1", 13 / 15: "10⁴"}
        alt = f"of {made!r}, tick by tick. {self.look(0)} {self.look()} {self.look(self.ticks - 1)} Thin: cosine."
        return [
            img(_chart(rates, {0: "0", 0.5: "0.5", 1: "1"}, self.tick, self.ticks), f"Signal and noise {alt}"),
            img(_chart(snrs, powers, self.tick, self.ticks), f"Signal-to-noise ratio {alt}"),
        ]

    def pictures(self, x_0: Tensor) -> list[str]:
        """Three <img> of x_0 (C, H, W) in [-1, 1]: at the tick looked at, and drowning in two strips of four."""
        ticks = [self.tick, *(round(i * (self.ticks - 1) / 7) for i in range(8))]
        # The same noise at every tick and every move: only the schedule changes what is seen.
        eps = noise(1, tuple(x_0.shape)).expand(9, -1, -1, -1)
        frames = self.schedule.add_noise(x_0.cpu().float()[None], eps, torch.tensor(ticks))
        images = [img(plots.show(frames[0], captions=[f"tick {self.tick}"], side=165).png, f"Picture. {self.look()}")]
        for at in (slice(1, 5), slice(5, 9)):
            strip = plots.filmstrip(frames[at], ticks[at], side=84)
            images.append(img(strip.png, f"The picture drowning at ticks {', '.join(map(str, ticks[at]))}."))
        return images


class ScheduleDesigner(ipywidgets.VBox):
    """Bend a schedule and see what becomes of a picture; the last line of a cell shows it.

    `design` is all that is set, `schedule` the schedule itself. What cannot be drawn is told in one sentence, and
    the last good design stays.

    Args:
        picture: (1 or 3, H, W) in [-1, 1]; by default a face of a few strokes.
    """

    def __init__(self, picture: Tensor | None = None):
        self.picture, self.design = _face() if picture is None else torch.as_tensor(picture), Design(tick=500)
        if self.picture.ndim != 3 or len(self.picture) not in (1, 3):
            raise ValueError(f"the designer takes one picture (1 or 3, H, W), got {tuple(self.picture.shape)}.")
        self.kind = ipywidgets.Dropdown(options=list(SCHEDULES), value=self.design.kind, description="kind", style=WIDE)
        self.ticks = Dial("ticks", self.design.ticks, 10, 1000, 1)
        self.shapes = {
            kind: Dial(label, getattr(self.design, name), *span) for kind, (name, label, *span) in SHAPES.items()
        }
        self.zero_snr = ipywidgets.Checkbox(style=WIDE)
        self.tick = Dial("look at tick", self.design.tick, 0, self.design.ticks - 1, 1)
        self.said, self.seen = ipywidgets.HTML(), ipywidgets.HTML()
        self.kind.layout.width, self.zero_snr.layout.width = "250px", "auto"
        dials = [self.ticks, *self.shapes.values(), self.tick]
        self.ticks.number.observe(self._keep_place, "value")
        for control in (self.kind, self.zero_snr, *(dial.number for dial in dials)):
            control.observe(self._draw, "value")
        super().__init__([self.kind, *dials[:-1], self.zero_snr, dials[-1], self.said, self.seen])
        self._draw()

    @property
    def schedule(self) -> Schedule:
        """The schedule that is shown, to go on with by hand."""
        return self.design.schedule

    def __repr__(self) -> str:
        # A saved notebook holds no living widget, only this line.
        return f"A designer of schedules, now {self.schedule!r}. Run this cell to move it."

    def _keep_place(self, change):
        """With more or fewer ticks one goes on looking at the same place: half-way stays half-way."""
        old, new = self.tick.number.max, change["new"] - 1
        place = round(self.tick.number.value / old * new)
        # Widened first and narrowed last, so that the value is never clipped in between.
        self.tick.reach(max(old, new))
        self.tick.number.value = place
        self.tick.reach(new)

    def _draw(self, _=None):
        try:
            shapes = {SHAPES[kind][0]: dial.number.value for kind, dial in self.shapes.items()}
            ticks, tick = self.ticks.number.value, self.tick.number.value
            design = Design(self.kind.value, ticks, **shapes, zero_snr=self.zero_snr.value, tick=tick)
            if design != self.design or not self.seen.value:
                here, *strips = design.pictures(self.picture)
                self.seen.value = _row([*design.charts(), here]) + _row(strips)
            said = f"<b>{html.escape(design.words())}</b><br>{html.escape(design.look())}"
            self.design = design
        except Exception as fault:  # it would vanish in a log; told here, the controls live on
            said = f"<b>This cannot be drawn:</b> {html.escape(str(fault) or type(fault).__name__)}"
        self.said.value = f'<div style="line-height: 1.5; margin: 4px 0">{said}</div>'
        for kind, dial in self.shapes.items():
            dial.layout.display = "flex" if kind == self.kind.value else "none"
        self.zero_snr.disabled = self.kind.value not in SHAPES
        self.zero_snr.description = "ends in pure noise by itself" if self.zero_snr.disabled else "end in pure noise"


@dataclasses.dataclass(frozen=True)
class Look:
    """A recorded training, and the moment one looks at.

    Args:
        recording: the training as it went.
        at: which of its looks, from 1 on.

    Raises:
        ValueError: for a look that it does not have.
    """

    recording: Recording = dataclasses.field(repr=False, compare=False)
    at: int = 1

    def __post_init__(self):
        if not 1 <= self.at <= len(self.recording.steps):
            raise ValueError(f"there are looks 1 to {len(self.recording.steps)}, got {self.at!r}.")

    @property
    def step(self) -> int:
        """After how many steps of the training."""
        return int(self.recording.steps[self.at - 1])

    @property
    def pictures(self) -> Tensor:
        """(B, C, H, W) in [-1, 1]: what the same seeds gave then."""
        return self.recording.pictures[self.at - 1].float() / 127.5 - 1

    @functools.cached_property
    def smooth(self) -> Tensor:
        """(N,) the loss of each step, averaged with those just before it, a fiftieth of the run."""
        losses = self.recording.losses.double()
        width = max(1, len(losses) // 50)
        summed = torch.cat([torch.zeros(1).double(), losses.cumsum(0)])
        first = (torch.arange(len(losses)) - width + 1).clamp(min=0)
        last = torch.arange(len(losses)) + 1
        return (summed[last] - summed[first]) / (last - first)

    def words(self) -> str:
        """Where one is, and the loss there."""
        total = len(self.recording.losses)
        return f"After step {self.step} of {total} the loss is {self.smooth[self.step - 1]:.3g}."

    def chart(self) -> str:
        """An <img>: the loss on a log scale, with a dot at the moment looked at."""
        low, high = (float(end) for end in self.smooth.aminmax())
        span = max(high / low, 1 + 1e-6)
        heights = (self.smooth / low).log() / torch.tensor(span).log()
        grid = {place: f"{low * span**place:.2g}" for place in (0, 0.5, 1)}
        svg = _chart({"loss, smoothed, log scale": (heights, BLUE)}, grid, self.step - 1, len(heights), first=1)
        return img(svg, f"The loss falls from {self.smooth[0]:.3g} to {self.smooth[-1]:.3g}. {self.words()}")

    def picture(self) -> str:
        """An <img> of what was drawn then."""
        shown = plots.show(self.pictures, min(5, len(self.pictures)), side=84)
        return img(shown.png, f"{len(self.pictures)} pictures of the same seeds, drawn after step {self.step}.")


class TrainingReplay(ipywidgets.VBox):
    """Scrub through a training, from fog to pictures; the last line of a cell shows it.

    `look` is all that is set. What cannot be drawn is told in one sentence, and the last good look stays.

    Args:
        recording: a `Recording`, the name of a shipped one ("digits"), or a file of yours.

    Raises:
        ValueError: where there is no such recording.
    """

    def __init__(self, recording: Recording | str = "digits"):
        self.look = Look(recording if isinstance(recording, Recording) else load_recording(recording))
        self.dial = Dial("look", 1, 1, len(self.look.recording.steps), 1)
        self.said, self.seen = ipywidgets.HTML(), ipywidgets.HTML()
        self.dial.number.observe(self._draw, "value")
        super().__init__([self.dial, self.said, self.seen])
        self._draw()

    def __repr__(self) -> str:
        return f"A training to scrub through. {self.look.words()} Run this cell to move it."

    def _draw(self, _=None):
        try:
            look = dataclasses.replace(self.look, at=self.dial.number.value)
            self.seen.value = _row([look.picture(), look.chart()])
            said, self.look = f"<b>{html.escape(look.words())}</b>", look
        except Exception as fault:  # as above
            said = f"<b>This cannot be drawn:</b> {html.escape(str(fault) or type(fault).__name__)}"
        self.said.value = f'<div style="line-height: 1.5; margin: 4px 0">{said}</div>'


class Dial(ipywidgets.HBox):
    """A slider and a number field that say the same: the field has the name that sliders do not tell a screen reader.

    `live` sliders tell every place they pass, others where they come to rest.
    """

    def __init__(self, label: str, value, low, high, step, live: bool = True):
        kinds = {int: (ipywidgets.BoundedIntText, ipywidgets.IntSlider)}
        number, slider = kinds.get(type(step), (ipywidgets.BoundedFloatText, ipywidgets.FloatSlider))
        span = {"value": value, "min": low, "max": high, "step": step}
        self.number = number(**span, description=label, style=WIDE, layout={"width": "220px", "flex": "none"})
        self.slider = slider(
            **span, readout=False, continuous_update=live, layout={"flex": "1 1 160px", "max_width": "480px"}
        )
        # Sliders in the page say 0.020000000000000004; the field is what counts.
        tidy = (lambda value: round(value, 6),) * 2
        ipywidgets.link((self.slider, "value"), (self.number, "value"), transform=tidy)
        super().__init__([self.number, self.slider], layout={"flex_flow": "row wrap"})

    def reach(self, high) -> None:
        """Another highest value."""
        self.slider.max = self.number.max = high


def _chart(lines: dict[str, tuple], grid: dict[float, str], tick: int, ticks: int, first: int = 0) -> bytes:
    """An SVG of {name: (heights (ticks,) from 0 to 1, colour)}: sharp, and a tenth of matplotlib's time.

    Grey lines are thin and lie behind; the others bear a dot at the tick looked at. `first` is what tick 0 is called.
    """

    def x(t):
        return round(38 + 228 * t / max(1, ticks - 1), 1)

    def y(height):
        return round(170 - 140 * min(max(height, 0), 1), 1)

    names = "".join(f'<tspan fill="{ink}" dx="8">{name}</tspan>' for name, (_, ink) in lines.items())
    parts = [f'<text x="30" y="15">{names}</text>', f'<path d="M{x(tick)} 26V174" stroke="{GREY}"/>']
    parts += [f'<text x="{x(t)}" y="188" text-anchor="middle">{t + first}</text>' for t in (0, ticks - 1)]
    for height, label in grid.items():
        parts.append(f'<path d="M38 {y(height)}H266" stroke="#dddddd"/>')
        parts.append(f'<text x="33" y="{y(height) + 4}" text-anchor="end">{label}</text>')
    some = torch.linspace(0, ticks - 1, min(ticks, 200)).round().long()
    for heights, ink in sorted(lines.values(), key=lambda line: line[1] != GREY):
        points = " ".join(f"{x(t)},{y(h)}" for t, h in zip(some.tolist(), heights[some].tolist(), strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="{1 if ink == GREY else 2}"/>'
        )
        if ink != GREY:
            parts.append(f'<circle cx="{x(tick)}" cy="{y(heights[tick].item())}" r="4" fill="{ink}"/>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="282" height="196" viewBox="0 0 282 196"'
    return f'{head} font-family="sans-serif" font-size="12" fill="#222222">{"".join(parts)}</svg>'.encode()


def img(picture: bytes, alt: str, style: str = PAPER) -> str:
    """HTML of a PNG or SVG, on white so that a dark theme does not swallow it; `widgets.Image` has no alt text."""
    kind = "png" if picture.startswith(b"\x89PNG") else "svg+xml"
    code = base64.b64encode(picture).decode()
    return f'<img src="data:image/{kind};base64,{code}" alt="{html.escape(alt)}" style="{style}">'


def _row(imgs: list[str]) -> str:
    """HTML of <img>s side by side, or below each other in a narrow window."""
    return f'<div style="display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 6px">{"".join(imgs)}</div>'


def _face() -> Tensor:
    """(1, 28, 28): a ring, two eyes and a smile."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    ring, eyes = (x.hypot(y) - 0.85).abs() < 0.1, (x.abs() - 0.35).hypot(y + 0.25) < 0.15
    smile = ((x.hypot(y) - 0.5).abs() < 0.09) & (y > 0.15)
    return (ring | eyes | smile).float()[None] * 2 - 1
