"""Parse and validate the images, categories and annotations of a COCO file.

A annotations, P points of a polygon, R run lengths. A file has up to a million annotations, so polygons and run lengths
are stored in flat arrays.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import shapely

from upscore.data.io.decoding import MAX_PIXELS
from upscore.errors import UserError
from upscore.results.rle import decode_runs

NOT_ANNOTATED = math.nan
"""Value of a missing box or area."""


class InvalidEntryError(Exception):
    """An entry is invalid; the reader turns the error into an `Issue`.

    Args:
        kind: the kind of the issue.
        reason: what is wrong and what to do; a predicate if `annotation` is given, else a sentence.
        annotation: the id of the annotation.
    """

    def __init__(self, kind: str, reason: str, annotation: int | None = None) -> None:
        super().__init__(reason if annotation is None else f"annotation {annotation} {reason}")
        self.kind, self.annotation = kind, annotation


class ImageEntry(NamedTuple):
    """An entry of `images`."""

    id: int
    name: str
    """A path relative to the folder of the images."""
    size: tuple[int, int]


class AnnotationEntry(NamedTuple):
    """An entry of `annotations`."""

    id: int
    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    """(x1, y1, x2, y2) in pixels; `NOT_ANNOTATED` if missing."""
    area: float
    """In pixels; `NOT_ANNOTATED` if missing."""
    crowd: bool
    polygons: list[array[float]]
    """x1, y1, x2, y2, ... of each polygon; empty for run lengths."""
    runs: Sequence[int]
    """Run lengths; empty for polygons."""


def read_categories(entries: list[Any], path: Path) -> tuple[list[int], list[str]]:
    """Return the ids and names of `categories`, by ascending id.

    Raises:
        UserError: there is no category, one has no id or no name, or two have the same id or name.
    """
    categories: list[tuple[int, str]] = []
    for entry in entries:
        if not isinstance(entry, dict) or not _is_int(entry.get("id")) or not isinstance(entry.get("name"), str):
            raise UserError(f"{path}: the category {str(entry)[:80]} must have an integer 'id' and a 'name'.")
        categories.append((entry["id"], entry["name"]))
    categories.sort()
    for kind, values in (("id", [number for number, _ in categories]), ("name", [name for _, name in categories])):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise UserError(f"{path}: two categories have the {kind} {repeated[0]!r}; make it unique.")
    if not categories:
        raise UserError(f"{path}: contains no categories; add one.")
    return [number for number, _ in categories], [name for _, name in categories]


def read_image_entry(entry: Any) -> ImageEntry:
    """Parse an entry of `images`.

    Raises:
        InvalidEntryError: a field is missing or out of range, or the file name leads out of the folder of the images.
    """
    entry = entry if isinstance(entry, dict) else {}
    number, name, sides = entry.get("id"), entry.get("file_name"), (entry.get("height"), entry.get("width"))
    if not _is_int(number):
        raise InvalidEntryError("malformed", f"an image ({str(name)[:80]}) has no integer 'id'; add it.")
    if not isinstance(name, str) or not _stays_inside(name):
        raise InvalidEntryError(
            "malformed", f"image {number}: 'file_name' is {str(name)[:80]!r}; give a path below the folder of images."
        )
    if not all(_is_int(side) and side > 0 for side in sides) or sides[0] * sides[1] > MAX_PIXELS:
        raise InvalidEntryError(
            "malformed",
            f"image {number}: 'width' {str(sides[1])[:20]} and 'height' {str(sides[0])[:20]} must be positive integers "
            f"with a product of at most {MAX_PIXELS:,}.",
        )
    return ImageEntry(number, name, sides)


def read_annotation(content: Any, size_of: Callable[[int], tuple[int, int] | None]) -> AnnotationEntry:
    """Parse an entry of `annotations`.

    Args:
        content: the entry.
        size_of: returns the (height, width) of an image by its id, or None if the image is not listed.

    Raises:
        InvalidEntryError: a field is missing or has a wrong type, the image is not listed, or the segmentation is
            invalid.
    """
    content = content if isinstance(content, dict) else {}
    number = content.get("id")
    if not _is_int(number):
        raise InvalidEntryError("malformed", f"an annotation ({str(content)[:80]}) has no integer 'id'; add it.")
    for name in ("image_id", "category_id"):
        if not _is_int(content.get(name)):
            raise InvalidEntryError("malformed", f"has no integer {name!r}; add it.", number)
    size = size_of(content["image_id"])
    if size is None:
        raise InvalidEntryError(
            "unlisted",
            f"has the image_id {content['image_id']}, which is not listed; add the image or remove the annotation.",
            number,
        )
    box, area = content.get("bbox"), content.get("area")
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        raise InvalidEntryError("malformed", f"has the box {str(box)[:80]}; give x, y, width and height.", number)
    if area is not None and not _is_finite(area):
        raise InvalidEntryError("malformed", f"has the area {str(area)[:80]}; give a number of pixels.", number)
    polygons, runs = _read_outline(content.get("segmentation"), size, number)
    x, y, width, height = box or (NOT_ANNOTATED,) * 4
    return AnnotationEntry(
        id=number,
        image_id=content["image_id"],
        category_id=content["category_id"],
        box=(x, y, x + width, y + height),
        area=NOT_ANNOTATED if area is None else area,
        crowd=bool(content.get("iscrowd")),
        polygons=polygons,
        runs=runs,
    )


def _read_outline(outline: Any, size: tuple[int, int], number: int) -> tuple[list[array[float]], Sequence[int]]:
    if not outline:
        raise InvalidEntryError("no outline", "has no 'segmentation'; add it, or remove the annotation.", number)
    if isinstance(outline, dict):
        return [], _read_runs(outline, size, number)
    if not isinstance(outline, list):
        raise InvalidEntryError("malformed", "has a 'segmentation' that is neither polygons nor run lengths.", number)
    return [_read_polygon(polygon, size, number) for polygon in outline], []


def _read_polygon(polygon: Any, size: tuple[int, int], number: int) -> array[float]:
    coordinates = array("d")
    try:
        coordinates.fromlist(polygon)
    except (TypeError, OverflowError) as error:
        raise InvalidEntryError(
            "malformed", "has a polygon that is not a list of numbers x1, y1, x2, y2, ...", number
        ) from error
    if len(coordinates) % 2:
        raise InvalidEntryError(
            "malformed", f"has a polygon of {len(coordinates)} numbers; give x and y of each point.", number
        )
    # The time and memory to rasterize a line grow with its length, also outside the image.
    largest = max(size)
    if coordinates and not -largest <= min(coordinates) <= max(coordinates) <= 2 * largest:
        raise InvalidEntryError(
            "malformed",
            f"has a polygon with coordinates from {min(coordinates):g} to {max(coordinates):g}, far outside its image "
            f"of {size[1]}x{size[0]} pixels; correct it.",
            number,
        )
    return coordinates


def _read_runs(outline: dict[str, Any], size: tuple[int, int], number: int) -> Sequence[int]:
    height, width = size
    if outline.get("size") != [height, width]:
        raise InvalidEntryError(
            "malformed",
            f"has run lengths with 'size' {str(outline.get('size'))[:40]}, but its image has [{height}, {width}].",
            number,
        )
    counts: Any = outline.get("counts")
    try:
        runs = decode_runs(counts).tolist() if isinstance(counts, str) else counts
        lengths = array("I")
        lengths.fromlist(runs)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidEntryError("malformed", "has run lengths that cannot be decoded; correct them.", number) from error
    if sum(lengths) != height * width:
        raise InvalidEntryError(
            "malformed",
            f"has run lengths of {sum(lengths):,} pixels, but its image has {height * width:,}; correct them.",
            number,
        )
    return lengths


def _stays_inside(name: str) -> bool:
    """Return whether a file name of untrusted origin is a relative path that does not leave its folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return (
        bool(parts) and ".." not in parts and parts[0] != "/" and not re.match("[A-Za-z]:", name) and "\0" not in name
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e18


def crosses_itself(points: np.ndarray) -> bool:
    """Return whether two edges of a closed polygon, (P, 2) float64, cross at a point in the interior of both.

    This is weaker than the validity of OGC simple features: edges that only touch or overlap do not cross, because
    polygons with holes are drawn in this way.
    """
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    if len(points) < 4:
        return False
    edges: Any = shapely.linestrings(np.stack([points, np.roll(points, -1, axis=0)], 1))
    return shapely.STRtree(edges).query(edges, predicate="crosses").size > 0


class Outline(NamedTuple):
    """The segmentation of an object as annotated: polygons or run lengths."""

    polygons: list[np.ndarray]
    """(2 P,) float64 each: x1, y1, x2, y2, ..."""
    runs: np.ndarray | None
    """(R,) uint32, as in `upscore.results.rle`; None for polygons."""


@dataclass(slots=True, kw_only=True)
class Outlines:
    """The segmentations of A annotations in flat arrays.

    Row i has the polygons `polygon_rows[i]` to `polygon_rows[i + 1] - 1` and the run lengths `run_rows[i]` to
    `run_rows[i + 1] - 1`; polygon j has the coordinates `polygon_bounds[j]` to `polygon_bounds[j + 1] - 1`.
    """

    rows: np.ndarray
    """(A,) int64, the row of each annotation; rows are in the order of the file."""
    polygon_rows: np.ndarray
    polygon_bounds: np.ndarray
    coordinates: np.ndarray
    run_rows: np.ndarray
    runs: np.ndarray

    def __getitem__(self, annotation: int) -> Outline:
        row = self.rows[annotation]
        runs = self.runs[self.run_rows[row] : self.run_rows[row + 1]]
        bounds = self.polygon_bounds[self.polygon_rows[row] : self.polygon_rows[row + 1] + 1]
        polygons = [self.coordinates[start:stop] for start, stop in pairwise(bounds)]
        return Outline(polygons, runs if len(runs) else None)


class OutlinesBuilder:
    """Builder of `Outlines` from the annotations in the order of the file."""

    def __init__(self) -> None:
        self._polygon_rows, self._polygon_bounds, self._coordinates = array("q", [0]), array("q", [0]), array("d")
        self._run_rows, self._runs = array("q", [0]), array("I")

    def add(self, polygons: Sequence[array[float]], runs: Sequence[int]) -> None:
        """Add the polygons or the run lengths of the next annotation."""
        for polygon in polygons:
            self._coordinates.extend(polygon)
            self._polygon_bounds.append(len(self._coordinates))
        self._polygon_rows.append(len(self._polygon_bounds) - 1)
        self._runs.extend(runs)
        self._run_rows.append(len(self._runs))

    def ordered(self, rows: np.ndarray) -> Outlines:
        """Return the outlines, with the segmentation added at index `rows[k]` as annotation k."""
        return Outlines(
            rows=rows.astype(np.int64),
            polygon_rows=np.array(self._polygon_rows),
            polygon_bounds=np.array(self._polygon_bounds),
            coordinates=np.array(self._coordinates),
            run_rows=np.array(self._run_rows),
            runs=np.array(self._runs),
        )
