"""Renders one 64x64 face from its attributes and the numbers that a seed decides (lesson 03; used by `synthetic_faces`).

Shapes are Pillow's, rendered at three times the size and reduced, so that edges are smooth; shading, light and colour are array
arithmetic. All measures are in pixels of the head's own frame: origin between the eyes, y down, chin near 20.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE, SCALE = 64, 3
# What a seed decides, one uniform number each. A new one goes to the end: the order decides who is rendered.
SEEDED = (
    "skin undertone eyes width jaw turn tilt size x y light_x light_y warmth ground ground_way ground_glow ground_size "
    "cloth cut cloth_shade frame frame_colour hat hat_colour length part volume curl other_hair dye shade lipstick shadow "
    "earring earring_colour necklace necklace_colour tie tie_stripe shirt rim brow gaze lips strand_1 strand_2"
).split()


def _palette(colours: str) -> np.ndarray:
    return np.array([[int(one[i : i + 2], 16) for i in (0, 2, 4)] for one in colours.split()], np.float32)


SKINS = _palette("ebb98f e6b189 d9a074 cb8d62 b5764d 9a6040 7f4b31 673a27 55301f")
PALE = _palette("f7ddd1")[0]
HAIR = {
    "Black_Hair": _palette("25202a 0f0c12 6a6478"),  # colour, shadow, highlight
    "Blond_Hair": _palette("e6c06a ae7f3a fff0b8"),
    "Brown_Hair": _palette("6e4427 3b2113 b27a4a"),
    "Gray_Hair": _palette("b4b6bd 74767f eff0f5"),
}
OTHER_HAIR = (_palette("b8502a 6e2615 f08a4e"), _palette("a23c2c 5a1a18 e0745a"), _palette("c8643a 7d3418 f7a35f"))
EYES = _palette("5b3a22 432a1a 6b4a2a 3f6b8f 5d8aa8 4f7a55 7c8a5a 6d7680")
GROUNDS = _palette(
    "f3d9c2 e9b99a  d5e0d8 9fbcb3  f2e3c6 d9b27c  cfdbe8 92aac8  e6d3df b591ac  c9d4c0 8aa283  f4d7cf d99a8f  d8d2c8 a39a8c"
    " b9cfd6 5f8796  efe2d0 c4a98c  d7cfe6 948bb8  c8b8a6 7d6a5c"
).reshape(-1, 2, 3)
CLOTHS = _palette("2f4858 7a3b3f 3f6f6a c98b54 f0e6d8 4a4e69 8b5e6b 5c7148 b65f4a d9b15c 34343c 7d8ca3 e7c1b5 33596e")
FRAMES = _palette("1f1a1d 1f1a1d 5a2c1c 7a1f2e 1f3352")
HATS = _palette("b23a48 2e5266 d8a24a 3d5a45 6b4c7a 2f2b33 e8dccb c0673d 4f7d8c")
LIPSTICKS = _palette("c4122f d81b4c b0134f e0303a 9c1450")
SHADOWS = _palette("7a3fb0 2f7fa8 1f8f83 8a3a9a 4a55c0")
METALS = _palette("f4c542 f0f2f7 45c9c0 f7e9d0")
TIES = _palette("b3202c 1f3f8f 1f6b4a 6a2a7a c2571a 20242e")
SHIRTS = _palette("f7f5f2 dfe9f5 f6e6ea")

# Fields over the image: the position of each pixel, in pixels and from -1 to 1.
_LINE = np.arange(SIDE) + 0.5
_X, _Y = np.meshgrid(_LINE.astype(np.float32), _LINE.astype(np.float32))
_ACROSS, _DOWN = _X / SIDE * 2 - 1, _Y / SIDE * 2 - 1
_VIGNETTE = 0.06 * (_ACROSS**2 + _DOWN**2 - 0.6)
# The direction of strands: `_FALL` down from the crown (bangs), `_SPRAY` out from the forehead (short hair), `_SWEEP` in arcs
# over the head and down (long hair). Rounded, because arctan2 and hypot may differ in their last bit between machines.
_FALL = np.round(3.0 * np.arctan2(_X - 32, np.abs(_Y - 5) + 2), 3).astype(np.float32)
_SPRAY = np.round(3.2 * np.arctan2(_X - 32, np.abs(_Y - 30) + 1), 3).astype(np.float32)
_SWEEP = np.round(np.hypot(_X - 32, np.minimum(_Y - 24, 0)) / 3.4, 3).astype(np.float32)


def render(shown: dict[str, float], u: dict[str, float]) -> np.ndarray:
    """(3, 64, 64) uint8 of a face with attributes `shown`, from 0 (no) to 1 (yes), of the person `u` ({SEEDED: number})."""
    face = _Face(shown, u)
    _clothes(face)
    _head(face)
    face.paint(_creases, _beard, _nose, _lips, _mustache, _eyes, _eyebrows)
    _hair(face)
    _hat(face)
    face.paint(_glasses, _earrings)
    warm = np.float32([1.03, 1.0, 0.96] if u["warmth"] < 0.6 else [0.97, 1.0, 1.04])
    light = 1 - 0.07 * (face.light[0] * _ACROSS + face.light[1] * _DOWN) - _VIGNETTE
    return np.clip(face.canvas * light * _field(warm) + 0.5, 0, 255).astype(np.uint8)


@functools.cache
def _spline(count: int, steps: int = 4) -> np.ndarray:
    """(count * steps, count): times `count` control points, a closed smooth curve through them (Catmull-Rom)."""
    t = np.arange(steps) / steps
    weights = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1) / 2
    corners = np.eye(count)[(np.arange(count)[:, None] + np.arange(-1, 3)) % count]
    return (weights @ corners).reshape(-1, count)


_ROUND = np.round([(math.cos(i * math.pi / 7), math.sin(i * math.pi / 7)) for i in range(14)], 6)
# Times (a, top, b, bottom): the outline from a to b along an arc through `top`, and back through `bottom`. An arc through its
# middle: a quadratic Bezier's control point is twice the middle less the mean of the ends.
_T = np.linspace(0, 1, 6)[:, None]
_ARC = np.hstack([(1 - _T) ** 2 - _T * (1 - _T), 4 * _T * (1 - _T), _T**2 - _T * (1 - _T), 0 * _T])
_LEAF = np.vstack([_ARC, _ARC[1:-1, [2, 3, 0, 1]]])


def _loop(*points) -> np.ndarray:
    """A closed smooth curve through the points."""
    return _spline(len(points)) @ np.array(points, float)


def _symmetric(*points) -> np.ndarray:
    """A closed smooth curve through points from the top's middle to the bottom's on the right, and their mirror images."""
    return _loop(*points, *((-x, y) for x, y in points[-2:0:-1]))


def _disc(x, y, r, r_y=None) -> np.ndarray:
    return _ROUND * (r, r_y or r) + (x, y)


def _leaf(a, top, b, bottom) -> np.ndarray:
    """The shape between two arcs from a to b, one through `top`, one through `bottom`: lips, lids, brows, wrinkles."""
    return _LEAF @ np.array([a, top, b, bottom], float)


def _ring(loop: np.ndarray, centre, width: float) -> np.ndarray:
    """The band inside a loop as one shape: out along the loop, back along a smaller copy."""
    inner = (loop - centre) * (1 - width / np.abs(loop - centre).max()) + centre
    return np.concatenate([loop, loop[:1], inner[:1], inner[::-1]])


def _wave(x):
    """A smooth wave of period 1 between -1 and 1, by arithmetic alone."""
    rise = np.abs(x % 1 * 4 - 2) - 1
    return rise * (1.5 - 0.5 * rise * rise)


def _wavy(loop: np.ndarray, size: float, frequency: float, phase: float) -> np.ndarray:
    """The loop with a wavy edge: each point moved along its normal, `frequency` waves a pixel."""
    along = np.roll(loop, -1, 0) - np.roll(loop, 1, 0)
    length = np.sqrt((along**2).sum(1, keepdims=True)) + 1e-6
    offset = size * _wave(np.cumsum(length, 0) / 2 * frequency + phase)
    return loop + offset * np.stack([along[:, 1], -along[:, 0]], 1) / length


def _mix(a, b, share):
    return a + (b - a) * share


def _pick(palette, number: float):
    return palette[int(number * len(palette))]


def _ink(colour, alpha: float = 1.0) -> tuple[int, int, int, int]:
    r, g, b = colour.tolist()
    return min(int(r), 255), min(int(g), 255), min(int(b), 255), int(255 * alpha)


def _field(colour) -> np.ndarray:
    """(3, 1, 1) of a colour (3,); a field (3, H, W) as it is."""
    return colour if colour.ndim == 3 else colour[:, None, None]


class _Mask(NamedTuple):
    """Where a shape lies, its coverage of each pixel there in [0, 1], and the same as Pillow's image, for blurring."""

    at: tuple
    cover: np.ndarray
    image: Image.Image

    @property
    def full(self) -> np.ndarray:
        field = np.zeros((SIDE, SIDE), np.float32)
        field[self.at] = self.cover
        return field

    def blur(self, radius: float) -> np.ndarray:
        return np.asarray(self.image.filter(ImageFilter.GaussianBlur(radius))) * np.float32(1 / 255)

    def cast(self, soft: np.ndarray) -> np.ndarray:
        """The shadow two pixels below the shape, where it does not cover; `soft` is its blur."""
        fallen = np.zeros_like(soft)
        fallen[2:] = soft[:-2]
        return fallen * (1 - self.cover)


