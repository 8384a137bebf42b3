"""Check a semantic segmentation data set: collect its statistics and all issues.

H W pixels, C classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscore.data.checks.report import DatasetReport, absent_note, splits_of
from upscore.data.datasets import list_files, open_dataset, parse_scenes
from upscore.data.formats.class_names import BINARY, classes_of_values
from upscore.data.formats.folder import DatasetIndex, Issue, Pair
from upscore.data.io.images import LabelError, is_deep, read_image
from upscore.data.samples import Sample, size_issue, value_issue
from upscore.data.splits import select
from upscore.errors import UserError
from upscore.labels import VOID

MANY_CLASSES = 64
"""More classes than this are reported."""

DIM = 16
"""Largest 8-bit value of a 16-bit image that uses only 12 bits."""


@dataclass(slots=True, kw_only=True)
class ClassCount:
    """The frequency of one class."""

    name: str
    pixels: int
    share: float
    """Share of all pixels that are not void; for void, share of all pixels."""
    images: int
    """Number of images that contain the class."""


@dataclass(slots=True, kw_only=True)
class Report(DatasetReport):
    """Statistics and issues of a semantic segmentation data set."""

    classes: list[ClassCount]
    void: ClassCount

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that can be written as JSON."""
        classes = {"classes": [_as_dict(entry) for entry in self.classes], "void": _as_dict(self.void)}
        return DatasetReport.as_dict(self) | classes


def _as_dict(entry: ClassCount) -> dict[str, Any]:
    return {"name": entry.name, "pixels": entry.pixels, "share": entry.share, "images": entry.images}


@dataclass(slots=True, kw_only=True)
class Reading:
    """Statistics and issues of one image and its label."""

    size: tuple[int, int] | None = None
    """Width and height; None if the image cannot be read."""
    counts: np.ndarray | None = None
    """(256,) number of pixels per label value; None if the label cannot be read."""
    dim: bool = False
    """Whether the image has 16 bits but uses at most 12 of them."""
    label: Path | None = None
    """The label file; None for generated scenes."""
    issues: list[Issue] = field(default_factory=list)


def check(
    source: str | Path,
    *,
    split: str | None = None,
    sbd: str | Path | None = None,
    track: Callable[[Iterable[Reading], int], Iterable[Reading]] = lambda readings, total: readings,
) -> Report:
    """Read all images and labels of a source, or of one split, and return a report.

    Args:
        source: a folder or generated scenes.
        split: the split to check; None: all.
        sbd: the folder of SBD, whose training images replace those of PASCAL VOC.
        track: wraps the iterable of readings to show the progress; its second argument is their number.

    Raises:
        UserError: no layout is recognised, or the split does not exist.
    """
    if parse_scenes(source) is not None:
        scenes = open_dataset(source, split)
        readings = (_read_sample(scenes[index]) for index in range(len(scenes)))
        listing = DatasetIndex(
            layout="generated scenes", splits={}, classes=scenes.classes, classes_from="the generator"
        )
        return _report(source, listing, track(readings, len(scenes)))
    listing = list_files(source, sbd=sbd)
    if split is not None:
        listing.splits = {split: select(listing, split, source)}
    pairs = [pair for part in listing.splits.values() for pair in part]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return _report(source, listing, track(pool.map(partial(_read_pair, listing), pairs), len(pairs)))


def _read_sample(sample: Sample) -> Reading:
    assert sample.class_map is not None
    return Reading(size=(sample.image.shape[2], sample.image.shape[1]), counts=_count(sample.class_map))


