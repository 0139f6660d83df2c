"""Pictures and curves with their words; measured shares with their intervals."""

import base64
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from facelab import plots, pretrained
from facelab.attributes import CELEBA, DIGITS
from facelab.metrics import asked_is_read, asked_of_each, proportion
from facelab.model import AttributeClassifier


def test_a_picture_is_shown_pixel_for_pixel_enlarged():
    picture = torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]])
    image = plots.show(picture, side=4).image
    assert image.size == (4, 4)
    assert [image.getpixel(at) for at in ((0, 0), (3, 0), (0, 3), (3, 3), (1, 1))] == [0, 128, 255, 255, 0]


def test_a_grid_has_its_pictures_in_reading_order():
    shades = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 0.2])[:, None, None, None].expand(-1, 3, 8, 8)
    image = plots.show(shades, 3, side=8).image
    seen = [image.getpixel((4 + 10 * (i % 3), 4 + 10 * (i // 3)))[0] for i in range(6)]
    assert seen == [0, 64, 128, 191, 255, 153] and image.size == (28, 18)


def test_every_picture_has_words():
    one = plots.show(torch.zeros(4, 1, 8, 8), 2, rows=["a", "b"], captions=["c", "d"])
    assert one.alt == "4 pictures in 2 rows; rows: a, b; captions: c, d."
    bundle, metadata = one._repr_mimebundle_()
    assert 'alt="4 pictures' in bundle["text/html"] and metadata["image/png"]["alt"] == one.alt
    assert '"' not in plots.show(torch.zeros(1, 8, 8), alt='a "quoted" <b>')._repr_mimebundle_()[0]["text/html"].split(
        "alt="
    )[1].split(" style")[0].strip('"')
    line = plots.curve({"loss": ([1, 2, 3], [4.0, 2.0, 1.0])}, x="step", y="loss")
    assert line.alt == "loss against step: loss goes from 4 to 1 (between 1 and 4)."


def ticks_of(monkeypatch, **options):
    """The names on the upright axis, and the axes themselves."""
    kept = []
    monkeypatch.setattr(plots, "_illustration", lambda figure, alt: kept.append(figure.axes[0]))
    plots.curve(**options)
    kept[0].figure.canvas.draw()
    return [label.get_text() for label in kept[0].get_yticklabels(which="both")], kept[0]


@pytest.mark.parametrize(
    ("ys", "names"),
    [
        ([0.76, 0.19], ["0.2", "0.3", "0.6"]),
        ([3.3, 0.19], ["0.2", "0.3", "0.6", "1", "2", "3"]),
        ([0.45, 0.32], ["0.4"]),
    ],
)
def test_a_loss_is_named_as_one_says_it(ys, names, monkeypatch):
    assert ticks_of(monkeypatch, series={"loss": ([1, 2], ys)}, log="y")[0] == names


def test_a_wide_span_goes_in_powers_of_ten(monkeypatch):
    names, _ = ticks_of(monkeypatch, series={"loss": ([1, 2], [1e-3, 1e3])}, log="y")
    assert any("10^{2}" in name for name in names)


def test_what_lies_beneath_is_broad_and_pale(monkeypatch):
    _, axes = ticks_of(monkeypatch, series={"a": ([1, 2], [1, 2]), "b": ([1, 2], [1, 2])}, beneath="a")
    below, above = axes.lines
    assert below.get_linewidth() > 2 * above.get_linewidth() and below.get_alpha() < 0.5
    assert below.get_zorder() < above.get_zorder()


def test_a_filmstrip_keeps_the_last_frame_and_a_row_a_picture():
    frames = [torch.full((2, 1, 4, 4), i / 10) for i in range(8)]
    strip = plots.filmstrip(frames, every=3, side=4)
    assert strip.image.size == (3 * 6 - 2, 2 * 6 - 2)
    assert strip.image.getpixel((14, 2)) == round((0.7 + 1) * 127.5)


def test_colours_and_saving(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 8, 8)
    saved = plots.show(red, side=8).save(tmp_path / "red.png")
    assert plots.Image.open(saved).getpixel((3, 3)) == (255, 0, 0)
    wide = plots.beside(plots.show(red, side=8), plots.show(red, side=16))
    assert wide.image.size == (8 + 12 + 16, 16)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (0, 1, 8, 8), (8, 8), (1, 1, 1, 8, 8)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="show takes pictures"):
        plots.show(torch.zeros(shape))


def test_a_picture_in_bytes_is_refused():
    with pytest.raises(ValueError, match=r"lie in \[-1, 1\], got values up to 255"):
        plots.show(torch.full((1, 8, 8), 255.0))
    with pytest.raises(ValueError, match=r"lie in \[-1, 1\], got values up to 255"):
        AttributeClassifier((1, 8, 8), channels=(4, 4)).eval().read(torch.full((2, 1, 8, 8), 255.0))


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (950, 1000, 0.9347, 0.9619)],
)
def test_the_interval_of_a_share_is_wilsons(hits, count, low, high):
    share = proportion(hits, count)
    assert share.share == hits / count and share.count == count
    assert share.low == pytest.approx(low, abs=1e-3) and share.high == pytest.approx(high, abs=1e-3)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    for truth in (0.1, 0.5, 0.97):
        hits = (torch.rand(2000, 200, generator=generator) < truth).sum(1)
        covered = sum(proportion(int(h), 200).low <= truth <= proportion(int(h), 200).high for h in hits)
        assert 0.93 < covered / 2000 < 0.97


@pytest.mark.parametrize(("hits", "count"), [(1, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(hits, count):
    with pytest.raises(ValueError, match="hits must be"):
        proportion(hits, count)


class Reader:
    attributes = DIGITS

    def read(self, pictures):
        return pictures[:, 0, 0, 0].long()


def test_asked_is_read_counts_what_the_judge_reads_as_asked():
    cond = asked_of_each(DIGITS, 2)
    assert cond.shape == (20, 10) and cond.argmax(1).tolist() == [*range(10), *range(10)]
    pictures = cond.argmax(1).float()[:, None, None, None].expand(-1, 1, 2, 2).clone()
    pictures[:5] = 9
    assert asked_is_read(pictures, cond, Reader()).share == 15 / 20
    with pytest.raises(ValueError, match="exclude each other"):
        asked_is_read(pictures, cond, AttributeClassifier((1, 8, 8), CELEBA.names))


def test_shipped_weights_are_small_and_say_where_they_come_from():
    folders = [pretrained.shipped_dir() / name for name in ("digits", "digits-judge")]
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    assert size < 4_000_000
    for name in ("digits", "digits-judge"):
        card = pretrained.load(name).card
        assert "60,000 official MNIST" in card["data"] and card["command"].startswith("python -m facelab train")


def test_the_shipped_digits_have_the_names_that_others_call():
    digits = pretrained.load("digits")
    assert digits.shape == (1, 28, 28) and digits.attributes == DIGITS and len(digits.schedule) == 1000
    assert not digits.denoiser.training and next(digits.denoiser.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["nothing", "../../etc"])
def test_an_unknown_result_is_refused(name):
    with pytest.raises(ValueError, match="no recorded result"):
        pretrained.results(name)


def test_bars_tell_lowest_and_highest_and_leave_gaps():
    drawn = plots.bars(
        {"here": [0.5, 0.1, float("nan")], "there": [0.2, 0.9, 0.4]}, ["Hat", "Smile", "Beard"], x="share"
    )
    assert "here from 0.10 (Smile) to 0.50 (Hat)" in drawn.alt and "there from 0.20 (Hat) to 0.90 (Smile)" in drawn.alt


def test_a_legend_of_bars_stands_above_the_rows():
    """Its marks look like values: among the rows they would be read as such."""
    values = {"here": [0.1, 0.9, 0.1, 0.9, 0.5], "there": [0.9, 0.1, 0.9, 0.1, 0.5]}
    drawn = plots.bars(values, list("abcde"), title="two sets").image.convert("RGB")
    blue, rows = (0, 0x72, 0xB2), np.asarray(drawn).astype(int)
    seen = np.flatnonzero((np.abs(rows - blue).sum(2) < 40).any(1))
    patches = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
    assert len(patches) == 6 and patches[0][-1] < drawn.height / 3, "one mark above, five below it"


def test_points_of_a_line_are_marked_and_dots_have_no_line():
    line = {"scale": ([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])}
    inked = {}
    for name, more in {
        "plain": {},
        "marked": {"marks": {"scale": ["0", "1", "2"]}},
        "dots": {"dots": ["scale"]},
    }.items():
        pixels = np.asarray(plots.curve(line, **more).image.convert("RGB")).astype(int)
        inked[name] = int((np.abs(pixels - (0, 0x72, 0xB2)).sum(2) < 40).sum())
    assert inked["dots"] < inked["plain"] / 3 and inked["marked"] > inked["plain"]


def test_heat_tells_what_goes_together_and_what_does_not():
    drawn = plots.heat([[1, 0.3, -0.8], [0.3, 1, 0.1], [-0.8, 0.1, 1]], ["Hat", "Smile", "Beard"], title="together")
    assert "highest Hat with Smile 0.30" in drawn.alt and "lowest Hat with Beard -0.80" in drawn.alt


def test_blocks_tell_every_station():
    drawn = plots.blocks([("stem", 32, 64, 896, False), ("middle", 64, 8, 181_504, True)], title="A net")
    assert drawn.alt == (
        "A net: stem 32 channels at 64x64, 896 parameters; middle 64 channels at 8x8, 181,504 parameters, told."
    )


def test_a_grid_of_photographs_is_small_on_the_page_and_whole_in_a_file(tmp_path):
    many = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid = plots.show(many, 4)
    bundle, metadata = grid._repr_mimebundle_()
    assert bundle.keys() == {"text/html", "text/plain"} and metadata == {} and 'alt="12' in bundle["text/html"]
    assert "data:image/jpeg" in bundle["text/html"] and len(bundle["text/html"]) < len(grid.png)
    saved = np.asarray(Image.open(grid.save(tmp_path / "grid.png")))
    assert (saved[:64, :64] == plots.to_uint8(many[:1])[0]).all()


def shades(count, shape=(3, 8, 8)):
    return [torch.full(shape, shade) for shade in torch.linspace(-1, 1, count)]


def test_an_animation_goes_there_and_back():
    moving = plots.animation(shades(4), ["a", "b", "c", "d"], seconds=0.1, side=8)
    image = moving.image
    assert image.is_animated and image.info["loop"] == 0 and len(moving.png) < 5_000
    seen, stays = [], []
    for i in range(image.n_frames):
        image.seek(i)
        seen.append(image.convert("RGB").getpixel((4, image.height - 4))[0])
        stays.append(image.info["duration"])
    assert seen == [0, 85, 170, 255, 170, 85] and stays == [800, 100, 100, 800, 100, 100]
    assert moving.alt == "An animation of 4 frames, from a to d."
    bundle, metadata = moving._repr_mimebundle_()
    assert base64.b64encode(moving.png).decode() in bundle["text/html"] and 'alt="An animation' in bundle["text/html"]
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert not getattr(still, "is_animated", False) and metadata["image/png"]["alt"] == moving.alt


def test_an_animation_that_does_not_go_back_begins_again():
    image = plots.animation(shades(3), side=8, back=False).image
    assert image.n_frames == 3 and image.info["loop"] == 0


def test_several_faces_move_side_by_side():
    frames = [torch.stack([frame, -frame]) for frame in shades(3, (1, 8, 8))]
    image = plots.animation(frames, side=8, alt="words").image
    assert image.size == (18, 8) and image.n_frames == 4
    assert [image.convert("RGB").getpixel(at)[0] for at in ((4, 4), (14, 4))] == [0, 255]


def test_where_nothing_moves_the_chosen_frame_is_seen():
    frames = shades(4)
    moving, still = (plots.animation(frames, side=8, back=False, still=still).image for still in (None, 2))
    alone = plots.show(frames[2][None], 1, side=8).image.convert("L")
    assert abs(np.asarray(still.convert("L"), dtype=int) - np.asarray(alone, dtype=int)).max() < 8
    assert moving.n_frames == 4 and still.n_frames == 5, "Pillow counts the one that is no part of it"
    still.seek(1)
    first = np.asarray(still.convert("L"), dtype=int)
    assert abs(first - np.asarray(moving.convert("L"), dtype=int)).max() < 8 and still.info["duration"] == 800


def test_an_animation_stays_small_or_is_refused(monkeypatch):
    luck = torch.Generator().manual_seed(0)
    frames = [torch.rand(3, 32, 32, generator=luck) * 2 - 1 for _ in range(4)]
    whole = len(plots.animation(frames, side=8).png)
    monkeypatch.setattr(plots, "ANIMATION", whole - 1)
    assert len(plots.animation(frames, side=8).png) < whole, "in fewer colours"
    monkeypatch.setattr(plots, "ANIMATION", whole // 4)
    with pytest.raises(ValueError, match="4 frames of 32 x 32 take over .* kB: take fewer, or smaller ones"):
        plots.animation(frames, side=8)


@pytest.mark.parametrize(("frames", "titles"), [(0, ()), (1, ()), (3, ("a", "b"))])
def test_what_is_no_animation_is_refused(frames, titles):
    with pytest.raises(ValueError, match="an animation needs 2 frames"):
        plots.animation(shades(max(frames, 1))[:frames], titles)


def test_the_place_of_a_picture_to_come_can_be_shown():
    """A training that is watched shows an empty one first, and fills it later."""
    shown, _ = plots.Illustration(b"", "")._repr_mimebundle_()
    assert 'alt=""' in shown["text/html"]


def test_clouds_have_ellipses_of_two_deviations():
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]]).double()
    picture = plots.clouds({"real": points, "drawn": points + 3}, title="two heaps")
    wide, high = points.std(0).tolist()
    assert picture.alt == (
        f"two heaps: real around (2.00, 1.00), {wide:.2f} by {high:.2f} wide; "
        f"drawn around (5.00, 4.00), {wide:.2f} by {high:.2f} wide."
    )


def test_a_field_of_other_rows_than_columns_leaves_out_what_a_row_has_with_itself():
    picture = plots.heat([[0.9, np.nan, -0.2], [0.1, 0.8, 0.3]], ["a", "b", "c"], rows=["a", "b"], title="leak")
    assert picture.alt == "leak: highest b with c 0.30, lowest a with c -0.20."


def test_words_beside_a_line_keep_clear_of_it_and_of_each_other():
    """A line that turns back on itself within a few pixels, as distance against obedience does."""
    xs, ys = np.array([87, 82, 77.1, 76.3, 77.0, 79, 82]), np.array([0.50, 0.74, 0.80, 0.825, 0.824, 0.826, 0.827])
    figure, axes = plots._axes((6.4, 3.2), "", "", "")
    axes.plot(xs, ys)
    plots._mark(axes, xs, ys, list("0123468"))
    points = axes.transData.transform(np.column_stack([xs, ys]))
    words = {
        text.get_text(): axes.transData.transform(text.xy) + np.array(text.xyann) * figure.dpi / 72
        for text in axes.texts
    }
    line = np.concatenate([np.linspace(a, b, 99) for a, b in itertools.pairwise(points)])
    for word, own in zip("0123468", points, strict=True):
        assert np.linalg.norm(words[word] - own) < 14 and np.linalg.norm(line - words[word], axis=1).min() > 5
        assert min(np.linalg.norm(words[word] - place) for other, place in words.items() if other != word) > 10
