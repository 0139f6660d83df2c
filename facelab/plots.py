"""Pictures and curves, each with words for those who do not see them. The only file that imports matplotlib.

Each function hands back an `Illustration`: the last line of a cell shows it, `display` shows it anywhere, `save` writes it.
"""

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facelab.written import whole

INK, PAPER, GAP = (40, 40, 40), (255, 255, 255), 2
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Illustration:
    """A PNG and its alt text."""

    def __init__(self, png: bytes, alt: str):
        self.png, self.alt = png, alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        # JupyterLab drops the alt text of a bare image, so the page gets an <img>, and those who cannot show it the image.
        img = '<img src="data:{};base64,{}" alt="{}" style="max-width: 100%">'
        if len(self.png) > 40_000 and self.image.mode == "RGB":
            # Grids of faces as PNG, and twice, would fill a notebook; what is saved to a file stays a PNG.
            out = io.BytesIO()
            self.image.save(out, "JPEG", quality=66)
            page = img.format("image/jpeg", base64.b64encode(out.getvalue()).decode(), html.escape(self.alt))
            return {"text/html": page, "text/plain": self.alt}, {}
        code = base64.b64encode(self.png).decode()
        page = img.format("image/png", code, html.escape(self.alt))
        if self.png and getattr(self.image, "is_animated", False):
            # Those who cannot show the page get the first frame, so that a notebook holds the animation once.
            code = base64.b64encode(_png(self.image.convert("RGB"))).decode()
        return {"text/html": page, "image/png": code, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    @property
    def image(self) -> Image.Image:
        """The picture as Pillow has it."""
        return Image.open(io.BytesIO(self.png))

    def save(self, path) -> Path:
        """Write the PNG and return its path."""
        with whole(path) as beside:
            beside.write_bytes(self.png)
        return Path(path)


def to_uint8(pictures: Tensor) -> np.ndarray:
    """(B, H, W, C) uint8 from (B, C, H, W) in [-1, 1]; what lies outside is clipped."""
    pictures = pictures.detach().float().cpu().clamp(-1, 1)
    return ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def show(
    pictures: Tensor,
    columns: int | None = None,
    *,
    captions: Sequence[str] = (),
    rows: Sequence[str] = (),
    title: str = "",
    side: int = 56,
    alt: str | None = None,
) -> Illustration:
    """A grid of pictures (B, C, H, W), or one (C, H, W), in [-1, 1].

    Args:
        columns: pictures a row; by default about a square.
        captions: a line under each picture, or, where there are as many as columns, above each column.
        rows: a line before each row.
        side: at least how many pixels a picture is shown wide, by whole-number enlargement.
    """
    pictures = pictures[None] if pictures.ndim == 3 else pictures
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[1] not in (1, 3):
        raise ValueError(f"show takes pictures (B, 1 or 3, H, W), got {tuple(pictures.shape)}.")
    refuse_bytes(pictures)
    columns = columns or math.ceil(len(pictures) ** 0.5)
    zoom = max(1, math.ceil(side / pictures.shape[3]))
    tiles = to_uint8(pictures).repeat(zoom, 1).repeat(zoom, 2)
    high, wide = tiles.shape[1:3]
    heads = captions if len(captions) == columns < len(pictures) else ()
    under = [] if heads else list(captions)
    font = ImageFont.load_default(13)
    left = max((int(font.getlength(row)) for row in rows), default=-8) + 8
    top = (22 if title else 0) + (18 if heads else 0)
    cell_high, count = high + GAP + (18 if under else 0), math.ceil(len(pictures) / columns)
    mode, paper, ink = ("L", 255, 40) if tiles.shape[3] == 1 else ("RGB", PAPER, INK)
    width = max(left + columns * (wide + GAP) - GAP, int(font.getlength(title)) + 4)
    sheet = Image.new(mode, (width, top + count * cell_high - GAP), paper)
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 3), title, ink, font)
    for i, tile in enumerate(tiles):
        x, y = left + i % columns * (wide + GAP), top + i // columns * cell_high
        sheet.paste(Image.fromarray(tile.squeeze(2) if mode == "L" else tile), (x, y))
        if i < len(under):
            draw.text((x + wide / 2, y + high + 2), under[i], ink, font, anchor="ma")
    for i, head in enumerate(heads):
        draw.text((left + i * (wide + GAP) + wide / 2, top - 17), head, ink, font, anchor="ma")
    for i, row in enumerate(rows):
        draw.text((left - 8, top + i * cell_high + high / 2), row, ink, font, anchor="rm")
    words = alt or _in_words(len(pictures), columns, title, captions, rows)
    return Illustration(_png(sheet), words)


