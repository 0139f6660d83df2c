"""A picture from a file of anybody's, and drawn pictures to a file that says what they are (lesson 04).

Nothing leaves this machine. What is saved carries in its metadata that a model made it, also in IPTC's words for machines,
and the recipe by which it can be drawn again.
"""

import contextlib
import io
import json
import os
import uuid
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

import facelab
from facelab import plots

MOST_BYTES, MOST_PIXELS = 100 << 20, 50_000_000  # of a file, and decoded: beyond any photograph, below any memory
# Not all that Pillow knows: for some kinds (EPS) it starts other programs.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# What brings a picture upright, by the orientation (1 to 8) that a camera noted: Exif 2.32, tag 0x0112.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="{}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def open_photo(source, size: int = 64, grey: bool = False) -> Tensor:
    """The centred square of any picture, (3 or 1, size, size), float32 in [-1, 1].

    Upright as its camera meant it, its transparent parts white, of an animation the first frame, reduced by Lanczos' filter:
    from an aligned picture of CelebA exactly the face that training sees. Colour profiles are not looked at.

    Args:
        source: a path, the bytes of a file, a binary file object, or a picture of Pillow's.
        size: pixels a side.
        grey: one channel instead of three.

    Raises:
        ValueError: one sentence, where the source is no whole picture, too large, missing, or a folder.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2048:
        raise ValueError(f"size must be a whole number of pixels from 1 to 2048, got {size!r}.")
    if isinstance(source, Image.Image):
        return _square(source, "this picture", size, grey)
    data, name = _bytes(source)
    with _opened(data, name, KINDS) as picture:
        # A large JPEG is unpacked at a half, a quarter or an eighth; four times the size leaves the filter its work.
        picture.draft(None, (4 * size, 4 * size))
        return _square(picture, name, size, grey)


def _bytes(source) -> tuple[bytes, str]:
    """The content of a file, and what errors call it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "this file"
    elif hasattr(source, "read"):
        name = "this file"
        try:
            data = source.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:  # closed, opened to write, on a disk that fails
            raise ValueError(f"{name} cannot be read ({str(error).rstrip('.') or type(error).__name__}).") from error
        if not isinstance(data, bytes):
            raise ValueError(f'a file must be opened as bytes, open(name, "rb"), this one reads {type(data).__name__}.')
    elif isinstance(source, (str, os.PathLike)):
        name = repr(os.fspath(source))
        if "://" in name:
            raise ValueError(f"{name} is an address: give a file on this machine.")
        if os.path.isdir(source):
            raise ValueError(f"{name} is a folder: give one picture in it.")
        try:
            with open(source, "rb") as file:
                data = file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    else:
        raise ValueError(
            f"a picture comes from a path, bytes, an open file or Pillow, not from {type(source).__name__}."
        )
    if not data:
        raise ValueError(f"{name} is empty.")
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} is larger than {MOST_BYTES >> 20} MB: make it smaller first.")
    return data, name


