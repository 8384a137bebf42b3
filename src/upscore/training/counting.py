"""How many objects a photo has, which decides on how many a network must be able to find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from upscore.data.datasets import Dataset
from upscore.errors import UserError
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
    most = 0
    if isinstance(dataset, Counted):
        most = max(dataset.object_counts(), default=0)
    else:
        with ThreadPoolExecutor(READERS) as readers:
            counts = readers.map(lambda index: _count(dataset, index), range(len(dataset)))
            for done, count in enumerate(counts, start=1):
                most = max(most, count)
                advance(done, len(dataset))
    if most == 0:
        raise UserError(f"none of {len(dataset)} photos to train or to validate on has an object: label some of them")
    return most


def enough_detections(objects: int) -> int:
    """Half as many again as there are in the fullest photo, so that a wrong one takes no right one's place."""
    return max(LEAST, ROUNDED_TO * math.ceil(HEADROOM * objects / ROUNDED_TO))


def _count(dataset: Dataset, index: int) -> int:
    objects = dataset[index].objects
    return 0 if objects is None else int(objects.crowd.logical_not().sum())
