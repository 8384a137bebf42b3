"""Conversion of masks to polygons with holes.

P points, h w height and width of a crop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Polygon(NamedTuple):
    """Outline of one connected region. Rings are open: the last point connects to the first."""

    exterior: np.ndarray
    """(P, 2) float32, x and y in pixels of the image."""
    holes: list[np.ndarray]
    """Inner rings, (P, 2) float32 each."""

    @property
    def area(self) -> float:
        """Area in square pixels, without the holes."""
        return _ring_area(self.exterior) - sum(map(_ring_area, self.holes))


def polygons_of_crop(crop: np.ndarray, top: int = 0, left: int = 0) -> list[Polygon]:
    """Return the connected regions of an (h, w) bool crop as polygons, the largest first.

    Rings run halfway between the pixels of a region and their neighbours. A region inside a hole of another region is a
    polygon of its own.

    Args:
        crop: (h, w) bool, the pixels of an object.
        top: row of the crop's first pixel in the image.
        left: column of the crop's first pixel in the image.
    """
    from skimage.measure import find_contours, label

    padded = np.pad(crop, 1)
    contours = find_contours(padded.astype(np.float32), 0.5)
    if not contours:
        return []
    # Each ring separates pixels of its region from other pixels. The largest ring of a region is its exterior.
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
