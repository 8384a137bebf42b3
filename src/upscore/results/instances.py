"""Result of instance segmentation for one image. Masks stay in RoI form until their pixels are requested.

N objects, H W image height and width, h w height and width of an object's crop, m side of an RoI mask (28; 14 in the C4
network; larger for objects merged from several tiles).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from upscore.errors import UserError
from upscore.results import rle
from upscore.results.mask_paste import Crop, MaskPaste, paste, paste_all
from upscore.results.measurements import data_frame, measure_objects
from upscore.results.polygons import Polygon, polygons_of_crop
from upscore.results.writers.coco import coco_results
from upscore.results.writers.geojson import Georeferencer, instance_features

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv
    from PIL import Image

MAX_BITMASKS = 8 << 30
"""Largest array that `InstanceResult.bitmasks` allocates, in bytes."""

Window = tuple[int, int, int, int]
"""(top, left, height, width) of a part of the image, in pixels."""

Index = int | slice | np.ndarray | Sequence[int] | Sequence[bool]


@dataclass(slots=True, kw_only=True, eq=False)
class InstanceResult:
    """The N objects detected in one image, in descending order of score.

    An integer index and iteration give single objects (`InstanceObject`). A slice, an array of positions or an array of
    N booleans gives another `InstanceResult`.
    """

    boxes: np.ndarray
    """(N, 4) float32, (x1, y1, x2, y2) in pixels of the image, continuous."""
    scores: np.ndarray
    """(N,) float32, 0 to 1."""
    labels: np.ndarray
    """(N,) int64, class indices from 0."""
    masks: Sequence[np.ndarray]
    """N arrays (m, m), float16 or float32: the probability that each cell of the box belongs to the object."""
    size: tuple[int, int]
    """(H, W) of the image."""
    classes: list[str]
    """Class names, in the order of the class indices."""
    image: np.ndarray | None = None
    """(H, W, 3) uint8, RGB; None if the image was not kept."""
    category_ids: list[int] | None = None
    """Category id of each class in the COCO data set that the model was trained on; None means class index + 1."""
    mask_paste: MaskPaste = "exact"
    """Rule that converts RoI masks to pixels; part of the network's preset."""
    mask_threshold: float = 0.5
    """Pixels with at least this probability belong to the object."""

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> InstanceObject: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | Sequence[int] | Sequence[bool]) -> InstanceResult: ...
    def __getitem__(self, index: Index) -> InstanceObject | InstanceResult:
        """Return one object (integer index) or a result with the selected objects (any other index).

        Raises:
            IndexError: the position is out of range, a boolean array does not have N values, or the index has another
                type.
        """
        if isinstance(index, np.ndarray) and index.shape == () and index.dtype.kind in "ui":
            index = int(index)
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            position = int(index)
            if not -len(self) <= position < len(self):
                raise IndexError(f"index {position} is out of range for a result of {len(self)} objects")
            return InstanceObject(self, position % len(self))
        positions = np.arange(len(self))[_checked_index(index, len(self))]
        return replace(
            self,
            boxes=self.boxes[positions],
            scores=self.scores[positions],
            labels=self.labels[positions],
            masks=[self.masks[position] for position in positions],
        )

    def __iter__(self) -> Iterator[InstanceObject]:
        return (InstanceObject(self, position) for position in range(len(self)))

    def __repr__(self) -> str:
        counts = np.bincount(self.labels, minlength=len(self.classes)) if len(self) else np.zeros(0, int)
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        listed = ", ".join(f"{counts[label]} {self.classes[label]}" for label in order[:5])
        more = f", and {len(order) - 5} more classes" if len(order) > 5 else ""
        height, width = self.size
        return f"InstanceResult({len(self)} objects in {width}x{height} pixels{': ' * bool(listed)}{listed}{more})"

    def _repr_png_(self) -> bytes:
        from upscore.results.pictures import notebook_png

        return notebook_png(self)

    def filter(self, *, score_threshold: float) -> InstanceResult:
        """Return the objects with a score of at least `score_threshold`."""
        return self[self.scores >= score_threshold]

    def mask_nms(self) -> InstanceResult:
        """Remove objects of which more than half is covered by objects of the same class with higher scores.

        Non-maximum suppression of boxes (Mask R-CNN, section 3.1) keeps both an object and a detection of a part of
        it, because their boxes differ. This suppression of masks keeps only one of them. Objects without pixels are
        removed.
        """
        kept: list[int] = []
        bounds = np.zeros((len(self), 4), np.int64)
        for k, (crop, top, left) in enumerate(self.crops()):
            bounds[k] = top, left, top + crop.shape[0], left + crop.shape[1]
            better = np.array(kept, np.int64)
            intersects = (bounds[better, :2] < bounds[k, 2:]).all(1) & (bounds[better, 2:] > bounds[k, :2]).all(1)
            covered = np.zeros_like(crop)
            for other in better[intersects & (self.labels[better] == self.labels[k])]:
                _add_overlap(covered, bounds[k], self.crop(other).mask, bounds[other])
            pixels = np.count_nonzero(crop)
            if pixels and 2 * np.count_nonzero(crop & ~covered) >= pixels:
                kept.append(k)
        return self[np.array(kept, np.int64)]

    def resized(self, size: tuple[int, int]) -> InstanceResult:
        """Return the objects scaled to another image size (H, W), without the image."""
        (height, width), (old_height, old_width) = size, self.size
        factors = np.array([width / old_width, height / old_height] * 2, np.float32)
        boxes = (self.boxes * factors).clip(0, np.array([width, height] * 2, np.float32))
        return replace(self, boxes=boxes, size=size, image=None)

    def crop(self, position: int) -> Crop:
        """Return the pixels of one object: an (h, w) bool crop, and the row and column of its first pixel."""
        return paste(self.masks[position], self.boxes[position], self.size, self.mask_paste, self.mask_threshold)

    def crops(self) -> Iterator[Crop]:
        """Yield the crop of each object, in order; see `crop`."""
        return paste_all(self.masks, self.boxes, self.size, self.mask_paste, self.mask_threshold)

    def part_in(self, position: int, window: Window) -> tuple[slice, slice, np.ndarray]:
        """Return the rows and columns of a window that an object's crop overlaps, and that part of the crop (bool)."""
        (crop, top, left), (window_top, window_left, height, width) = self.crop(position), window
        rows, own_rows = _shared(window_top, height, top, crop.shape[0])
        columns, own_columns = _shared(window_left, width, left, crop.shape[1])
        return rows, columns, crop[own_rows, own_columns]

    def crop_in(self, position: int, window: Window) -> np.ndarray:
        """Return the pixels of a window that belong to one object, as (height, width) bool."""
        pixels = np.zeros(window[2:], bool)
        rows, columns, part = self.part_in(position, window)
        pixels[rows, columns] = part
        return pixels

    def bitmasks(self) -> np.ndarray:
        """Return the pixels of all objects as (N, H, W) bool.

        Raises:
            UserError: the array would take more than 8 GiB.
        """
        height, width = self.size
        if (needed := len(self) * height * width) > MAX_BITMASKS:
            raise UserError(
                f"the bitmasks of {len(self)} objects in an image of {width}x{height} pixels would take "
                f"{needed / 2**30:.0f} GiB: use crops() or rle() instead"
            )
        bitmasks = np.zeros((len(self), height, width), bool)
        for bitmask, (crop, top, left) in zip(bitmasks, self.crops(), strict=True):
            bitmask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return bitmasks

    def areas(self) -> np.ndarray:
        """Return the number of pixels of each object, (N,) int64."""
        return np.array([np.count_nonzero(crop) for crop, _, _ in self.crops()], np.int64)

    def label_map(self, window: Window | None = None) -> np.ndarray:
        """Return an array (H, W) with the number of each pixel's object, counted from 1, and 0 for no object.

        Where objects overlap, the pixel belongs to the object with the higher score. The type is uint16, or int32 for
        more than 65535 objects.

        Args:
            window: part of the image to return; by default the whole image.
        """
        top, left, height, width = window or (0, 0, *self.size)
        bounds = self._pixel_bounds()
        inside = ((bounds[:, :2] < (left + width, top + height)) & (bounds[:, 2:] > (left, top))).all(1)
        label_map = np.zeros((height, width), np.uint16 if len(self) < 1 << 16 else np.int32)
        for k in reversed(np.flatnonzero(inside).tolist()):
            rows, columns, part = self.part_in(k, (top, left, height, width))
            label_map[rows, columns][part] = k + 1
        return label_map

    def rle(self) -> list[dict[str, Any]]:
        """Return the masks in COCO's compressed run-length encoding, N dicts {"size": [H, W], "counts": str}.

        Raises:
            UserError: the image has 2 ** 32 pixels or more, which COCO's run lengths cannot represent.
        """
        height, width = self.size
        if height * width >= rle.MAX_PIXELS:
            raise UserError(
                f"an image of {width}x{height} pixels has more than {rle.MAX_PIXELS - 1} pixels, the limit of COCO's "
                "run-length encoding: use label_map(window) instead"
            )
        return [rle.encode(crop, top, left, self.size) for crop, top, left in self.crops()]

    def polygons(self) -> list[list[Polygon]]:
        """Return the outlines of each object: a list of polygons with holes, one for each connected part.

        `polygons()[k]` has the parts of object k, the largest first. `polygons()[k][0].exterior` is an array (P, 2)
        float32 of x, y in pixels, whose last point connects to the first; `.holes` is a list of such arrays. Outlines
        run halfway between the pixels of the object and their neighbours, so a polygon contains the centres
        (x + 0.5, y + 0.5) of the object's pixels and no others. Pixels that touch only at a corner are separate
        parts.
        """
        return [polygons_of_crop(*crop) for crop in self.crops()]

    def to_coco(
        self, *, image_id: int = 1, category_ids: Sequence[int] | None = None, file_name: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the objects in COCO's results format, a list of dicts for `pycocotools.coco.COCO.loadRes`.

        Args:
            image_id: id of the image in the data set.
            category_ids: id of each class in the data set; by default the ids of the data set that the model was
                trained on, or class index + 1 if these are unknown.
            file_name: file name to add to each object, which identifies the image without the data set.

        Raises:
            UserError: the number of ids differs from the number of classes, or as for `rle`.
        """
        return coco_results(self, image_id=image_id, category_ids=category_ids, file_name=file_name)

    def measurements(self, properties: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Measure each object. Returns a dict of columns with one row for each object.

        The columns `label` (the object's value in the label map), `class_id`, `class_name` and `score` come first. The
        other columns have the names and meanings of scikit-image's `regionprops_table`: `area`, `centroid-0` (row),
        `bbox-0` (top row) and so on, in pixels of the image. As in scikit-image, pixel centres have integer
        coordinates, 0.5 less than in `boxes` and `polygons`. Each object is measured on all its pixels, even where
        objects overlap. An object without pixels has area 0 and NaN in the other columns.

        Args:
            properties: names of `skimage.measure.regionprops`; by default area, centroid, bbox, perimeter, axes,
                eccentricity, orientation and solidity, and, if the result has its image, the mean and maximum
                intensity of each channel.

        Raises:
            UserError: a property is unknown, or a property needs the image and the result has none.
        """
        return measure_objects(self, properties)

    def to_dataframe(self, properties: Sequence[str] | None = None) -> pd.DataFrame:
        """Return `measurements` as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed, or as for `measurements`.
        """
        return data_frame(self.measurements(properties))

    def to_geojson(self, georeference: Georeferencer | None = None) -> dict[str, Any]:
        """Return the objects as a GeoJSON FeatureCollection for QuPath and GIS programs.

        Each object is a Polygon, or a MultiPolygon if it has several parts; inner rings are holes. The properties are
        those of QuPath: `objectType` "detection", `classification` (name and color) and `measurements` (score, area in
        pixels). Objects without pixels are omitted.

        Args:
            georeference: converts pixels to map coordinates; see `upscore.data.io.georeference.read_georeference`. By
                default, coordinates are pixels of the image.
        """
        return instance_features(self, georeference)

    def to_supervision(self) -> sv.Detections:
        """Return the objects as `supervision.Detections`, with `data["class_name"]`.

        Raises:
            UserError: supervision is not installed, or as for `bitmasks`.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError(
                "to_supervision() needs supervision, which is not installed: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.bitmasks(),
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.classes, dtype=str)[self.labels]},
        )

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """Draw each object on the image in its own colour, with a legend that counts the objects of each class.

        Args:
            opacity: opacity of the masks, 0 to 1.

        Raises:
            UserError: the result has no image, or the opacity is not in 0..1.
        """
        from upscore.results.pictures import require_image
        from upscore.viz.overlays import instance_overlay

        return instance_overlay(require_image(self.image), self, self.classes, opacity=opacity)

    def _pixel_bounds(self) -> np.ndarray:
        """Return boxes (N, 4) that contain all pixels: a mask extends up to one cell and one pixel beyond its box."""
        sides = np.array([len(mask) for mask in self.masks], np.float32).reshape(-1, 1)
        margin = (self.boxes[:, 2:] - self.boxes[:, :2]) / np.maximum(sides, 1) + 1
        return self.boxes + np.concatenate([-margin, margin], 1)


@dataclass(frozen=True, slots=True, eq=False)
class InstanceObject:
    """One object of an `InstanceResult`."""

    result: InstanceResult = field(repr=False)
    """Result that contains the object."""
    position: int
    """Position of the object in the result; its value in the label map is `position + 1`."""

    @property
    def score(self) -> float:
        """Score, 0 to 1."""
        return float(self.result.scores[self.position])

    @property
    def label(self) -> int:
        """Class index, from 0."""
        return int(self.result.labels[self.position])

    @property
    def class_name(self) -> str:
        """Name of the class."""
        return self.result.classes[self.label]

    @property
    def box(self) -> np.ndarray:
        """Box (4,) float32, (x1, y1, x2, y2) in pixels of the image, continuous."""
        return self.result.boxes[self.position]

    @property
    def crop(self) -> Crop:
        """Pixels of the object: an (h, w) bool crop, and the row and column of its first pixel."""
        return self.result.crop(self.position)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.crop.mask))

    @property
    def bitmask(self) -> np.ndarray:
        """Pixels of the object in the whole image, (H, W) bool."""
        return self.result.crop_in(self.position, (0, 0, *self.result.size))

    @property
    def polygons(self) -> list[Polygon]:
        """Outlines of the connected parts; see `InstanceResult.polygons`."""
        return polygons_of_crop(*self.crop)

    @property
    def polygon(self) -> Polygon | None:
        """Outline of the largest part; None if the object has no pixels."""
        return max(self.polygons, key=lambda part: part.area, default=None)

    def __repr__(self) -> str:
        x1, y1, x2, y2 = (f"{value:.1f}" for value in self.box)
        return f"InstanceObject({self.class_name}, score {self.score:.3f}, box ({x1}, {y1}, {x2}, {y2}))"


def _checked_index(index: Any, count: int) -> Any:
    """Return the index as a slice or an array that numpy accepts for N positions."""
    if isinstance(index, slice):
        return index
    positions = np.asarray(index)
    if positions.size == 0 and positions.ndim == 1 and positions.dtype != bool:
        return positions.astype(np.int64)
    wrong_length = positions.dtype == bool and positions.shape != (count,)  # numpy accepts an empty array
    if positions.ndim != 1 or positions.dtype.kind not in "bui" or wrong_length:
        raise IndexError(
            f"expected an integer, a slice, an array of integers or an array of {count} booleans as the index, got "
            f"{type(index).__name__} of shape {positions.shape} and type {positions.dtype}"
        )
    return positions


def _shared(start: int, length: int, other: int, other_length: int) -> tuple[slice, slice]:
    """Return the overlap of two intervals on one axis as a slice of each interval."""
    low = max(start, other)
    high = max(low, min(start + length, other + other_length))
    return slice(low - start, high - start), slice(low - other, high - other)


def _add_overlap(covered: np.ndarray, bounds: np.ndarray, crop: np.ndarray, crop_bounds: np.ndarray) -> None:
    """Add the pixels of `crop` to `covered`, in place; bounds are (top, left, bottom, right) in the image."""
    top, left = np.maximum(bounds[:2], crop_bounds[:2])
    bottom, right = np.minimum(bounds[2:], crop_bounds[2:])
    target = np.s_[top - bounds[0] : bottom - bounds[0], left - bounds[1] : right - bounds[1]]
    source = np.s_[top - crop_bounds[0] : bottom - crop_bounds[0], left - crop_bounds[1] : right - crop_bounds[1]]
    covered[target] |= crop[source]
