"""Conversion of results to GeoJSON for QuPath and GIS programs.

P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from upscore.viz.colormaps import class_colors

if TYPE_CHECKING:
    from upscore.results.instances import InstanceResult
    from upscore.results.polygons import Polygon
    from upscore.results.semantic import SemanticResult


class Georeferencer(Protocol):
    """Protocol of objects that convert pixels to map coordinates."""

    @property
    def epsg(self) -> int | None:
        """EPSG code of the coordinate reference system; None if it is unknown."""
        ...

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """Convert (P, 2) x, y in pixels (pixel centres at 0.5) to (P, 2) float64 map coordinates."""
        ...


def instance_features(result: InstanceResult, georeference: Georeferencer | None = None) -> dict[str, Any]:
    """Return the objects as a FeatureCollection; see `InstanceResult.to_geojson`."""
    colors = class_colors(len(result.classes)).tolist()
    features = []
    for parts, area, label, score in zip(
        result.polygons(), result.areas().tolist(), result.labels.tolist(), result.scores.tolist(), strict=True
    ):
        if parts:
            measurements = {"score": score, "area": area}
            name, color = result.classes[label], colors[label]
            features.append(_feature(parts, "detection", name, color, measurements, georeference))
    return _collection(features, georeference)


def class_features(result: SemanticResult, georeference: Georeferencer | None = None) -> dict[str, Any]:
    """Return the regions of each class as a FeatureCollection; see `SemanticResult.to_geojson`."""
    from upscore.viz.overlays import has_background

    colors = class_colors(len(result.classes)).tolist()
    counts = result.pixel_counts().tolist()
    first = int(has_background(result.classes))
    features = [
        _feature(parts, "annotation", result.classes[label], colors[label], {"area": counts[label]}, georeference)
        for label, parts in enumerate(result.polygons())
        if parts and label >= first
    ]
    return _collection(features, georeference)


def _collection(features: list[dict[str, Any]], georeference: Georeferencer | None) -> dict[str, Any]:
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if georeference is not None and georeference.epsg not in (None, 4326):
        # RFC 7946 allows only WGS 84. GDAL and QGIS still read this member, which GeoJSON 2008 defined.
        name = f"urn:ogc:def:crs:EPSG::{georeference.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return {**collection, "features": features}


def _feature(
    parts: Sequence[Polygon],
    object_type: str,
    class_name: str,
    color: list[int],
    measurements: dict[str, float],
    georeference: Georeferencer | None,
) -> dict[str, Any]:
    shapes = [_coordinates(part, georeference) for part in parts]
    single = len(shapes) == 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": shapes[0] if single else shapes,
        },
        "properties": {
            "objectType": object_type,
            "classification": {"name": class_name, "color": color},
            "measurements": measurements,
        },
    }


def _coordinates(part: Polygon, georeference: Georeferencer | None) -> list[list[list[float]]]:
    """Return closed rings, the exterior counterclockwise and the holes clockwise, as RFC 7946 requires."""
    import shapely

    rings = [ring.astype(np.float64) for ring in (part.exterior, *part.holes)]
    if georeference is not None:
        rings = [georeference.to_map(ring) for ring in rings]
    oriented = shapely.geometry.polygon.orient(shapely.Polygon(rings[0], rings[1:]))
    return [shapely.get_coordinates(ring).tolist() for ring in (oriented.exterior, *oriented.interiors)]
