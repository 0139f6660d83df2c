"""Anybody's picture comes in upright and square, whatever it is; what is drawn goes out saying what it is."""

import io
import json
import os
import struct
import types
import warnings
import zlib

import numpy as np
import pytest
import torch
from oracle import refused
from PIL import Image
from torch.testing import assert_close

import facelab
from facelab import celeba, photo
from facelab.attributes import Attributes
from facelab.photo import open_photo, png_bytes, recipe, recipe_of, save_png
from facelab.sample import DDIM
from facelab.schedule import straight


def smooth(wide=96, high=64) -> np.ndarray:
    """(high, wide, 3) uint8: red grows to the right, green downwards, and the upper left corner is blue."""
    y, x = np.mgrid[0:high, 0:wide]
    corner = (x < wide // 4) & (y < high // 4)
    return np.stack([x * 255 // (wide - 1), y * 255 // (high - 1), 200 * corner], 2).astype(np.uint8)


def written(picture: Image.Image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


PHOTO = Image.fromarray(smooth())
SQUARE = torch.from_numpy(smooth()[:, 16:80].copy()).permute(2, 0, 1) / 127.5 - 1


def near(got, want=SQUARE, by=0.06):
    assert got.shape == want.shape and got.dtype == torch.float32
    assert (got - want).abs().mean() < by, (got - want).abs().mean()


# what comes in


def test_the_centred_square_pixel_for_pixel():
    for lying in (PHOTO, Image.fromarray(smooth()).transpose(Image.Transpose.TRANSPOSE)):
        got = open_photo(written(lying))
        want = SQUARE if lying is PHOTO else SQUARE.transpose(1, 2)
        assert_close(got, want, rtol=0, atol=0)


def test_every_kind_of_source_gives_the_same(tmp_path):
    data, path = written(PHOTO), tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, PHOTO):
            assert torch.equal(open_photo(source), SQUARE)
    path.unlink()  # nothing holds it open


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_every_usual_kind_of_file(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    near(open_photo(written(PHOTO, kind)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_upright_as_the_camera_meant_it(kind, orientation):
    # How the sensor saw it, so that turning it as noted gives the photo back: written out, not by our table.
    array = smooth()
    seen = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array.transpose(1, 0, 2)[::-1],
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: array.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {}
    near(open_photo(written(Image.fromarray(np.ascontiguousarray(seen)), kind, exif=exif, **options)), by=0.03)


def test_a_senseless_orientation_is_let_be():
    exif = Image.Exif()
    exif[0x0112] = 99
    near(open_photo(written(PHOTO, "JPEG", exif=exif)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_note_that_cannot_be_read_turns_nothing_and_says_nothing(kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "some camera or other"
    whole = exif.tobytes()
    for broken in (b"Exif\0\0nonsense nonsense", whole[:20], whole[:-12]):
        data = written(PHOTO, kind, exif=broken)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            near(open_photo(data))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "I", "F"]
)
def test_every_mode_of_pillow(mode):
    flat = Image.new("RGB", (40, 30), (255, 255, 255))
    if mode in ("RGBa", "La"):
        flat = flat.convert(mode.upper())
    whole = flat.convert(mode) if mode != "I" else Image.new("I", (40, 30), 65_535)
    for grey in (False, True):
        got = open_photo(whole, 16, grey)
        assert got.shape == (1 if grey else 3, 16, 16) and got.min() > 0.97


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG")])
def test_other_modes_in_files(mode, kind):
    whole = Image.fromarray(np.repeat(smooth()[..., :1], 3, 2))
    stored = whole.quantize(256) if mode == "P" else whole.convert(mode, dither=Image.Dither.NONE)
    want = SQUARE[:1].expand(3, -1, -1)
    near(open_photo(written(stored, kind), 64), want.sign() if mode == "1" else want, by=0.03)


def test_transparent_is_white():
    half = np.zeros((32, 32, 4), np.uint8)
    half[:, :16] = (0, 0, 0, 255)
    half[16:, 16:] = (0, 0, 0, 128)
    got = open_photo(written(Image.fromarray(half)), 32)
    assert (got[:, :, :16] == -1).all() and (got[:, :16, 16:] == 1).all()
    assert_close(got[:, 16:, 16:], torch.full((3, 16, 16), 127 / 127.5 - 1), rtol=0, atol=0.01)
    grey = Image.new("L", (8, 8), 7)
    assert (open_photo(written(grey, transparency=7), 8) == 1).all(), "one shade of grey named transparent"
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0] * 768)
    assert (open_photo(written(palette, transparency=3), 8) == 1).all()
    assert (open_photo(written(palette), 8) == -1).all()


def test_sixteen_bits_are_not_cut_off_at_eight():
    ramp = np.linspace(0, 65_535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    want = torch.from_numpy(ramp / 65_535 * 2 - 1).float()
    for kind in ("PNG", "TIFF"):
        got = open_photo(written(Image.fromarray(ramp), kind), 32)
        assert_close(got, want.expand(3, -1, -1), rtol=0, atol=0.01)
    for shade in (7, 40_000):
        stored = written(Image.fromarray(np.array([[shade, 0], [0, shade]], np.uint16)), transparency=shade)
        assert open_photo(stored, 2, grey=True).tolist() == [[[1, -1], [-1, 1]]], "a transparent shade is white"
    for most in (1, 255):
        floats = Image.fromarray((ramp / 65_535 * most).astype(np.float32))
        assert_close(open_photo(floats, 32, grey=True), want[None], rtol=0, atol=0.01)


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        got = open_photo(written(frames[0], kind, save_all=True, append_images=frames[1:]), 8)
        near(got, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(-1, 8, 8))


def test_celebas_own_picture_becomes_the_face_that_training_sees():
    luck = np.random.default_rng(0)
    data = written(Image.fromarray(luck.integers(0, 256, (218, 178, 3), np.uint8)), "JPEG")
    face, _ = celeba.decode(data)
    assert torch.equal(open_photo(data), torch.from_numpy(face.copy()) / 127.5 - 1)


def test_reducing_averages_and_enlarging_works():
    checks = np.indices((512, 512)).sum(0) % 2 * 255
    got = open_photo(Image.fromarray(checks.astype(np.uint8)), 32)
    assert got.abs().max() < 0.05, "a pixel taken here and there would be black or white"
    assert open_photo(Image.new("RGB", (1, 1), "white"), 64).min() == 1
    assert open_photo(written(Image.new("RGB", (1, 5000))), 64).shape == (3, 64, 64)


def test_a_huge_photograph_needs_little_memory(monkeypatch):
    unpacked = []
    load = photo._square
    monkeypatch.setattr(photo, "_square", lambda picture, *rest: unpacked.append(picture.size) or load(picture, *rest))
    big = written(Image.fromarray(smooth(2400, 1600)), "JPEG")
    near(open_photo(big, 32), torch.nn.functional.avg_pool2d(SQUARE, 2))
    assert unpacked == [(300, 200)], "an eighth each way, for 32 x 32"


def test_the_picture_that_is_given_stays_as_it_is():
    data = written(Image.fromarray(smooth(2000, 1000)), "JPEG")
    mine = Image.open(io.BytesIO(data))
    open_photo(mine, 16)
    assert mine.size == (2000, 1000) and mine.mode == "RGB"


def bomb() -> bytes:
    """A PNG that says it is 60,000 x 60,000."""
    good = written(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + good[24:29]
    return good[:8] + good[8:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


def test_what_is_no_picture_gets_one_sentence(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.png").write_text("this is no picture")
    closed = io.BytesIO(written(PHOTO))
    closed.close()

    def fails(_):
        raise OSError(5, "Input/output error")

    for source, says in [
        (tmp_path / "empty.png", "'.*empty.png' is empty"),
        (tmp_path / "words.png", "words.png' is no picture"),
        (tmp_path / "none.png", "none.png' cannot be read"),
        (tmp_path, "is a folder"),
        ("https://host/a.png", "is an address: give a file on this machine"),
        ("nul\0.png", "cannot be read"),
        (b"", "this file is empty"),
        (b"GIF89a", "is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),
        (io.BytesIO(b"nothing"), "is no picture"),
        (io.StringIO("nothing"), "opened as bytes"),
        (np.zeros((3, 4)), "not from ndarray"),
        (None, "not from NoneType"),
        (bomb(), "too many pixels"),
        (written(Image.new("1", (9000, 7000))), "9,000 x 7,000 pixels: scale it down to 8,017 x 6,236 or less"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
        (closed, "this file cannot be read .I/O operation on closed file"),
        (io.BufferedWriter(io.BytesIO()), "this file cannot be read .(not readable|read)"),
        (types.SimpleNamespace(read=fails), "this file cannot be read .*Input/output error"),
        (Image.open(io.BytesIO(written(PHOTO)[:200])), "this picture is damaged, or of an unusual kind"),
    ]:
        with refused(says):
            open_photo(source)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_half_a_file_is_refused(kind):
    luck = np.random.default_rng(0)
    whole = written(Image.fromarray(luck.integers(0, 256, (64, 64, 3), np.uint8)), kind)
    for length in (len(whole) // 2, 20):
        with refused("damaged|no picture"):
            open_photo(whole[:length])


def test_a_file_too_large_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(photo, "MOST_BYTES", 1 << 20)
    endless = types.SimpleNamespace(read=lambda count: b"a" * count)
    with refused("larger than 1 MB"):
        open_photo(endless)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "64", 5000, None])
def test_sizes_that_are_none(size):
    with refused("size must be a whole number"):
        open_photo(PHOTO, size)


# what goes out

RECIPE = {"model": "digits", "cond": {"7": 1.0}, "scale": 2.0, "steps": 10, "solver": "DDIM", "seed": 0, "é": "ü"}
PICTURE = (torch.arange(3 * 8 * 8).reshape(3, 8, 8) / 191 * 2 - 1).mul(127.5).round() / 127.5


def test_what_is_saved_is_what_was_drawn_with_its_recipe(tmp_path):
    for name, picture in (("a.png", PICTURE), ("b.PNG", PICTURE[:1])):
        saved = save_png(picture, tmp_path / name, RECIPE)
        assert saved == tmp_path / name and recipe_of(saved) == RECIPE == recipe_of(saved.read_bytes())
        assert (open_photo(saved, 8, grey=len(picture) == 1) - picture).abs().max() <= 1 / 127.5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.PNG"]
    assert png_bytes(PICTURE, RECIPE) == (tmp_path / "a.png").read_bytes()


def test_a_grid_of_several():
    four = torch.stack([PICTURE * 0 + shade for shade in (-1, -0.2, 0.2, 1)])
    with Image.open(io.BytesIO(png_bytes(four, columns=4))) as sheet:
        assert sheet.size == (4 * 10 - 2, 8)
        assert [sheet.getpixel((4 + 10 * i, 4))[0] for i in range(4)] == [0, 102, 153, 255]
    with Image.open(io.BytesIO(png_bytes(four, side=16))) as sheet:
        assert sheet.size == (34, 34)


@pytest.mark.parametrize("edited", [False, True])
def test_it_says_that_a_model_made_it(edited):
    with Image.open(io.BytesIO(png_bytes(PICTURE, edited=edited))) as saved:
        assert saved.text["Software"] == f"facelab {facelab.__version__}"
        assert saved.text["Description"] == f"{'edited' if edited else 'generated'} by a diffusion model, no photograph"
        kind = saved.getxmp()["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"]
        want = "compositeWithTrainedAlgorithmicMedia" if edited else "trainedAlgorithmicMedia"
        assert kind == f"http://cv.iptc.org/newscodes/digitalsourcetype/{want}"
        assert "facelab" not in saved.text


def test_the_recipe_names_what_was_said_and_no_path():
    attributes = Attributes(["Hat", "Glasses", "Smile"])
    model = types.SimpleNamespace(name="/somewhere/mine", attributes=attributes, card={"sha256": "ab12"})
    cond = attributes.encode(Hat=True, Smile=-0.5)
    told = {"scale": 2.0, "steps": 20, "solver": DDIM(straight()), "seed": 7}
    one = recipe(model, cond, **told, strength=0.5)
    assert one == {
        "model": "mine",
        "sha256": "ab12",
        "cond": {"Hat": 1.0, "Smile": -0.5},
        "scale": 2.0,
        "steps": 20,
        "solver": "DDIM",
        "seed": 7,
        "strength": 0.5,
    }
    assert_close(attributes.encode(**one["cond"]), cond)
    assert recipe(model, torch.stack([cond, cond * 0]), **told)["cond"] == [{"Hat": 1.0, "Smile": -0.5}, {}]
    assert json.loads(json.dumps(one)) == one
    numpys = {"scale": np.float32(2), "steps": np.int64(20), "solver": "DDIM", "seed": np.int64(7)}
    assert recipe(model, cond, **numpys, strength=torch.tensor(0.5)) == one
    assert recipe_of(png_bytes(PICTURE, one | numpys)) == one
    with refused("with K = 3, got"):
        recipe(model, cond[:2], **told)
    with refused("a recipe is a dictionary"):
        recipe(model, cond, **told, mask=torch.ones(2, 2))


def test_what_cannot_be_saved_gets_one_sentence_and_no_file(tmp_path):
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    for picture, file, told, says in [
        (PICTURE, "a.jpg", None, "must end in .png"),
        (PICTURE, "none/a.png", None, "cannot be written"),
        (PICTURE, "folder.png", None, "cannot be written"),
        (PICTURE, "a.png", {"cond": PICTURE}, "a recipe is a dictionary"),
        (PICTURE, "a.png", {"scale": float("nan")}, "a recipe is a dictionary"),
        (PICTURE, "a.png", 5, "a recipe is a dictionary"),
        (PICTURE * float("nan"), "a.png", None, "must be finite"),
        (PICTURE * 255, "a.png", None, "pictures lie in"),
        (PICTURE[:2], "a.png", None, "show takes pictures"),
    ]:
        with refused(says):
            save_png(picture, tmp_path / file, told)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    old = save_png(PICTURE, tmp_path / "a.png", {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with refused("No space left"):
        save_png(-PICTURE, old, {"new": 1})
    assert recipe_of(old) == {"old": 1} and list(tmp_path.iterdir()) == [old]


def test_a_file_without_a_recipe_gets_one_sentence(tmp_path):
    for source, says in [
        (written(PHOTO), "holds no recipe"),
        (written(PHOTO, "JPEG"), "no picture that can be read|holds no recipe"),
        (png_bytes(PICTURE), "holds no recipe"),
        (tmp_path / "none.png", "cannot be read"),
        (b"", "is empty"),
    ]:
        with refused(says):
            recipe_of(source)
    about = photo.PngImagePlugin.PngInfo()
    about.add_text("facelab", "[1, 2]")
    with refused("of another kind"):
        recipe_of(written(PHOTO, pnginfo=about))
