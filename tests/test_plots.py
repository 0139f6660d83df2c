"""Images are shown lossless at their own size, figures have alt text, axes have readable numbers."""

import io
import re

import numpy as np
import pytest
import torch
from oracle import images_in
from PIL import Image

from facelab import plots
from facelab.evaluation.statistics import wilson
from facelab.images import to_uint8


def embedded(figure) -> list[Image.Image]:
    """The images in a figure's HTML."""
    return [Image.open(io.BytesIO(png)) for png, _ in images_in(figure._repr_mimebundle_()["text/html"])]


def grey_levels(count, shape=(3, 8, 8)):
    return [torch.full(shape, level) for level in torch.linspace(-1, 1, count)]


def test_images_are_lossless_at_their_own_size(tmp_path):
    """Bug 21: grids above 40 kB were shown as JPEG."""
    many = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid = plots.show(many, 8, side=96)
    rows = embedded(grid)
    assert len(rows) == 5 and all(row.format == "PNG" and row.size == (8 * 66 - 2, 64) for row in rows)
    pixels = np.asarray(rows[1].convert("RGB"))
    assert (pixels[:, 66:130] == to_uint8(many)[9].permute(1, 2, 0).numpy()).all()
    width = int(re.search(r"width:(\d+)px", grid.page)[1])
    assert width == round(rows[0].width * 1.5), "the page enlarges each image to 96 pixels"
    saved = np.asarray(Image.open(grid.save(tmp_path / "grid.png")).convert("RGB"))
    assert (saved[:64, :64] == to_uint8(many)[0].permute(1, 2, 0).numpy()).all()


def test_values_outside_the_range_are_clipped():
    image = plots.show(torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]])).image.convert("L")
    assert [image.getpixel(at) for at in ((0, 0), (1, 0), (0, 1), (1, 1))] == [0, 128, 255, 255]
    bytes_ = torch.tensor([[[0, 128], [255, 255]]], dtype=torch.uint8)
    assert plots.show(bytes_).image.convert("L").tobytes() == image.tobytes()


