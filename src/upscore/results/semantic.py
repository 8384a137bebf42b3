"""Result of semantic segmentation for one image.

C classes, H W image height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from upscore.results.measurements import data_frame, measure_classes
from upscore.results.polygons import Polygon, polygons_of_crop
from upscore.results.writers.geojson import Georeferencer, class_features

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


@dataclass(slots=True, kw_only=True, eq=False)
class SemanticResult:
    """Class of every pixel of one image."""

    class_map: np.ndarray
    """(H, W) uint8, index of the most probable class of each pixel."""
    classes: list[str]
    """The C class names, in the order of the class indices."""
    image: np.ndarray | None = None
    """(H, W, 3) uint8, RGB; None if the image was not kept."""
    scores: np.ndarray | None = None
    """(C, H, W) float16, class probabilities, 0 to 1; None if they were not requested."""
    geometric: SemanticResult | None = None
    """Result of the second head (SIFT Flow's geometric classes); None if the network has one head."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.class_map.shape
        return height, width

    def __repr__(self) -> str:
        counts = self.pixel_counts()
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        listed = ", ".join(f"{self._name(label)} {counts[label] / self.class_map.size:.0%}" for label in order[:5])
        more = f", and {len(order) - 5} more classes" if len(order) > 5 else ""
        height, width = self.size
        return f"SemanticResult({width}x{height} pixels: {listed}{more})"

    def _repr_png_(self) -> bytes:
        from upscore.results.pictures import notebook_png

        return notebook_png(self)

    def pixel_counts(self) -> np.ndarray:
        """Return the number of pixels of each value 0 to 255 of the class map, (256,) int64."""
        return np.bincount(self.class_map.ravel(), minlength=256)

    def polygons(self) -> list[list[Polygon]]:
        """Return the outlines of each class: C lists of polygons with holes; see `InstanceResult.polygons`."""
        return [
            polygons_of_crop(self.class_map == label) if count else []
            for label, count in enumerate(self.pixel_counts()[: len(self.classes)])
        ]

    def measurements(self) -> dict[str, np.ndarray]:
        """Return the area of each class: columns `class_id`, `class_name`, `area` (pixels) and `area_fraction`."""
        return measure_classes(self)

    def to_dataframe(self) -> pd.DataFrame:
        """Return `measurements` as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.measurements())

    def to_geojson(self, georeference: Georeferencer | None = None) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection with one Polygon or MultiPolygon for each class that occurs.

        Class 0 is omitted if its name means background ("background", "void", "unlabeled" and so on). The properties
        are those of QuPath: `objectType` "annotation", `classification` (name and color) and `measurements` (area in
        pixels).

        Args:
            georeference: see `InstanceResult.to_geojson`.
        """
        return class_features(self, georeference)

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """Draw the colours of the classes on the image, with a legend of the classes that occur.

        Args:
            opacity: opacity of the colours, 0 to 1.

        Raises:
            UserError: the result has no image, or the opacity is not in 0..1.
        """
        from upscore.results.pictures import require_image
        from upscore.viz.overlays import overlay

        return overlay(require_image(self.image), self.class_map, self.classes, opacity=opacity)

    def _name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)
