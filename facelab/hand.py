"""A drawn hand that holds a drawn tool, each with its pose in degrees: the data of lesson 07, known exactly.

The pose says how far hand and tool are turned; the seed says the rest: where they stand, how large and how light they are.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SIDE, FINE = 32, 8  # pixels a side, and how many times finer it is drawn
HAND, TOOL = (-60.0, 60.0), (-80.0, 80.0)  # degrees, clockwise; 0 is upright


def poses(count: int, seed: int = 0) -> Tensor:
    """(count, 2) degrees of hand and tool, each anywhere in its range and independent of the other."""
    u = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    low, high = torch.tensor([HAND, TOOL]).T
    return low + (high - low) * u


def draw(hand: float, tool: float, seed: int = 0) -> Tensor:
    """(1, 32, 32) uint8: the hand turned by `hand` degrees, clockwise, the tool in it by `tool`.

    Raises:
        ValueError: for a pose outside `HAND` or `TOOL`.
    """
    for name, value, (low, high) in (("hand", hand, HAND), ("tool", tool, TOOL)):
        if not low <= value <= high:
            raise ValueError(f"{name} is turned by {low:g} to {high:g} degrees, got {value!r}.")
    luck = np.random.default_rng(seed)
    x, y = 16 + luck.uniform(-1.0, 1.0, 2)
    size, paper, skin, steel = (
        luck.uniform(0.93, 1.07),
        luck.integers(0, 40),
        luck.integers(200, 256),
        luck.integers(90, 150),
    )
    image = Image.new("L", (SIDE * FINE, SIDE * FINE), int(paper))
    pen = ImageDraw.Draw(image)

    def shape(points, degrees, grey):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = np.array(points, float) @ np.array([[c, s], [-s, c]]) * size + (x, y)
        pen.polygon((turned * FINE).ravel().tolist(), int(grey))

    shape(_bar(0, 3, 3.6, 11), hand, skin)  # the arm, then the palm
    shape(_oval(0, 0, 5.4, 5.8), hand, skin)
    shape(_bar(0, -13, 1.5, 13), tool, steel)  # a hammer: its handle, and a head that lies to one side
    shape([(-2, -13), (6, -13), (6, -8.4), (-2, -8.4)], tool, steel + 30)
    for across in (-4.2, -1.4, 1.4, 4.2):  # fingers, over the handle
        shape(_oval(across, -3.4, 1.25, 4.4), hand, skin - 25)
    shape(_oval(5.6, 1.5, 3.4, 1.3), hand, skin - 25)  # the thumb, on the right
    return torch.from_numpy(np.asarray(image.reduce(FINE))[None].copy())


def draw_many(turned: Tensor, first_seed: int = 0) -> Tensor:
    """(N, 1, 32, 32) uint8 of poses (N, 2) in degrees; the seeds count up from `first_seed`.

    Raises:
        ValueError: for no pose, another shape, or a pose outside `HAND` or `TOOL`.
    """
    if turned.ndim != 2 or turned.shape[1] != 2 or len(turned) == 0:
        raise ValueError(f"poses must be (N, 2), one at least, got {tuple(turned.shape)}.")
    return torch.stack([draw(*pose, first_seed + i) for i, pose in enumerate(turned.tolist())])


def write(turned: Tensor, folder, first_seed: int = 0) -> Path:
    """Draw poses (N, 2) into a folder, a PNG each, beside a table `poses.csv` of names and degrees; the table's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,hand,tool"]
    for i, pose in enumerate(turned.tolist()):
        name = f"{i:05d}.png"
        Image.fromarray(draw(*pose, first_seed + i)[0].numpy()).save(folder / name)
        lines.append(f"{name},{pose[0]:.2f},{pose[1]:.2f}")
    table = folder / "poses.csv"
    table.write_text("\n".join(lines) + "\n", "utf-8")
    return table


def read(pictures: Tensor, drawings: Tensor, turned: Tensor, near: int = 12) -> Tensor:
    """(N, 2) degrees: the poses that pictures show, by comparing them with drawings of known pose.

    The mean pose of the `near` drawings that are most alike, the nearest counting most. Mean and contrast of a picture do
    not count. How well it reads is to be measured on drawings that are not among them.

    Args:
        pictures: (N, 1, 32, 32) in [-1, 1].
        drawings, turned: (M, 1, 32, 32) uint8 and their poses (M, 2).

    Raises:
        ValueError: for pictures of another size or type, too few drawings, or not as many poses.
    """
    if pictures.ndim != 4 or pictures.shape[1:] != drawings.shape[1:] or not pictures.is_floating_point():
        size = f"(N, {', '.join(map(str, drawings.shape[1:]))})"
        raise ValueError(f"pictures must be {size} in [-1, 1], got {pictures.dtype} {tuple(pictures.shape)}.")
    if len(drawings) != len(turned) or len(drawings) < near:
        raise ValueError(
            f"reading takes at least {near} drawings and as many poses, got {len(drawings)} and {len(turned)}."
        )
    known, seen = _flat(drawings.float() / 127.5 - 1), _flat(pictures)
    alike, at = (seen @ known.T).topk(near, dim=1)
    weights = torch.softmax((alike - alike[:, :1]) * 60, 1)
    return (weights[:, :, None] * turned[at]).sum(1)


def _flat(pictures: Tensor) -> Tensor:
    flat = pictures.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _oval(x: float, y: float, r_x: float, r_y: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + r_x * np.cos(turn), y + r_y * np.sin(turn)], 1)


def _bar(x: float, y: float, half: float, length: float) -> list[tuple[float, float]]:
    return [(x - half, y), (x + half, y), (x + half, y + length), (x - half, y + length)]
