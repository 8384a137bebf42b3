"""What a data set of objects is made of, as a sum over its photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from upscore.data.findings import Findings, splits_of
from upscore.data.folder import Fault, Listing

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of an object's area in pixels."""
SHOWN = 10


@dataclass(slots=True, kw_only=True)
class ObjectCount:
    """How many objects are of one class."""

    name: str
    objects: int
    images: int
    """The photos in which it occurs."""


@dataclass(slots=True, kw_only=True)
class InstanceReport(Findings):
    """What a data set of objects is made of, and what is wrong with it."""

    classes: list[ObjectCount]
    objects: int
    crowds: int
    """How many of the objects are groups labelled as one."""
    per_image: tuple[float, float, float] | None
    """Fewest, median and most objects of a photo; None without photos."""
    areas: dict[str, int]
    """Objects that are small, medium (from 32 by 32 pixels) and large (from 96 by 96)."""

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        classes = [{"name": entry.name, "objects": entry.objects, "images": entry.images} for entry in self.classes]
        return Findings.as_dict(self) | {
            "classes": classes,
            "objects": self.objects,
            "crowds": self.crowds,
            "objects_per_image": self.per_image,
            "object_sizes": self.areas,
        }


@dataclass(slots=True, kw_only=True)
class Reading:
    """What one photo and its objects turned out to be."""

    size: tuple[int, int] | None = None
    """Width and height, unless the photo cannot be read."""
    labels: np.ndarray | None = None
    """Of each object, unless they cannot be read."""
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    crowds: int = 0
    scattered: int = 0
    """Objects in several pieces that are far apart."""
    faults: list[Fault] = field(default_factory=list)


def report(source: str | Path, listing: Listing, readings: Iterable[Reading]) -> InstanceReport:
    assert listing.classes is not None
    objects, images = np.zeros(len(listing.classes), np.int64), np.zeros(len(listing.classes), np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    faults, per_image, photos, crowds, scattered = list(listing.faults), [], 0, 0, 0
    areas = np.zeros(3, np.int64)
    for reading in readings:
        photos += 1
        faults.extend(reading.faults)
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
        images=photos,
        classes=classes,
        classes_from=listing.classes_from,
        objects=int(objects.sum()),
        crowds=crowds,
        per_image=(min(per_image), median(per_image), max(per_image)) if per_image else None,
        areas={name: int(count) for name, count in zip(("small", "medium", "large"), areas, strict=True)},
        sizes=sizes,
        faults=faults,
        notes=list(_notes(classes, empty=per_image.count(0), crowds=crowds, scattered=scattered)),
    )


def _notes(classes: list[ObjectCount], *, empty: int, crowds: int, scattered: int) -> Iterator[str]:
    absent = [entry.name for entry in classes if not entry.objects]
    if absent:
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        yield f"{len(absent)} of {len(classes)} classes never occur: {', '.join(absent[:SHOWN])}{more}."
    if empty:
        yield f"Photos without objects: {empty}. They are trained on as such."
    if crowds:
        yield f"Groups labelled as one (crowds): {crowds}. They are not trained on."
    if scattered:
        yield f"Objects in several pieces that are far apart: {scattered}. Do distinct objects share a number?"
