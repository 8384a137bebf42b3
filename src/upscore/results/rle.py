"""Run-length encoding (RLE) of masks in COCO's format, based on pycocotools.

H W image height and width, h w height and width of a crop, R runs. Runs are in column-major order and alternate between
background and object, starting with background. An encoded mask is a dict {"size": [H, W], "counts": str}, as in
pycocotools and COCO files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from pycocotools import mask as coco_mask

MAX_PIXELS = 1 << 32
"""Images with this many pixels or more cannot be encoded: COCO's run lengths are 32-bit integers."""


def encode(crop: np.ndarray, top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """Encode one object, given as an (h, w) bool crop whose first pixel is at row `top` and column `left`.

    The time depends on the size of the crop, not on the size of the image.
    """
    return encode_runs(_runs_of_crop(crop, top, left, size), size)


def encode_runs(runs: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Encode the run lengths (R,) of a mask in an image of size (H, W)."""
    height, width = size
    rle: Any = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Decode a mask to (H, W) bool."""
    return coco_mask.decode(cast(Any, rle)).view(bool)


def areas(rles: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the number of pixels of each encoded mask, (N,) float64."""
    # One call for each mask: pycocotools fails for lists of more than 255.
    return np.array([coco_mask.area(cast(Any, rle)) for rle in rles], np.float64)


def decode_runs(text: str) -> np.ndarray:
    """Decode COCO's compressed `counts` to run lengths, (R,) int64.

    Each character holds five bits of a number in two's complement, lowest bits first. From the fourth run on, the
    number is the difference from the run two places before. On damaged text, pycocotools reads beyond the end of the
    buffer; this function raises an error.

    Raises:
        ValueError: the text is not a valid encoding.
    """
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = (digits & 32) == 0
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise ValueError("damaged run lengths")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digit_index = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if digit_index.max() > 6:
        raise ValueError("damaged run lengths")
    runs = np.add.reduceat((digits & 31) << (5 * digit_index), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * (ends - starts + 1)), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def runs_of_polygons(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the run lengths (R,) int64 of the union of polygons.

    Args:
        polygons: arrays (2 P,) of x1, y1, x2, y2, ... in pixels. Polygons with fewer than three points have no pixels.
        size: (H, W) of the image.
    """
    height, width = size
    closed = [polygon for polygon in polygons if len(polygon) >= 6]
    if not closed:
        return np.array([height * width], np.int64)
    merged: Any = coco_mask.merge(coco_mask.frPyObjects(cast(Any, closed), height, width))
    return decode_runs(merged["counts"].decode("ascii"))


def runs_to_columns(runs: np.ndarray, height: int) -> tuple[slice, np.ndarray]:
    """Return the range of columns that contains the mask, and its pixels in these columns, (H, columns) bool."""
    bounds = runs.cumsum()
    starts, stops = bounds[0 : len(runs) - 1 : 2], bounds[1::2]
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    if not len(starts):
        return slice(0, 0), np.zeros((height, 0), bool)
    first, last = int(starts[0]) // height, -(-int(stops[-1]) // height)
    steps = np.zeros((last - first) * height + 1, np.int8)
    steps[starts - first * height] += 1
    steps[stops - first * height] -= 1
    return slice(first, last), steps[:-1].cumsum(dtype=np.int8).view(bool).reshape(-1, height).T


def _runs_of_crop(crop: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """Return the run lengths (R,) int64, over the whole image, of an object given by its crop."""
    height, width = size
    # An extra row of background ends every run within its own column.
    columns = np.zeros((crop.shape[1], crop.shape[0] + 1), bool)
    columns[:, :-1] = crop.T
    flat = columns.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[:1].any():
        changes = np.concatenate([[0], changes])
    column, row = np.divmod(changes, columns.shape[1])
    edges = (column + left) * height + row + top
    # If the crop is as high as the image, runs may continue in the next column.
    joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    return counts[:-1] if len(counts) > 1 and not counts[-1] else counts
