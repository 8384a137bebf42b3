"""Two objects of one class that touch: for a class map they are one region, for a list of objects two entries.

N objects found, K objects labelled; H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from skimage.measure import label as label_regions
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.objects import Objects
from upscore.results import InstanceResult


class Pair(NamedTuple):
    """Two touching objects of one class in the scene of this index."""

    scene: int
    label: int
    masks: tuple[Tensor, Tensor]
    """(H, W) bool each, of their visible pixels."""

    @property
    def smaller(self) -> int:
        """The pixels of the smaller one."""
        return min(int(mask.sum()) for mask in self.masks)


def pairs(scenes: Dataset) -> list[Pair]:
    """All pairs, as the labels have them."""
    found = []
    for index in range(len(scenes)):
        objects = scenes[index].objects
        assert objects is not None
        found += [
            Pair(index, int(objects.labels[a]), (objects.bitmask(a), objects.bitmask(b))) for a, b in _touching(objects)
        ]
    return found


def largest(found: Sequence[Pair], count: int) -> list[int]:
    """Scenes to show: those of the pairs whose smaller object is largest."""
    return list(dict.fromkeys(pair.scene for pair in sorted(found, key=lambda pair: -pair.smaller)))[:count]


def told_apart(pair: Pair, instances: InstanceResult) -> bool:
    """Whether each of the two overlaps with an object found of its class, at an IoU above 0.5."""
    found = instances[instances.labels == pair.label].bitmasks()
    return all(any(_iou(mask.numpy(), other) > 0.5 for other in found) for mask in pair.masks)


def merged(pair: Pair, class_map: np.ndarray) -> bool:
    """Whether both lie, for the most part, in one region of the class map (H, W), whose class 0 is the background."""
    of_class = regions(np.where(class_map == pair.label + 1, class_map, 0))
    first, second = (int(np.bincount(of_class[mask.numpy()]).argmax()) for mask in pair.masks)
    return first == second != 0


def regions(class_map: np.ndarray) -> np.ndarray:
    """(H, W) classes -> numbers from 1 of connected pixels of one class, corners included; 0 where the class is 0."""
    return np.asarray(label_regions(class_map, connectivity=2))


def _touching(objects: Objects) -> list[tuple[int, int]]:
    """Positions of objects of one class with neighbouring pixels; scenes' objects are on one layer."""
    numbers = objects.id_map[0].numpy()
    beside = [
        np.stack([numbers[:, 1:].ravel(), numbers[:, :-1].ravel()]),
        np.stack([numbers[1:].ravel(), numbers[:-1].ravel()]),
    ]
    position = {number: k for k, number in enumerate(objects.numbers.tolist())}
    touching = np.unique(np.sort(np.concatenate(beside, axis=1), axis=0), axis=1).T.tolist()
    found = [(position[a], position[b]) for a, b in touching if 0 < a != b]
    return [(a, b) for a, b in found if objects.labels[a] == objects.labels[b]]


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())