def refuse_bytes(pictures: Tensor) -> None:
    """A ValueError for pictures that were never brought to [-1, 1]."""
    # Noise reaches 5 or 6; what goes far beyond was never brought to [-1, 1].
    if pictures.device.type != "meta" and pictures.abs().max() > 20:
        raise ValueError(
            f"pictures lie in [-1, 1], got values up to {pictures.abs().max():.0f}: divide by 127.5, take away 1."
        )


def _in_words(count, columns, title, captions, rows) -> str:
    rows_, several = math.ceil(count / columns), f"{count} pictures in "
    words = title or ("A picture" if count == 1 else several + ("a row" if rows_ == 1 else f"{rows_} rows"))
    for name, said in (("rows", rows), ("captions", captions)):
        words += f"; {name}: {', '.join(said)}" if len(said) else ""
    return words + "."


def filmstrip(frames: Iterable[Tensor], captions: Sequence[str] = (), *, every: int = 1, **options) -> Illustration:
    """Frames from left to right, a row for each picture; frames are (C, H, W) or (B, C, H, W) in [-1, 1].

    `every` keeps each so-manyth frame, and always the last; `options` are those of `show`.
    """
    frames = [frame[None] if frame.ndim == 3 else frame for frame in frames]
    kept = [i for i in range(len(frames)) if (len(frames) - 1 - i) % every == 0]
    across = torch.stack([frames[i] for i in kept], 1).flatten(0, 1)
    return show(across, len(kept), captions=[str(captions[i]) for i in kept] if len(captions) else (), **options)


ANIMATION = 500_000  # bytes, and no more: notebooks are read over slow lines too


def animation(
    frames: Iterable[Tensor],
    titles: Sequence[str] = (),
    *,
    seconds: float = 0.1,
    back: bool = True,
    still: int | None = None,
    alt: str | None = None,
    **options,
) -> Illustration:
    """Frames one after the other, to the last and from the first again, for ever: an animated PNG of at most 500 kB.

    Args:
        frames: (C, H, W) or, several side by side, (B, C, H, W), in [-1, 1].
        titles: a line above each frame.
        seconds: how long a frame stays; the first and the last stay eight times as long.
        back: go back from the last to the first, frame by frame, where it would jump otherwise.
        still: which frame is seen where nothing moves, by default the first.
        options: further ones of `show`, for every frame.

    Raises:
        ValueError: for fewer than two frames, another number of titles, or what is too large in 32 colours too.
    """
    frames, titles = [frame[None] if frame.ndim == 3 else frame for frame in frames], list(titles)
    if len(frames) < 2 or len(titles) not in (0, len(frames)):
        raise ValueError(
            f"an animation needs 2 frames, and none or as many titles; got {len(frames)} and {len(titles)}."
        )
    sheets = [
        show(frame, len(frame), title=titles[i] if titles else "", **options).image.convert("RGB")
        for i, frame in enumerate(frames)
    ]
    wide, high = (max(sheet.size[axis] for sheet in sheets) for axis in (0, 1))
    # All of them below each other get one palette, so that what does not change does not flicker.
    film = Image.new("RGB", (wide, high * len(sheets)), PAPER)
    for i, sheet in enumerate(sheets):
        film.paste(sheet, (0, i * high))
    order = [*range(len(sheets)), *(range(len(sheets) - 2, 0, -1) if back else ())]
    stay = [1000 * seconds * (8 if i in (0, len(sheets) - 1) else 1) for i in order]
    for colours in (256, 128, 64, 32):
        few = film.quantize(colours, dither=Image.Dither.NONE)
        shown = [few.crop((0, i * high, wide, (i + 1) * high)) for i in ([] if still is None else [still]) + order]
        how = {"append_images": shown[1:], "duration": stay, "loop": 0, "default_image": still is not None}
        out = io.BytesIO()
        shown[0].save(out, "PNG", save_all=True, optimize=True, **how)
        if out.tell() <= ANIMATION:
            words = (
                alt or f"An animation of {len(sheets)} frames{f', from {titles[0]} to {titles[-1]}' if titles else ''}."
            )
            return Illustration(out.getvalue(), words)
    raise ValueError(
        f"{len(frames)} frames of {wide} x {high} take over {ANIMATION // 1000} kB: take fewer, or smaller ones."
    )


