"""Measurements of objects and classes, named as in scikit-image's `regionprops_table`.

N objects, C classes, h w height and width of an object's crop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from upscore.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from upscore.results.instances import InstanceResult
    from upscore.results.semantic import SemanticResult

PROPERTIES = (
    "area",
    "centroid",
    "bbox",
    "perimeter",
    "equivalent_diameter_area",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
    "solidity",
)
"""Properties of `skimage.measure.regionprops` that are measured by default."""

INTENSITIES = ("intensity_mean", "intensity_max")
"""Properties that are measured by default if the result has its image; one column for each channel."""

FORMER_NAMES = {
    "Area": "area",
    "BoundingBox": "bbox",
    "Centroid": "centroid",
    "Coordinates": "coords",
    "Slice": "slice",
    "WeightedCentroid": "centroid_weighted",
    "weighted_centroid": "centroid_weighted",
}
"""Names in earlier versions of scikit-image, which it still accepts, of areas and positions."""

Table = dict[str, np.ndarray]
"""Columns by name, all of the same length."""


def measure_objects(result: InstanceResult, properties: Sequence[str] | None = None) -> Table:
    """Measure each object on its own pixels; see `InstanceResult.measurements`."""
    if properties is None:
        properties = PROPERTIES + INTENSITIES * (result.image is not None)
    elif isinstance(properties, str) or not (
        isinstance(properties, Collection) and all(isinstance(name, str) for name in properties)
    ):
        raise UserError(f"properties={properties!r} is invalid: use a list of names in skimage.measure.regionprops")
    elif result.image is None and (unmeasurable := [name for name in properties if "intensity" in name]):
        raise UserError(f"{unmeasurable[0]} needs the image: set result.image to the (H, W, 3) uint8 array first")
    table: dict[str, list[Any]] = {}
    for crop, top, left in result.crops():
        rows, columns = slice(top, top + crop.shape[0]), slice(left, left + crop.shape[1])
        image = None if result.image is None else result.image[rows, columns]
        for name, value in _measure(crop, image, properties, (top, left)).items():
            table.setdefault(name, []).append(value)
    if not len(result):
        table = {name: [] for name in _measure(np.zeros((0, 0), bool), result.image, properties, (0, 0))}
    names = np.array(result.classes, dtype=str)
    return {
        "label": np.arange(1, len(result) + 1),
        "class_id": result.labels,
        "class_name": names[result.labels],
        "score": result.scores,
        **{name: _column(values) for name, values in table.items()},
    }


def _column(values: list[Any]) -> np.ndarray:
    """Convert the values of a column to an array of numbers, or of objects if a value is not a number."""
    if all(map(np.isscalar, values)):
        return np.array(values)
    return np.fromiter(values, dtype=object, count=len(values))


def measure_classes(result: SemanticResult) -> Table:
    """Count the pixels of each class; see `SemanticResult.measurements`."""
    counts = np.bincount(result.class_map.ravel(), minlength=len(result.classes))[: len(result.classes)]
    return {
        "class_id": np.arange(len(result.classes)),
        "class_name": np.array(result.classes, dtype=str),
        "area": counts,
        "area_fraction": counts / max(1, result.class_map.size),
    }


def data_frame(table: Table) -> pd.DataFrame:
    """Convert a table to a pandas DataFrame.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError("to_dataframe() needs pandas, which is not installed: pip install pandas") from error
    return pandas.DataFrame(table)


def _measure(
    crop: np.ndarray, image: np.ndarray | None, properties: Sequence[str], offset: tuple[int, int]
) -> dict[str, Any]:
    """Measure one object in coordinates of the image. An object without pixels has area 0 and NaN elsewhere.

    The local centroids and the moments are relative to the bounding box of the object.
    """
    from skimage.measure import regionprops_table

    empty = not crop.any()
    if empty:
        crop = np.ones((1, 1), bool)
        image = None if image is None else np.zeros((1, 1, *image.shape[2:]), image.dtype)
    requested = tuple(name for name in properties if name not in ("label", "Label"))
    try:
        with np.errstate(invalid="ignore"):
            table = regionprops_table(crop.astype(np.uint8), image, properties=requested)
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"properties={list(properties)} is invalid ({error}): use names in skimage.measure.regionprops"
        ) from error
    values = {}
    for name, column in table.items():
        value = column[0]
        prefix, _, axis = name.partition("-")
        prefix = FORMER_NAMES.get(prefix, prefix)
        if empty:
            value = 0 if prefix in ("area", "num_pixels") else np.nan
        elif prefix in ("centroid", "bbox", "centroid_weighted"):
            value = value + offset[int(axis[0]) % 2]
        elif prefix in ("coords", "coords_scaled"):
            value = value + offset
        elif prefix == "slice":
            value = tuple(
                slice(part.start + first, part.stop + first) for part, first in zip(value, offset, strict=True)
            )
        values[name] = value
    return values