def _read_pair(listing: DatasetIndex, pair: Pair) -> Reading:
    """Read an image, its labels and its depth, each even if the others are invalid."""
    reading = Reading(label=pair.label)
    image = None
    try:
        image = read_image(pair.image)
        reading.size = image.shape[2], image.shape[1]
        reading.dim = int(image.max()) <= DIM and is_deep(pair.image)
    except UserError as error:
        reading.issues.append(Issue("unreadable", pair.image, str(error)))

    def issue(kind: str, path: Path, message: str | None) -> None:
        if message:
            reading.issues.append(Issue(kind, path, message))

    def read(path: Path, reader: Callable[[Path], Tensor]) -> Tensor | None:
        try:
            values = reader(path)
        except UserError as error:
            issue("label values" if isinstance(error, LabelError) else "unreadable", path, str(error))
            return None
        if image is not None:
            issue("size", path, size_issue(path, values if values.ndim == 2 else values[0], pair.image, image))
        return values

    if pair.label is not None and (label := read(pair.label, listing.read_label)) is not None:
        reading.counts = _count(label)
        if listing.classes is not None:
            message = value_issue(pair.label, reading.counts, listing.classes, listing.classes_from)
            issue("label values", pair.label, message)
    if listing.geometric is not None and pair.geometric is not None:
        read(pair.geometric, listing.geometric.read)
    if listing.depth is not None and pair.depth is not None:
        read(pair.depth, listing.depth.read)
    return reading


def _count(label: Tensor) -> np.ndarray:
    """Return the number of pixels per label value, (256,)."""
    return torch.bincount(label.flatten(), minlength=VOID + 1).numpy()


def _report(source: str | Path, listing: DatasetIndex, readings: Iterable[Reading]) -> Report:
    pixels, images = np.zeros(VOID + 1, np.int64), np.zeros(VOID + 1, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    issues, empty, image_count, dim = list(listing.issues), [], 0, 0
    for reading in readings:
        image_count += 1
        dim += reading.dim
        issues.extend(reading.issues)
        if reading.size is not None:
            sizes[reading.size] += 1
        if reading.counts is not None:
            pixels += reading.counts
            images += reading.counts > 0
            if reading.label is not None and not reading.counts[:VOID].any():
                empty.append(reading.label)
    classes = listing.classes or classes_of_values(pixels) or []
    if classes is BINARY:
        for counts in (pixels, images):
            counts[1], counts[VOID] = counts[VOID], 0
    else:
        issues.extend(Issue("empty label", path, f"{path}: every pixel is void ({VOID}); label it.") for path in empty)
    labelled, total = int(pixels[: len(classes)].sum()), int(pixels.sum())
    counted = [
        ClassCount(name=name, pixels=int(count), share=int(count) / max(labelled, 1), images=int(images[index]))
        for index, (name, count) in enumerate(zip(classes, pixels, strict=False))
    ]
    void = int(pixels[VOID])
    return Report(
        source=str(source),
        layout=listing.layout,
        splits=splits_of(listing),
        images=image_count,
        classes=counted,
        classes_from=listing.classes_from or "found in the labels",
        void=ClassCount(name="void", pixels=void, share=void / max(total, 1), images=int(images[VOID])),
        sizes=sizes,
        issues=issues,
        notes=list(_notes(listing, counted, binary=classes is BINARY, dim=dim)),
    )


def _notes(listing: DatasetIndex, classes: list[ClassCount], *, binary: bool, dim: int) -> Iterator[str]:
    if listing.classes is None and classes:
        yield "There is no classes.txt, so the classes were found in the labels; add one with one class name per line."
    if listing.classes is None and len(classes) > MANY_CLASSES:
        yield f"{len(classes)} classes is a large number: check whether the labels are object ids or grey values."
    if binary:
        yield f"The labels contain only 0 and {VOID}: they are read as background and foreground, without void."
    absent = [entry.name for entry in classes if not entry.pixels]
    if absent:
        yield absent_note(absent, len(classes))
    unlabelled = sum(pair.label is None for pairs in listing.splits.values() for pair in pairs)
    if unlabelled:
        yield f"Images of the test split without labels: {unlabelled}."
    if listing.geometric is not None:
        yield f"There is a second label map beside the classes: {', '.join(listing.geometric.classes)}."
    if listing.depth is not None:
        yield f"There is depth beside the images; channels: {listing.depth.channels}."
    if dim:
        yield (
            f"16-bit images with no value above 4095 (12 bits): {dim}. They are nearly black, because the upper 8 of "
            "16 bits are read; scale them to 0..65535, or save them with 8 bits."
        )
