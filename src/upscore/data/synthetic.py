"""Generated scenes of shapes, with class maps, objects, geometric labels and depth.

H W pixels, P plates: flat shapes, numbered from 1 in the order in which they are drawn. Heights are in metres. Depth
does not depend on a shape's class; the height of a shape above its background also shows in its shadow.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.data.samples import Sample
from upscore.errors import UserError

GEOMETRIC_CLASSES = ["ground", "lying", "stacked"]
"""The background; a shape that rests on it alone; one that rests on another shape too."""

RESTS = 0.1
"""Share of its pixels with which a shape has to cover another in order to rest on it."""

EXTENT = 2.4
"""Of the shorter side of a scene."""

NOISE = 1.2e-3
"""Standard deviation of the depth at a distance of 1; it grows with the distance's square, as of structured light."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A shape on its way into a scene."""

    x: float
    """Of its middle, as `y`, in pixels."""
    y: float
    radius: float
    rise: float
    """How far it stands off what it lies on, in pixels."""
    covers: np.ndarray
    """Pixels that it hides of the ground (0) and of each earlier plate."""

    @property
    def rests_on(self) -> list[int]:
        """The numbers of the plates below; empty if that is the ground."""
        return [int(n) for n in np.flatnonzero(self.covers >= RESTS * max(1, self.covers.sum())) if n > 0]


def geometric_map(id_map: np.ndarray, plates: Sequence[Layer]) -> np.ndarray:
    """(H, W) uint8 indices of `GEOMETRIC_CLASSES`, out of the number of the topmost plate of each pixel."""
    return np.array([0, *(2 if plate.rests_on else 1 for plate in plates)], np.uint8)[id_map]


def depth_map(rng: Generator, id_map: np.ndarray, plates: Sequence[Layer]) -> np.ndarray:
    """(H, W) float32 metres from the camera, with noise, and NaN where it fails.

    The ground is slanted; each plate is tilted against it, and clear of what it rests on.
    """
    height, width = id_map.shape
    pixel = EXTENT / min(height, width)
    offset, across, down = (np.zeros(len(plates) + 1) for _ in range(3))  # of each plate's plane above the ground
    tops = np.zeros(len(plates) + 1)
    slopes = rng.uniform(-0.1, 0.1, (len(plates), 2))
    for number, (plate, (slope_x, slope_y)) in enumerate(zip(plates, slopes, strict=True), start=1):
        lift = np.hypot(slope_x, slope_y) * plate.radius
        middle = tops[plate.rests_on].max(initial=0) + pixel * (plate.rise + lift)
        tops[number] = middle + pixel * lift
        offset[number] = middle - pixel * (slope_x * plate.x + slope_y * plate.y)
        across[number], down[number] = pixel * slope_x, pixel * slope_y

    distance, slant = rng.uniform(1.8, 2.4), rng.uniform(-0.1, 0.1, 2)
    distance -= pixel * (slant[0] * width + slant[1] * height) / 2  # it is that of the middle
    offset, across, down = distance - offset, pixel * slant[0] - across, pixel * slant[1] - down
    x, y = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32)[:, None] + 0.5
    constant, per_column, per_row = (plane.astype(np.float32).take(id_map) for plane in (offset, across, down))
    depth = constant + per_column * x + per_row * y
    depth += NOISE * depth**2 * rng.standard_normal(depth.shape, np.float32)
    _punch(rng, depth)
    return depth


