"""Image grids and plots with alt text: the only module that imports matplotlib.

Each function returns a `Figure`: the last line of a cell shows it, `display` shows it anywhere, `save` writes a PNG. Generated
images stay lossless and at their own size; the page enlarges them. Captions are text of the page, so they follow its theme.
"""

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from facelab.images import img, to_uint8

GAP = 2  # pixels between the images of a grid
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Figure:
    """A PNG with its alt text; `page` is the HTML that shows it, by default one `<img>` of `width` pixels."""

    def __init__(self, png: bytes, alt: str, *, width: int | None = None, page: str = ""):
        self.png, self.alt = png, alt
        self.page = page or img(png, alt, f"max-width:100%{f';width:{width}px' if width else ''}")

    def _repr_mimebundle_(self, include=None, exclude=None):
        # JupyterLab drops the alt text of a bare image, so the page gets HTML.
        return {"text/html": self.page, "text/plain": self.alt}

    @property
    def image(self) -> Image.Image:
        """The PNG as a Pillow image."""
        return Image.open(io.BytesIO(self.png))

    def save(self, path) -> Path:
        """Write the PNG and return its path."""
        Path(path).write_bytes(self.png)
        return Path(path)


def show(images: Tensor, columns=None, *, captions=(), rows=(), side=None, alt="") -> Figure:
    """A grid of images (B, C, H, W), or one (C, H, W): floats in [-1, 1] (values outside are clipped) or uint8.

    Args:
        columns: images per row; by default the grid is about square.
        captions: one under each image, or, if there are as many as columns, one above each column.
        rows: a label before each row.
        side: width of each image on the page in pixels; by default 112 for colour and 56 for grey images.
    """
    tiles = _tiles(images)
    columns, side = columns or math.ceil(len(tiles) ** 0.5), side or (112 if tiles.shape[1] == 3 else 56)
    scale, count = side / tiles.shape[3], math.ceil(len(tiles) / columns)
    grid = "An image" if len(tiles) == 1 else f"{len(tiles)} images in {'a row' if count == 1 else f'{count} rows'}"
    texts = (("rows", rows), ("captions", captions))
    alt = alt or "; ".join([grid, *(f"{kind}: {', '.join(map(str, text))}" for kind, text in texts if len(text))]) + "."
    # Smooth enlargement suits faces and digits; toy images of a few pixels should show their pixels.
    style = "display:block;max-width:none" + (";image-rendering:pixelated" if tiles.shape[3] < 16 else "")
    above, width = len(captions) == columns, f"{side + GAP * scale:.1f}px"
    lines = [_text_row(captions, width)] if above else []
    for r, label in enumerate([*map(escape, map(str, rows)), *[""] * count][:count]):
        part = slice(r * columns, (r + 1) * columns)
        sheet = _sheet(tiles[part], columns)
        text = alt if r == 0 else f"Row {r + 1} of {count}: {label or 'more of the same'}."
        image = img(_png(sheet), text, f"{style};width:{sheet.width * scale:.0f}px")
        head = f'<tr style="background:none"><th style="padding:0 8px;text-align:right">{label}</th>'
        lines.append(f'{head}<td colspan="{columns}" style="padding:1px 0">{image}</td></tr>')
        lines += [_text_row(captions[part], width)] if len(captions) and not above else []
    page = f'<div style="overflow-x:auto"><table style="border:none">{"".join(lines)}</table></div>'
    return Figure(_png(_sheet(tiles, columns)), alt, page=page)


def filmstrip(frames: Iterable[Tensor], captions: Sequence[str] = (), *, every: int = 1, **options) -> Figure:
    """Frames from left to right, a row for each image; frames are (C, H, W) or (B, C, H, W) in [-1, 1].

    Of the frames every `every`-th is shown, counted back from the last; `options` are those of `show`.
    """
    frames = [frame[None] if frame.ndim == 3 else frame for frame in frames]
    shown = [i for i in range(len(frames)) if (len(frames) - 1 - i) % every == 0]
    across = torch.stack([frames[i] for i in shown], 1).flatten(0, 1)
    return show(across, len(shown), captions=[str(captions[i]) for i in shown] if len(captions) else (), **options)


