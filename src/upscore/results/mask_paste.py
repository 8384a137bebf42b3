"""Conversion of RoI masks to pixels of the image (mask pasting), computed only inside the boxes.

N objects, m side of a mask whose m x m cells divide its box, H W image height and width, h w height and width of an
object's crop.

Both rules sample the mask bilinearly, with zeros outside its cells. A bilinear weight is the product of a row weight
and a column weight, so a crop is the product of three small matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

MaskPaste = Literal["exact", "legacy"]
"""exact: sample the mask at the pixel centres of the image (detectron2). legacy: pad the mask by one cell and resize it
to whole pixels (Detectron, torchvision)."""

BATCH_SIZE = 16
"""Objects whose weights are computed together, to amortise the overhead of numpy calls."""

BLOCK = 1 << 20
"""Largest number of probabilities in memory while a crop is thresholded."""


class Crop(NamedTuple):
    """The pixels of one object."""

    mask: np.ndarray
    """(h, w) bool; (h, w) float32 probabilities from `paste_soft`."""
    top: int
    """Row of the crop's first pixel in the image."""
    left: int
    """Column of the crop's first pixel in the image."""


def paste(
    mask: np.ndarray, box: np.ndarray, size: tuple[int, int], mask_paste: MaskPaste, threshold: float = 0.5
) -> Crop:
    """Return the pixels of one object; see `paste_all`."""
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
        masks: N arrays (m, m), float16 or float32, 0 to 1; m may differ between objects.
        boxes: (N, 4) float32, (x1, y1, x2, y2) in pixels; boxes may extend beyond the image.
        size: (H, W) of the image.
        mask_paste: rule that converts masks to pixels.
        threshold: pixels with at least this probability belong to the object; must be above 0.
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
    """Return the probabilities of one object's pixels, an (h, w) float32 crop that contains every pixel above 0."""
    ((cells, (rows, top), (columns, left)),) = _with_weights([mask], box[None], size, mask_paste)
    return Crop(rows @ (cells @ columns.T), top, left)


def _with_weights(
    masks: Sequence[np.ndarray], boxes: np.ndarray, size: tuple[int, int], mask_paste: MaskPaste
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, int], tuple[np.ndarray, int]]]:
    """Yield each mask with its row weights (h, m) and first row, and its column weights (w, m) and first column."""
    axis_weights = _exact if mask_paste == "exact" else _legacy
    height, width = size
    start = 0
    while start < len(masks):
        side, stop = len(masks[start]), start + 1
        while stop < min(len(masks), start + BATCH_SIZE) and len(masks[stop]) == side:
            stop += 1
        x1, y1, x2, y2 = boxes[start:stop].T
        batch = [np.asarray(mask, np.float32) for mask in masks[start:stop]]
        rows, columns = axis_weights(y1, y2, side, height), axis_weights(x1, x2, side, width)
        yield from zip(batch, rows, columns, strict=True)
        start = stop


def _exact(low: np.ndarray, high: np.ndarray, side: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the weights of the exact rule on one axis.

    Pixel centres x + 0.5 map linearly to the box. The outer cells extend half a cell beyond the box.
    """
    low, high = low.astype(np.float64), high.astype(np.float64)
    cell = np.where(high > low, high - low, 1.0) / side
    first = np.clip(np.ceil(low - cell / 2 - 0.5), 0, length).astype(np.int64)
    stop = np.clip(np.floor(high + cell / 2 - 0.5) + 1, 0, length).astype(np.int64)
    counts = np.where(high > low, np.maximum(stop - first, 0), 0)
    first = np.where(high > low, first, 0)
    pixel, low, cell = _ranges(first, counts), np.repeat(low, counts), np.repeat(cell, counts)
    return _bilinear_weights((pixel + 0.5 - low) / cell - 0.5, side, first, counts)


def _legacy(low: np.ndarray, high: np.ndarray, side: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the weights of the legacy rule on one axis.

    The mask is padded with one cell of zeros, and the box grows in proportion and is truncated to whole pixels. All
    values are float32, as in torchvision, because the truncation depends on rounding.
    """
    half, centre = (high - low) * np.float32(0.5), (high + low) * np.float32(0.5)
    half = half * np.float32((side + 2) / side)
    low_pixel, high_pixel = (centre - half).astype(np.int64), (centre + half).astype(np.int64)
    pixels = np.maximum(high_pixel - low_pixel + 1, 1)
    first, stop = np.clip(low_pixel, 0, length), np.clip(low_pixel + pixels, 0, length)
    counts = stop - first
    step = np.repeat(np.float32(side + 2) / pixels.astype(np.float32), counts)
    pixel = _ranges(first - low_pixel, counts).astype(np.float32)
    return _bilinear_weights((pixel + np.float32(0.5)) * step - np.float32(1.5), side, first, counts)


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges first[k], first[k] + 1, ... of counts[k] integers each."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(first - starts, counts)


def _bilinear_weights(
    positions: np.ndarray, side: int, first: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the bilinear weights (pixels, m) of each object's cells, and its first pixel.

    Positions are in cells: the centre of cell k is at k.
    """
    weights = positions[:, None] - np.arange(side, dtype=positions.dtype)
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    weights = np.maximum(weights, 0, out=weights).astype(np.float32, copy=False)
    stops = np.cumsum(counts).tolist()
    for top, count, stop in zip(first.tolist(), counts.tolist(), stops, strict=True):
        yield weights[stop - count : stop], top
