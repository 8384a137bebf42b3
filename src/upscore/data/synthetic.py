"""Generated scenes of shapes, with class maps, objects, geometric labels and depth.

H W pixels. The layers of a scene are flat shapes, numbered from 1 in the order in which they are drawn. Depth does not
depend on the class of a shape. The height of a shape above its background determines the width of its shadow.
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
"""The background; shapes on the background; shapes on other shapes."""

MIN_OVERLAP = 0.1
"""A shape lies on another if it covers it with at least this share of its pixels."""

EXTENT = 2.4
"""Length of the shorter side of a scene in metres."""

NOISE = 1.2e-3
"""Standard deviation of the depth at a distance of 1 m; it grows with the square of the distance, as for structured
light."""

# Only PNG files: decoders of JPEG differ in the last bit, and scenes must be the same on every machine.
BACKGROUNDS = ("astronaut", "camera", "chelsea", "coffee", "ihc", "motorcycle_left")
"""Names of the images of scikit-image that backgrounds are cut from."""
TEXTURES = ("brick", "chelsea", "coffee", "grass", "gravel", "ihc")

"""Names of the images of scikit-image that the surfaces of shapes are cut from."""

MIN_SIDE, MAX_SIDE = 32, 4096
"""Range of the height and the width of a scene in pixels."""
MIN_OBJECTS, MAX_OBJECTS = 2, 7
"""Range of the number of shapes."""


Outline = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
"""`outline(x, y, radius, thickness)` returns the approximate signed distance of each pixel from the outline of a shape.

`x` and `y`, relative to the centre, broadcast to (h, w). Distances are in pixels, (h, w), negative inside. The outline
is within radius + thickness of the centre."""


def _disk(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _ring(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.76 * radius) - 0.24 * radius


def _square(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - math.sqrt(0.5) * radius


def _triangle(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.max(_along_normals(x, y, 3), axis=0) - 0.5 * radius


def _star(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    # A point is inside a pentagram if it is outside at most one of its five lines: take the second largest distance.
    return np.partition(_along_normals(x, y, 5), 3, axis=0)[3] - math.cos(0.4 * math.pi) * radius


def _bar(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.maximum(np.abs(x) - radius, np.abs(y) - 0.5 * thickness)


def _cross(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    return np.minimum(_bar(x, y, radius, thickness), _bar(y, x, radius, thickness))


def _along_normals(x: np.ndarray, y: np.ndarray, sides: int) -> np.ndarray:
    """Return the coordinates along the normals of the sides of a regular polygon, (sides, h, w)."""
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


class SceneDataset:
    """Data set of generated scenes with 2 to 7 shapes each, drawn on access, the same on every machine.

    A scene depends only on the seed, its index and the size, so a longer data set begins with the shorter one. Class 0
    is the background; no pixel is void. An object is the visible part of a shape; hidden shapes are left out. The
    label of an object is its class without the background, so class 1 has the label 0. Samples also have a geometric
    map (`GEOMETRIC_CLASSES`) and depth in metres.

    Args:
        length: number of scenes.
        seed: seed of the data set, 0 or more.
        size: (height, width), 32 to 4096 pixels each.

    Raises:
        UserError: a negative length or seed, or a size out of range.
    """

    def __init__(self, length: int, *, seed: int = 0, size: tuple[int, int] = (160, 160)) -> None:
        if length < 0:
            raise UserError(f"length={length}: the number of scenes must be 0 or more.")
        if seed < 0:
            raise UserError(f"seed={seed}: the seed of scenes must be 0 or more.")
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
        # a separate generator, so that the image and the classes do not depend on the depth
        depth = depth_map(np.random.default_rng([self._seed, index, 1]), canvas.id_map, canvas.layers)
        return Sample(
            name=f"scene_{index:05d}",
            image=torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            class_map=torch.from_numpy(canvas.class_map),
            objects=ObjectAnnotations.from_id_map(torch.from_numpy(id_map), _labels(id_map, canvas.class_map)),
            geometric_map=torch.from_numpy(geometric_map(canvas.id_map, canvas.layers)),
            depth=torch.from_numpy(depth)[None],
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A shape in a scene."""

    x: float
    """x coordinate of the centre in pixels."""
    y: float
    """y coordinate of the centre in pixels."""
    radius: float
    """Radius in pixels."""
    height: float
    """Distance from the surface below in pixels."""
    covered: np.ndarray
    """Number of pixels that the shape covers of the background (index 0) and of each earlier layer."""

    @property
    def below(self) -> list[int]:
        """The numbers of the layers that the shape lies on; empty if it lies on the background."""
        return [int(n) for n in np.flatnonzero(self.covered >= MIN_OVERLAP * max(1, self.covered.sum())) if n > 0]


