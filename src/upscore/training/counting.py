"""How many objects a photo has, which decides on how many a network must be able to find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.progress import ProgressCallback, ignore_progress

READERS = 4
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
        with ThreadPoolExecutor(READERS) as readers:
            counts = readers.map(lambda index: _count(dataset, index), range(len(dataset)))
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


def _count(dataset: Dataset, index: int) -> tuple[int, int]:
    """Objects of an image that are learned, those with pixels and no crowds; and crowds."""
    objects = dataset[index].objects
    if objects is None:
        return 0, 0
    crowd = objects.crowd
    return int((~crowd & (objects.areas > 0)).sum()), int(crowd.sum())