def _punch(rng: Generator, depth: np.ndarray) -> None:
    """Holes where the camera sees nothing: some round ones, and single pixels."""
    height, width = depth.shape
    unit = min(height, width) / 160
    for _ in range(rng.poisson(5)):
        middle_y, middle_x = rng.random(2) * (height, width)
        radius = unit * rng.uniform(1.5, 6)
        top, left = max(0, int(middle_y - radius)), max(0, int(middle_x - radius))
        window = depth[top : int(middle_y + radius) + 1, left : int(middle_x + radius) + 1]
        y, x = np.ogrid[: window.shape[0], : window.shape[1]]
        window[(y + top + 0.5 - middle_y) ** 2 + (x + left + 0.5 - middle_x) ** 2 < radius**2] = np.nan
    depth.ravel()[rng.integers(depth.size, size=depth.size // 200)] = np.nan


Outline = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
"""(x, y, radius, thickness) -> (h, w), about how far each pixel is from the outline: negative inside.

x and y, which broadcast to (h, w), are relative to the middle; the outline is within radius + thickness of it."""


def _disk(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _ring(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.76 * radius) - 0.24 * radius


def _square(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - math.sqrt(0.5) * radius


def _triangle(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.max(_along_normals(x, y, 3), axis=0) - 0.5 * radius


def _star(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    # A pentagram is what lies outside at most one of its five lines: the second largest distance decides.
    return np.partition(_along_normals(x, y, 5), 3, axis=0)[3] - math.cos(0.4 * math.pi) * radius


def _bar(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.maximum(np.abs(x) - radius, np.abs(y) - 0.5 * thickness)


def _cross(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.minimum(_bar(x, y, radius, thickness), _bar(y, x, radius, thickness))


def _along_normals(x: np.ndarray, y: np.ndarray, sides: int) -> np.ndarray:
    """Each pixel's coordinate along the normals of a regular polygon's sides: (sides, h, w)."""
    angles = [2 * math.pi * side / sides for side in range(sides)]
    return np.stack([x * math.cos(angle) + y * math.sin(angle) for angle in angles])


SHAPES: dict[str, Outline] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "bar": _bar,
    "cross": _cross,
}


# PNG only: decoders of JPEG may differ in the last bit, and a scene has the same pixels everywhere.
BACKGROUNDS = ("astronaut", "camera", "chelsea", "coffee", "ihc", "motorcycle_left")
TEXTURES = ("brick", "chelsea", "coffee", "grass", "gravel", "ihc")

MIN_SIDE, MAX_SIDE = 32, 4096
MIN_OBJECTS, MAX_OBJECTS = 2, 7


class SceneDataset:
    """`length` scenes of 2 to 7 objects each, drawn when they are asked for and the same on every machine.

    A scene follows from the seed, its index and `size` (height, width; 32 to 4096 pixels) alone, so a longer set begins
    with the shorter one. Class 0 is the background, and no pixel is void. An object is the visible part of one shape;
    a wholly hidden one has no number. Objects' labels do not count the background: they are the class less 1. How the
    shapes lie in space is in a second label map and in the depth in metres (see `upscore.data.synthetic`).

    Raises:
        UserError: a negative length or seed, or a size out of range.
    """

    def __init__(self, length: int, *, seed: int = 0, size: tuple[int, int] = (160, 160)) -> None:
        if length < 0:
            raise UserError(f"length={length}: a set of scenes cannot have fewer than 0.")
        if seed < 0:
            raise UserError(f"seed={seed}: the seed of a set of scenes must be 0 or more.")
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
            raise UserError(f"size={size}: each side of a scene must be from {MIN_SIDE} to {MAX_SIDE} pixels.")
        self.classes = ["background", *SHAPES]
        self.geometric_classes = GEOMETRIC_CLASSES
        self.depth_channels = 1
        self._length = length
        self._seed = seed
        self._size = size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        index = range(self._length)[index]
        canvas = _scene(np.random.default_rng([self._seed, index]), *self._size)
        pixels = np.rint(np.clip(canvas.pixels, 0, 255)).astype(np.uint8)
        id_map = _renumbered(canvas.id_map)
        # from a generator of its own, so that image and classes don't depend on it
        depth = depth_map(np.random.default_rng([self._seed, index, 1]), canvas.id_map, canvas.plates)
        return Sample(
            name=f"scene_{index:05d}",
            image=torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            class_map=torch.from_numpy(canvas.class_map),
            objects=ObjectAnnotations.from_id_map(torch.from_numpy(id_map), _labels(id_map, canvas.class_map)),
            geometric_map=torch.from_numpy(geometric_map(canvas.id_map, canvas.plates)),
            depth=torch.from_numpy(depth)[None],
        )


@dataclass(slots=True)
class _Canvas:
    pixels: np.ndarray
    """(H, W, 3) float32, RGB, about 0 to 255."""
    class_map: np.ndarray
    """(H, W) uint8."""
    id_map: np.ndarray
    """(H, W) int32, the number of the topmost object."""
    light: tuple[float, float]
    """(x, y) of the unit vector towards the light."""
    plates: list[Layer] = field(default_factory=list)
    """The shapes so far, in the order of their numbers."""


def _scene(rng: Generator, height: int, width: int) -> _Canvas:
    angle = rng.uniform(0, 2 * math.pi)
    canvas = _Canvas(
        pixels=_background(rng, height, width),
        class_map=np.zeros((height, width), np.uint8),
        id_map=np.zeros((height, width), np.int32),
        light=(math.cos(angle), math.sin(angle)),
    )
    count = rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)
    # Log-uniform up to half of the scene, and the large ones below the small ones, so that few are lost from sight.
    radii = sorted((0.065 * min(height, width) * 4**u for u in rng.random(count)), reverse=True)
    for number, radius in enumerate(radii, start=1):
        _draw(rng, canvas, number, radius)
    return canvas


def _draw(rng: Generator, canvas: _Canvas, number: int, radius: float) -> None:
    """Lay a random shape and its shadow over what is there."""
    height, width = canvas.class_map.shape
    unit = min(height, width) / 160
    label = int(rng.integers(1, len(SHAPES) + 1))
    outline = list(SHAPES.values())[label - 1]
    thickness = max(1.5, unit * rng.uniform(2.2, 4.8))
    depth = unit * rng.uniform(2, 5)
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return outline(cos * x + sin * y, cos * y - sin * x, radius, thickness)

    reach = radius + thickness + 2 * depth
    middle_y = height * rng.uniform(0.05, 0.95)
    rows, y = _span(middle_y, reach, height)
    middle_x = width * rng.uniform(0.05, 0.95)
    columns, x = _span(middle_x, reach, width)
    x, y = x[None, :], y[:, None]
    light_x, light_y = canvas.light

    pixels = canvas.pixels[rows, columns]
    shadow = _coverage(distance(x + depth * light_x, y + depth * light_y), blur=2 * depth)
    pixels *= 1 - 0.55 * shadow[..., None]

    inside = distance(x, y)
    bevel = np.clip(1 + inside / max(1, 0.08 * radius), 0, 1)
    shading = (1 + 0.25 * (x * light_x + y * light_y) / radius) * (1 - 0.3 * bevel)
    fill = _texture(rng, *inside.shape, zoom=1 / unit) * shading[..., None]
    pixels += _coverage(inside, blur=1)[..., None] * (fill - pixels)

    covers = np.bincount(canvas.id_map[rows, columns][inside < 0], minlength=1)
    canvas.plates.append(Layer(middle_x, middle_y, radius, depth, covers))
    # A pixel belongs to the object if its centre does; only the colours are blended at the outline.
    canvas.class_map[rows, columns][inside < 0] = label
    canvas.id_map[rows, columns][inside < 0] = number


def _span(middle: float, reach: float, side: int) -> tuple[slice, np.ndarray]:
    """The pixels of one axis that are within reach of the middle, and their centres' coordinates relative to it."""
    start, stop = max(0, math.floor(middle - reach)), min(side, math.ceil(middle + reach))
    return slice(start, stop), np.arange(start, stop) + 0.5 - middle


def _coverage(distance: np.ndarray, blur: float) -> np.ndarray:
    """1 inside and 0 outside, with a ramp of `blur` pixels across the outline."""
    return np.clip(0.5 - distance / blur, 0, 1)


def _renumbered(id_map: np.ndarray) -> np.ndarray:
    """The same objects under consecutive numbers from 1."""
    numbers = np.unique(id_map[id_map > 0])
    table = np.zeros(MAX_OBJECTS + 1, np.int32)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return table[id_map]


def _labels(id_map: np.ndarray, class_map: np.ndarray) -> Tensor:
    """(K,) the classes of objects 1 to K, without the background's."""
    labels = np.zeros(id_map.max(), np.int64)
    inside = id_map > 0
    labels[id_map[inside] - 1] = class_map[inside].astype(np.int64) - 1
    return torch.from_numpy(labels)


def _background(rng: Generator, height: int, width: int) -> np.ndarray:
    source = _source_image(BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
    whole = min(source.height / height, source.width / width)
    return _cut(rng, source, height, width, whole * rng.uniform(0.5, 1)) * rng.uniform(0.65, 1.1)


def _texture(rng: Generator, height: int, width: int, zoom: float) -> np.ndarray:
    source = _source_image(TEXTURES[rng.integers(len(TEXTURES))])
    pixels = _cut(rng, source, height, width, zoom * rng.uniform(0.8, 2.5))
    # Lifted, so that a thin piece of a dark image can still be seen on another.
    return (40 + 0.84 * pixels) * colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.85), rng.uniform(1.1, 1.9))


def _cut(rng: Generator, source: Image.Image, height: int, width: int, zoom: float) -> np.ndarray:
    """A random piece of the image, (height, width, 3) float32; each pixel spans at most `zoom` of the image's."""
    zoom = min(zoom, source.height / height, source.width / width)
    left = rng.random() * (source.width - zoom * width)
    top = rng.random() * (source.height - zoom * height)
    box = (left, top, min(source.width, left + zoom * width), min(source.height, top + zoom * height))
    pixels = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box)).astype(np.float32)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


@cache
def _source_image(name: str) -> Image.Image:
    with files("skimage").joinpath("data", f"{name}.png").open("rb") as file:
        return Image.open(file).convert("RGB")
