"""The result of semantic segmentation.

C classes, H W pixels of the image.
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
    """A class for every pixel of one image."""

    class_map: np.ndarray
    """(H, W) uint8, the index of each pixel's most probable class."""
    classes: list[str]
    """The C class names; a class's index is its position."""
    image: np.ndarray | None = None
    """(H, W, 3) uint8, the image itself; None where it was not kept."""
    scores: np.ndarray | None = None
    """(C, H, W) float16, class probabilities; None where they were not asked for."""
    geometric: SemanticResult | None = None
    """The result of a network's second head, as SIFT Flow's geometric classes; None from a network with one head."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.class_map.shape
        return height, width

    def __repr__(self) -> str:
        counts = self.pixel_counts()
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        named = ", ".join(f"{self._name(label)} {counts[label] / self.class_map.size:.0%}" for label in order[:5])
        more = f", and {len(order) - 5} classes more" if len(order) > 5 else ""
        height, width = self.size
        return f"SemanticResult({width}x{height} pixels: {named}{more})"

    def _repr_png_(self) -> bytes:
        from upscore.results.pictures import notebook_png

        return notebook_png(self)

    def pixel_counts(self) -> np.ndarray:
        """(256,) int64, the number of pixels of each value of the class map."""
        return np.bincount(self.class_map.ravel(), minlength=256)

    def polygons(self) -> list[list[Polygon]]:
        """The regions of each class: C lists of polygons with holes, as `InstanceResult.polygons` describes them."""
        return [
            polygons_of_crop(self.class_map == label) if count else []
            for label, count in enumerate(self.pixel_counts()[: len(self.classes)])
        ]

    def measurements(self) -> dict[str, np.ndarray]:
        """The area of each class: columns `class_id`, `class_name`, `area` (pixels) and `area_fraction` (0 to 1)."""
        return measure_classes(self)

    def to_dataframe(self) -> pd.DataFrame:
        """`measurements` as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.measurements())

    def to_geojson(self, georeference: Georeferencer | None = None) -> dict[str, Any]:
        """A GeoJSON FeatureCollection with one feature for each class that occurs, a Polygon or MultiPolygon.

        A class 0 that is called "background", "void", "unlabeled" or the like is left out. Properties are QuPath's:
        `objectType` "annotation", `classification` (name and color) and `measurements` (area in pixels).

        Args:
            georeference: as in `InstanceResult.to_geojson`.
        """
        return class_features(self, georeference)

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The image under its classes' colours; a legend names the classes that occur.

        Raises:
            UserError: the result has no image, or the opacity is not in 0..1.
        """
        from upscore.results.pictures import require_image
        from upscore.viz.overlays import overlay

        return overlay(require_image(self.image), self.class_map, self.classes, opacity=opacity)

    def _name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)
