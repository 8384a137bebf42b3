"""Many objects of one image that is too large to be held: each a box and a small mask, whose side may be its own.

N objects, H W pixels of the image, h w those of a window of it, m the side of a mask in RoI form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upscore.data.rasters import Window
from upscore.errors import UserError
from upscore.inference.results import coco_results
from upscore.instances import Instances
from upscore.pasting import Pasting, paste
from upscore.structures import Prediction

RUN_LENGTHS = 1 << 32
"""Pixels of the smallest image that COCO's run lengths can't count."""


@dataclass(slots=True, kw_only=True)
class RoIObjects:
    """N objects in the coordinates of the whole image; about 2 kB each."""

    boxes: np.ndarray
    """(N, 4) float32, (x1, y1, x2, y2) in pixels of the image, continuous."""
    scores: np.ndarray
    """(N,) float32, 0 to 1."""
    labels: np.ndarray
    """(N,) int64, class indices from 0."""
    masks: list[np.ndarray]
    """N x (m, m) float16, the probability that a point of the box is part of the object."""
    size: tuple[int, int]
    """(H, W)."""
    pasting: Pasting = "exact"
    """How masks become pixels."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray) -> RoIObjects:
        """Some of the objects, by their positions, (n,) int."""
        return RoIObjects(
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=[self.masks[k] for k in index],
            size=self.size,
            pasting=self.pasting,
        )

    def by_score(self) -> RoIObjects:
        """The same objects, the best first."""
        return self[np.argsort(-self.scores, kind="stable")]

    def crop(self, k: int) -> tuple[np.ndarray, int, int]:
        """One object's pixels: a crop (h, w) bool of the image, and the row and the column of its first pixel."""
        return paste(torch.from_numpy(self.masks[k]).float(), torch.from_numpy(self.boxes[k]), self.size, self.pasting)

    def crop_in(self, k: int, window: Window) -> np.ndarray:
        """(h, w) bool, the pixels of a window that are an object's."""
        pixels = np.zeros((window.height, window.width), bool)
        rows, columns, part = self.part_in(k, window)
        pixels[rows, columns] = part
        return pixels

    def part_in(self, k: int, window: Window) -> tuple[slice, slice, np.ndarray]:
        """The rows and columns of a window that an object's crop has a part in, and that part, bool."""
        crop, top, left = self.crop(k)
        rows, own_rows = _shared(window.top, window.height, top, crop.shape[0])
        columns, own_columns = _shared(window.left, window.width, left, crop.shape[1])
        return rows, columns, crop[own_rows, own_columns]

    def one(self, k: int) -> Instances:
        """A single object."""
        return Instances(
            boxes=torch.from_numpy(self.boxes[k : k + 1]),
            scores=torch.from_numpy(self.scores[k : k + 1]),
            labels=torch.from_numpy(self.labels[k : k + 1]),
            masks=torch.from_numpy(self.masks[k]).float()[None],
            size=self.size,
            pasting=self.pasting,
        )


def _shared(start: int, length: int, other: int, other_length: int) -> tuple[slice, slice]:
    """Where two stretches of an axis meet, as a slice of each."""
    low = max(start, other)
    high = max(low, min(start + length, other + other_length))
    return slice(low - start, high - start), slice(low - other, high - other)


def write_ids(objects: RoIObjects, windows: Iterable[Window], write: Callable[[Window, np.ndarray], None]) -> None:
    """Hand the image's id map to `write`, a window (h, w) at a time, as `Instances.id_map` has it.

    A pixel has the position of its object, from 1, and 0 where there is none: uint16, or uint32 of over 65535 objects.
    The objects must come in descending order of their scores.
    """
    reach = _reach(objects)
    kind = np.uint16 if len(objects) < 1 << 16 else np.uint32
    for window in windows:
        top, left, height, width = window
        inside = (reach[:, :2] < (left + width, top + height)) & (reach[:, 2:] > (left, top))
        ids = np.zeros((height, width), kind)
        for k in reversed(np.flatnonzero(inside.all(1)).tolist()):
            rows, columns, part = objects.part_in(k, window)
            ids[rows, columns][part] = k + 1
        write(window, ids)


def _reach(objects: RoIObjects) -> np.ndarray:
    """(N, 4), boxes that hold all pixels: masks reach up to a cell, and a pixel, beyond their boxes."""
    cells = np.array([len(mask) for mask in objects.masks], np.float32).reshape(-1, 1)
    beyond = (objects.boxes[:, 2:] - objects.boxes[:, :2]) / cells + 1
    return objects.boxes + np.concatenate([-beyond, beyond], 1)


def coco_entries(objects: RoIObjects, classes: list[str], image_id: int, file_name: str) -> Iterator[dict[str, Any]]:
    """The objects as COCO's evaluation takes them, as `coco_results` writes those of a photo.

    Run lengths are made from each object's own crop; those outside it cost nothing.

    Raises:
        UserError: the image has 2 ** 32 pixels or more, which COCO's run lengths can't count.
    """
    height, width = objects.size
    if height * width >= RUN_LENGTHS:
        raise UserError(
            f"{file_name} has {width}x{height} pixels, over the 4294967295 that COCO's run lengths can count: "
            "take the id raster instead"
        )
    for k in range(len(objects)):
        yield from coco_results(Prediction(instances=objects.one(k), classes=classes), image_id, file_name)
