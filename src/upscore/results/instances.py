"""The result of instance segmentation. Masks stay in RoI form until pixels are asked for.

N objects, H W pixels of the image, h w those of an object's crop, m the side of a mask in RoI form (28, or 14 in the C4
network; larger where parts of an object were merged from several tiles).
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
"""Bytes of bitmasks that are made at once."""

Window = tuple[int, int, int, int]
"""(top, left, height, width) in pixels of the image."""

Index = int | slice | np.ndarray | Sequence[int] | Sequence[bool]


@dataclass(slots=True, kw_only=True, eq=False)
class InstanceResult:
    """The N objects found in one image, in descending order of their scores.

    `result[0]` and iteration give single objects (`InstanceObject`); slices and arrays of positions or of N booleans
    give results.
    """

    boxes: np.ndarray
    """(N, 4) float32, (x1, y1, x2, y2) in pixels of the image, continuous."""
    scores: np.ndarray
    """(N,) float32, 0 to 1."""
    labels: np.ndarray
    """(N,) int64, class indices from 0."""
    masks: Sequence[np.ndarray]
    """N arrays (m, m) float16 or float32: the probability that a point of the box belongs to the object."""
    size: tuple[int, int]
    """(H, W)."""
    classes: list[str]
    """The class names; a class's index is its position."""
    image: np.ndarray | None = None
    """(H, W, 3) uint8, the image itself; None where it was not kept."""
    category_ids: list[int] | None = None
    """The id of each class in the COCO data set that the model was trained on; None: class index + 1."""
    mask_paste: MaskPaste = "exact"
    """The rule by which masks become pixels; part of the preset that the network was trained with."""
    mask_threshold: float = 0.5
    """Pixels of at least this probability belong to the object."""

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> InstanceObject: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | Sequence[int] | Sequence[bool]) -> InstanceResult: ...
    def __getitem__(self, index: Index) -> InstanceObject | InstanceResult:
        """One object by its position, or a result of some of the objects.

        Raises:
            IndexError: there is no such position, a boolean array does not have N values, or the index is neither.
        """
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            position = int(index)
            if not -len(self) <= position < len(self):
                raise IndexError(f"there is no object {position}: the result has {len(self)}")
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
        named = ", ".join(f"{counts[label]} {self.classes[label]}" for label in order[:5])
        more = f", and {len(order) - 5} classes more" if len(order) > 5 else ""
        height, width = self.size
        return f"InstanceResult({len(self)} objects in {width}x{height} pixels{': ' * bool(named)}{named}{more})"

    def _repr_png_(self) -> bytes:
        from upscore.results.pictures import notebook_png

        return notebook_png(self)

    def filter(self, *, score_threshold: float) -> InstanceResult:
        """The objects with a score of at least `score_threshold`."""
        return self[self.scores >= score_threshold]

    def mask_nms(self) -> InstanceResult:
        """Suppress objects of which better ones of the same class cover more than half.

        Suppression by boxes (Mask R-CNN section 3.1) keeps both a whole object and a part of it, since their boxes
        differ; suppression by masks keeps one of them.
        """
        kept: list[int] = []
        places = np.zeros((len(self), 4), np.int64)
        for k, (crop, top, left) in enumerate(self.crops()):
            places[k] = top, left, top + crop.shape[0], left + crop.shape[1]
            better = np.array(kept, np.int64)
            meet = (places[better, :2] < places[k, 2:]).all(1) & (places[better, 2:] > places[k, :2]).all(1)
            covered = np.zeros_like(crop)
            for other in better[meet & (self.labels[better] == self.labels[k])]:
                _add_overlap(covered, places[k], self.crop(other).mask, places[other])
            pixels = np.count_nonzero(crop)
            if pixels and 2 * np.count_nonzero(crop & ~covered) >= pixels:
                kept.append(k)
        return self[np.array(kept, np.int64)]

    def resized(self, size: tuple[int, int]) -> InstanceResult:
        """The same objects in the image at another size (H, W); the image itself is dropped."""
        (height, width), (old_height, old_width) = size, self.size
        factors = np.array([width / old_width, height / old_height] * 2, np.float32)
        boxes = (self.boxes * factors).clip(0, np.array([width, height] * 2, np.float32))
        return replace(self, boxes=boxes, size=size, image=None)

    def crop(self, position: int) -> Crop:
        """The pixels of one object: a crop (h, w) bool of the image, and the row and column of its first pixel."""
        return paste(self.masks[position], self.boxes[position], self.size, self.mask_paste, self.mask_threshold)

    def crops(self) -> Iterator[Crop]:
        """The crop of each object, as `crop` gives it."""
        return paste_all(self.masks, self.boxes, self.size, self.mask_paste, self.mask_threshold)

    def part_in(self, position: int, window: Window) -> tuple[slice, slice, np.ndarray]:
        """The rows and columns of a window that an object's crop has a part in, and that part, bool."""
        (crop, top, left), (window_top, window_left, height, width) = self.crop(position), window
        rows, own_rows = _shared(window_top, height, top, crop.shape[0])
        columns, own_columns = _shared(window_left, width, left, crop.shape[1])
        return rows, columns, crop[own_rows, own_columns]

    def crop_in(self, position: int, window: Window) -> np.ndarray:
        """(height, width) bool, the pixels of a window that belong to an object."""
        pixels = np.zeros(window[2:], bool)
        rows, columns, part = self.part_in(position, window)
        pixels[rows, columns] = part
        return pixels

    def bitmasks(self) -> np.ndarray:
        """(N, H, W) bool, the pixels of all objects.

        Raises:
            UserError: they would take more than 8 GiB.
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
        """(N,) int64, the number of pixels of each object."""
        return np.array([np.count_nonzero(crop) for crop, _, _ in self.crops()], np.int64)

    def label_map(self, window: Window | None = None) -> np.ndarray:
        """(H, W), the position of each pixel's object, from 1; 0 where there is none.

        Where objects overlap, the one with the higher score has the pixel. uint16, or int32 of more than 65535 objects.

        Args:
            window: the part of the image to return, by default all of it.
        """
        top, left, height, width = window or (0, 0, *self.size)
        reach = self._reach()
        inside = ((reach[:, :2] < (left + width, top + height)) & (reach[:, 2:] > (left, top))).all(1)
        label_map = np.zeros((height, width), np.uint16 if len(self) < 1 << 16 else np.int32)
        for k in reversed(np.flatnonzero(inside).tolist()):
            rows, columns, part = self.part_in(k, (top, left, height, width))
            label_map[rows, columns][part] = k + 1
        return label_map

    def rle(self) -> list[dict[str, Any]]:
        """The objects' pixels in COCO's compressed run-length encoding: {"size": [H, W], "counts": str}.

        Raises:
            UserError: the image has 2 ** 32 pixels or more, which COCO's run lengths cannot count.
        """
        height, width = self.size
        if height * width >= rle.MAX_PIXELS:
            raise UserError(
                f"an image of {width}x{height} pixels has more than the {rle.MAX_PIXELS - 1} that COCO's run lengths "
                "can count: use label_map() of a window instead"
            )
        return [rle.encode(crop, top, left, self.size) for crop, top, left in self.crops()]

    def polygons(self) -> list[list[Polygon]]:
        """The outlines of each object: a list of its separate parts, each with its holes.

        `polygons()[k]` are the parts of object k, the largest first. `polygons()[k][0].exterior` is an array (P, 2)
        float32 of x, y in pixels, the last point joined to the first; `.holes` is a list of such arrays. Outlines run
        halfway between pixels that are inside and their neighbours that are not, so a polygon has exactly the object's
        pixel centres (x + 0.5, y + 0.5) inside. Pixels that touch by a corner only are separate parts.
        """
        return [polygons_of_crop(*crop) for crop in self.crops()]

    def to_coco(
        self, *, image_id: int = 1, category_ids: Sequence[int] | None = None, file_name: str | None = None
    ) -> list[dict[str, Any]]:
        """The objects as COCO's results: a list of dicts that `pycocotools.coco.COCO.loadRes` takes.

        Args:
            image_id: the id of the image in the data set.
            category_ids: the id of each class in the data set; by default those of the model's own data set, or class
                index + 1 where these are unknown.
            file_name: is added to each object, so that results of many images can be told apart without the data set.

        Raises:
            UserError: the number of ids is not that of the classes, or as `rle`.
        """
        return coco_results(self, image_id=image_id, category_ids=category_ids, file_name=file_name)

    def measurements(self, properties: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Measure each object: a table of columns by name, one row for each object.

        Beside `label` (the object's value in the label map), `class_id`, `class_name` and `score`, columns have the
        names and meanings of scikit-image's `regionprops_table`: `area`, `centroid-0` (row), `bbox-0` (top row) and so
        on, in pixels of the image. Pixel centres have whole coordinates here, 0.5 less than in `boxes` and `polygons`.
        Each object is measured on all its pixels, also where objects overlap. An object without pixels has an area of
        0, and NaN elsewhere.

        Args:
            properties: names of `skimage.measure.regionprops`; by default area, centroid, bbox, perimeter, axes,
                eccentricity, orientation and solidity, and the mean and maximum intensity of each channel where the
                result has its image.

        Raises:
            UserError: a property is unknown, or needs the image where there is none.
        """
        return measure_objects(self, properties)

    def to_dataframe(self, properties: Sequence[str] | None = None) -> pd.DataFrame:
        """`measurements` as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed, or as `measurements`.
        """
        return data_frame(self.measurements(properties))

    def to_geojson(self, georeference: Georeferencer | None = None) -> dict[str, Any]:
        """The objects as a GeoJSON FeatureCollection, which QuPath and GIS programs read.

        Each object is a Polygon, or a MultiPolygon where it has several parts; inner rings are holes. Properties are
        QuPath's: `objectType` "detection", `classification` (name and color) and `measurements` (score, area in
        pixels). Objects without pixels are left out.

        Args:
            georeference: turns pixels into map coordinates, as `upscore.data.io.georeference.read_georeference` does;
                by default coordinates are pixels of the image.
        """
        return instance_features(self, georeference)

    def to_supervision(self) -> sv.Detections:
        """The objects as Detections of the package supervision, with `data["class_name"]`.

        Raises:
            UserError: supervision is not installed, or as `bitmasks`.
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
        """The image with each object in a colour of its own, and a legend that counts the objects of each class.

        Raises:
            UserError: the result has no image, or the opacity is not in 0..1.
        """
        from upscore.results.pictures import require_image
        from upscore.viz.overlays import instance_overlay

        return instance_overlay(require_image(self.image), self, self.classes, opacity=opacity)

    def _reach(self) -> np.ndarray:
        """(N, 4), boxes that hold all pixels: masks reach up to a cell and a pixel beyond their boxes."""
        sides = np.array([len(mask) for mask in self.masks], np.float32).reshape(-1, 1)
        beyond = (self.boxes[:, 2:] - self.boxes[:, :2]) / np.maximum(sides, 1) + 1
        return self.boxes + np.concatenate([-beyond, beyond], 1)


@dataclass(frozen=True, slots=True, eq=False)
class InstanceObject:
    """One object of an `InstanceResult`."""

    result: InstanceResult = field(repr=False)
    """The result that it belongs to."""
    position: int
    """Its position there; it has the value `position + 1` in the label map."""

    @property
    def score(self) -> float:
        """0 to 1."""
        return float(self.result.scores[self.position])

    @property
    def label(self) -> int:
        """The class index, from 0."""
        return int(self.result.labels[self.position])

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return self.result.classes[self.label]

    @property
    def box(self) -> np.ndarray:
        """(4,) float32, (x1, y1, x2, y2) in pixels of the image, continuous."""
        return self.result.boxes[self.position]

    @property
    def crop(self) -> Crop:
        """Its pixels: a crop (h, w) bool of the image, and the row and column of the crop's first pixel."""
        return self.result.crop(self.position)

    @property
    def area(self) -> int:
        """The number of its pixels."""
        return int(np.count_nonzero(self.crop.mask))

    @property
    def bitmask(self) -> np.ndarray:
        """(H, W) bool, its pixels in the whole image."""
        return self.result.crop_in(self.position, (0, 0, *self.result.size))

    @property
    def polygons(self) -> list[Polygon]:
        """Its separate parts, as `InstanceResult.polygons` describes them."""
        return polygons_of_crop(*self.crop)

    @property
    def polygon(self) -> Polygon | None:
        """Its largest part; None where it has no pixels."""
        return max(self.polygons, key=lambda part: part.area, default=None)

    def __repr__(self) -> str:
        x1, y1, x2, y2 = (f"{value:.1f}" for value in self.box)
        return f"InstanceObject({self.class_name}, score {self.score:.3f}, box ({x1}, {y1}, {x2}, {y2}))"


