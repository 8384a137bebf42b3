"""Annotations of one image as shapes: polygons with holes, or bitmaps, with class names.

P points, h w pixels of a bitmap, H W pixels of the image. Readers of labelme, YOLO, CVAT, Supervisely, Label Studio and
Cityscapes return shapes, and `upscore data convert` writes them. Coordinates are continuous: the pixel in the top left
corner covers (0, 0) to (1, 1).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import shapely
import torch

from upscore.annotations import ObjectAnnotations
from upscore.results.rle import decode, encode_runs, runs_of_polygons

VOID_LABEL = "void"
"""The class name of shapes whose pixels are void: neither a class nor background."""


class Polygon(NamedTuple):
    """A polygon with holes; rings are open: the last point is joined to the first."""

    exterior: np.ndarray
    """(P, 2) float64, x and y in pixels."""
    holes: Sequence[np.ndarray] = ()
    """(P, 2) float64 each."""


class Bitmap(NamedTuple):
    """A mask of a part of an image."""

    pixels: np.ndarray
    """(h, w) bool."""
    left: int
    """Column of the first pixel in the image."""
    top: int
    """Row of the first pixel in the image."""


EMPTY = Bitmap(np.zeros((0, 0), bool), 0, 0)


@dataclass(slots=True, kw_only=True)
class Shape:
    """One annotated shape: polygons, or a bitmap."""

    label: str
    """The class name."""
    polygons: Sequence[Polygon] = ()
    """The parts, which may have holes."""
    bitmap: Bitmap | None = None
    instance: Hashable | None = None
    """Shapes with the same label and the same instance are one object; None: the shape is an object of its own."""
    crowd: bool = False
    """Whether the shape is a group of objects that are not told apart."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the source, which conversion keeps where the target can hold them."""

    def crop(self, size: tuple[int, int]) -> Bitmap:
        """Return the pixels of the shape inside an image of size (H, W), cropped to its bounding box.

        Polygons are rasterized as COCO does; the parts are united, and holes are cut out of their own part.
        """
        parts = [_fill_polygon(polygon, size) for polygon in self.polygons]
        if self.bitmap is not None:
            parts.append(_clip(self.bitmap, size))
        return _union(parts)


def _fill_polygon(polygon: Polygon, size: tuple[int, int]) -> Bitmap:
    filled = _fill(polygon.exterior, size)
    for hole in polygon.holes:
        pixels, left, top = _fill(hole, size)
        _window(filled, left, top, pixels.shape)[...] &= ~_window(
            Bitmap(pixels, left, top), *filled[1:], filled[0].shape
        )
    return filled


def _fill(ring: np.ndarray, size: tuple[int, int]) -> Bitmap:
    ring = np.asarray(ring, np.float64).reshape(-1, 2)
    if len(ring) < 3:
        return EMPTY
    left, top = np.maximum(np.floor(ring.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(ring.max(0)) + 1, size[::-1]).astype(int)
    if right <= left or bottom <= top:
        return EMPTY
    window = int(bottom - top), int(right - left)
    runs = runs_of_polygons([(ring - (left, top)).ravel()], window)
    return Bitmap(decode(encode_runs(runs, window)).copy(), int(left), int(top))


def _clip(bitmap: Bitmap, size: tuple[int, int]) -> Bitmap:
    pixels, left, top = bitmap
    y, x = max(-top, 0), max(-left, 0)
    return Bitmap(pixels[y : max(size[0] - top, 0), x : max(size[1] - left, 0)], left + x, top + y)


def _window(bitmap: Bitmap, left: int, top: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the part of a bitmap inside a box of the image, as a view."""
    rows, columns = top - bitmap.top, left - bitmap.left
    return bitmap.pixels[max(rows, 0) : max(rows + shape[0], 0), max(columns, 0) : max(columns + shape[1], 0)]


def _union(parts: Sequence[Bitmap]) -> Bitmap:
    parts = [part for part in parts if part.pixels.size]
    if len(parts) < 2:
        return parts[0] if parts else EMPTY
    left, top = min(part.left for part in parts), min(part.top for part in parts)
    right = max(part.left + part.pixels.shape[1] for part in parts)
    bottom = max(part.top + part.pixels.shape[0] for part in parts)
    union = Bitmap(np.zeros((bottom - top, right - left), bool), left, top)
    for pixels, x, y in parts:
        _window(union, x, y, pixels.shape)[...] |= pixels
    return union


@dataclass(slots=True, kw_only=True)
class ImageShapes:
    """The shapes of one image, in drawing order: a shape covers those before it."""

    size: tuple[int, int]
    """(H, W) of the image."""
    shapes: list[Shape]

    def class_map(self, classes: Mapping[str, int], *, background: int) -> np.ndarray:
        """Draw the shapes as a class map, (H, W) uint8.

        Args:
            classes: class index by class name; shapes with other names are left out. 255 marks void.
            background: the value of pixels without a shape.
        """
        drawn = np.full(self.size, background, np.uint8)
        for shape in self.shapes:
            if shape.label in classes:
                pixels, left, top = shape.crop(self.size)
                drawn[top : top + pixels.shape[0], left : left + pixels.shape[1]][pixels] = classes[shape.label]
        return drawn

    def objects(self, classes: Mapping[str, int]) -> ObjectAnnotations:
        """Return the objects: shapes that share a label and an instance are united, others are objects of their own.

        Args:
            classes: class index by class name; shapes with other names are left out.
        """
        parts: dict[Hashable, list[Shape]] = {}
        for number, shape in enumerate(self.shapes):
            if shape.label in classes:
                key = (number,) if shape.instance is None else (shape.label, shape.instance)
                parts.setdefault(key, []).append(shape)
        layers = [np.zeros(self.size, np.int32)]
        for object_id, shapes in enumerate(parts.values(), start=1):
            pixels, left, top = _union([shape.crop(self.size) for shape in shapes])
            window = slice(top, top + pixels.shape[0]), slice(left, left + pixels.shape[1])
            layer = next((layer for layer in layers if not layer[window][pixels].any()), None)
            if layer is None:
                layers.append(layer := np.zeros(self.size, np.int32))
            layer[window][pixels] = object_id
        return ObjectAnnotations.from_id_map(
            torch.from_numpy(np.stack(layers)),
            torch.tensor([classes[shapes[0].label] for shapes in parts.values()], dtype=torch.int64),
            torch.tensor([any(shape.crowd for shape in shapes) for shapes in parts.values()], dtype=torch.bool),
        )


def pixel_polygons(mask: np.ndarray, *, left: int = 0, top: int = 0) -> list[Polygon]:
    """Return the connected regions of a mask as polygons along the edges of its pixels.

    Drawing them by `Shape.crop` gives the same pixels.

    Args:
        mask: (h, w) bool.
        left: column of the mask's first pixel in the image.
        top: row of the mask's first pixel in the image.
    """
    rows = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    y, x = np.nonzero(np.diff(rows, axis=1))
    start, stop, row = x[::2] + left, x[1::2] + left, y[::2] + top
    if not len(row):
        return []
    region = shapely.simplify(shapely.union_all(shapely.box(start, row, stop, row + 1)), 0)
    parts = shapely.get_parts(region)
    return [
        Polygon(_open(part.exterior), [_open(hole) for hole in part.interiors])
        for part in sorted(parts, key=lambda part: (part.bounds[1], part.bounds[0]))
    ]


def _open(ring: Any) -> np.ndarray:
    return np.asarray(ring.coords)[:-1, :2].astype(np.float64)
