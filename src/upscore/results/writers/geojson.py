"""GeoJSON: outlines of objects and of classes, for QuPath and GIS programs.

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
    """Turns pixels of an image into map coordinates."""

    @property
    def epsg(self) -> int | None:
        """The EPSG code of the coordinate reference system; None where it is unknown."""
        ...

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """(P, 2) x, y in pixels, 0.5 at a pixel's centre -> (P, 2) float64 map coordinates."""
        ...


def instance_features(result: InstanceResult, georeference: Georeferencer | None = None) -> dict[str, Any]:
    """See `InstanceResult.to_geojson`."""
    colors = class_colors(len(result.classes)).tolist()
    features = []
    for parts, area, label, score in zip(
        result.polygons(), result.areas().tolist(), result.labels.tolist(), result.scores.tolist(), strict=True
    ):
        if parts:
            measured = {"score": score, "area": area}
            name, color = result.classes[label], colors[label]
            features.append(_feature(parts, "detection", name, color, measured, georeference))
    return _collection(features, georeference)


def class_features(result: SemanticResult, georeference: Georeferencer | None = None) -> dict[str, Any]:
    """See `SemanticResult.to_geojson`."""
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
        # RFC 7946 knows WGS 84 alone; GDAL and QGIS read this member of GeoJSON 2008
        name = f"urn:ogc:def:crs:EPSG::{georeference.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return {**collection, "features": features}


def _feature(
    parts: Sequence[Polygon],
    object_type: str,
    class_name: str,
    color: list[int],
    measured: dict[str, float],
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
            "measurements": measured,
        },
    }


def _coordinates(part: Polygon, georeference: Georeferencer | None) -> list[list[list[float]]]:
    """Closed rings, the exterior counterclockwise and holes clockwise, as RFC 7946 wants them."""
    import shapely

    rings = [ring.astype(np.float64) for ring in (part.exterior, *part.holes)]
    if georeference is not None:
        rings = [georeference.to_map(ring) for ring in rings]
    oriented = shapely.geometry.polygon.orient(shapely.Polygon(rings[0], rings[1:]))
    return [shapely.get_coordinates(ring).tolist() for ring in (oriented.exterior, *oriented.interiors)]
