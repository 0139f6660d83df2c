"""The schedule designer (lesson 01): change a noise schedule and see what the forward process does to an image.

    x_t = signal_t x_0 + sigma_t eps

`ScheduleDesign` is the state, testable without widgets; `ScheduleDesigner` shows it. Everything happens in the callback
itself, because Colab does not show what a background thread changes.
"""

import dataclasses
import functools
import html

import ipywidgets
import torch
from torch import Tensor

from facelab.images import img, png_bytes
from facelab.samplers import noise
from facelab.schedules import SCHEDULES, Schedule, cosine
from facelab.widgets.controls import BLUE, GREEN, GREY, LABEL, RED, WHITE, LabelledSlider, line_chart, row, status

# The shape parameter of each schedule: its name in the schedule's function, label, lowest and highest value, step.
PARAMETERS = {
    "linear": ("last", "last beta", 0.001, 0.3, 0.001),
    "cosine": ("s", "offset s", 0.0, 0.3, 0.001),
    "sigmoid": ("tau", "temperature tau", 0.3, 3.0, 0.05),
}
# What the signal left at the last timestep means for sampling, each up to its bound (Lin et al. 2023).
TERMINAL_SNR = {
    0.0: "pure noise (zero terminal SNR), which is where sampling starts.",
    0.01: "almost nothing, so sampling may start from pure noise.",
    0.1: "a trace, which a network learns to rely on and which pure noise does not have.",
    1.0: "sampling from pure noise would start in the wrong place.",
}


