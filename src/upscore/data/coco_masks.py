"""COCO's outlines as pixels: polygons by COCO's own rule, runs of pixels by ours, overlapping objects in layers.

L layers, H W pixels, R runs, P points. Run lengths alternate between outside and inside, go down the columns, and
begin outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from pycocotools import mask as coco_mask

from upscore.errors import UserError


def decode_runs(text: str) -> np.ndarray:
    """COCO's compressed run lengths as (R,) int64.

    Five bits a character, lowest first, in two's complement; from the fourth on a length is less that two before it.

    Raises:
        ValueError: the text is none that COCO writes.
    """
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = (digits & 32) == 0
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise ValueError("damaged run lengths")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 6:
        raise ValueError("damaged run lengths")
    runs = np.add.reduceat((digits & 31) << (5 * places), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * (ends - starts + 1)), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def polygon_runs(pieces: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """(R,) int64 run lengths of what (2 P,) polygons x1, y1, x2, y2, ... enclose together.

    A piece of fewer than three points encloses nothing.
    """
    closed = [piece for piece in pieces if len(piece) >= 6]
    if not closed:
        return np.array([height * width], np.int64)
    merged: Any = coco_mask.merge(coco_mask.frPyObjects(cast(Any, closed), height, width))
    return decode_runs(merged["counts"].decode("ascii"))


def layered(objects: Iterable[np.ndarray], height: int, width: int, *, most: int) -> np.ndarray:
    """(L, H, W) int32: objects, given as run lengths, by number from 1, each on the first layer where it fits.

    Raises:
        UserError: the layers would hold more than `most` pixels.
    """
    layers = [np.zeros((height, width), np.int32)]
    for number, runs in enumerate(objects, start=1):
        columns, mask = _window(runs, height)
        layer = next((layer for layer in layers if not layer[:, columns][mask].any()), None)
        if layer is None:
            if (len(layers) + 1) * height * width > most:
                raise UserError(f"more than {len(layers)} objects lie over one another in {width}x{height} pixels")
            layer = np.zeros((height, width), np.int32)
            layers.append(layer)
        layer[:, columns][mask] = number
    return np.stack(layers)


def _window(runs: np.ndarray, height: int) -> tuple[slice, np.ndarray]:
    """The columns that an object lies in, and which of their pixels are its: (H, columns) bool."""
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