def animation(frames: Iterable[Tensor], *, seconds=0.1, back=True, side=128, alt="") -> Figure:
    """An animated PNG that loops over frames (C, H, W) or (B, C, H, W) in [-1, 1]; the ends stay eight times as long.

    With `back` the frames are played backwards as well, so that the loop has no jump.
    """
    sheets = [_sheet(tiles := _tiles(frame), len(tiles)) for frame in frames]
    if len(sheets) < 2:
        raise ValueError(f"an animation needs at least 2 frames, got {len(sheets)}.")
    order = sheets + (sheets[-2:0:-1] if back else [])
    durations = [1000 * seconds * (8 if i in (0, len(sheets) - 1) else 1) for i in range(len(order))]
    png = _png(order[0], save_all=True, append_images=order[1:], duration=durations, loop=0)
    width = round(order[0].width * side / tiles.shape[3])
    return Figure(png, alt or f"An animation of {len(sheets)} frames.", width=width)


def hstack(*figures: Figure) -> Figure:
    """Several figures from left to right, as one."""
    images = [figure.image.convert("RGBA") for figure in figures]
    sheet = Image.new("RGBA", (sum(i.width + 12 for i in images) - 12, max(i.height for i in images)))
    for k, image in enumerate(images):
        sheet.paste(image, (sum(i.width + 12 for i in images[:k]), 0))
    parts = "".join(f'<div style="margin-right:12px">{figure.page}</div>' for figure in figures)
    page = f'<div style="display:flex;flex-wrap:wrap">{parts}</div>'
    return Figure(_png(sheet), " Beside it: ".join(figure.alt for figure in figures), page=page)


def _tiles(images: Tensor) -> Tensor:
    """(B, C, H, W) uint8 on the CPU, after the checks that every figure of images needs."""
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, 1 or 3, H, W) or (1 or 3, H, W), got {tuple(images.shape)}.")
    if images.is_floating_point():
        # Noise reaches 5 or 6; values far beyond were never scaled to [-1, 1].
        if (largest := images.abs().max()) > 20:
            raise ValueError(f"images must lie in [-1, 1], got values up to {largest:.0f}: use x / 127.5 - 1.")
        images = images.detach().clamp(-1, 1)
    return to_uint8(images).cpu()


def _sheet(tiles: Tensor, columns: int) -> Image.Image:
    """The images row by row at their own size, with transparent gaps."""
    opaque = torch.cat([tiles, torch.full_like(tiles[:, :1], 255)], 1)
    sheet = make_grid(F.pad(opaque, (0, GAP, 0, GAP)), columns, padding=0)[:, :-GAP, :-GAP]
    return Image.fromarray(sheet.movedim(0, -1).numpy())


def _text_row(texts: Sequence[str], width: str) -> str:
    style = f"padding:1px 0;text-align:center;width:{width};min-width:{width}"
    cells = "".join(f'<td style="{style}">{escape(str(text))}</td>' for text in texts)
    return f'<tr style="background:none"><td></td>{cells}</tr>'


def _png(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, **options)
    return out.getvalue()


