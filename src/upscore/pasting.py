"""Masks in RoI form become pixels of the photo; nothing is computed outside the box.

m: the side of a mask, whose cells share out its box; H, W pixels of the photo; h, w those of the crop that is returned.

Either rule reads the mask bilinearly, as zero outside its cells. A bilinear sample is a weight per row times a weight
per column, so a crop is the product of three small matrices.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

Pasting = Literal["exact", "legacy"]
"""exact: the mask is sampled at the photo's pixel centres (detectron2); legacy: it is padded by a cell and resized to
whole pixels (Detectron, torchvision)."""

BLOCK = 1 << 20
"""Probabilities that exist at the same time while a crop is cut at its threshold."""


def paste(
    mask: Tensor, box: Tensor, size: tuple[int, int], pasting: Pasting, threshold: float = 0.5
) -> tuple[np.ndarray, int, int]:
    """The pixels of an object: a crop (h, w) bool of the photo, and the row and the column of its first pixel.

    Args:
        mask: (m, m) float32, 0 to 1.
        box: (4,) float32, (x1, y1, x2, y2), which may leave the photo.
        size: (H, W).
        threshold: pixels of at least this probability are the object's; over 0.
    """
    (rows, top), (columns, left) = _weights(box, mask.shape[-1], size, pasting)
    cells = mask.numpy() @ columns.T
    crop = np.empty((len(rows), len(columns)), bool)
    step = max(1, BLOCK // max(1, len(columns)))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        np.greater_equal(rows[block] @ cells, np.float32(threshold), out=crop[block])
    return crop, top, left


def paste_soft(mask: Tensor, box: Tensor, size: tuple[int, int], pasting: Pasting) -> tuple[np.ndarray, int, int]:
    """As `paste` before the threshold: a crop (h, w) float32, which holds every pixel that is not zero."""
    (rows, top), (columns, left) = _weights(box, mask.shape[-1], size, pasting)
    return rows @ (mask.numpy() @ columns.T), top, left


def _weights(
    box: Tensor, side: int, size: tuple[int, int], pasting: Pasting
) -> tuple[tuple[np.ndarray, int], tuple[np.ndarray, int]]:
    """What each cell adds to each row (h, m), and the first row; the same for the columns."""
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    axis = _exact if pasting == "exact" else _legacy
    return axis(y1, y2, side, height), axis(x1, x2, side, width)


def _exact(low: float, high: float, side: int, length: int) -> tuple[np.ndarray, int]:
    """Pixel centres x + 0.5 are mapped linearly into the box; its outer cells reach half a cell beyond it."""
    if not high > low:
        return np.zeros((0, side), np.float32), 0
    cell = (high - low) / side
    first, stop = np.clip([np.ceil(low - cell / 2 - 0.5), np.floor(high + cell / 2 - 0.5) + 1], 0, length).astype(int)
    position = (np.arange(first, stop) + 0.5 - low) / cell - 0.5
    return _triangle(position, side), int(first)


def _legacy(low: float, high: float, side: int, length: int) -> tuple[np.ndarray, int]:
    """A cell of zeros is put around the mask, the box grows with it and is cut to integers that it includes.

    All in float32, as torchvision computes it: the integers depend on its rounding.
    """
    ends = np.array([low, high], np.float32)
    half, centre = (ends[1:] - ends[:1]) * np.float32(0.5), (ends[1:] + ends[:1]) * np.float32(0.5)
    half = half * np.float32((side + 2) / side)
    low_pixel, high_pixel = int((centre - half).item()), int((centre + half).item())
    pixels = max(high_pixel - low_pixel + 1, 1)
    first, stop = (min(max(pixel, 0), length) for pixel in (low_pixel, low_pixel + pixels))
    step = np.float32(side + 2) / np.float32(pixels)
    position = (np.arange(first - low_pixel, stop - low_pixel, dtype=np.float32) + np.float32(0.5)) * step
    return _triangle(position - np.float32(1.5), side), first


def _triangle(position: np.ndarray, side: int) -> np.ndarray:
    """Bilinear weights (pixels, m) of the cells around positions, of which a cell's centre is its index."""
    distance = np.abs(position[:, None] - np.arange(side, dtype=position.dtype))
    return np.maximum(0, 1 - distance).astype(np.float32)
