"""Check an instance segmentation data set: collect its statistics and all issues."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.data.checks.report import InstanceReport, Reading, report
from upscore.data.datasets import parse_scenes
from upscore.data.formats.coco.entries import crosses_itself
from upscore.data.formats.coco.reader import Coco, CocoIndex
from upscore.data.formats.folder import DatasetIndex, Issue, Pair
from upscore.data.instance_datasets import InstanceDataset, ObjectFiles, list_objects, listed_size_issue, open_instances
from upscore.data.io.images import LabelError, read_image
from upscore.data.samples import size_issue
from upscore.data.splits import select
from upscore.errors import UserError

BOX_TOLERANCE = 1.0
"""Pixels by which a box may exceed its image because of rounding."""


def check_instances(
    source: str | Path,
    *,
    split: str | None = None,
    track: Callable[[Iterable[Reading], int], Iterable[Reading]] = lambda readings, total: readings,
) -> InstanceReport:
    """Read all images and objects of a source, or of one split, and return a report.

    Args:
        source: a folder, a COCO file or generated scenes.
        split: the split to check; None: all.
        track: wraps the iterable of readings to show the progress; its second argument is their number.

    Raises:
        UserError: no layout is recognised, or the split does not exist.
    """
    if parse_scenes(source) is not None:
        scenes = open_instances(source, split)
        listing = DatasetIndex(
            layout="generated scenes", splits={}, classes=scenes.classes, classes_from="the generator"
        )
        readings = (_read_scene(scenes, index) for index in range(len(scenes)))
        return report(source, listing, track(readings, len(scenes)))
    listing, build_dataset = list_objects(source, split)
    if split is not None:
        listing.splits = {split: select(listing, split, source)}
    pairs = [pair for part in listing.splits.values() for pair in part]
    if isinstance(listing, CocoIndex):
        read = partial(_read_coco, listing)
    else:
        files = build_dataset(pairs)
        assert isinstance(files, ObjectFiles)
        read = partial(_read_pair, files.read_objects)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return report(source, listing, track(pool.map(read, pairs), len(pairs)))


def _read_scene(scenes: InstanceDataset, index: int) -> Reading:
    sample = scenes[index]
    assert sample.objects is not None
    reading = Reading(size=(sample.image.shape[2], sample.image.shape[1]))
    _count(reading, sample.objects)
    return reading


def _read_image(path: Path, reading: Reading) -> Tensor | None:
    """Read an image and record its size, or the issue if it cannot be read."""
    try:
        image = read_image(path)
    except UserError as error:
        reading.issues.append(Issue("unreadable", path, str(error)))
        return None
    reading.size = image.shape[2], image.shape[1]
    return image


def _read_pair(read_objects: Callable[[Path], ObjectAnnotations], pair: Pair) -> Reading:
    """Read an image and its id map, each even if the other is invalid."""
    reading = Reading()
    image = _read_image(pair.image, reading)
    if pair.label is None:
        return reading
    try:
        objects = read_objects(pair.label)
    except UserError as error:
        kind = "label values" if isinstance(error, LabelError) else "unreadable"
        reading.issues.append(Issue(kind, pair.label, str(error)))
        return reading
    _count(reading, objects)
    reading.scattered = sum(is_scattered(objects, position) for position in range(len(objects)))
    message = None if image is None else size_issue(pair.label, objects.id_map[0], pair.image, image)
    if message is not None:
        reading.issues.append(Issue("size", pair.label, message))
    return reading


def _count(reading: Reading, objects: ObjectAnnotations) -> None:
    """Record the labels, the areas and the number of crowds of the objects."""
    reading.labels, reading.areas = objects.labels.numpy(), objects.areas.numpy()
    reading.crowds = int(objects.crowd.sum())


def _read_coco(listing: CocoIndex, pair: Pair) -> Reading:
    """Read an image and check its annotations."""
    assert pair.label is not None
    file, position = listing.files[pair.label], listing.positions[pair.label, pair.image]
    reading = Reading()
    _read_image(pair.image, reading)
    if reading.size is not None:
        width, height = reading.size
        message = listed_size_issue(pair.image, (height, width), file.sizes[position], file.path)
        if message is not None:
            reading.issues.append(Issue("size", pair.image, message))
    annotations = file.annotations(position)
    rows = slice(annotations.start, annotations.stop)
    areas = np.array([file.runs(position, annotation)[1::2].sum() for annotation in annotations], np.float64)
    reading.labels, reading.crowds = file.labels[rows], int(file.crowd[rows].sum())
    reading.areas = np.where(np.isnan(file.areas[rows]), areas, file.areas[rows])
    for annotation, pixels in zip(annotations, areas, strict=True):
        reading.issues.extend(annotation_issues(file, position, annotation, int(pixels)))
    return reading


def is_scattered(objects: ObjectAnnotations, position: int) -> bool:
    """Return whether a part of an object is farther from its largest part than the length of the largest part."""
    x1, y1, x2, y2 = objects.boxes[position].int().tolist()
    number, layer = int(objects.ids[position]), int(objects.layers[position])
    mask = objects.id_map[layer, y1:y2, x1:x2].numpy() == number
    parts = np.zeros(mask.shape, np.int32)
    if ndimage.label(mask, np.ones((3, 3)), output=parts) == 1:
        return False
    boxes = np.array([[(s.start, s.stop) for s in slices] for slices in ndimage.find_objects(parts)])
    largest = boxes[np.bincount(parts.ravel())[1:].argmax()]
    gaps = np.maximum(boxes[:, :, 0] - largest[:, 1], largest[:, 0] - boxes[:, :, 1]).max(1)
    return bool(gaps.max() > (largest[:, 1] - largest[:, 0]).max())


def annotation_issues(file: Coco, image: int, annotation: int, pixels: int) -> Iterator[Issue]:
    """Yield the issues of an annotation.

    Args:
        file: the COCO file.
        image: index of the image in the file.
        annotation: index of the annotation in the file.
        pixels: number of pixels of the mask.
    """
    number, name = int(file.ids[annotation]), os.fsdecode(file.file_names[image])
    for kind, reason in _reasons(file, image, annotation, pixels):
        yield Issue(kind, file.path, f"{file.path}: annotation {number} of {name} {reason}", number)


def _reasons(file: Coco, image: int, annotation: int, pixels: int) -> Iterator[tuple[str, str]]:
    height, width = file.sizes[image].tolist()
    x1, y1, x2, y2 = box = file.boxes[annotation].tolist()
    if min(x1, y1) < -BOX_TOLERANCE or x2 > width + BOX_TOLERANCE or y2 > height + BOX_TOLERANCE:
        corners = ", ".join(f"{corner:g}" for corner in box)
        yield "box outside", f"has a box ({corners}) outside its image of {width}x{height} pixels; clip it."
    if x2 <= x1 or y2 <= y1:
        yield "zero area", f"has a box of {x2 - x1:g}x{y2 - y1:g} pixels; correct or remove the annotation."
    elif file.areas[annotation] <= 0 or pixels == 0:
        yield "zero area", "covers no pixel, or has an area of 0; correct or remove it."
    polygons = file.outlines[annotation].polygons
    short = sum(len(polygon) < 6 for polygon in polygons)
    if short:
        yield "few points", f"has {short} of {len(polygons)} polygons with fewer than three points; remove them."
    if any(crosses_itself(np.reshape(polygon, (-1, 2))) for polygon in polygons):
        yield "self-crossing", "has a polygon that crosses itself; correct it, or save the object as run lengths."
