"""Synthetic images of a hand that holds a tool, each with its exact pose in degrees: the data of lesson 07.

The pose says how far hand and tool are rotated; the seed decides the rest: position, size and grey levels.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

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
    x, y = 16 + rng.uniform(-1.0, 1.0, 2)
    size = 0.85 * rng.uniform(0.93, 1.07)
    background, skin, steel = (rng.integers(*ends) for ends in ((0, 40), (120, 170), (215, 256)))
    image = Image.new("L", (SIDE * SCALE, SIDE * SCALE), int(background))
    canvas = ImageDraw.Draw(image)

    def polygon(points, degrees, grey):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        rotated = np.array(points, float) @ np.array([[c, s], [-s, c]]) * size + (x, y)
        canvas.polygon((rotated * (SIDE * SCALE / 32)).ravel().tolist(), int(grey))

    polygon(_bar(0, 3, 3.6, 11), hand, skin)  # arm, palm
    polygon(_ellipse(0, 0, 5.4, 5.8), hand, skin)
    polygon(_bar(0, -16, 1.5, 22), tool, steel)  # a hammer: handle, and a head to one side
    polygon([(-3, -16.5), (6, -16.5), (6, -11), (-3, -11)], tool, steel)
    for across in (-4.2, -1.4, 1.4, 4.2):  # fingers, over the handle
        polygon(_ellipse(across, -3.4, 1.25, 4.4), hand, skin - 25)
    polygon(_ellipse(5.6, 1.5, 3.4, 1.3), hand, skin - 25)  # thumb, on the right
    return torch.from_numpy(np.asarray(image.reduce(SCALE))[None].copy())


def render_many(degrees: Tensor, first_seed: int = 0) -> Tensor:
    """(N, 1, 48, 48) uint8 of poses (N, 2), with seeds from `first_seed` on."""
    if degrees.ndim != 2 or degrees.shape[1] != 2 or len(degrees) == 0:
        raise ValueError(f"poses must be (N, 2), N > 0, got {tuple(degrees.shape)}.")
    return torch.stack([render(*pose, first_seed + i) for i, pose in enumerate(degrees.tolist())])


def write(degrees: Tensor, folder, first_seed: int = 0) -> Path:
    """Render poses (N, 2) into a folder, one PNG each, beside a table `poses.csv` of file names and degrees; its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,hand,tool"]
    for i, pose in enumerate(degrees.tolist()):
        name = f"{i:05d}.png"
        Image.fromarray(render(*pose, first_seed + i)[0].numpy()).save(folder / name)
        lines.append(f"{name},{pose[0]:.2f},{pose[1]:.2f}")
    table = folder / "poses.csv"
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
    if len(references) != len(degrees) or len(references) < neighbors:
        raise ValueError(
            f"at least {neighbors} references with a pose each are needed, got {len(references)}, {len(degrees)}."
        )
    similarity, nearest = (_normalized(images) @ _normalized(references.float() / 127.5 - 1).T).topk(neighbors, dim=1)
    weights = torch.softmax((similarity - similarity[:, :1]) * 60, 1)
    return (weights[:, :, None] * degrees[nearest]).sum(1)


def _normalized(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _ellipse(x: float, y: float, r_x: float, r_y: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + r_x * np.cos(angle), y + r_y * np.sin(angle)], 1)


def _bar(x: float, y: float, half: float, length: float) -> list[tuple[float, float]]:
    return [(x - half, y), (x + half, y), (x + half, y + length), (x - half, y + length)]