def curve(series, *, x="", y="", title="", log="", dots=(), pale="", size=(6.4, 3.2), alt="") -> Figure:
    """Lines {name: (xs, ys)} with a legend; log is "", "x", "y" or "xy".

    Args:
        dots: names of series that are shown as dots without a line.
        pale: the name of a line that is shown broad and pale, so that it is visible under another one.
    """
    (figure, axes), words = _axes(size, title, x=x, y=y), []
    for i, (name, (xs, ys)) in enumerate(series.items()):
        xs, ys, colour = np.asarray(xs, float), np.asarray(ys, float), COLOURS[i % len(COLOURS)]
        style = {"lw": 5, "alpha": 0.4, "zorder": 1} if name == pale else {"lw": 1.6, "zorder": 2}
        style |= {"ls": ["-", "--"][i // len(COLOURS)]}
        style |= {"marker": "o", "ms": 4.5, "ls": "", "zorder": 3} if name in dots else {}
        axes.plot(xs, ys, color=colour, label=name, **style)
        if len(ok := ys[np.isfinite(ys)]):
            words.append(f"{name} goes from {ok[0]:.3g} to {ok[-1]:.3g} (between {ok.min():.3g} and {ok.max():.3g})")
    _log_axes(axes, log)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    return _figure(figure, alt or f"{title or y or 'Curves'} against {x or 'x'}: {'; '.join(words)}.")


def dot_plot(series: dict, names: Sequence[str], *, x="", title="", errors=None, mark=None, alt="") -> Figure:
    """A row for each name with a dot for each series {what: a value for each name}; NaN leaves a gap.

    Args:
        errors: {what: (lows, highs)}, intervals shown as whiskers.
        mark: a vertical line, such as chance.
    """
    figure, axes = _axes((6.4, 1.2 + 0.19 * len(names)), title, x=x)
    rows, words = np.arange(len(names)), []
    for i, (what, values) in enumerate(series.items()):
        values, colour = np.asarray(values, float), COLOURS[i % len(COLOURS)]
        place = rows + (i - (len(series) - 1) / 2) * 0.22
        axes.plot(values, place, "os^D"[i % 4], color=colour, markersize=4.5, label=what)
        if errors and what in errors:
            axes.hlines(place, *errors[what], color=colour, linewidth=1.2)
        low, high = np.nanargmin(values), np.nanargmax(values)
        words.append(f"{what} from {values[low]:.2f} ({names[low]}) to {values[high]:.2f} ({names[high]})")
    if mark is not None:
        axes.axvline(mark, color="0.5", linewidth=1)
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(series) > 1:  # outside the axes, where its dots are not taken for values
        figure.legend(loc="outside lower center", ncol=len(series), frameon=False, fontsize=8)
    return _figure(figure, alt or f"{title or x or 'Values'}: {'; '.join(words)}.")


def heatmap(matrix, names: Sequence[str], *, title="", alt="") -> Figure:
    """A matrix (K, K) of correlations in colours from -1 (blue) over 0 (white) to 1 (red)."""
    matrix, size = np.asarray(matrix, float), 1.8 + 0.15 * len(names)
    figure, axes = _axes((size, size), title)
    axes.grid(False)
    figure.colorbar(axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1), ax=axes, shrink=0.6)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    # The value of a name with itself is left out of the summary.
    off = np.where(np.eye(len(names)), np.nan, matrix)
    high, low = (np.unravel_index(find(off), off.shape) for find in (np.nanargmax, np.nanargmin))
    ends = [f"{names[i]} with {names[j]} {matrix[i, j]:.2f}" for i, j in (high, low)]
    return _figure(figure, alt or f"{title or 'A matrix'}: highest {ends[0]}, lowest {ends[1]}.", colours=256)


def gaussian_scatter(series: dict[str, Tensor], *, title="", alt="") -> Figure:
    """Points (N, 2) of each set with the two-standard-deviation ellipse of their mean and covariance."""
    figure, axes = _axes((4.6, 4.6), title)
    turn, words = np.linspace(0, 2 * np.pi, 200), []
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        points = np.asarray(points, float)
        mean, (values, directions) = points.mean(0), np.linalg.eigh(np.cov(points.T))
        axes.scatter(*points.T, s=6, color=colour, alpha=0.35, linewidths=0)
        ellipse = mean[:, None] + 2 * directions * values**0.5 @ np.stack([np.cos(turn), np.sin(turn)])
        axes.plot(*ellipse, color=colour, label=name)
        spread = f"{values[1] ** 0.5:.2f} by {values[0] ** 0.5:.2f} wide"
        words.append(f"{name} around ({mean[0]:.2f}, {mean[1]:.2f}), {spread}")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9)
    return _figure(figure, alt or f"{title or 'Points'}: {'; '.join(words)}.")


class Stage(NamedTuple):
    """One stage of a U-Net: it makes `channels` maps of `side` x `side`; `inputs` names what else enters here."""

    name: str
    channels: int
    side: int
    parameters: int
    inputs: str

    def __str__(self) -> str:
        words = f"{self.name} {self.channels} channels at {self.side}x{self.side}, {self.parameters:,} parameters"
        return words + (f", receives {self.inputs}" if self.inputs else "")


