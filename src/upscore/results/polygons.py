"""Pixels as polygons with holes.

P points; h w pixels of a crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import shapely


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
    import shapely
    from skimage.measure import find_contours

    rings = [
        contour[:, ::-1] + (left - 0.5, top - 0.5) for contour in find_contours(np.pad(crop, 1).astype(np.float32), 0.5)
    ]
    if len(rings) <= 1:
        return [Polygon(ring[:-1].astype(np.float32), []) for ring in rings]
    # rings never touch one another, so nesting alone decides which of them are holes
    regions = shapely.get_parts(shapely.build_area(shapely.MultiLineString(rings)))
    return [
        Polygon(_points(region.exterior), [_points(hole) for hole in region.interiors])
        for region in sorted(regions.tolist(), key=lambda region: -region.area)
    ]


def _points(ring: shapely.LinearRing) -> np.ndarray:
    import shapely

    return shapely.get_coordinates(ring)[:-1].astype(np.float32)


def _ring_area(ring: np.ndarray) -> float:
    x, y = ring.astype(np.float64).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