@dataclasses.dataclass(frozen=True)
class ScheduleDesign:
    """A schedule by its name and parameters, and the timestep that is shown.

    `last`, `s` and `tau` are the parameters of "linear", "cosine" and "sigmoid"; `zero_snr` rescales to zero terminal SNR.
    """

    name: str = "cosine"
    num_timesteps: int = 1000
    last: float = 0.02
    s: float = 0.008
    tau: float = 1.0
    zero_snr: bool = False
    t: int = 0

    def __post_init__(self):
        if self.name not in SCHEDULES:
            raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, got {self.name!r}.")
        if not 0 <= self.t < self.num_timesteps:
            raise ValueError(f"timestep {self.t} is not in this schedule: from 0 to {self.num_timesteps - 1}.")

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The schedule itself."""
        parameter = {name: getattr(self, name) for name in PARAMETERS.get(self.name, ())[:1]}
        made = SCHEDULES[self.name](self.num_timesteps, **parameter)
        return made.rescale_zero_terminal_snr() if self.zero_snr and made.variance_preserving else made

    def summary(self) -> str:
        """How much of the image is left at the last timestep, and what that means for sampling."""
        end = self.num_timesteps - 1
        signal, _ = self.schedule(end)
        meaning = next(text for bound, text in TERMINAL_SNR.items() if signal <= bound)
        share = f"{100 * signal:.3g} % of the image is left (SNR {self.schedule.snr(end):.3g})"
        return f"At the last timestep, {end}, {share}: {meaning}"

    def mixture(self, t: int | None = None) -> str:
        """The mixture of image and noise at a timestep, by default at the one that is shown."""
        t = self.t if t is None else t
        signal, sigma = self.schedule(t)
        return f"Timestep {t}: {signal:.3g} image + {sigma:.3g} noise (SNR {self.schedule.snr(t):.3g})."

    def charts(self) -> list[str]:
        """Two <img>: signal and noise, and their SNR on a log scale; the default cosine schedule is thin behind them."""
        (signal, sigma), (usual, usual_sigma) = (
            (made.signal[:-1], made.sigma[:-1]) for made in (self.schedule, cosine(self.num_timesteps))
        )
        rates = {"image (signal)": (signal, BLUE), "noise (sigma)": (sigma, RED)}
        rates |= {"thin: cosine": (usual, GREY), "": (usual_sigma, GREY)}
        # From 10^-9 to 10^6 for every schedule, so that the curve moves and not its frame.
        snrs = {"SNR, log scale": (signal / sigma, GREEN), "thin: cosine": (usual / usual_sigma, GREY)}
        snrs = {name: ((2 * ratio.log10() + 9) / 15, colour) for name, (ratio, colour) in snrs.items()}
        powers = {1 / 15: "10⁻⁸", 5 / 15: "10⁻⁴", 9 / 15: "1", 13 / 15: "10⁴"}
        ends = " ".join(map(self.mixture, (0, self.t, self.num_timesteps - 1)))
        alt = f"of {self.schedule!r} by timestep. {ends} Thin: cosine."
        return [
            img(line_chart(rates, {0: "0", 0.5: "0.5", 1: "1"}, self.t), f"Signal and noise {alt}", WHITE),
            img(line_chart(snrs, powers, self.t), f"Signal-to-noise ratio {alt}", WHITE),
        ]

    def images(self, x_0: Tensor) -> list[str]:
        """Three <img> of x_0 (C, H, W): x_t at the timestep that is shown, and the forward process in two rows of four."""
        timesteps = [self.t, *(round(i * (self.num_timesteps - 1) / 7) for i in range(8))]
        # The same noise at every timestep and for every schedule.
        eps, scale = noise(1, tuple(x_0.shape)).expand(9, -1, -1, -1), max(1, -(-84 // x_0.shape[-1]))
        x_t = self.schedule.add_noise(x_0.cpu().float()[None], eps, torch.tensor(timesteps)).clamp(-1, 1)
        shown = [img(png_bytes(x_t[0], scale=2 * scale), f"The noisy image. {self.mixture()}", WHITE)]
        for part in (slice(1, 5), slice(5, 9)):
            alt = f"The forward process at timesteps {', '.join(map(str, timesteps[part]))}."
            shown.append(img(png_bytes(x_t[part], columns=4, scale=scale), alt, WHITE))
        return shown


class ScheduleDesigner(ipywidgets.VBox):
    """Change a schedule and see what becomes of an image; the last line of a cell shows it.

    `design` is the state, with the `schedule`. An error is shown in one sentence, and the last valid design stays.

    Args:
        image: (1 or 3, H, W) in [-1, 1]; by default a simple face.
    """

    def __init__(self, image: Tensor | None = None):
        self.image, self.design = _face() if image is None else torch.as_tensor(image), ScheduleDesign(t=500)
        if self.image.ndim != 3 or len(self.image) not in (1, 3):
            raise ValueError(f"the designer takes one image (1 or 3, H, W), got {tuple(self.image.shape)}.")
        self.name = ipywidgets.Dropdown(
            options=list(SCHEDULES), value="cosine", description="schedule", style=LABEL, layout={"width": "250px"}
        )
        self.num_timesteps = LabelledSlider("timesteps", self.design.num_timesteps, 10, 1000, 1)
        self.parameters = {
            name: LabelledSlider(label, getattr(self.design, parameter), *span)
            for name, (parameter, label, *span) in PARAMETERS.items()
        }
        self.zero_snr = ipywidgets.Checkbox(style=LABEL, layout={"width": "auto"})
        self.t = LabelledSlider("show timestep", self.design.t, 0, self.design.num_timesteps - 1, 1)
        self.text, self.figure = ipywidgets.HTML(), ipywidgets.HTML()
        sliders = [self.num_timesteps, *self.parameters.values(), self.t]
        self.num_timesteps.number.observe(self._keep_fraction, "value")
        for control in (self.name, self.zero_snr, *(slider.number for slider in sliders)):
            control.observe(self._update, "value")
        super().__init__([self.name, *sliders[:-1], self.zero_snr, self.t, self.text, self.figure])
        self._update()

    def __repr__(self) -> str:
        # A saved notebook holds this line in place of the widget.
        return f"A schedule designer, now at {self.design.schedule!r}. Run this cell to use it."

    def _keep_fraction(self, change):
        """With more or fewer timesteps, show the same fraction of the schedule: the middle stays the middle."""
        old, new = self.t.number.max, change["new"] - 1
        # Widened first and narrowed last, so that the value is never clipped.
        self.t.slider.max = self.t.number.max = max(old, new)
        self.t.number.value = round(self.t.number.value / old * new)
        self.t.slider.max = self.t.number.max = new

    def _update(self, _=None):
        self.text.value = status(self._show)
        for name, slider in self.parameters.items():
            slider.layout.display = "flex" if name == self.name.value else "none"
        self.zero_snr.disabled = self.name.value not in PARAMETERS
        self.zero_snr.description = "has zero terminal SNR" if self.zero_snr.disabled else "rescale to zero SNR"

    def _show(self) -> str:
        values = {PARAMETERS[name][0]: slider.number.value for name, slider in self.parameters.items()}
        values |= {name: getattr(self, name).number.value for name in ("num_timesteps", "t")}
        design = ScheduleDesign(self.name.value, zero_snr=self.zero_snr.value, **values)
        if design != self.design or not self.figure.value:
            here, *process = design.images(self.image)
            self.figure.value = row([*design.charts(), here]) + row(process)
        self.design = design
        return f"<b>{html.escape(design.summary())}</b><br>{html.escape(design.mixture())}"


def _face() -> Tensor:
    """(1, 28, 28): a circle, two eyes and a smile."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    circle, eyes = (x.hypot(y) - 0.85).abs() < 0.1, (x.abs() - 0.35).hypot(y + 0.25) < 0.15
    smile = ((x.hypot(y) - 0.5).abs() < 0.09) & (y > 0.15)
    return (circle | eyes | smile).float()[None] * 2 - 1
