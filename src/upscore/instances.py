"""Objects that were found in a photo; their masks stay small until somebody asks for pixels.

N objects, H W pixels of the photo, h w those of an object's crop of it, m the side of a mask in RoI form (28, or 14 in
the C4 network).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscore.errors import UserError
from upscore.pasting import Pasting, paste, paste_all

MAX_BITMASKS = 8 << 30
"""Bytes of bitmasks that are made at once."""


@dataclass(slots=True, kw_only=True)
class Instances:
    """N objects in descending order of their scores, on the CPU."""

    boxes: Tensor
    """(N, 4) float32, (x1, y1, x2, y2) in pixels of the photo, continuous."""
    scores: Tensor
    """(N,) float32, 0 to 1."""
    labels: Tensor
    """(N,) int64, class indices from 0."""
    masks: Tensor
    """(N, m, m) float32, the probability that a point of the box is part of the object."""
    size: tuple[int, int]
    """(H, W)."""
    pasting: Pasting = "exact"
    """How the masks become pixels; a part of the rules that the network was published with."""
    mask_threshold: float = 0.5
    """Pixels of at least this probability are the object's."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Instances:
        """Some of the objects, by their positions, a slice or an (N,) bool; keep them in order of their scores."""
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=self.masks[index],
        )

    def at_least(self, score: float) -> Instances:
        """The objects with this score or a higher one."""
        return self[self.scores >= score]

    def distinct(self) -> Instances:
        """Without those of which better ones of the same class hide more than half: one object, found twice.

        Suppression by boxes (Mask R-CNN section 3.1) lets such pairs pass, for a part and the whole have other boxes.
        """
        kept: list[int] = []
        places = np.zeros((len(self), 4), np.int64)
        labels = self.labels.numpy()
        for k, (crop, top, left) in enumerate(self.crops()):
            places[k] = top, left, top + crop.shape[0], left + crop.shape[1]
            better = np.array(kept, np.int64)
            meet = (places[better, :2] < places[k, 2:]).all(1) & (places[better, 2:] > places[k, :2]).all(1)
            hidden = np.zeros_like(crop)
            for other in better[meet & (labels[better] == labels[k])]:
                _add_overlap(hidden, places[k], self._crop(other)[0], places[other])
            pixels = np.count_nonzero(crop)
            if pixels and 2 * np.count_nonzero(crop & ~hidden) >= pixels:
                kept.append(k)
        return self[torch.tensor(kept, dtype=torch.int64)]

    def resized(self, size: tuple[int, int]) -> Instances:
        """The same objects in the photo at another size (H, W)."""
        (height, width), (old_height, old_width) = size, self.size
        boxes = self.boxes * torch.tensor([width / old_width, height / old_height] * 2)
        return replace(self, boxes=boxes.clamp(torch.zeros(4), torch.tensor([width, height] * 2)), size=size)

    def crops(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """Each object's pixels: a crop (h, w) bool of the photo, and the row and the column of its first pixel."""
        return paste_all(self.masks, self.boxes, self.size, self.pasting, self.mask_threshold)

    def bitmasks(self) -> Tensor:
        """(N, H, W) bool, the pixels of all objects.

        Raises:
            UserError: they would take over 8 GiB.
        """
        height, width = self.size
        if (needed := len(self) * height * width) > MAX_BITMASKS:
            raise UserError(
                f"the bitmasks of {len(self)} objects in a photo of {width}x{height} pixels would take "
                f"{needed / 2**30:.0f} GiB: take crops() or rle() instead"
            )
        bitmasks = np.zeros((len(self), height, width), bool)
        for bitmask, (crop, top, left) in zip(bitmasks, self.crops(), strict=True):
            _part(bitmask, crop, top, left)[:] = crop
        return torch.from_numpy(bitmasks)

    def areas(self) -> Tensor:
        """(N,) int64, the number of each object's pixels."""
        return torch.tensor([np.count_nonzero(crop) for crop, _, _ in self.crops()], dtype=torch.int64)

    def id_map(self) -> np.ndarray:
        """(H, W), the position of each pixel's object, from 1; 0 where there is none.

        Where objects overlap, the one with the higher score has the pixel. uint16, int32 of over 65535 objects.
        """
        id_map = np.zeros(self.size, np.uint16 if len(self) < 1 << 16 else np.int32)
        for k in reversed(range(len(self))):
            crop, top, left = self._crop(k)
            _part(id_map, crop, top, left)[crop] = k + 1
        return id_map

    def rle(self) -> list[dict[str, Any]]:
        """The objects' pixels in COCO's compressed run-length form: {"size": [H, W], "counts": str}."""
        from pycocotools import mask as coco

        height, width = self.size
        encoded = []
        for crop, top, left in self.crops():
            counts = _run_lengths(crop, top, left, self.size)
            rle: Any = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
            encoded.append({"size": [height, width], "counts": rle["counts"].decode("ascii")})
        return encoded

    def polygons(self) -> list[list[np.ndarray]]:
        """The outer contours of each object: arrays (P, 2) float32 of x, y in pixels, the last joined to the first.

        A contour runs halfway between pixels that are inside and their neighbours that are not, so that it has just
        the object's pixel centres inside; pixels that touch by a corner only are apart. Holes are lost.
        """
        return [_outer_contours(crop, top, left) for crop, top, left in self.crops()]

    def _crop(self, k: int) -> tuple[np.ndarray, int, int]:
        return paste(self.masks[k], self.boxes[k], self.size, self.pasting, self.mask_threshold)


def _part(plane: np.ndarray, crop: np.ndarray, top: int, left: int) -> np.ndarray:
    """The part of an (H, W) plane that a crop is of."""
    height, width = crop.shape
    return plane[top : top + height, left : left + width]


def _add_overlap(hidden: np.ndarray, place: np.ndarray, crop: np.ndarray, other: np.ndarray) -> None:
    """Mark in one crop the pixels of another; places are (top, left, bottom, right) in the photo."""
    top, left = np.maximum(place[:2], other[:2])
    bottom, right = np.minimum(place[2:], other[2:])
    mine = np.s_[top - place[0] : bottom - place[0], left - place[1] : right - place[1]]
    theirs = np.s_[top - other[0] : bottom - other[0], left - other[1] : right - other[1]]
    hidden[mine] |= crop[theirs]


def _run_lengths(crop: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """Lengths of alternate runs outside and inside an object, down the columns of the whole photo."""
    height, width = size
    # A row without pixels ends every run inside its own column.
    columns = np.zeros((crop.shape[1], crop.shape[0] + 1), bool)
    columns[:, :-1] = crop.T
    flat = columns.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[:1].any():
        changes = np.concatenate([[0], changes])
    column, row = np.divmod(changes, columns.shape[1])
    edges = (column + left) * height + row + top
    joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])  # over the end of a column as high as the photo
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    return counts[:-1] if len(counts) > 1 and not counts[-1] else counts


def _outer_contours(crop: np.ndarray, top: int, left: int) -> list[np.ndarray]:
    from skimage.measure import find_contours

    contours = []
    for contour in find_contours(np.pad(crop, 1).astype(np.float32), 0.5):
        y, x = contour[:-1].T + np.array([[top - 0.5], [left - 0.5]])
        if x @ np.roll(y, 1) < y @ np.roll(x, 1):  # turns the way of outer contours
            contours.append(np.stack([x, y], 1).astype(np.float32))
    return contours