@dataclass(slots=True)
class _Canvas:
    """A scene that is being drawn."""

    pixels: np.ndarray
    """(H, W, 3) float32, RGB, about 0 to 255."""
    class_map: np.ndarray
    """(H, W) uint8."""
    id_map: np.ndarray
    """(H, W) int32, the number of the topmost layer, 0 for the background."""
    light: tuple[float, float]
    """(x, y) of the unit vector towards the light."""
    layers: list[Layer] = field(default_factory=list)
    """The shapes drawn so far, in the order of their numbers."""


def _scene(rng: Generator, height: int, width: int) -> _Canvas:
    """Draw a random scene."""
    angle = rng.uniform(0, 2 * math.pi)
    canvas = _Canvas(
        pixels=_background(rng, height, width),
        class_map=np.zeros((height, width), np.uint8),
        id_map=np.zeros((height, width), np.int32),
        light=(math.cos(angle), math.sin(angle)),
    )
    count = rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)
    # Radii are log-uniform up to half of the scene; large shapes are drawn first, so that few shapes are hidden.
    radii = sorted((0.065 * min(height, width) * 4**u for u in rng.random(count)), reverse=True)
    for number, radius in enumerate(radii, start=1):
        _draw(rng, canvas, number, radius)
    return canvas


def _draw(rng: Generator, canvas: _Canvas, number: int, radius: float) -> None:
    """Draw a random shape and its shadow on the canvas."""
    height, width = canvas.class_map.shape
    unit = min(height, width) / 160
    label = int(rng.integers(1, len(SHAPES) + 1))
    outline = list(SHAPES.values())[label - 1]
    thickness = max(1.5, unit * rng.uniform(2.2, 4.8))
    above = unit * rng.uniform(2, 5)
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return outline(cos * x + sin * y, cos * y - sin * x, radius, thickness)

    reach = radius + thickness + 2 * above
    centre_y = height * rng.uniform(0.05, 0.95)
    rows, y = _span(centre_y, reach, height)
    centre_x = width * rng.uniform(0.05, 0.95)
    columns, x = _span(centre_x, reach, width)
    x, y = x[None, :], y[:, None]
    light_x, light_y = canvas.light

    pixels = canvas.pixels[rows, columns]
    shadow = _coverage(distance(x + above * light_x, y + above * light_y), blur=2 * above)
    pixels *= 1 - 0.55 * shadow[..., None]

    inside = distance(x, y)
    bevel = np.clip(1 + inside / max(1, 0.08 * radius), 0, 1)
    shading = (1 + 0.25 * (x * light_x + y * light_y) / radius) * (1 - 0.3 * bevel)
    fill = _texture(rng, *inside.shape, zoom=1 / unit) * shading[..., None]
    pixels += _coverage(inside, blur=1)[..., None] * (fill - pixels)

    covered = np.bincount(canvas.id_map[rows, columns][inside < 0], minlength=1)
    canvas.layers.append(Layer(centre_x, centre_y, radius, above, covered))
    # A pixel belongs to the object if its centre does; only colours are blended at the outline.
    canvas.class_map[rows, columns][inside < 0] = label
    canvas.id_map[rows, columns][inside < 0] = number


def _span(centre: float, reach: float, side: int) -> tuple[slice, np.ndarray]:
    """Return the pixels of an axis within `reach` of `centre`, and their coordinates relative to it."""
    start, stop = max(0, math.floor(centre - reach)), min(side, math.ceil(centre + reach))
    return slice(start, stop), np.arange(start, stop) + 0.5 - centre


def _coverage(distance: np.ndarray, blur: float) -> np.ndarray:
    """Return 1 inside and 0 outside, with a ramp of `blur` pixels across the outline."""
    return np.clip(0.5 - distance / blur, 0, 1)


def _renumbered(id_map: np.ndarray) -> np.ndarray:
    """Return the id map with consecutive object numbers from 1."""
    numbers = np.unique(id_map[id_map > 0])
    table = np.zeros(MAX_OBJECTS + 1, np.int32)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return table[id_map]