def test_a_grid_is_in_reading_order():
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 0.2])[:, None, None, None].expand(-1, 3, 8, 8)
    image = plots.show(levels, 3).image
    assert [image.getpixel((4 + 10 * (i % 3), 4 + 10 * (i // 3)))[0] for i in range(6)] == [0, 64, 128, 191, 255, 153]
    assert image.size == (28, 18) and image.getpixel((9, 4))[3] == 0, "gaps are transparent, for dark pages"


def test_every_image_has_alt_text():
    one = plots.show(torch.zeros(4, 1, 8, 8), 2, rows=["a", "b"], captions=["c", "d"])
    assert one.alt == "4 images in 2 rows; rows: a, b; captions: c, d." == one._repr_mimebundle_()["text/plain"]
    assert re.findall(r'alt="([^"]*)"', one.page) == [one.alt, "Row 2 of 2: b."]
    assert all(f">{word}</t" in one.page for word in "abcd"), "captions are text of the page, in its theme"
    under = plots.show(torch.zeros(3, 1, 8, 8), 2, captions=["x", "y", "z"])
    assert under.page.index(">y<") < under.page.index("Row 2") < under.page.index(">z<")
    quoted = plots.show(torch.zeros(1, 8, 8), alt='a "quoted" <b>')
    assert 'alt="a &quot;quoted&quot; &lt;b&gt;"' in quoted.page


def test_a_filmstrip_contains_the_last_frame_and_a_row_for_each_image():
    frames = [torch.full((2, 1, 4, 4), i / 10) for i in range(8)]
    strip = plots.filmstrip(frames, [f"t={i}" for i in range(8)], every=3)
    assert strip.image.size == (3 * 6 - 2, 2 * 6 - 2) and strip.alt.endswith("captions: t=1, t=4, t=7.")
    assert strip.image.getpixel((14, 2))[0] == round((0.7 + 1) * 127.5)


def test_figures_side_by_side(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 8, 8)
    both = plots.hstack(plots.show(red), plots.curve({"loss": ([1, 2], [2.0, 1.0])}))
    assert len(embedded(both)) == 2 and " Beside it: " in both.alt
    assert Image.open(both.save(tmp_path / "both.png")).convert("RGB").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(
    "images, message",
    [(torch.zeros(shape), r"\(B, 1 or 3, H, W\)") for shape in ((2, 2, 8, 8), (0, 1, 8, 8), (8, 8), (1, 1, 1, 8, 8))]
    + [(torch.full((1, 8, 8), 255.0), r"lie in \[-1, 1\], got values up to 255: use x / 127.5 - 1")],
)
def test_wrong_shapes_and_floats_from_0_to_255_are_refused(images, message):
    with pytest.raises(ValueError, match=f"images must (be )?{message}"):
        plots.show(images)


def test_an_animation_runs_forwards_and_backwards():
    moving = plots.animation(grey_levels(4), seconds=0.1)
    image = moving.image
    assert image.is_animated and image.info["loop"] == 0 and moving.alt == "An animation of 4 frames."
    levels, durations = [], []
    for i in range(image.n_frames):
        image.seek(i)
        levels.append(image.convert("RGB").getpixel((4, 4))[0])
        durations.append(image.info["duration"])
    assert levels == [0, 85, 170, 255, 170, 85] and durations == [800, 100, 100, 800, 100, 100]
    assert embedded(moving)[0].is_animated and 'alt="An animation' in moving.page
    assert plots.animation(grey_levels(3), back=False).image.n_frames == 3
    two = [torch.stack([frame, -frame]) for frame in grey_levels(3)]
    assert plots.animation(two, alt="text").image.size == (18, 8)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        plots.animation(grey_levels(1))


def axes_of(monkeypatch, **options):
    found = []
    monkeypatch.setattr(plots, "_figure", lambda figure, alt: found.append(figure.axes[0]))
    plots.curve(**options)
    found[0].figure.canvas.draw()
    return found[0]


@pytest.mark.parametrize("ys", [[0.76, 0.19], [3.3, 0.19], [0.45, 0.32], [1e-3, 1e3]])
def test_logarithmic_axes_have_readable_numbers(ys, monkeypatch):
    """0.2, 0.5, 1, ..., not 2 x 10^-1, and at least two of them."""
    axes = axes_of(monkeypatch, series={"loss": ([1, 2], ys)}, log="y")
    low, high = axes.get_ylim()
    texts = [label.get_text() for label in axes.get_yticklabels(which="both") if label.get_text()]
    shown = [text for text in texts if low <= float(text.replace("\N{MINUS SIGN}", "-")) <= high]
    assert 2 <= len(shown) <= 10 and all(re.fullmatch(r"[\d.]{1,5}", text) for text in shown)


def test_a_curve_describes_its_series_a_pale_line_lies_behind_and_dots_have_no_line(monkeypatch):
    line = plots.curve({"loss": ([1, 2, 3], [4.0, 2.0, 1.0])}, x="step", y="loss")
    assert line.alt == "loss against step: loss goes from 4 to 1 (between 1 and 4)." and len(embedded(line)) == 1
    axes = axes_of(monkeypatch, series={"a": ([1, 2], [1, 2]), "b": ([1, 2], [1, 2])}, pale="a")
    behind, front = axes.lines
    assert behind.get_linewidth() > 2 * front.get_linewidth() and behind.get_zorder() < front.get_zorder()
    axes = axes_of(monkeypatch, series={"scale": ([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])}, dots=["scale"])
    assert axes.lines[0].get_linestyle() == "None" and axes.lines[0].get_marker() == "o"


def test_charts_describe_what_they_show():
    values = {"here": [0.5, 0.1, float("nan")], "there": [0.2, 0.9, 0.4]}
    errors = {"here": ([0, 0, 0], [1, 1, 1])}
    alt = plots.dot_plot(values, ["Hat", "Smile", "Beard"], x="share", errors=errors, mark=0.5).alt
    assert "here from 0.10 (Smile) to 0.50 (Hat)" in alt and "there from 0.20 (Hat) to 0.90 (Smile)" in alt
    square = plots.heatmap([[1, 0.3, -0.8], [0.3, 1, 0.1], [-0.8, 0.1, 1]], ["Hat", "Smile", "Beard"], title="together")
    assert square.alt == "together: highest Hat with Smile 0.30, lowest Hat with Beard -0.80."
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]]).double()
    figure = plots.gaussian_scatter({"real": points, "generated": points + 3}, title="two sets")
    wide, high = points.std(0).tolist()
    size = f"{wide:.2f} by {high:.2f} wide"
    assert figure.alt == f"two sets: real around (2.00, 1.00), {size}; generated around (5.00, 4.00), {size}."
    rising = [wilson(hits, 10) for hits in (5, 8)]
    figure = plots.interval_panels({"Accuracy": {"ours": rising}}, (1, 4), references={"Accuracy": {"chance": 0.5}})
    assert figure.alt == "Accuracy, ours: 0.50 at 1 to 0.80 at 4; chance 0.50."


def test_the_unet_diagram_describes_every_stage():
    stages = [
        plots.Stage("in", 32, 64, 896, ""),
        plots.Stage("down 1", 32, 32, 9_248, "t + condition"),
        plots.Stage("middle", 64, 32, 181_504, "t + condition"),
        plots.Stage("up 1", 32, 64, 9_248, "t + condition"),
    ]
    figure = plots.unet_diagram(stages, title="A network")
    start = "A network: in 32 channels at 64x64, 896 parameters; down 1 32 channels at 32x32, 9,248 "
    assert figure.alt.startswith(start)
    assert figure.alt.count("receives t + condition") == 3 and len(embedded(figure)) == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_the_process_diagram_shows_all_frames_in_full_colour(shape):
    frames = list(torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    figure = plots.process_diagram(frames, ["x_0", "x_{499}", "x_{999}"])
    assert figure.alt == "Forward and reverse process: x_0, x_{499}, x_{999}." and figure.image.mode == "RGB"
    with pytest.raises(ValueError, match="zip"):
        plots.process_diagram(frames, ["x_0"])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_guidance_diagram_has_one_estimate_for_each_scale(channels):
    estimates = torch.linspace(-1, 1, 3)[:, None, None, None].expand(-1, channels, 8, 8)
    figure = plots.guidance_diagram(estimates, (0, 1, 3))
    assert figure.alt.endswith("(up to 3).") and figure.image.mode == "RGB"
    with pytest.raises(ValueError, match="zip"):
        plots.guidance_diagram(estimates, (0, 1))
