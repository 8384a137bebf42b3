"""Reports of data set checks: the common base class, and the report on instance segmentation data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from upscore.data.formats.folder import UNSPLIT, DatasetIndex, Issue

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits between small, medium and large objects, as areas in pixels."""

MAX_LISTED = 10
"""Largest number of class names that a note lists."""


@dataclass(slots=True, kw_only=True)
class DatasetReport:
    """Statistics and issues of a data set."""

    source: str
    """The path of the data set, or the name of generated scenes."""
    layout: str
    """The name of the layout."""
    splits: dict[str, int]
    """Number of images of each split; empty without splits."""
    images: int
    """Number of images."""
    classes_from: str
    """Where the class names come from."""
    sizes: Counter[tuple[int, int]]
    """Number of images of each (width, height)."""
    issues: list[Issue]
    """The problems, in the order of the files."""
    notes: list[str]
    """Remarks that are not problems."""

    def size_range(self) -> dict[str, tuple[float, float, float]]:
        """Return the smallest, median and largest width and height in pixels; empty without a readable image."""
        sides = {"width": 0, "height": 1} if self.sizes else {}
        columns = {name: sorted(size[axis] for size in self.sizes.elements()) for name, axis in sides.items()}
        return {name: (values[0], median(values), values[-1]) for name, values in columns.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that can be written as JSON."""
        return {
            "source": self.source,
            "layout": self.layout,
            "splits": self.splits,
            "images": self.images,
            "classes_from": self.classes_from,
            "sizes": [{"width": w, "height": h, "images": count} for (w, h), count in self.sizes.most_common()],
            "size_range": self.size_range(),
            "issues": [_issue(issue) for issue in self.issues],
            "notes": self.notes,
        }


def splits_of(listing: DatasetIndex) -> dict[str, int]:
    """Return the number of images of each split; empty without splits."""
    return {split: len(pairs) for split, pairs in listing.splits.items() if split != UNSPLIT}


def absent_note(absent: list[str], class_count: int) -> str:
    """Return the note on the classes that do not occur."""
    more = f" and {len(absent) - MAX_LISTED} more" if len(absent) > MAX_LISTED else ""
    return f"{len(absent)} of {class_count} classes never occur: {', '.join(absent[:MAX_LISTED])}{more}."


def _issue(issue: Issue) -> dict[str, Any]:
    entry = {"kind": issue.kind, "file": str(issue.path), "message": issue.message}
    return entry if issue.annotation is None else entry | {"annotation": issue.annotation}


@dataclass(slots=True, kw_only=True)
class ObjectCount:
    """The number of objects of one class."""

    name: str
    objects: int
    images: int
    """Number of images that contain the class."""


@dataclass(slots=True, kw_only=True)
class InstanceReport(DatasetReport):
    """Statistics and issues of an instance segmentation data set."""

    classes: list[ObjectCount]
    objects: int
    crowds: int
    """Number of crowds, groups annotated as one object."""
    per_image: tuple[float, float, float] | None
    """Minimum, median and maximum number of objects per image; None without images."""
    areas: dict[str, int]
    """Number of small, medium (from 32x32 pixels) and large (from 96x96 pixels) objects."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that can be written as JSON."""
        classes = [{"name": entry.name, "objects": entry.objects, "images": entry.images} for entry in self.classes]
        return DatasetReport.as_dict(self) | {
            "classes": classes,
            "objects": self.objects,
            "crowds": self.crowds,
            "objects_per_image": self.per_image,
            "object_sizes": self.areas,
        }


@dataclass(slots=True, kw_only=True)
class Reading:
    """Statistics and issues of one image and its objects."""

    size: tuple[int, int] | None = None
    """Width and height; None if the image cannot be read."""
    labels: np.ndarray | None = None
    """(K,) class indices of the objects; None if they cannot be read."""
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(K,) areas of the objects in pixels."""
    crowds: int = 0
    """Number of crowds."""
    scattered: int = 0
    """Number of objects with parts that are far apart."""
    issues: list[Issue] = field(default_factory=list)


def report(source: str | Path, listing: DatasetIndex, readings: Iterable[Reading]) -> InstanceReport:
    """Sum up the readings of all images of an instance segmentation data set."""
    assert listing.classes is not None
    objects, images = np.zeros(len(listing.classes), np.int64), np.zeros(len(listing.classes), np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    issues, per_image, image_count, crowds, scattered = list(listing.issues), [], 0, 0, 0
    areas = np.zeros(3, np.int64)
    for reading in readings:
        image_count += 1
        issues.extend(reading.issues)
        if reading.size is not None:
            sizes[reading.size] += 1
        if reading.labels is None:
            continue
        counts = np.bincount(reading.labels, minlength=len(objects))
        objects += counts
        images += counts > 0
        areas += np.bincount(np.digitize(reading.areas, (SMALL, MEDIUM)), minlength=3)
        per_image.append(len(reading.labels))
        crowds, scattered = crowds + reading.crowds, scattered + reading.scattered
    classes = [
        ObjectCount(name=name, objects=int(count), images=int(images[index]))
        for index, (name, count) in enumerate(zip(listing.classes, objects, strict=True))
    ]
    return InstanceReport(
        source=str(source),
        layout=listing.layout,
        splits=splits_of(listing),
        images=image_count,
        classes=classes,
        classes_from=listing.classes_from,
        objects=int(objects.sum()),
        crowds=crowds,
        per_image=(min(per_image), median(per_image), max(per_image)) if per_image else None,
        areas={name: int(count) for name, count in zip(("small", "medium", "large"), areas, strict=True)},
        sizes=sizes,
        issues=issues,
        notes=list(_notes(classes, empty=per_image.count(0), crowds=crowds, scattered=scattered)),
    )


def _notes(classes: list[ObjectCount], *, empty: int, crowds: int, scattered: int) -> Iterator[str]:
    absent = [entry.name for entry in classes if not entry.objects]
    if absent:
        yield absent_note(absent, len(classes))
    if empty:
        yield f"Images without objects: {empty}. They are used in training as images of background."
    if crowds:
        yield f"Groups annotated as one object (crowds): {crowds}. They are ignored in training."
    if scattered:
        yield f"Objects with parts that are far apart: {scattered}. Check whether several objects have the same number."