def _labels(id_map: np.ndarray, class_map: np.ndarray) -> Tensor:
    """Return the class indices of objects 1 to K, without the background, (K,) int64."""
    labels = np.zeros(id_map.max(), np.int64)
    inside = id_map > 0
    labels[id_map[inside] - 1] = class_map[inside].astype(np.int64) - 1
    return torch.from_numpy(labels)


def _background(rng: Generator, height: int, width: int) -> np.ndarray:
    """Return a random part of a random image, (height, width, 3) float32."""
    source = _source_image(BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
    largest_zoom = min(source.height / height, source.width / width)
    return _cut(rng, source, height, width, largest_zoom * rng.uniform(0.5, 1)) * rng.uniform(0.65, 1.1)


def _texture(rng: Generator, height: int, width: int, zoom: float) -> np.ndarray:
    """Return a random texture in a random colour, (height, width, 3)."""
    source = _source_image(TEXTURES[rng.integers(len(TEXTURES))])
    pixels = _cut(rng, source, height, width, zoom * rng.uniform(0.8, 2.5))
    # brightened, so that a thin shape with a dark texture is visible on a dark background
    return (40 + 0.84 * pixels) * colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.85), rng.uniform(1.1, 1.9))


def _cut(rng: Generator, source: Image.Image, height: int, width: int, zoom: float) -> np.ndarray:
    """Return a random part of an image, (height, width, 3) float32; a pixel covers at most `zoom` source pixels."""
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


def geometric_map(id_map: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Return indices of `GEOMETRIC_CLASSES`, (H, W) uint8.

    Args:
        id_map: (H, W), the number of the topmost layer.
        layers: the layers of the scene.
    """
    return np.array([0, *(2 if layer.below else 1 for layer in layers)], np.uint8)[id_map]


def depth_map(rng: Generator, id_map: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Return the distance from the camera in metres, (H, W) float32, with noise, and NaN where it is unknown.

    The background is a slanted plane. Each layer is a plane with a random slope that lies above the layers below it.
    """
    height, width = id_map.shape
    pixel = EXTENT / min(height, width)
    # height of the plane of each layer above the background: offset + across * x + down * y
    offset, across, down = (np.zeros(len(layers) + 1) for _ in range(3))
    tops = np.zeros(len(layers) + 1)
    slopes = rng.uniform(-0.1, 0.1, (len(layers), 2))
    for number, (layer, (slope_x, slope_y)) in enumerate(zip(layers, slopes, strict=True), start=1):
        lift = np.hypot(slope_x, slope_y) * layer.radius
        centre = tops[layer.below].max(initial=0) + pixel * (layer.height + lift)
        tops[number] = centre + pixel * lift
        offset[number] = centre - pixel * (slope_x * layer.x + slope_y * layer.y)
        across[number], down[number] = pixel * slope_x, pixel * slope_y

    distance, slant = rng.uniform(1.8, 2.4), rng.uniform(-0.1, 0.1, 2)
    distance -= pixel * (slant[0] * width + slant[1] * height) / 2  # the drawn distance is that of the image centre
    offset, across, down = distance - offset, pixel * slant[0] - across, pixel * slant[1] - down
    x, y = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32)[:, None] + 0.5
    constant, per_column, per_row = (plane.astype(np.float32).take(id_map) for plane in (offset, across, down))
    depth = constant + per_column * x + per_row * y
    depth += NOISE * depth**2 * rng.standard_normal(depth.shape, np.float32)
    _remove_pixels(rng, depth)
    return depth


def _remove_pixels(rng: Generator, depth: np.ndarray) -> None:
    """Set random disks and single pixels to NaN, as a depth camera fails there."""
    height, width = depth.shape
    unit = min(height, width) / 160
    for _ in range(rng.poisson(5)):
        centre_y, centre_x = rng.random(2) * (height, width)
        radius = unit * rng.uniform(1.5, 6)
        top, left = max(0, int(centre_y - radius)), max(0, int(centre_x - radius))
        window = depth[top : int(centre_y + radius) + 1, left : int(centre_x + radius) + 1]
        y, x = np.ogrid[: window.shape[0], : window.shape[1]]
        window[(y + top + 0.5 - centre_y) ** 2 + (x + left + 0.5 - centre_x) ** 2 < radius**2] = np.nan
    depth.ravel()[rng.integers(depth.size, size=depth.size // 200)] = np.nan