def unet_diagram(stages: Sequence[Stage], *, title="", alt="") -> Figure:
    """A U-Net as data passes through it: a box per stage, as tall as its maps, with its skip connections.

    Arrows from below show where the timestep and the condition enter (`Stage.inputs`, such as "t + condition").
    """
    figure, axes = _axes((9.6, 3.6), title)
    axes.axis("off")
    axes.set(xlim=(-0.6, len(stages) - 0.4), ylim=(-1.0, 1.15))
    halves = [0.12 + 0.38 * stage.side / max(s.side for s in stages) for stage in stages]
    arrow, small = {"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0}, min(8, 80 / len(stages))
    downs, ups = ([i for i, s in enumerate(stages) if s.name.startswith(part)] for part in ("down", "up"))
    for start, end in zip(downs, reversed(ups), strict=True):
        style = arrow | {"color": "0.55", "ls": "--", "connectionstyle": "bar,fraction=-0.08"}
        top = max(halves[start : end + 1]) + 0.2
        axes.annotate("", (end, top), (start, top), arrowprops=style)
    for i, (stage, half) in enumerate(zip(stages, halves, strict=True)):
        axes.bar(i, 2 * half, 0.6, -half, color=COLOURS[0] if stage.inputs else "0.6", alpha=0.35, edgecolor="0.3")
        axes.text(i, 0, f"{stage.channels} maps\n{stage.side} × {stage.side}", ha="center", va="center", fontsize=small)
        count = stage.parameters
        size = f"\n{count / 1e6:.2f} M" if count >= 1e5 else f"\n{count / 1e3:.1f} k" if count else ""
        axes.text(i, half + 0.02, stage.name + size, ha="center", va="bottom", fontsize=small)
        if i:
            axes.annotate("", (i - 0.3, 0), (i - 0.7, 0), arrowprops=arrow)
        if stage.inputs:
            axes.annotate("", (i, -half), (i, -0.82), arrowprops=arrow | {"color": COLOURS[1]})
            inputs = stage.inputs.replace(" + ", " +\n")
            axes.text(i, -0.84, inputs, ha="center", va="top", fontsize=small, color=COLOURS[1])
    return _figure(figure, alt or f"{title or 'A U-Net'}: {'; '.join(map(str, stages))}.")


def process_diagram(frames: Sequence[Tensor], labels: Sequence[str], *, alt="") -> Figure:
    """Frames (C, H, W) in [-1, 1] from the clean image to noise, the forward process above and the reverse process below.

    `labels` are formulas without dollar signs, such as "x_{499}", one under each frame.
    """
    figure, axes = _axes((9.0, 3.0))
    axes.axis("off")
    last, tiles = len(frames) - 1, _tiles(torch.stack(list(frames))).movedim(1, -1)
    smooth = "bicubic" if tiles.shape[1] > 32 else "nearest"
    for i, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        axes.imshow(tile, "gray", vmin=0, vmax=255, extent=(i - 0.36, i + 0.36, -0.36, 0.36), interpolation=smooth)
        axes.text(i, -0.39, f"${label}$", ha="center", va="top", fontsize=11)
    axes.set(xlim=(-0.45, last + 0.45), ylim=(-0.92, 0.72))
    forward = "forward process: add noise,  $x_t = signal_t\\, x_0 + sigma_t\\, \\epsilon$"
    reverse = r"reverse process: predict $\hat{x}_0$ from $x_t$, then step from $t$ to $s < t$"
    for text, start, y, colour, va in (
        (forward, 0, 0.45, COLOURS[1], "bottom"),
        (reverse, last, -0.67, COLOURS[0], "top"),
    ):
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2}
        axes.annotate("", (last - start, y), (start, y), arrowprops=arrow)
        axes.text(last / 2, y + math.copysign(0.05, y), text, ha="center", va=va, color=colour, fontsize=11)
    return _figure(figure, alt or f"Forward and reverse process: {', '.join(labels)}.", colours=None)


