"""Synthetic images of a hand that holds a tool, each with its exact pose in degrees: the data of lesson 07.

The pose says how far hand and tool are rotated; the seed decides the rest: position, size and grey levels.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

SIDE, SCALE = 48, 6  # pixels a side, and the factor of supersampling; the shapes below are on a canvas of 32 x 32 units
HAND, TOOL = (-60.0, 60.0), (-80.0, 80.0)  # degrees, clockwise; 0 is upright


def poses(count: int, seed: int = 0) -> Tensor:
    """(count, 2) degrees of hand and tool, uniform in their ranges and independent of each other."""
    u = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    low, high = torch.tensor([HAND, TOOL]).T
    return low + (high - low) * u


def render(hand: float, tool: float, seed: int = 0) -> Tensor:
    """(1, 48, 48) uint8: the hand rotated clockwise by `hand` degrees, the tool in it by `tool`."""
    for name, value, (low, high) in (("hand", hand, HAND), ("tool", tool, TOOL)):
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low:g} to {high:g} degrees, got {value!r}.")
    rng = np.random.default_rng(seed)
    centre, size = 16 + rng.uniform(-1.0, 1.0, 2), 0.85 * rng.uniform(0.93, 1.07)
    background, skin, steel = (int(rng.integers(*ends)) for ends in ((0, 40), (120, 170), (215, 256)))
    image = Image.new("L", (SIDE * SCALE, SIDE * SCALE), background)
    canvas, angle = ImageDraw.Draw(image), np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)

    def polygon(points, degrees, grey):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        rotated = np.array(points, float) @ np.array([[c, s], [-s, c]]) * size + centre
        canvas.polygon((rotated * (SIDE * SCALE / 32)).ravel().tolist(), grey)

    polygon([(-3.6, 3), (3.6, 3), (3.6, 14), (-3.6, 14)], hand, skin)  # arm, palm
    polygon(circle * (5.4, 5.8), hand, skin)
    polygon([(-1.5, -16), (1.5, -16), (1.5, 6), (-1.5, 6)], tool, steel)  # a hammer: handle, and a head to one side
    polygon([(-3, -16.5), (6, -16.5), (6, -11), (-3, -11)], tool, steel)
    for x in (-4.2, -1.4, 1.4, 4.2):  # fingers, over the handle
        polygon(circle * (1.25, 4.4) + (x, -3.4), hand, skin - 25)
    polygon(circle * (3.4, 1.3) + (5.6, 1.5), hand, skin - 25)  # thumb, on the right
    return torch.from_numpy(np.asarray(image.reduce(SCALE))[None].copy())


def render_many(degrees: Tensor, first_seed: int = 0) -> Tensor:
    """(N, 1, 48, 48) uint8 of poses (N, 2), with seeds from `first_seed` on."""
    if degrees.ndim != 2 or degrees.shape[1] != 2 or len(degrees) == 0:
        raise ValueError(f"poses must be (N, 2), N > 0, got {tuple(degrees.shape)}.")
    return torch.stack([render(*pose, first_seed + i) for i, pose in enumerate(degrees.tolist())])


def write(degrees: Tensor, folder, first_seed: int = 0) -> Path:
    """Render poses (N, 2) into a folder, one PNG each, beside a table `poses.csv` of file names and degrees; its path."""
    table = Path(folder, "poses.csv")
    table.parent.mkdir(parents=True, exist_ok=True)
    lines = ["file,hand,tool"]
    for i, (image, pose) in enumerate(zip(render_many(degrees, first_seed), degrees.tolist(), strict=True)):
        to_pil_image(image).save(table.with_name(f"{i:05d}.png"))
        lines.append(f"{i:05d}.png,{pose[0]:.2f},{pose[1]:.2f}")
    table.write_text("\n".join(lines) + "\n", "utf-8")
    return table


def predict_poses(images: Tensor, references: Tensor, degrees: Tensor, neighbors: int = 12) -> Tensor:
    """(N, 2) degrees of images (N, 1, 48, 48) in [-1, 1], by comparison with references (M, 1, 48, 48) uint8 of known poses.

    The mean pose of the most similar references, weighted by similarity; brightness and contrast do not count. Measure its
    error on images that are not among the references.
    """
    if images.ndim != 4 or images.shape[1:] != references.shape[1:] or not images.is_floating_point():
        size = f"(N, {', '.join(map(str, references.shape[1:]))})"
        raise ValueError(f"images must be {size} in [-1, 1], got {images.dtype} {tuple(images.shape)}.")
    if not neighbors <= len(references) == len(degrees):
        found = f"got {len(references)}, {len(degrees)}"
        raise ValueError(f"at least {neighbors} references with a pose each are needed, {found}.")
    flat = (images.flatten(1), references.flatten(1) / 127.5 - 1)
    ours, known = (normalize(x - x.mean(1, keepdim=True), dim=1, eps=1e-6) for x in flat)
    similarity, nearest = (ours @ known.T).topk(neighbors, dim=1)
    weights = torch.softmax((similarity - similarity[:, :1]) * 60, 1)
    return (weights[:, :, None] * degrees[nearest]).sum(1)
