"""Annotated objects of one image, stored as an id map with one layer or, if objects overlap, several.

K objects, L layers, H W pixels. Boxes are (x1, y1, x2, y2) in pixels, continuous: a single pixel at the origin is
(0, 0, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class ObjectAnnotations:
    """The annotations of K objects; create them by `from_id_map` or `from_masks`."""

    id_map: Tensor
    """(L, H, W) int32, object numbers from 1, 0 = no object; L is 1 unless objects overlap."""
    numbers: Tensor
    """(K,) int64, the numbers of the objects in the id map."""
    layers: Tensor
    """(K,) int64, the layers of the objects."""
    labels: Tensor
    """(K,) int64, class indices from 0; there is no class for the background."""
    boxes: Tensor
    """(K, 4) float32, boxes as annotated, or tight boxes around the pixels if not annotated."""
    areas: Tensor
    """(K,) float32, areas in pixels, as annotated, or the number of pixels if not annotated."""
    crowd: Tensor
    """(K,) bool, COCO's `iscrowd`: a group annotated as one object, ignored in training, scored as COCO does."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the id map."""
        height, width = self.id_map.shape[-2:]
        return height, width

    @classmethod
    def from_id_map(
        cls, id_map: Tensor, labels: Tensor | None = None, crowd: Tensor | None = None
    ) -> ObjectAnnotations:
        """Return the objects of an id map.

        Args:
            id_map: (H, W) or (L, H, W), object numbers from 1, 0 = no object.
            labels: class index of object number n at index n - 1; without it, all objects have class 0.
            crowd: bool of object number n at index n - 1; without it, no object is a crowd.
        """
        id_map = id_map.to(torch.int32)
        layered = id_map if id_map.ndim == 3 else id_map[None]
        numbers, layers, boxes, areas = _find(layered.numpy())
        at = torch.from_numpy(numbers - 1)
        return cls(
            id_map=layered,
            numbers=torch.from_numpy(numbers),
            layers=torch.from_numpy(layers),
            labels=torch.zeros_like(at) if labels is None else labels.to(torch.int64)[at],
            boxes=torch.from_numpy(boxes),
            areas=torch.from_numpy(areas),
            crowd=torch.zeros(len(at), dtype=torch.bool) if crowd is None else crowd[at],
        )

    @classmethod
    def from_masks(cls, masks: Tensor, labels: Tensor | None = None, crowd: Tensor | None = None) -> ObjectAnnotations:
        """Return the objects of K bitmasks, (K, H, W) bool, each on the first free layer; empty masks are left out."""
        height, width = masks.shape[-2:]
        layers: list[Tensor] = []
        for number, mask in enumerate(masks, start=1):
            for layer in layers:
                if not (layer[mask] != 0).any():
                    break
            else:
                layers.append(layer := torch.zeros(height, width, dtype=torch.int32))
            layer[mask] = number
        id_map = torch.stack(layers) if layers else torch.zeros(1, height, width, dtype=torch.int32)
        return cls.from_id_map(id_map, labels, crowd)

    def moved(self, move: Callable[[Tensor], Tensor]) -> ObjectAnnotations:
        """Return the objects after `move` has cropped, resized, mirrored or padded (with 0) their id map.

        Boxes and areas are measured again, and objects without remaining pixels are removed.
        """
        moved = move(self.id_map).contiguous()
        numbers, layers, boxes, areas = _find(moved.numpy())
        index = {number: k for k, number in enumerate(self.numbers.tolist())}
        known = np.array([number in index for number in numbers.tolist()], bool)  # the map may hold others, left out
        at = torch.tensor([index[number] for number in numbers[known].tolist()], dtype=torch.int64)
        return ObjectAnnotations(
            id_map=moved,
            numbers=torch.from_numpy(numbers[known]),
            layers=torch.from_numpy(layers[known]),
            labels=self.labels[at],
            boxes=torch.from_numpy(boxes[known]),
            areas=torch.from_numpy(areas[known]),
            crowd=self.crowd[at],
        )

    def __getitem__(self, index: Tensor) -> ObjectAnnotations:
        """Select objects by positions or a (K,) bool mask; the id map is unchanged."""
        return replace(
            self,
            numbers=self.numbers[index],
            layers=self.layers[index],
            labels=self.labels[index],
            boxes=self.boxes[index],
            areas=self.areas[index],
            crowd=self.crowd[index],
        )

    def bitmask(self, position: int) -> Tensor:
        """Return the mask of one object, (H, W) bool."""
        return self.id_map[self.layers[position]] == self.numbers[position]


def _find(id_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers, layers, boxes and areas of the objects in an id map (L, H, W), by ascending number."""
    found = []
    for layer, plane in enumerate(id_map):
        counts = np.bincount(plane.ravel())
        for number, slices in enumerate(ndimage.find_objects(plane), start=1):
            if slices is not None:
                rows, columns = slices
                box = (columns.start, rows.start, columns.stop, rows.stop)
                found.append((number, layer, box, counts[number]))
    found.sort(key=lambda entry: entry[0])
    return (
        np.array([entry[0] for entry in found], np.int64),
        np.array([entry[1] for entry in found], np.int64),
        np.array([entry[2] for entry in found], np.float32).reshape(-1, 4),
        np.array([entry[3] for entry in found], np.float32),
    )