class _Sketch:
    """Crisp shapes in the head's own pixels, painted one over the other.

    `front` is 1 for what lies on the face, an ellipsoid that turns with the head, and 0 for what is its outline.
    """

    def __init__(self, *loops, inks=(255, 255), front=0.0):
        self.shapes = [(loop, ink, front, 0) for loop, ink in zip(loops, inks, strict=False)]

    def add(self, points, colour, front=1.0, width=0.0):
        """A filled shape, or with a width (pixels) a line through the points."""
        self.shapes.append((np.asarray(points, float), colour, front, width))

    def pair(self, points, colour, front=1.0):
        """A filled shape on the right half of the image and its mirror image."""
        for s in (1, -1):
            self.add(points * np.array((s, 1)), colour, front)

    def place(self, x, y, size, turn=0.0, tilt=0.0) -> "_Sketch":
        """Turns, tilts and scales the shapes and moves them to where they are in the image."""
        loops = [loop for loop, *_ in self.shapes]
        self.counts, placed = [len(loop) for loop in loops], np.concatenate(loops)
        if turn:
            deep = np.sqrt(np.maximum(1 - (placed[:, 0] / 17) ** 2 - ((placed[:, 1] - 2) / 34) ** 2, 0.04))
            front = np.repeat([front for _, _, front, _ in self.shapes], self.counts)
            placed[:, 0] += front * turn * (13 * deep - 0.5 * turn * placed[:, 0])
        c, s = 1 - tilt * tilt / 2, tilt  # a small angle's cosine and sine, by arithmetic alone
        scale, origin = np.array([[c, s], [-s, c]]) * (size * SCALE), (x * SCALE, (y + 20 * size) * SCALE)
        self.placed = (placed - (0, 20)) @ scale + origin
        return self

    def box(self, pad: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the placed shapes with a margin, inside the image."""
        (x_0, y_0), (x_1, y_1) = self.placed.min(0).tolist(), self.placed.max(0).tolist()
        x_0, y_0 = max(int(x_0 / SCALE) - pad, 0), max(int(y_0 / SCALE) - pad, 0)
        return x_0, y_0, min(int(x_1 / SCALE) + 1 + pad, SIDE), min(int(y_1 / SCALE) + 1 + pad, SIDE)

    def paint(self, image: Image.Image, corner, mode: str | None = None) -> Image.Image:
        """The image, `SCALE` times too large, with the placed shapes on it, reduced; `corner` is its upper left pixel."""
        canvas, start = ImageDraw.Draw(image, mode), 0
        flat = (self.placed - (corner[0] * SCALE + 0.5, corner[1] * SCALE + 0.5)).ravel().tolist()
        for count, (_, colour, _, width) in zip(self.counts, self.shapes, strict=True):
            points, start = flat[start : start + 2 * count], start + 2 * count
            if width:
                canvas.line(points, colour, round(width * SCALE))
            else:
                canvas.polygon(points, colour)
        return image.reduce(SCALE)

    def over(self, canvas: np.ndarray):
        """Paints on the canvas (3, 64, 64), which stays fractional where nothing is painted."""
        x_0, y_0, x_1, y_1 = self.box(1)
        part = canvas[:, y_0:y_1, x_0:x_1].transpose(1, 2, 0)
        before = (part + 0.5).astype(np.uint8)
        image = Image.fromarray(before).resize(((x_1 - x_0) * SCALE, (y_1 - y_0) * SCALE), Image.Resampling.NEAREST)
        after = np.asarray(self.paint(image, (x_0, y_0), "RGBA"))
        np.copyto(part, after, where=after != before)

    def mask(self) -> _Mask:
        """The coverage of each pixel; shapes have ink 255, holes 0."""
        x_0, y_0, x_1, y_1 = self.box(4)  # room for a blur
        image = self.paint(Image.new("L", ((x_1 - x_0) * SCALE, (y_1 - y_0) * SCALE)), (x_0, y_0))
        return _Mask((..., slice(y_0, y_1), slice(x_0, x_1)), np.asarray(image) * np.float32(1 / 255), image)


class _Face:
    """The measures and colours of one face, and the canvas (3, 64, 64) on which its parts are painted."""

    def __init__(self, shown: dict[str, float], u: dict[str, float]):
        self.a, self.u, a = shown, u, shown
        self.yes = yes = {name: value > 0.5 for name, value in shown.items()}
        self.light = u["light_x"] * 2 - 1, 0.5 + 0.5 * u["light_y"]
        size, x, y = 1.03 + 0.1 * (u["size"] - 0.5), 32 + 3 * (u["x"] - 0.5), 29.8 + 2 * (u["y"] - 0.5)
        self.turn = 0.44 * (u["turn"] - 0.5)
        self.pose, self.body_pose = (x, y, size, self.turn, 0.2 * (u["tilt"] - 0.5)), (x, y - 1.2, size)
        self.wide = 13.2 + 0.8 * (u["width"] - 0.5) + 2.6 * a["Chubby"]
        self.jaw = 8.7 + 2.1 * a["Male"] + 3.0 * a["Chubby"] + 0.8 * (u["jaw"] - 0.5)
        self.chin = 20.3 + 1.0 * a["Male"] + 0.5 * a["Chubby"]
        self.neck = 5.0 + 3.0 * a["Male"] + 1.8 * a["Chubby"]
        self.mouth, smile = 12.8, a["Smiling"]
        self.lip = self.mouth + 0.5 * smile - 0.45 * a["Mouth_Slightly_Open"] * (1 - smile)  # the mouth's upper edge
        self.long = u["length"] > (0.9 if yes["Male"] else 0.1)
        self.low = 15 + 16 * u["length"]  # how far down long hair reaches
        skin = _mix(_pick(SKINS, u["skin"]), np.float32([225, 150, 110]), 0.12 * u["undertone"])
        self.skin = skin = _mix(skin, PALE, a["Pale_Skin"])
        fair = min(max((float(skin.mean()) - 90) / 130, 0), 1)
        self.dark = skin * _mix(np.float32([0.68, 0.58, 0.56]), np.float32([0.85, 0.72, 0.69]), fair)
        self.line = self.dark * 0.72
        self.bright = _mix(skin, np.float32([255, 240, 220]), 0.36)
        self.rose = _mix(skin * np.float32([0.92, 0.62, 0.60]), np.float32([200, 80, 80]), 0.22)
        self._hair_colours()
        bright, deep = _pick(GROUNDS, u["ground"])
        share = 0.5 + 0.35 * _DOWN + (0.7 * u["ground_way"] - 0.35) * _ACROSS
        spot = (_X - 64 * u["ground_glow"]) ** 2 + (_Y - (14 + 20 * u["ground_size"])) ** 2
        share = np.clip(share - 0.55 * np.maximum(1 - spot / 900, 0) ** 2, 0, 1)
        self.canvas = _field(bright) + share * _field(deep - bright)

    def _hair_colours(self):
        u, skin = self.u, self.skin
        named = [name for name in HAIR if self.yes[name]]
        hair = HAIR[named[0]] * (0.93 + 0.14 * u["shade"]) if named else _pick(OTHER_HAIR, u["other_hair"])
        self.hair, self.hair_dark, self.hair_bright = np.minimum(hair, 255)
        # A beard and brows too close to the skin's lightness become darker or lighter, whichever contrasts more.
        self.beard = _mix(self.hair, self.hair_dark, 0.35)
        if abs(float((self.beard - skin).mean())) < 36:
            shades = self.hair_dark, _mix(self.hair, self.hair_bright, 0.7)
            self.beard = max(shades, key=lambda shade: abs(float((shade - skin).mean())))
        self.brow = self.hair if self.yes["Black_Hair"] else self.hair * 0.62
        if abs(float((self.brow - skin).mean())) < 36:
            self.brow = self.brow * 0.45 if skin.mean() > 95 else _mix(self.brow, self.hair_bright, 0.8)

    def mask(self, *loops, inks=(255, 255), front=0.0, body=False) -> _Mask:
        """The coverage by loops of ink 255, with holes of ink 0, on the head or the body."""
        return _Sketch(*loops, inks=inks, front=front).place(*(self.body_pose if body else self.pose)).mask()

    def paint(self, *parts, body=False):
        """Crisp parts, each a function that adds its shapes to a common sketch."""
        sketch = _Sketch()
        for part in parts:
            part(self, sketch)
        if sketch.shapes:
            sketch.place(*(self.body_pose if body else self.pose)).over(self.canvas)

    def spots(self, spots) -> np.ndarray:
        """(M, 64, 64): sums of soft spots that end at their radii, each of x, y, r_x, r_y and M strengths."""
        spots = np.array(spots, float)
        centres = _Sketch(spots[:, :2], front=1.0).place(*self.pose).placed
        at = (_LINE - (centres / SCALE)[..., None]) / spots[:, 2:4, None]
        bump = np.maximum(1 - at * at, 0) ** 2
        return (bump[:, 1].T @ (spots[:, 4:].T[..., None] * bump[:, 0])).astype(np.float32)

    def blend(self, at, cover, colour):
        part = self.canvas[at]
        part += cover * (_field(colour) - part)

    def shade(self, mask: _Mask, soft: np.ndarray, colours, deep=0.0, lit=0.0):
        """Blends in a rounded body of (colour, shadow, highlight): dark at its edges and away from the light.

        `soft` is the mask's blur; `deep` and `lit` are further shadow and highlight, fields over the mask.
        """
        relief = np.zeros_like(soft)
        relief[:, 2:-2] = self.light[0] * (soft[:, 4:] - soft[:, :-4])
        relief[2:-2] += self.light[1] * (soft[4:] - soft[:-4])
        shadow = np.clip(0.85 - 0.85 * soft - 0.8 * relief + deep, 0, 0.9)
        highlight = np.clip(0.75 * relief + lit, 0, 0.7)
        colour, dark, bright = map(_field, colours)
        self.blend(mask.at, mask.cover, colour + shadow * (dark - colour) + highlight * (bright - colour))


def _clothes(f: _Face):
    u, n, w, low = f.u, f.neck, f.wide, f.low
    if f.long and not f.yes["Bald"]:
        fall = f.mask(_symmetric((0, -16), (w + 1, -6), (w + 2, 8), (w + 2, low - 3), (w - 3, low), (0, low - 1)))
        f.blend(fall.at, fall.cover, _mix(f.hair_dark, f.hair, 0.15))
    shoulder = 21.5 + 4.5 * f.a["Male"] + 2 * f.a["Chubby"]
    slope = [(n + 1, 23.5), (n + 6, 26.6), (shoulder - 5, 29), (shoulder, 33), (shoulder + 3, 46)]
    f.cloth = cloth = _mix(_pick(CLOTHS, u["cloth"]), np.float32([128, 120, 115]), 0.15 * u["cloth_shade"])
    colours = cloth, cloth * 0.62, _mix(cloth, np.float32([255, 245, 230]), 0.4)
    trunk = f.mask(_symmetric((0, 23), *slope, (0, 50)), body=True)
    f.shade(trunk, trunk.blur(3), colours)
    cut = "shirt" if f.yes["Wearing_Necktie"] else _pick(("round", "deep", "vee", "shirt"), u["cut"])
    low, flat = {"round": (28.2, 0.8), "deep": (32, 0.85), "vee": (34, 0.35), "shirt": (30, 0.3)}[cut]
    right = [(n, 8), (n, 22), (n + 1.8, 25), (n * flat + 0.8, (25 + low) / 2 + 1)]
    skin = f.mask(np.array([*right, (0, low), *((-x, y) for x, y in right[::-1])], float), body=True)
    shade = f.spots([(0, f.chin - 1.5, 1.6 * n + 6, 10, 0.9)])[0][skin.at]
    colour = _field(_mix(f.skin, f.dark, 0.3))
    f.blend(skin.at, skin.cover, colour + shade * (_field(f.dark * 0.8) - colour))
    f.paint(*[_shirt] * (cut == "shirt"), _necklace, body=True)


def _shirt(f: _Face, sketch: _Sketch):
    u, n, tie = f.u, f.neck, f.yes["Wearing_Necktie"]
    white = _pick(SHIRTS, u["shirt"]) if tie or u["shirt"] < 0.7 else _mix(f.cloth, np.float32([255] * 3), 0.3)
    if tie:
        sketch.add([(-n, 24), (n, 24), (8.5, 46), (-8.5, 46)], _ink(white))
    flap = np.array([(n, 22.6), (n + 2.4, 25.6), (0.5 * n + 1.6, 31.4), (0.8, 27.4)])
    sketch.pair(flap * (1, 1.02), _ink(white * 0.72))
    sketch.pair(flap, _ink(white))
    if tie:
        hue, pale = _pick(TIES, u["tie"]), np.float32([255, 244, 222])
        sketch.add([(-2.2, 28.5), (2.2, 28.5), (5.2, 46), (-5.2, 46)], _ink(hue))
        for y in (31, 34, 37) if u["tie_stripe"] < 0.6 else ():
            sketch.add([(-3, y + 2), (3.0, y), (3.2, y + 1), (-3.2, y + 3)], _ink(_mix(hue, pale, 0.6)))
        sketch.add([(-3.2, 25.8), (3.2, 25.8), (2.1, 29.8), (-2.1, 29.8)], _ink(_mix(hue, pale, 0.2)))


def _necklace(f: _Face, sketch: _Sketch):
    if not f.yes["Wearing_Necklace"]:
        return
    dark, x = (52, 32, 30, 215), np.linspace(-1, 1, 13)
    arc = np.stack([x * (f.neck + 1.2), 24.0 + 6.2 * (1 - x**2)], 1)
    metal = _pick(METALS, f.u["necklace_colour"])
    if f.u["necklace"] < 0.5:
        pearl = _ink(_mix(metal, np.float32([255, 250, 242]), 0.5))
        for down, r, colour in ((0.3, 1.2, dark), (0, 0.95, pearl)):
            for x, y in arc.tolist():
                sketch.add(_disc(x, y + down, r), colour)
    else:
        sketch.add(arc * (1, 1.02), dark, 1, 1.3)
        sketch.add(arc, _ink(metal), 1, 0.9)
        sketch.add(_disc(0, 32.0, 2.0), dark)
        sketch.add(_disc(0, 31.8, 1.55), _ink(metal))
        sketch.add(_disc(-0.4, 31.3, 0.5), (255, 255, 255, 255))


def _head(f: _Face):
    a, w, j, dark = f.a, f.wide, f.jaw, f.dark
    if a["Chubby"] > 0:
        chin = f.mask(_disc(0, f.chin - 2.2, j * 0.92, 5.2), front=0.3)
        chin = chin._replace(cover=chin.cover * a["Chubby"])
        f.shade(chin, chin.blur(2), (_mix(f.skin, dark, 0.2), dark, f.skin))
    ears = f.mask(*(_disc(s * (w + 0.3), 2.2, 2.3, 3.7) for s in (-1, 1)))
    f.blend(ears.at, ears.cover, _mix(_mix(f.skin, f.rose, 0.35), dark, 0.25))
    top = [(0, -18.4), (7.2, -17.0), (11.6, -12.6), (w - 0.1, -5)]
    low = [(j + 1.0, 13), (j - 1.6, f.chin - 4), (2.9 + 2.3 * a["Male"] + 1.5 * a["Chubby"], f.chin - 0.6)]
    mask = f.mask(_symmetric(*top, (w, 1.5), (w - 0.6, 7), *low, (0, f.chin)), front=0.22)
    f.head = mask.full
    # Highlights on forehead, nose, chin and cheeks, shadow around the eyes, and the cheeks' colour. The last four numbers of a
    # spot are the strengths of shadow, highlight, blush and rosy cheeks.
    spots = [(0, -9, 9, 6, 0, 0.35, 0, 0), (0.3, 3, 2.6, 8, 0, 0.5, 0, 0), (0, f.chin - 2.2, 4.6, 2.8, 0, 0.3, 0, 0)]
    for s in (-1, 1):
        cheek = (s * 7.6, 5.0 - a["Smiling"], 4.0, 3.0, 0, 0.26 + 0.25 * a["Smiling"], 0, 0)
        spots += [(s * 6.5, -1.0, 6.2, 5.0, 0.42, 0, 0, 0), cheek, (s * 8.3, 6.8, 6.0, 5.0, 0, 0, 0.3, 0)]
        spots.append((s * 8.6, 6.6, 6.4, 5.4, 0, 0, 0, 0.75))
    deep, lit, blush, rosy = f.spots(spots)[mask.at]
    f.shade(mask, mask.blur(3.2), (f.skin, dark, f.bright), deep, lit)
    f.blend(mask.at, mask.cover * blush, f.rose)
    if a["Rosy_Cheeks"] > 0:
        f.blend(mask.at, mask.cover * rosy * a["Rosy_Cheeks"], np.float32([226, 62, 84]))


def _creases(f: _Face, sketch: _Sketch):
    old, fold, w = 1 - f.a["Young"], 0.7 * f.a["Smiling"], f.wide
    line, soft = _ink(f.line, 0.85 * old), _ink(f.dark, 0.7 * old)
    sketch.pair(_leaf((w + 0.4, 0), (w + 1.6, 1), (w + 0.6, 4.4), (w + 0.2, 2)), _ink(f.dark), 0)  # in the ears
    if old:
        sketch.pair(_leaf((3.8, 2.2), (6.6, 3.0), (10.0, 1.8), (6.8, 4.9)), soft)
        sketch.pair(_leaf((3.9, 3.1), (6.8, 4.5), (9.8, 2.8), (6.8, 5.1)), line)
        for y in (-1.4, 0.2, 1.8):
            sketch.pair(_leaf((10.8, y * 0.6), (12, y * 0.9 - 0.2), (13, y * 1.3), (12, y * 0.9 + 0.4)), line)
        for y in (-8.2, -10.0, -11.8):
            sketch.pair(_leaf((0, y), (3.5, y - 0.55), (6.8, y + 0.3), (3.5, y + 0.15)), line)
        sketch.pair(_leaf((3.9, 7.6), (6.6, 9.4), (7.2, 14.0), (5.4, 10.2)), line)
        sketch.pair(_leaf((9.8, 7.6), (9.7, 10.0), (8.6, 13.2), (8.7, 10.0)), soft)
        sketch.pair(_leaf((6.2, 6.4), (9.0, 7.4), (11.6, 5.4), (9.0, 8.1)), soft)
    if fold:
        sketch.pair(_leaf((3.9, 8.0), (7.0, 8.8), (7.9, 12.0), (6.2, 9.4)), _ink(f.dark, fold))


def _beard(f: _Face, sketch: _Sketch):
    chin, w, j = f.chin, f.wide, f.jaw
    dark, mid, light = _ink(f.hair_dark, 0.6), _ink(f.beard), _ink(f.hair_bright, 0.35)
    if f.yes["No_Beard"]:
        return
    if f.yes["Goatee"]:
        sketch.add(_symmetric((0, 17.4), (3.2, 16.6), (5.0, 18.6), (4.2, chin + 1.2), (0, chin + 3.2)), mid, 0.8)
        for x in (-2.4, 0, 2.4):
            sketch.add(_leaf((x, 18.6), (x - 0.5, 20), (x * 0.7, chin + 1.8), (x + 0.2, 20)), dark, 0.8)
        return
    outer = [(w - 0.2, 1), (w - 0.2, 6.5), (j + 1.4, 13.4), (j - 0.8, chin - 2.6), (4.2, chin + 1.2), (0, chin + 2.2)]
    inner = [(0, 18.0), (3.2, 17.2), (6.6, 14.8), (8.2, 11.6), (w - 3.0, 7.4), (w - 1.6, 1)]
    sketch.pair(_loop(*outer, *inner), mid, 0.3)
    for x, y in ((w - 1.6, 6.5), (j - 0.2, 13.2), (j - 1.8, 16), (5.6, 18.4), (2.4, 19.8)):
        tip = 0.5 if y < 17 else 1.6
        sketch.pair(_leaf((x, y - 2), (x - 0.9, y), (x - tip, y + 2.4), (x - 0.2, y)), dark, 0.3)
        sketch.pair(_leaf((x - 1, y - 2), (x - 1.4, y), (x - 1.2, y + 1.8), (x - 0.9, y)), light, 0.3)


def _nose(f: _Face, sketch: _Sketch):
    big = f.a["Big_Nose"]
    r, tip, s = 2.4 + 2.2 * big, 8.0 + 0.9 * big, 1 if f.light[0] > 0 else -1
    dark, line, pit = _ink(f.dark, 0.5), _ink(f.line, 0.7), _ink(f.line * 0.7, 0.9)
    sketch.add(_leaf((s * 1.6, -1.5), (s + 0.3 * s * big, 3.5), (s * r, tip), (s * (2.3 + 1.2 * big), 4)), dark)
    base = _ink(_mix(f.dark, f.rose, 0.4), 0.75)
    sketch.add(_leaf((-r - 0.3, tip - 0.2), (0, tip - 1.0), (r + 0.3, tip - 0.2), (0, tip + 1.5)), base)
    sketch.pair(_leaf((r, tip - 1.8 - big), (r + 0.7, tip - 0.6), (r - 0.6, tip + 0.7), (r - 0.1, tip - 0.5)), line)
    sketch.pair(_leaf((0.7, tip + 0.5), (r / 2 + 0.2, tip - 0.2), (r - 0.5, tip + 0.4), (r / 2, tip + 0.9)), pit)
    sketch.add(_disc(-0.5 * s, tip - 1.9, 1.0 + 0.7 * big, 0.8 + 0.6 * big), _ink(f.bright, 0.55))


def _lips(f: _Face, sketch: _Sketch):
    a, y = f.a, f.mouth
    smile, gap = a["Smiling"], a["Mouth_Slightly_Open"]
    full = 1.15 - 0.25 * a["Male"] + 0.25 * (f.u["lips"] - 0.5)
    half = 4.2 + 2.0 * smile - 0.8 * gap * (1 - smile) + 0.3 * a["Male"]
    corner = y + 0.2 - 2.4 * smile
    top, low = f.lip, y + 0.6 * smile + 2.5 * gap + 0.8 * gap * smile
    colour = _mix(f.rose, _pick(LIPSTICKS, f.u["lipstick"]), a["Wearing_Lipstick"])
    upper = colour * 0.80
    sketch.pair(_disc(half + 0.2, corner, 0.7), _ink(f.dark * 0.75, 0.5))
    left, right = (-half, corner), (half, corner)
    sketch.add(_leaf(left, (0, top - 1.5 * full), right, (0, low + 2.0 * full)), _ink(colour))
    sketch.add(_leaf(left, (0, top - 1.45 * full), right, (0, top + 0.25)), _ink(upper))
    gloss = _leaf((-1.6, low + full), (0, low + 0.7 * full), (1.6, low + full), (0, low + 1.4 * full))
    sketch.add(gloss, _ink(_mix(colour, np.float32([255, 235, 225]), 0.55), 0.7))
    if gap > 0:
        x, tooth = half - 0.7, top + (0.95 + 0.6 * smile) * gap
        sketch.add(_leaf((-x, corner + 0.15), (0, top), (x, corner + 0.15), (0, low)), (70, 16, 24, 255))
        sketch.add(_leaf((-x / 2, low - 0.7), (0, low - 1.2), (x / 2, low - 0.7), (0, low - 0.05)), (196, 84, 88, 230))
        teeth = _leaf((-0.86 * x, corner + 0.3), (0, top), (0.86 * x, corner + 0.3), (0, tooth))
        sketch.add(teeth, (250, 246, 238, 255))
    else:
        seam = y + 0.62 * smile
        sketch.add(_leaf(left, (0, seam - 0.3), right, (0, seam + 0.45)), _ink(upper * 0.45))


def _mustache(f: _Face, sketch: _Sketch):
    if not f.yes["Mustache"]:
        return
    smile, dark = f.a["Smiling"], _ink(f.hair_dark, 0.6)
    side, end = 7.0 - 1.7 * smile, 13.4 - 1.9 * smile
    edge = [(0, 9.2), (2.6, 9.1), (0.8 * side, 10.9 - 0.5 * smile), (side, end)]
    edge += [(0.65 * side, 12.6 - smile), (2.2, f.lip - 0.2), (0, f.lip - 0.5)]
    sketch.pair(_loop(*edge), _ink(f.beard))
    for x, y in ((1.2, 9.84), (2.9, 10.18), (4.6, 10.52)):
        sketch.pair(_leaf((x, y), (x + 0.9, y + 0.8), (x + 1.2, y + 2.1), (x + 0.4, y + 1.2)), dark)


def _eyes(f: _Face, sketch: _Sketch):
    a, u, x = f.a, f.u, 6.6
    smile, old, paint, woman = a["Smiling"], 1 - a["Young"], a["Heavy_Makeup"], 1 - a["Male"]
    high, deep = 2.25 - 0.25 * smile - 0.5 * old + 0.2 * woman, 1.55 - 0.6 * smile
    inner, outer = (x - 3.1, 0.4), (x + 3.4, -0.2 + 0.5 * old)
    if paint > 0:
        hue = _pick(SHADOWS, u["shadow"])
        sketch.pair(_leaf((x - 3.6, 0.2), (x + 0.3, -4.2), (x + 5.6, -1.8), (x, 1.4)), _ink(hue, 0.85 * paint))
        sketch.pair(_leaf((x - 2, 1.2), (x + 0.8, 2.5), (x + 5, -0.6), (x, 1.2)), _ink(hue, 0.6 * paint))
    crease = _ink(f.dark * 0.8, 0.8)
    sketch.pair(_leaf((x - 3.2, -1.2), (x, -high - 1.15), (x + 4.0, -0.9 + 0.6 * old), (x, -high - 0.7)), crease)
    sketch.pair(_leaf(inner, (x, -high), outer, (x, deep)), (246, 240, 234, 255))
    iris = _pick(EYES, u["eyes"])
    for s in (-1, 1):
        gaze = s * x + 1.2 * (u["gaze"] - 0.5) + 1.6 * f.turn
        sketch.add(_disc(gaze, -0.25, 1.8), _ink(iris * 0.55))
        sketch.add(_disc(gaze, -0.05, 1.4), _ink(iris * 1.15))
        sketch.add(_disc(gaze, -0.25, 0.9), (18, 12, 14, 255))
        sketch.add(_disc(gaze - 0.6, -0.9, 0.55), (255, 255, 255, 240))
    ink = _ink(_mix(np.float32([40, 24, 22]), np.float32([12, 8, 12]), paint))
    thick = 0.55 + 0.45 * woman + 0.6 * paint
    wing = outer[0] + 0.3 + woman + paint, outer[1] - 0.9 * woman - 0.9 * paint + 0.2
    sketch.pair(_leaf(inner, (x, -high - thick), wing, (x + 0.3, -high + 0.35)), ink)
    low = _ink(f.line, 0.6 + 0.3 * paint)
    sketch.pair(_leaf(inner, (x, deep - 0.15), outer, (x, deep + 0.3 + 0.25 * paint)), low)
    for k in (0.45, 0.75) if woman > 0.5 else ():  # lashes
        foot = np.array([x + 3.5 * k, -high * (1 - k * k) - thick * 0.5])
        sketch.pair(foot + np.array([(0, 0.3), (1.1, -1.5), (0.7, 0.4)]), ink)


def _eyebrows(f: _Face, sketch: _Sketch):
    """A woman's are arched, a man's flatter and lower; bushy ones are twice as thick, with single hairs."""
    a, x, bushy, woman, ink = f.a, 6.6, f.a["Bushy_Eyebrows"], 1 - f.a["Male"], _ink(f.brow)
    y = -4.7 - 0.7 * woman - 0.5 * (f.u["brow"] - 0.5) - 0.3 * a["Smiling"] + 0.6 * bushy
    arch, thick = 0.5 + 0.9 * woman, (0.95 + 0.35 * a["Male"] + 1.9 * bushy) * 0.6
    start, peak, inner = (x - 3.4 - 1.0 * bushy, y + 0.5), y - arch, y - 0.25 * arch
    sketch.pair(_leaf(start, (x + 0.9, peak - thick), (x + 4.9, y + 0.5), (x + 0.5, peak + thick)), ink)
    sketch.pair(_leaf(start, (x - 1.5, inner - 0.8 * thick), (x + 1.5, peak), (x - 1.5, inner + thick)), ink)
    for k in (-3.2, -2.1, -0.9, 0.4, 1.8, 3.2) if bushy > 0 else ():
        hair = np.array([(k - 0.5, thick * 0.5), (k + 0.5, -thick * 1.6), (k + 0.9, 0)])
        sketch.pair(hair + np.array([x, y - arch * 0.6]), _ink(f.brow, bushy))


def _hair(f: _Face):
    u, yes = f.u, f.yes
    if yes["Bald"]:
        return
    mask = f.mask(*_hair_loops(f), front=0.15, inks=(255, 0, 255))
    soft = mask.blur(2.2)
    f.blend(mask.at, 0.55 * mask.cast(soft) * f.head[mask.at], f.dark * 0.85)
    place = (_FALL if yes["Bangs"] else _SWEEP if f.long else _SPRAY)[mask.at] + (7 * u["strand_1"])
    fine = 0.16 * _wave(place * 2.7 + u["strand_2"])
    if yes["Wavy_Hair"]:
        place = place + 0.35 * _wave((_Y + 0.4 * _X)[mask.at] / 6.2)
    strand = (0.24 + 0.2 * yes["Wavy_Hair"]) * _wave(place) + fine
    hair, dark, bright = map(_field, (f.hair, f.hair_dark, f.hair_bright))
    hair = hair + np.maximum(strand, 0) * (bright - hair) + np.maximum(-strand, 0) * 1.3 * (dark - hair)
    f.shade(mask, soft, (hair, f.hair_dark, f.hair_bright))


def _hair_loops(f: _Face) -> list[np.ndarray]:
    """The outline of the hair, the hole for the face, and bangs."""
    u, w, wavy, low = f.u, f.wide, f.yes["Wavy_Hair"], f.low
    v, part = 2.0 + 1.4 * u["volume"], 8 * (u["part"] - 0.5)
    if f.long:
        crown = [(0, -19.4 - v), (7.2, -18.0 - v), (12.4, -13.4 - 0.6 * v), (w + 0.8 * v, -5.5)]
        fall = [(w + v + 0.4, 2), (w + v + 1.2, 10), (w + v + 1.0, low - 5), (w - 1, low), (0, low + 1)]
        side = [(8.0, -11.8), (w - 1.9, -5), (w - 0.9, 4), (w - 1.8, 10), (8.6, 18), (9, low), (9, 60)]
    else:
        ear, crown = 4 - 2.6 * f.a["Male"], [(0, -19.0 - v), (7.0, -17.8 - v), (12.0, -13.4 - 0.5 * v)]
        fall = [(w + 1.3, -7), (w + 1.4, -2), (w + 0.6, ear), (w - 2, ear + 1.5), (0, -6)]
        side = [(7.8, -13.0), (w - 2.2, -8.5), (w - 1.2, -2), (w - 1.0, ear + 3), (4, 25)]
    outer = _symmetric(*crown, *fall)
    loops = [_wavy(outer, 1.4, 0.155, u["curl"]) if wavy else outer]
    loops.append(_loop((part, -14.6), *side, *((-x, y) for x, y in side[::-1])))
    if f.yes["Bangs"]:
        swept = 0.9 * (u["part"] - 0.5)
        edge = [(w - 1.2, -4.0), (w - 3.2, -7.0 - swept), (6.5, -7.6), (3.2, -8.4), (0, -7.4), (-3.2, -8.4)]
        edge += [(-6.5, -7.6), (3.2 - w, -7.0 + swept), (1.2 - w, -4.0)]
        fringe = _loop(*edge, (-w - 0.3, -9), (-7, -16), (7, -16), (w + 0.3, -9))
        loops.append(_wavy(fringe, 0.8, 0.18, u["curl"]) if wavy else fringe)
    return loops


def _hat(f: _Face):
    u, w, y = f.u, f.wide, -11.4
    if not f.yes["Wearing_Hat"]:
        return
    hue = _pick(HATS, u["hat_colour"])
    deep, bright = hue * 0.55, _mix(hue, np.float32([255, 248, 235]), 0.45)
    kind = _pick(("knit", "cap", "felt", "sun"), u["hat"])
    if kind == "knit":
        brim = _symmetric((0, y - 4.0), (w + 1.6, y - 3.4), (w + 3.2, y - 0.6), (w + 1.6, y + 1.4), (0, y + 0.9))
    else:
        # How far it reaches beyond the head, where it ends, and its upper and lower middle.
        shapes = {"cap": (0.5, 0.6, -2.8, 2.2), "felt": (8, -0.8, -2.6, 2.0), "sun": (12, 1.6, -4.2, 2.4)}
        far, end, top, low = shapes[kind]
        brim = _leaf((-w - far, y + end), (0, y + top), (w + far, y + end), (0, y + low))
    edge = f.mask(brim, front=0.3)
    f.blend(edge.at, 0.4 * edge.cast(edge.blur(1.2)), np.float32([40, 24, 28]))
    dome = f.mask(_symmetric((0, y - 14.2), (8.0, y - 12.8), (w + 0.6, y - 6.5), (w + 2.0, y), (0, y + 0.6)), front=0.1)
    f.shade(dome, dome.blur(3), (hue, deep, bright))
    if kind in ("felt", "sun"):
        sash = f.mask(_symmetric((0, y - 4.4), (w + 1.4, y - 3.8), (w + 2.0, y), (0, y)))
        f.blend(sash.at, sash.cover * dome.full[sash.at], _mix(hue, np.float32([30, 22, 26]), 0.6))
    colour = _field(hue) * (0.85 if kind == "cap" else 1)
    if kind == "knit":
        colour = colour * (1 - 0.16 * (1 + _wave(_X[edge.at] * 0.3)))
    f.shade(edge, edge.blur(1.6), (colour, deep, bright))


def _glasses(f: _Face, sketch: _Sketch):
    u, w = f.u, f.wide
    if not f.yes["Eyeglasses"]:
        return
    ink, rim = _ink(_pick(FRAMES, u["frame_colour"])), 1.0 + 0.35 * u["rim"]
    kind = _pick(("round", "square", "cat"), u["frame"])
    square = [(-4.7, -3.2), (0, -3.6), (4.7, -3.2), (5.0, 0), (4.5, 3.4), (0, 3.8), (-4.5, 3.4), (-5.0, 0)]
    cat = [(-4.4, -2.4), (0, -3.4), (5.4, -4.0), (5.0, 1), (2.6, 4.0), (-2.4, 4.0), (-4.6, 1.2)]
    loop = {"round": _disc(0, 0, 4.9, 4.4), "square": _loop(*square), "cat": _loop(*cat)}[kind]
    glint = np.array([(-2.6, 2.9), (0.2, -2.9), (1.5, -2.9), (-1.3, 2.9)])
    for s in (-1, 1):
        x = 6.7 * s
        lens = loop * (s, 1) + (x, 0.8)
        sketch.add(lens, (225, 240, 255, 34))
        sketch.add(glint + np.array([x, 0.8]), (255, 255, 255, 46))
        sketch.add(_ring(lens, (x, 0.8), rim), ink)
        sketch.add([(x + 4.8 * s, -1.2), (s * (w - 0.2), -1.0)], ink, 0.6, rim)
    sketch.add([(-2.2, -0.4), (-0.8, -1.1), (0.8, -1.1), (2.2, -0.4)], ink, 1, rim)


def _earrings(f: _Face, sketch: _Sketch):
    if not f.yes["Wearing_Earrings"]:
        return
    dark, white, metal = (44, 26, 26, 235), (255, 255, 255, 255), _ink(_pick(METALS, f.u["earring_colour"]))
    kind, y = _pick(("hoop", "drop", "ball"), f.u["earring"]), 6.4
    for x in (-f.wide - 1.0, f.wide + 1.0):
        if kind == "hoop":
            for r, width, colour in ((3.0, 2.0, dark), (2.6, 1.15, metal)):
                sketch.add(_ring(_disc(x, y + 2.8, r, r + 0.4), (x, y + 2.8), width), colour, 0)
        elif kind == "drop":
            drop = np.array([(0, -3.0), (1.5, 0.6), (0, 2.4), (-1.5, 0.6)])
            for size, colour in ((1.3, dark), (1, metal)):
                sketch.add(_spline(4) @ drop * size + (x, y + 3), colour, 0)
            sketch.add(_disc(x - 0.4, y + 3.2, 0.55), white, 0)
        else:
            for r, low in ((1.2, y), (1.9, y + 3)):
                sketch.add(_disc(x, low, r + 0.5), dark, 0)
                sketch.add(_disc(x, low, r), metal, 0)
                sketch.add(_disc(x - 0.4, low - 0.5, 0.5), white, 0)