def _opened(data: bytes, name: str, kinds: tuple[str, ...]) -> Image.Image:
    Image.init()  # or Pillow may not know yet which kinds it can read
    try:
        with _silent():
            return Image.open(io.BytesIO(data), formats=[kind for kind in kinds if kind in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels: make it smaller first.") from error
    except Exception as error:  # a damaged file can bring Pillow down in any way
        raise ValueError(f"{name} is no picture that can be read here: save it as JPEG or PNG first.") from error


@contextlib.contextmanager
def _silent():
    """Without Pillow's warnings: of what is large, where MOST_PIXELS decides, once a JPEG is known to be unpacked at an eighth;
    and of notes in the file that break off, which is no fault of the picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _square(picture: Image.Image, name: str, size: int, grey: bool) -> Tensor:
    wide, high = picture.size
    if not 0 < wide * high:
        raise ValueError(f"{name} has {wide:,} x {high:,} pixels, so there is nothing to see.")
    if wide * high > MOST_PIXELS:
        share = (MOST_PIXELS / (wide * high)) ** 0.5
        fits = f"{max(1, int(share * wide)):,} x {max(1, int(share * high)):,}"
        raise ValueError(f"{name} has {wide:,} x {high:,} pixels: scale it down to {fits} or less first.")
    try:
        with _silent():
            picture.load()  # first, for Pillow then turns a TIFF by itself and forgets its note
            picture = _upright(picture)
            side, (wide, high) = min(picture.size), picture.size
            left, top = (wide - side) // 2, (high - side) // 2
            # Cut first: `resize(box=...)` would let the filter look beyond the square.
            square = _opaque(picture.crop((left, top, left + side, top + side))).convert("L" if grey else "RGB")
            pixels = np.array(square.resize((size, size), Image.Resampling.LANCZOS), np.float32)
    except Exception as error:  # as above
        raise ValueError(f"{name} is damaged, or of an unusual kind: save it as JPEG or PNG first.") from error
    return torch.from_numpy(pixels).reshape(size, size, -1).permute(2, 0, 1).contiguous() / 127.5 - 1


def _upright(picture: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(picture.getexif().get(0x0112))
    except Exception:  # a camera's note that nobody can read turns nothing
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _opaque(picture: Image.Image) -> Image.Image:
    """With eight bits a channel, and on white paper where it is transparent."""
    if picture.mode[0] in "IF":
        # Pillow would cut these off at 255. A scan or a depth map counts to 65,535, floats to 1 or to 255.
        values = np.nan_to_num(np.asarray(picture, np.float64))
        most = 65_535 if picture.mode[0] == "I" else 1 if values.max() <= 1 else 255
        values[values == picture.info.get("transparency")] = most  # a shade of grey may be named transparent
        return Image.fromarray((values / most * 255).clip(0, 255).round().astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("LA") if picture.mode == "La" else picture
    paper = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, picture.convert("RGBA"))


def recipe(model, cond: Tensor, *, scale: float, steps: int, solver, seed: int, **more) -> dict:
    """What it takes to draw pictures again, as JSON holds it.

    Args:
        model: a `Pretrained`: its name (of a folder the last part) and its sha256 are noted.
        cond: (K,), noted as {name: value} without what is not said; (B, K) as a list of these.
        solver: a solver, of which the class is noted, or its name.
        scale, steps, seed, more: single numbers of Python's, numpy's or torch's; more is whatever else belongs to it, such as
            strength=0.5.

    Raises:
        ValueError: for a condition of another width than the model's, or what JSON cannot hold.
    """
    if cond.ndim not in (1, 2) or cond.shape[-1] != len(model.attributes):
        raise ValueError(f"cond must be (K,) or (B, K) with K = {len(model.attributes)}, got {tuple(cond.shape)}.")
    rows = [
        {name: round(value, 4) for name, value in zip(model.attributes, row, strict=True) if value}
        for row in cond.reshape(-1, len(model.attributes)).tolist()
    ]
    told = {
        "model": Path(model.name).name,
        "sha256": model.card["sha256"],
        "cond": rows[0] if cond.ndim == 1 else rows,
        "scale": scale,
        "steps": steps,
        "solver": solver if isinstance(solver, str) else type(solver).__name__,
        "seed": seed,
    }
    return json.loads(_as_json(told | more))


def _as_json(recipe: dict) -> str:
    def plain(value):
        if getattr(value, "ndim", None) == 0:
            return value.item()
        raise TypeError(f"{type(value).__name__} is neither")

    try:
        return json.dumps(dict(recipe), allow_nan=False, default=plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a recipe is a dictionary of words and finite numbers ({error}).") from error


def png_bytes(
    pictures: Tensor, recipe: dict | None = None, *, columns: int | None = None, edited: bool = False, side: int = 1
) -> bytes:
    """A PNG of one picture (C, H, W), or a grid of several (B, C, H, W), in [-1, 1], that says who made it, and how.

    Args:
        recipe: how to draw it again; `recipe_of` reads it back.
        columns, side: as for `plots.show`; by default pixel for pixel.
        edited: made from a given picture, which is another word to IPTC than made from noise.

    Raises:
        ValueError: for what is no picture, or a recipe that JSON cannot hold.
    """
    if not torch.isfinite(pictures).all():
        raise ValueError("pictures must be finite numbers in [-1, 1], and here some are not.")
    made, kind = (
        ("edited", "compositeWithTrainedAlgorithmicMedia") if edited else ("generated", "trainedAlgorithmicMedia")
    )
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", f"facelab {facelab.__version__}")
    about.add_text("Description", f"{made} by a diffusion model, no photograph")
    about.add_itxt("XML:com.adobe.xmp", XMP.format(SOURCE + kind))
    if recipe is not None:
        about.add_text("facelab", _as_json(recipe))
    out = io.BytesIO()
    plots.show(pictures, columns, side=side).image.save(out, "PNG", optimize=True, pnginfo=about)
    return out.getvalue()


def save_png(pictures: Tensor, file, recipe: dict | None = None, **options) -> Path:
    """Write `png_bytes` to `file`, at once or not at all, and return its path.

    Raises:
        ValueError: as `png_bytes`, for a name that does not end in .png, or where the file cannot be written.
    """
    file = Path(file)
    if file.suffix.lower() != ".png":
        raise ValueError(f"the picture is saved as a PNG, so its name must end in .png, got {file.name!r}.")
    content, beside = png_bytes(pictures, recipe, **options), file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.write_bytes(content)
        os.replace(beside, file)
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be written ({error.strerror}): choose another folder.") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return file


def recipe_of(source) -> dict:
    """The recipe in a PNG that facelab saved; source as for `open_photo`, but not a picture of Pillow's.

    Raises:
        ValueError: one sentence, where there is none.
    """
    data, name = _bytes(source)
    try:
        with _opened(data, name, ("PNG",)) as picture:
            found = json.loads(picture.text["facelab"])
    except Exception as error:
        raise ValueError(f"{name} holds no recipe: only a PNG that facelab saved with one does.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds a recipe of another kind than facelab writes.")
    return found