def guidance_diagram(estimates: Tensor, scales: Sequence[float], *, alt="") -> Figure:
    """x_0_hat (B, C, H, W) at rising guidance scales, on the line from the unconditional (0) through the conditional one (1)."""
    figure, axes = _axes((9.0, 3.5))
    axes.axis("off")
    last, half = max(scales), 0.4 * min(b - a for a, b in itertools.pairwise(scales))
    axes.set(xlim=(min(scales) - 0.55, last + 0.55), ylim=(-0.78, 2 * half + 0.16))
    for tile, scale in zip(_tiles(estimates).movedim(1, -1), scales, strict=True):
        extent = scale - half, scale + half, 0.14, 0.14 + 2 * half
        axes.imshow(tile, "gray", vmin=0, vmax=255, extent=extent)
        name = {0: "unconditional", 1: "conditional"}.get(scale, "guided")
        axes.text(scale, -0.1, f"{name}\nscale {scale:g}", ha="center", va="top", fontsize=11)
    texts = "what the\ncondition changes", "guidance: (scale $-$ 1) times the same vector"
    for start, end, colour, text in zip((0, 1), (1, last), COLOURS, texts, strict=False):
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2.5, "shrinkA": 0}
        axes.annotate("", (end, 0.04), (start, 0.04), arrowprops=arrow)
        axes.plot(start, 0.04, "o", color=colour, ms=7)
        axes.text((start + end) / 2, -0.46, text, ha="center", va="top", fontsize=11, color=colour)
    words = "A line from the unconditional estimate (scale 0) through the conditional one (1) to guided ones (up to "
    return _figure(figure, alt or f"{words}{last:g}).", colours=None)


def interval_panels(panels: dict, xs: Sequence, *, x="", references=None, alt="") -> Figure:
    """Panels {title: {line: a value with `low` and `high` for each of xs}} side by side; the xs are spaced evenly.

    `references`: {title: {label: value}}, dashed lines such as chance.
    """
    (figure, *all_axes), words = _axes((3.5 * len(panels), 3.3), *panels, x=x), []
    places = np.arange(len(xs))
    for (title, lines), axes in zip(panels.items(), all_axes, strict=True):
        for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
            value, low, high = np.array([(one.value, one.low, one.high) for one in values]).T
            axes.plot(places, value, "-o", color=colour, ms=5, label=name)
            axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
            words.append(f"{title}, {name}: {value[0]:.2f} at {xs[0]} to {value[-1]:.2f} at {xs[-1]}")
        for label, value in (references or {}).get(title, {}).items():
            axes.axhline(value, color="0.35", ls="--", lw=1.2)
            place = {"xycoords": ("axes fraction", "data"), "xytext": (-2, 2), "textcoords": "offset points"}
            axes.annotate(label, (1, value), ha="right", fontsize=8.5, **place)
            words.append(f"{label} {value:.2f}")
        axes.set_xticks(places, [str(one) for one in xs])
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8.5)
    return _figure(figure, alt or "; ".join(words) + ".")


def _axes(size, *titles: str, x="", y="") -> list:
    """A matplotlib figure of this size in inches, and axes side by side, one for each title."""
    from matplotlib.figure import Figure as Plot

    figure = Plot(size, dpi=150, layout="constrained")
    found = [figure, *figure.subplots(1, len(titles) or 1, squeeze=False)[0]]
    for axes, title in zip(found[1:], titles or [""], strict=True):
        axes.set(xlabel=x, ylabel=y, title=title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return found


def _log_axes(axes, names: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        low, high = getattr(axes, f"get_{name}lim")()
        subs = (1,) if high > 1000 * low else (1, 2, 5) if high > 8 * low else range(1, 10)
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def _figure(figure, alt: str, colours: int | None = 64) -> Figure:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    # A white background is readable in both themes; 64 colours are enough for a plot and make the file small.
    image = Image.open(out).convert("RGB")
    image = image.quantize(colours, dither=Image.Dither.NONE) if colours else image
    return Figure(_png(image), alt, width=image.width * 2 // 3)