def bars(
    series: dict[str, Sequence[float]],
    names: Sequence[str],
    *,
    x: str = "",
    title: str = "",
    errors: dict[str, tuple] | None = None,
    mark: float | None = None,
    alt: str | None = None,
) -> Illustration:
    """A row for each name, and in it a dot for each series: shares that are compared.

    Args:
        series: {what: a value for each name}; NaN leaves a gap.
        names: one for each row, from the top.
        errors: {what: (lows, highs)}, intervals drawn as whiskers.
        mark: an upright line, such as chance.
    """
    figure, axes = _axes((6.4, (0.9 if len(series) > 1 else 0.6) + 0.19 * len(names)), title, x, "")
    rows = np.arange(len(names))
    told = []
    for i, (what, values) in enumerate(series.items()):
        values, colour = np.asarray(values, dtype=float), COLOURS[i % len(COLOURS)]
        place = rows + (i - (len(series) - 1) / 2) * 0.22
        axes.plot(values, place, "os^D"[i % 4], color=colour, markersize=4.5, label=what)
        if errors and what in errors:
            axes.hlines(place, *errors[what], color=colour, linewidth=1.2)
        elif len(series) == 1:
            axes.hlines(place, 0, values, color=colour, linewidth=1.2)
        known = np.flatnonzero(np.isfinite(values))
        low, high = known[values[known].argmin()], known[values[known].argmax()]
        told.append(f"{what} from {values[low]:.2f} ({names[low]}) to {values[high]:.2f} ({names[high]})")
    if mark is not None:
        axes.axvline(mark, color="0.5", linewidth=1)
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(series) > 1:
        # Above the rows, where its marks are not taken for values.
        axes.set_title(title, pad=22)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=len(series), frameon=False, fontsize=8)
    return _illustration(figure, alt or f"{title or x or 'Shares'}: {'; '.join(told)}.")


def heat(
    matrix,
    names: Sequence[str],
    *,
    rows: Sequence[str] | None = None,
    most: float = 1.0,
    title: str = "",
    alt: str | None = None,
) -> Illustration:
    """A field of numbers from -most (blue) over 0 (white) to most (red), such as correlations, (R, K); grey is not known.

    `names` are of the columns, `rows` of the rows, by default the same.
    """
    matrix, rows = np.asarray(matrix, dtype=float), names if rows is None else rows
    figure, axes = _axes((1.8 + 0.15 * len(names), 1.8 + 0.15 * len(rows)), title, "", "")
    axes.set_facecolor("0.85")
    field = axes.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most)
    # As high as the field itself, which keeps its own shape.
    scale = figure.colorbar(field, cax=axes.inset_axes((1.02, 0, 0.03, 1)), ticks=(-most, 0, most))
    scale.ax.tick_params(labelsize=7)
    scale.outline.set_visible(False)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.grid(False)
    # What a row has with itself is no news.
    off = np.where([[row == name for name in names] for row in rows], np.nan, matrix)
    high, low = (np.unravel_index(find(off), off.shape) for find in (np.nanargmax, np.nanargmin))
    ends = [f"{rows[i]} with {names[j]} {matrix[i, j]:.2f}" for i, j in (high, low)]
    words = f"{title or 'A field of numbers'}: highest {ends[0]}, lowest {ends[1]}."
    return _illustration(figure, alt or words, colours=256)


