"""What a pixel of each class counts in the loss where classes are of very different frequency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.progress import ProgressCallback, ignore_progress

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
            counts = _count(class_map, classes)
            own += counts
            shared += np.where(counts > 0, counts.sum(), 0)
            advance(done, len(dataset))
    frequencies = [part / whole for part, whole in zip(own.tolist(), shared.tolist(), strict=True) if whole]
    middle = median(frequencies) if frequencies else 1.0
    return [middle * whole / part if part else 1.0 for part, whole in zip(own.tolist(), shared.tolist(), strict=True)]


def _count(class_map: Tensor | None, classes: int) -> np.ndarray:
    """(C,) pixels of each class, void left out."""
    if class_map is None:
        return np.zeros(classes, np.int64)
    return np.bincount(class_map.numpy().ravel(), minlength=256)[:classes]
