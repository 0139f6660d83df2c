"""Images in and out: tensors in [-1, 1], image files, HTML, and PNG files that state that a model generated them."""

import base64
import html
import io
import json
import os
from pathlib import Path

import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

import facelab
from facelab.device import atomic_write

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # not EPS, for which Pillow starts another program
# IPTC's digital source type (https://cv.iptc.org/newscodes/digitalsourcetype), as an XMP packet.
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{}rainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>"""


def to_uint8(images: Tensor) -> Tensor:
    """uint8 images of the same shape and device, from float images in [-1, 1] (clipped from [-2, 2]) or uint8 images."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point() or not images.abs().max() <= 2:
        found = f"{images.dtype} from {images.min():.3g} to {images.max():.3g}"
        raise ValueError(f"images must be uint8, or finite numbers in [-1, 1], got {found}.")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def open_image(source, size: int = 64, grey: bool = False) -> Tensor:
    """The central square of an image file as (1, 3 or 1, size, size) in [-1, 1], upright and on a white background.

    `source` is a path, the bytes of a file, a binary file object, or a Pillow image.
    """
    name = repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "this image"
    try:
        file = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
        image = file if isinstance(file, Image.Image) else Image.open(file, formats=FORMATS)
        image.draft("RGB", (4 * size, 4 * size))  # decode a large JPEG at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = ImageOps.fit(image.convert("L" if grey else "RGB"), (size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # a damaged file can make Pillow fail in any way
        raise ValueError(f"{name} cannot be read as an image: give a JPEG or PNG file of 8 bits a channel.") from error
    return pil_to_tensor(image)[None] / 127.5 - 1


def generation_record(model, cond: Tensor, *, guidance_scale: float, steps: int, sampler, seed: int, **more) -> dict:
    """What it takes to generate images again, as JSON: weights, condition, and how they were sampled.

    `model` is a `Pretrained`; `cond` is (K,), or (B, K) for images of different conditions; `sampler` a class or an instance.
    """
    rows = [zip(model.attributes, row, strict=True) for row in torch.atleast_2d(cond).tolist()]
    conds = [{name: round(value, 4) for name, value in row if value} for row in rows]
    weights = {"model": Path(model.name).name, "sha256": model.card["sha256"]}
    how = {"guidance_scale": guidance_scale, "steps": steps}
    how |= {"sampler": getattr(sampler, "__name__", type(sampler).__name__), "seed": seed}
    return weights | {"cond": conds if len(conds) > 1 else conds[0]} | how | more


def png_bytes(images: Tensor, record=None, *, columns: int | None = None, edited: bool = False, scale=1) -> bytes:
    """A PNG of one image (C, H, W), or a grid of several (B, C, H, W), that states how it was made.

    `edited` marks the edit of a given image; `scale` enlarges each pixel to a square of that side.
    """
    grid, info = to_uint8(images), PngImagePlugin.PngInfo()
    if grid.ndim == 4:
        grid = make_grid(grid, nrow=columns or round(len(grid) ** 0.5), pad_value=255)[-grid.shape[1] :]
    info.add_text("Software", f"facelab {facelab.__version__}")
    info.add_text("Description", f"{'edited' if edited else 'generated'} by a diffusion model, not a photograph")
    info.add_itxt("XML:com.adobe.xmp", XMP.format("compositeWithT" if edited else "t"))
    if record is not None:
        info.add_text("facelab", json.dumps(record, allow_nan=False))
    out = io.BytesIO()
    ImageOps.scale(to_pil_image(grid), scale, Image.Resampling.NEAREST).save(out, "PNG", optimize=True, pnginfo=info)
    return out.getvalue()


def save_png(images: Tensor, file, record: dict | None = None, **options) -> Path:
    """Write `png_bytes` to `file`, completely or not at all, and return its path."""
    file = Path(file)
    if file.suffix.lower() != ".png" or not file.parent.is_dir():
        raise ValueError(f"the name of the file must end in .png, in a folder that exists, got {str(file)!r}.")
    content = png_bytes(images, record, **options)
    with atomic_write(file) as part:
        part.write_bytes(content)
    return file


def img(data: bytes, alt: str, style: str) -> str:
    """HTML of a PNG or SVG image, with its alt text."""
    kind, code = "png" if data.startswith(b"\x89PNG") else "svg+xml", base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{code}" alt="{html.escape(alt)}" style="{style}">'