def clouds(series: dict[str, Tensor], *, title: str = "", alt: str | None = None) -> Illustration:
    """Points (N, 2) of each set, and the ellipse that a Gaussian of their mean and covariance has at two deviations."""
    figure, axes = _axes((4.6, 4.6), title, "", "")
    around, told = np.linspace(0, 2 * np.pi, 200), []
    for i, (name, points) in enumerate(series.items()):
        points, colour = np.asarray(points, dtype=float), COLOURS[i % len(COLOURS)]
        mean, covariance = points.mean(0), np.cov(points.T)
        values, directions = np.linalg.eigh(covariance)
        x, y = mean[:, None] + 2 * directions @ (np.sqrt(values)[:, None] * np.stack([np.cos(around), np.sin(around)]))
        axes.scatter(*points.T, s=6, color=colour, alpha=0.35, linewidths=0)
        axes.plot(x, y, color=colour, linewidth=1.8, label=name)
        told.append(
            f"{name} around ({mean[0]:.2f}, {mean[1]:.2f}), {values[1] ** 0.5:.2f} by {values[0] ** 0.5:.2f} wide"
        )
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9)
    return _illustration(figure, alt or f"{title or 'Clouds of points'}: {'; '.join(told)}.")


def blocks(stations: Sequence[tuple], *, title: str = "", alt: str | None = None) -> Illustration:
    """A network as it is passed through: a box for each station, as high as its maps, as wide as it has channels.

    Args:
        stations: (name, channels, side, parameters, whether attributes and tick enter here), in the order of the pass.
    """
    from matplotlib.patches import Rectangle

    figure, axes = _axes((9.6, 2.8), title, "", "")
    x, most = 0.0, max(side for _, _, side, _, _ in stations)
    for name, channels, side, parameters, told in stations:
        wide, high = 0.35 + channels / 160, side / most
        colour = COLOURS[0] if told else "0.75"
        axes.add_patch(Rectangle((x, -high / 2), wide, high, facecolor=colour, alpha=0.55, edgecolor="0.2"))
        middle = x + wide / 2
        size = f"{parameters / 1e6:.2f}M" if parameters >= 1e5 else f"{parameters / 1e3:.1f}k"
        axes.text(middle, high / 2 + 0.03, f"{channels} × {side}²", ha="center", va="bottom", fontsize=6.5)
        axes.text(middle, -0.54, f"{name}\n{size}", ha="center", va="top", fontsize=6.5)
        x += wide + 0.22
    axes.set(xlim=(-0.1, x), ylim=(-0.72, 0.66))
    axes.axis("off")
    words = "; ".join(
        f"{name} {channels} channels at {side}x{side}, {parameters:,} parameters" + (", told" if told else "")
        for name, channels, side, parameters, told in stations
    )
    return _illustration(figure, alt or f"{title or 'A network'}: {words}.")


