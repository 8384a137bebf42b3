"""The shapes of generated scenes, each by the signed distance of pixels from its outline.

h w pixels of the window around a shape; x runs to the right and y down, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

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
