"""How the shapes of a generated scene lie in space, as labels and as a depth camera above them would see it.

H W pixels, P plates: flat shapes, numbered from 1 in the order in which they were laid down. Heights are in metres.

Nothing of it depends on a shape's class. How far a shape stands off what it lies on is in its shadow too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

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
