"""How the depth of a data set is spread, for the network that is to see it.

D channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.models.preprocessing import IMAGENET, DepthPreprocessing, Preprocessing, log_depth
from upscore.progress import ProgressCallback, ignore_progress

SAMPLES = 200
"""At most so many, evenly spread over the data set, are looked at."""


def fitting_depth(dataset: Dataset, colours: Preprocessing) -> DepthPreprocessing:
    """What brings depth to the mean 0, and to the spread that pixels of photos have behind their preprocessing.

    Convolutions made for photos then see neither much weaker nor much stronger edges. IMAGENET's standard deviation is
    taken for that of photos.

    Raises:
        UserError: a sample has no depth, or all depth is the same.
    """
    count = min(SAMPLES, len(dataset))
    total: torch.Tensor | float = 0.0  # (3, D): how many pixels are known, their sum, that of their squares
    for number in range(count):
        sample = dataset[number * len(dataset) // count]
        if sample.depth is None:
            raise UserError(f"{sample.name} has no depth, which --depth needs of every photo")
        depth = log_depth(sample.depth.double())
        known = depth.isfinite()
        depth = depth.where(known, 0)
        total = total + torch.stack([known, depth, depth**2]).sum((-2, -1))
    pixels, sums, squares = torch.as_tensor(total)
    mean = sums / pixels.clamp(min=1)
    std = (squares / pixels.clamp(min=1) - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise UserError("the depth is the same everywhere, or unknown: there is nothing in it to learn from")
    factor = sum(colours.std) / sum(IMAGENET.std)
    return DepthPreprocessing(mean=tuple(mean.tolist()), std=tuple((factor * std).tolist()))


OBJECT_READERS = 4
LEAST, ROUNDED_TO, HEADROOM = 100, 50, 1.5


@runtime_checkable
class Counted(Protocol):
    """A data set that knows its objects without reading photos."""

    def object_counts(self) -> Sequence[int]: ...


def most_objects(dataset: Dataset, advance: ProgressCallback = ignore_progress) -> int:
    """The largest number of objects in a photo, crowds left out.

    Raises:
        UserError: there are no objects at all, or a label can't be read.
    """
    most = crowds = 0
    if isinstance(dataset, Counted):
        most = max(dataset.object_counts(), default=0)
    else:
        with ThreadPoolExecutor(OBJECT_READERS) as readers:
            counts = readers.map(lambda index: _count_objects(dataset, index), range(len(dataset)))
            for done, (count, crowd) in enumerate(counts, start=1):
                most = max(most, count)
                crowds += crowd
                advance(done, len(dataset))
    if most == 0:
        remedy = (
            f"all {crowds} labelled regions are crowds (iscrowd), which are not learned" if crowds else "label some"
        )
        raise UserError(f"none of {len(dataset)} images to train or to validate on has an object with pixels: {remedy}")
    return most


def enough_detections(objects: int) -> int:
    """Half as many again as there are in the fullest photo, so that a wrong one takes no right one's place."""
    return max(LEAST, ROUNDED_TO * math.ceil(HEADROOM * objects / ROUNDED_TO))


def require_labels(dataset: Dataset, role: str) -> None:
    """Check that some pixel has a class; reading stops at the first image that has one.

    Args:
        role: what the images are for, for the message.

    Raises:
        UserError: all pixels of all images are void, or an image has no class map.
    """
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.name} has no class map, which a network for classes of pixels learns from")
        if bool((sample.class_map != VOID).any()):
            return
    raise UserError(
        f"all pixels of the {len(dataset)} images {role} are void ({VOID}): there is nothing to learn or to score"
    )


def _count_objects(dataset: Dataset, index: int) -> tuple[int, int]:
    """Objects of an image that are learned, those with pixels and no crowds; and crowds."""
    objects = dataset[index].objects
    if objects is None:
        return 0, 0
    crowd = objects.crowd
    return int((~crowd & (objects.areas > 0)).sum()), int(crowd.sum())


READERS = 4


def median_frequency_weights(dataset: Dataset, advance: ProgressCallback = ignore_progress) -> list[float]:
    """Weight of each class: the median of all classes' frequencies over its own (Eigen and Fergus, 2015).

    A class's frequency is its share of the valid pixels of those photos that it occurs in; one that never occurs counts
    like the median one.

    Raises:
        UserError: a label can't be read.
    """
    classes = len(dataset.classes)
    own, shared = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    with ThreadPoolExecutor(READERS) as readers:
        maps = readers.map(lambda index: dataset[index].class_map, range(len(dataset)))
        for done, class_map in enumerate(maps, start=1):
            counts = _count_pixels(class_map, classes)
            own += counts
            shared += np.where(counts > 0, counts.sum(), 0)
            advance(done, len(dataset))
    frequencies = [part / whole for part, whole in zip(own.tolist(), shared.tolist(), strict=True) if whole]
    middle = median(frequencies) if frequencies else 1.0
    return [middle * whole / part if part else 1.0 for part, whole in zip(own.tolist(), shared.tolist(), strict=True)]


def _count_pixels(class_map: Tensor | None, classes: int) -> np.ndarray:
    """(C,) pixels of each class, void left out."""
    if class_map is None:
        return np.zeros(classes, np.int64)
    return np.bincount(class_map.numpy().ravel(), minlength=256)[:classes]
