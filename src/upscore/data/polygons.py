"""What is wrong with a polygon's outline, exactly.

P points.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

MAX_POINTS = 4000
"""Polygons of more points are not looked at: all pairs of their edges would be."""
ROWS = 256
DOUBT = 1e-12
"""Of the coordinates' magnitude squared: an area below it may be of either sign by rounding."""


def crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges of a closed polygon, (P, 2) float64, cross at a point that is inside both.

    Edges that only touch, or run back along one another, do not cross: outlines with holes are drawn so.
    """
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    if not 4 <= len(points) <= MAX_POINTS:
        return False
    ends = np.roll(points, -1, axis=0)
    low, high = np.minimum(points, ends), np.maximum(points, ends)
    for start in range(0, len(points), ROWS):
        rows = slice(start, start + ROWS)
        apart = (low[rows, None] > high[None]) | (low[None] > high[rows, None])
        one, other = np.nonzero(~apart.any(2))
        one += start
        one, other = one[one < other], other[one < other]
        if len(one) and _any_cross(points, ends, one, other):
            return True
    return False


def _any_cross(points: np.ndarray, ends: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the ends of each edge lie strictly on different sides of the other, for any of the pairs."""
    a, b, c, d = points[one], ends[one], points[other], ends[other]
    sides = np.stack([_area(a, b, c), _area(a, b, d), _area(c, d, a), _area(c, d, b)])
    doubt = DOUBT * max(1.0, float(np.abs(points).max())) ** 2
    clear = np.abs(sides) > doubt
    signs = np.sign(sides)
    across = (signs[0] != signs[1]) & (signs[2] != signs[3])
    if (across & clear.all(0)).any():
        return True
    # Where rounding may have decided, unless what is clear rules a crossing out, whole fractions do.
    ruled_out = (clear[:2].all(0) & (signs[0] == signs[1])) | (clear[2:].all(0) & (signs[2] == signs[3]))
    doubtful = (~clear.all(0) & ~ruled_out).nonzero()[0]
    return any(_cross_exactly(a[pair], b[pair], c[pair], d[pair]) for pair in doubtful)


def _area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of triangles, (..., 2) each."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])


def _cross_exactly(*corners: np.ndarray) -> bool:
    a, b, c, d = (tuple(Fraction(float(value)) for value in corner) for corner in corners)

    def side(p: tuple[Fraction, ...], q: tuple[Fraction, ...], r: tuple[Fraction, ...]) -> int:
        area = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
        return (area > 0) - (area < 0)

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
