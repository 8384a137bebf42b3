"""Pasting: masks in RoI form become pixels of the image; nothing is computed outside the boxes.

N objects; m: the side of a mask, whose m x m cells divide its box; H W pixels of the image; h w those of an object's
crop.

Both rules sample the mask bilinearly, as zero outside its cells. A bilinear sample is a weight per row times a weight
per column, so a crop is the product of three small matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

MaskPaste = Literal["exact", "legacy"]
"""exact: the mask is sampled at the image's pixel centres (detectron2); legacy: it is padded by one cell and resized to
whole pixels (Detectron, torchvision)."""

AT_ONCE = 16
"""Objects whose weights are computed together, which amortises the overhead of numpy's calls."""

BLOCK = 1 << 20
"""Probabilities that are in memory at the same time while a crop is compared with its threshold."""


class Crop(NamedTuple):
    """The pixels of one object."""

    mask: np.ndarray
    """(h, w) bool; float32 probabilities from `paste_soft`."""
    top: int
    """Row of the crop's first pixel in the image."""
    left: int
    """Column of the crop's first pixel in the image."""


def paste(
    mask: np.ndarray, box: np.ndarray, size: tuple[int, int], mask_paste: MaskPaste, threshold: float = 0.5
) -> Crop:
    """The pixels of one object; see `paste_all`."""
    return next(paste_all([mask], box[None], size, mask_paste, threshold))


def paste_all(
    masks: Sequence[np.ndarray],
    boxes: np.ndarray,
    size: tuple[int, int],
    mask_paste: MaskPaste,
    threshold: float = 0.5,
) -> Iterator[Crop]:
    """Yield the pixels of each object.

    Args:
        masks: N arrays (m, m) float16 or float32, 0 to 1; m may differ from object to object.
        boxes: (N, 4) float32, (x1, y1, x2, y2), which may reach beyond the image.
        size: (H, W).
        mask_paste: the rule.
        threshold: pixels of at least this probability belong to the object; above 0.
    """
    for mask, (rows, top), (columns, left) in _with_weights(masks, boxes, size, mask_paste):
        cells = mask @ columns.T
        crop = np.empty((len(rows), len(columns)), bool)
        step = max(1, BLOCK // max(1, len(columns)))
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            np.greater_equal(rows[block] @ cells, np.float32(threshold), out=crop[block])
        yield Crop(crop, top, left)


def paste_soft(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], mask_paste: MaskPaste) -> Crop:
    """The probabilities of one object's pixels: a crop (h, w) float32 that holds every pixel above zero."""
    ((cells, (rows, top), (columns, left)),) = _with_weights([mask], box[None], size, mask_paste)
    return Crop(rows @ (cells @ columns.T), top, left)


def _with_weights(
    masks: Sequence[np.ndarray], boxes: np.ndarray, size: tuple[int, int], mask_paste: MaskPaste
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, int], tuple[np.ndarray, int]]]:
    """Each mask with the weights of its cells in each row (h, m) and the first row; the same for the columns."""
    axis = _exact if mask_paste == "exact" else _legacy
    height, width = size
    start = 0
    while start < len(masks):
        side, stop = len(masks[start]), start + 1
        while stop < min(len(masks), start + AT_ONCE) and len(masks[stop]) == side:
            stop += 1
        x1, y1, x2, y2 = boxes[start:stop].T
        some = [np.asarray(mask, np.float32) for mask in masks[start:stop]]
        yield from zip(some, axis(y1, y2, side, height), axis(x1, x2, side, width), strict=True)
        start = stop


def _exact(low: np.ndarray, high: np.ndarray, side: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """Pixel centres x + 0.5 are mapped linearly into the boxes; their outer cells reach half a cell beyond them."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    cell = np.where(high > low, high - low, 1.0) / side
    first = np.clip(np.ceil(low - cell / 2 - 0.5), 0, length).astype(np.int64)
    stop = np.clip(np.floor(high + cell / 2 - 0.5) + 1, 0, length).astype(np.int64)
    counts = np.where(high > low, np.maximum(stop - first, 0), 0)
    first = np.where(high > low, first, 0)
    pixel, low, cell = _of_pixels(first, counts), np.repeat(low, counts), np.repeat(cell, counts)
    return _triangles((pixel + 0.5 - low) / cell - 0.5, side, first, counts)


def _legacy(low: np.ndarray, high: np.ndarray, side: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """A cell of zeros is put around each mask, its box grows with it and is cut to integers that it includes.

    All in float32, as torchvision computes it: the integers depend on its rounding.
    """
    half, centre = (high - low) * np.float32(0.5), (high + low) * np.float32(0.5)
    half = half * np.float32((side + 2) / side)
    low_pixel, high_pixel = (centre - half).astype(np.int64), (centre + half).astype(np.int64)
    pixels = np.maximum(high_pixel - low_pixel + 1, 1)
    first, stop = np.clip(low_pixel, 0, length), np.clip(low_pixel + pixels, 0, length)
    counts = stop - first
    step = np.repeat(np.float32(side + 2) / pixels.astype(np.float32), counts)
    pixel = _of_pixels(first - low_pixel, counts).astype(np.float32)
    return _triangles((pixel + np.float32(0.5)) * step - np.float32(1.5), side, first, counts)


def _of_pixels(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) -> (sum of counts,): so many integers from each first one on."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(first - starts, counts)


def _triangles(
    positions: np.ndarray, side: int, first: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, int]]:
    """Bilinear weights (pixels, m) of the cells around positions, of which a cell's centre is its index, by object."""
    weights = positions[:, None] - np.arange(side, dtype=positions.dtype)
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    weights = np.maximum(weights, 0, out=weights).astype(np.float32, copy=False)
    stops = np.cumsum(counts).tolist()
    for top, count, stop in zip(first.tolist(), counts.tolist(), stops, strict=True):
        yield weights[stop - count : stop], top