def _checked_index(index: Any, count: int) -> Any:
    """A slice or an array that numpy can index N positions with."""
    if isinstance(index, slice):
        return index
    positions = np.asarray(index)
    if positions.size == 0 and positions.ndim == 1:
        return positions.astype(bool if positions.dtype == bool and count == 0 else np.int64)
    if positions.ndim != 1 or positions.dtype.kind not in "bui":
        raise IndexError(
            f"objects are indexed by an integer, a slice, or an array of integers or of {count} booleans, not by "
            f"{type(index).__name__} of shape {positions.shape} and type {positions.dtype}"
        )
    return positions


def _shared(start: int, length: int, other: int, other_length: int) -> tuple[slice, slice]:
    """The overlap of two intervals of an axis, as a slice of each."""
    low = max(start, other)
    high = max(low, min(start + length, other + other_length))
    return slice(low - start, high - start), slice(low - other, high - other)


def _add_overlap(covered: np.ndarray, place: np.ndarray, crop: np.ndarray, other: np.ndarray) -> None:
    """Mark in one crop the pixels of another; places are (top, left, bottom, right) in the image."""
    top, left = np.maximum(place[:2], other[:2])
    bottom, right = np.minimum(place[2:], other[2:])
    mine = np.s_[top - place[0] : bottom - place[0], left - place[1] : right - place[1]]
    theirs = np.s_[top - other[0] : bottom - other[0], left - other[1] : right - other[1]]
    covered[mine] |= crop[theirs]
