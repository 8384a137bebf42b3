"""Statistics of a data set that training needs: depth, numbers of objects, class frequencies.

C classes, D depth channels, H W pixels.
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
"""Largest number of samples, evenly spaced in the data set, for the statistics of depth."""

READERS = 4
"""Number of threads that read samples."""

MIN_MAX_DETECTIONS, MAX_DETECTIONS_STEP, MAX_DETECTIONS_FACTOR = 100, 50, 1.5


def fit_depth_preprocessing(dataset: Dataset, colours: Preprocessing) -> DepthPreprocessing:
    """Compute the preprocessing that gives depth the mean 0 and the standard deviation of preprocessed RGB images.

    Pretrained RGB convolutions then respond to depth edges about as strongly as to RGB edges. The standard deviation of
    RGB images is taken from ImageNet.

    Args:
        dataset: data set with depth.
        colours: preprocessing of the RGB channels.

    Raises:
        UserError: a sample has no depth, or the depth is constant.
    """
    count = min(SAMPLES, len(dataset))
    total: torch.Tensor | float = 0.0  # (3, D): number of known pixels, sum of their values and of their squares
    for number in range(count):
        sample = dataset[number * len(dataset) // count]
        if sample.depth is None:
            raise UserError(f"{sample.name} has no depth image: add it, or leave --depth out")
        depth = log_depth(sample.depth.double())
        known = depth.isfinite()
        depth = depth.where(known, 0)
        total = total + torch.stack([known, depth, depth**2]).sum((-2, -1))
    pixels, sums, squares = torch.as_tensor(total)
    mean = sums / pixels.clamp(min=1)
    std = (squares / pixels.clamp(min=1) - mean**2).clamp(min=0).sqrt()
    if not bool((std >= 1e-4).all()):
        raise UserError("the depth of the training data is constant or unknown: leave --depth out")
    factor = sum(colours.std) / sum(IMAGENET.std)
    return DepthPreprocessing(mean=tuple(mean.tolist()), std=tuple((factor * std).tolist()))


@runtime_checkable
class HasObjectCounts(Protocol):
    """Data set that can count its objects without reading images."""

    def object_counts(self) -> Sequence[int]: ...


def max_objects_per_image(dataset: Dataset, advance: ProgressCallback = ignore_progress) -> int:
    """Return the largest number of objects in an image, not counting crowds.

    Raises:
        UserError: the data set has no objects, or a label can't be read.
    """
    most = crowds = 0
    if isinstance(dataset, HasObjectCounts):
        most = max(dataset.object_counts(), default=0)
    else:
        with ThreadPoolExecutor(READERS) as readers:
            counts = readers.map(lambda index: _count_objects(dataset, index), range(len(dataset)))
            for done, (count, crowd) in enumerate(counts, start=1):
                most = max(most, count)
                crowds += crowd
                advance(done, len(dataset))
    if most == 0:
        reason = f"all {crowds} annotations are crowds (iscrowd), which are not trained on: " if crowds else ""
        raise UserError(
            f"none of the {len(dataset)} images to train or to validate on has an object with pixels: {reason}"
            "label some"
        )
    return most


def default_max_detections(objects: int) -> int:
    """Return `max_detections` for images with up to `objects` objects: 1.5 times as many, at least 100.

    The margin keeps false positives from displacing objects.
    """
    return max(
        MIN_MAX_DETECTIONS, MAX_DETECTIONS_STEP * math.ceil(MAX_DETECTIONS_FACTOR * objects / MAX_DETECTIONS_STEP)
    )


def require_labels(dataset: Dataset, role: str) -> None:
    """Check that a data set has labelled pixels; reading stops at the first image with one.

    Args:
        dataset: the data set.
        role: purpose of the images, for the message.

    Raises:
        UserError: all pixels of all images are void, or an image has no class map.
    """
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.name} has no class map: label it for semantic segmentation")
        if bool((sample.class_map != VOID).any()):
            return
    raise UserError(f"all pixels of the {len(dataset)} images {role} are void ({VOID}): label at least one class")


def _count_objects(dataset: Dataset, index: int) -> tuple[int, int]:
    """Return the number of objects of an image with pixels, without crowds, and the number of crowds."""
    objects = dataset[index].objects
    if objects is None:
        return 0, 0
    crowd = objects.crowd
    return int((~crowd & (objects.areas > 0)).sum()), int(crowd.sum())


def median_frequency_weights(dataset: Dataset, advance: ProgressCallback = ignore_progress) -> list[float]:
    """Compute the weight of each class: the median frequency divided by its own (Eigen and Fergus, 2015).

    The frequency of a class is its fraction of the valid pixels of the images that contain it. A class that does not
    occur has weight 1.

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
    """Return the number of pixels of each class, (C,), without void."""
    if class_map is None:
        return np.zeros(classes, np.int64)
    return np.bincount(class_map.numpy().ravel(), minlength=256)[:classes]
