"""Pixels as polygons with holes.

P points; h w pixels of a crop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Polygon(NamedTuple):
    """One connected region. Rings are open: the last point is joined to the first."""

    exterior: np.ndarray
    """(P, 2) float32, x and y in pixels of the image."""
    holes: list[np.ndarray]
    """(P, 2) float32 each."""

    @property
    def area(self) -> float:
        """In square pixels, without the holes."""
        return _ring_area(self.exterior) - sum(map(_ring_area, self.holes))


def polygons_of_crop(crop: np.ndarray, top: int = 0, left: int = 0) -> list[Polygon]:
    """The connected regions of a crop, (h, w) bool, whose first pixel is at row `top` and column `left`.

    Rings run halfway between pixels that are inside and their neighbours that are not. A region inside a hole of
    another one is a polygon of its own.
    """
    from skimage.measure import find_contours, label

    padded = np.pad(crop, 1)
    contours = find_contours(padded.astype(np.float32), 0.5)
    if not contours:
        return []
    # each ring passes between a pixel of its region and one outside; the largest ring of a region is its exterior
    starts = np.array([contour[0] for contour in contours])
    regions = np.asarray(label(padded, connectivity=1))
    low, high = np.floor(starts).astype(int), np.ceil(starts).astype(int)
    owners = np.maximum(regions[low[:, 0], low[:, 1]], regions[high[:, 0], high[:, 1]])
    rings = [(contour[:-1, ::-1] + (left - 0.5, top - 0.5)).astype(np.float32) for contour in contours]
    areas = np.array([_ring_area(ring) for ring in rings])
    order = np.lexsort((-areas, owners))
    groups = np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)
    groups.sort(key=lambda group: -areas[group[0]])
    return [Polygon(rings[first], [rings[hole] for hole in holes]) for first, *holes in groups]


def _ring_area(ring: np.ndarray) -> float:
    x, y = ring.astype(np.float64).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
