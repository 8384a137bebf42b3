"""Validity of polygon outlines.

P points.
"""

from __future__ import annotations

import numpy as np
import shapely


def crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges of a closed polygon, (P, 2) float64, cross at a point that is inside both.

    This is weaker than the validity of OGC's simple features: edges that only touch, or run back along one another, do
    not cross, because outlines with holes are drawn so.
    """
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    if len(points) < 4:
        return False
    edges = shapely.linestrings(np.stack([points, np.roll(points, -1, axis=0)], 1))
    return shapely.STRtree(edges).query(edges, predicate="crosses").size > 0