def _axes(size, title: str, x: str, y: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _illustration(figure, alt: str, colours: int = 64) -> Illustration:
    sheet = io.BytesIO()
    figure.savefig(sheet, format="png")
    return Illustration(_png(Image.open(sheet).convert("RGB").quantize(colours, dither=Image.Dither.NONE)), alt)


def curve(
    series: dict[str, tuple],
    *,
    x: str = "",
    y: str = "",
    title: str = "",
    log: str = "",
    bands: dict[str, tuple] | None = None,
    dots: Sequence[str] = (),
    marks: dict[str, Sequence[str]] | None = None,
    beneath: str = "",
    size: tuple[float, float] = (6.4, 3.2),
    alt: str | None = None,
) -> Illustration:
    """Lines, each named where it is drawn: {name: (xs, ys)}; log is "", "x", "y" or "xy"; bands {name: (lows, highs)}.

    Args:
        dots: names of series that are drawn as dots without a line.
        marks: {name: a word for each point}, written beside a dot at this point of the line.
        beneath: the name of a line that is drawn broad and pale, so that it still shows where another lies upon it.
    """
    from matplotlib.ticker import LogLocator

    figure, axes = _axes(size, title, x, y)
    told = []
    styles = ("-", "--", "-.", ":")
    for i, (name, (xs, ys)) in enumerate(series.items()):
        xs, ys = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
        colour = COLOURS[i % len(COLOURS)]
        words = (marks or {}).get(name, ())
        style = "" if name in dots else styles[i // len(COLOURS) % 4]
        dot = "o" if name in dots or len(words) else ""
        look = {"lw": 1.6, "zorder": 3 if name in dots else 2}  # dots lie on top of every line
        if name == beneath:
            look = {"lw": 5, "alpha": 0.4, "zorder": 1}
        axes.plot(xs, ys, ls=style, marker=dot, ms=4.5, color=colour, label=name, **look)
        if bands and name in bands:
            axes.fill_between(xs, *bands[name], color=colour, alpha=0.2, linewidth=0)
        seen = ys[np.isfinite(ys)]
        if len(seen):
            told.append(
                f"{name} goes from {seen[0]:.3g} to {seen[-1]:.3g} (between {seen.min():.3g} and {seen.max():.3g})"
            )
    for axis in log:
        getattr(axes, f"set_{axis}scale")("log")
    places = sorted({float(place) for xs, _ in series.values() for place in xs})
    if "x" in log and len(places) <= 10:
        # Few places are named as they are: 5, 10, 20, and not 6 x 10^0.
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
    elif "x" in log and 0 < places[-1] < 1000 * places[0]:
        # So are 50, 100, 200, 500, where the axis is short.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    low, high = axes.get_ylim()
    named = [
        step * 10.0**power for power in range(-9, 10) for step in ((1, 2, 3, 6) if high > 3 * low else range(1, 10))
    ]
    named = [place for place in named if low <= place <= high]
    if "y" in log and high < 100 * low and named:
        # Within two powers of ten the same: 0.2, 0.3, 0.6, and not 2 x 10^-1.
        axes.set_yticks(named, [f"{place:g}" for place in named])
        axes.set_yticks([], minor=True)
    for name, words in (marks or {}).items():
        _mark(axes, *(np.asarray(values, dtype=float) for values in series[name]), words)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    words = f"{title or y or 'Curves'} against {x or 'x'}: {'; '.join(told)}."
    return _illustration(figure, alt or words)


def _mark(axes, xs: np.ndarray, ys: np.ndarray, words: Sequence[str]) -> None:
    """Each word on that side of its point where there is most room, far from the line and from the words before."""
    points = axes.transData.transform(np.column_stack([xs, ys]))
    steps = np.linspace(0, 1, 50)[:, None, None]
    taken = list((points[:-1] + steps * (points[1:] - points[:-1])).reshape(-1, 2)) + list(points)
    sides = [(np.cos(turn), np.sin(turn)) for turn in np.arange(8) * np.pi / 4]
    for x, y, point, word in zip(xs, ys, points, words, strict=True):
        places = [point + 11 * np.array(side) for side in sides]
        best = max(range(8), key=lambda k: min(np.linalg.norm(np.array(taken) - places[k], axis=1)))
        taken.append(places[best])
        look = {"textcoords": "offset points", "fontsize": 8, "ha": "center", "va": "center"}
        axes.annotate(word, (x, y), xytext=[8 * part for part in sides[best]], **look)


def beside(*illustrations: Illustration) -> Illustration:
    """Several, from left to right, as one."""
    images = [part.image.convert("RGB") for part in illustrations]
    sheet = Image.new("RGB", (sum(i.width + 12 for i in images) - 12, max(i.height for i in images)), PAPER)
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + 12
    return Illustration(_png(sheet), " Beside it: ".join(part.alt for part in illustrations))


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
