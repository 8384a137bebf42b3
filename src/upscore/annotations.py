"""The annotated objects of an image, stored as an id map.

K objects, L layers, H W pixels. Boxes are (x1, y1, x2, y2) in continuous pixel coordinates: the box of the single pixel
at the origin is (0, 0, 1, 1).
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
    """Masks, classes and boxes of the K annotated objects of an image; see `from_id_map` and `from_masks`."""

    id_map: Tensor
    """(L, H, W) int32, the id of the object at each pixel, 0 for background; L is 1 unless objects overlap."""
    ids: Tensor
    """(K,) int64, the id of each object in the id map, from 1."""
    layers: Tensor
    """(K,) int64, the layer of the id map that holds each object."""
    labels: Tensor
    """(K,) int64, class indices from 0; the background has no index."""
    boxes: Tensor
    """(K, 4) float32, the annotated boxes, or tight bounding boxes of the masks."""
    areas: Tensor
    """(K,) float32, the annotated areas in pixels, or pixel counts of the masks."""
    crowd: Tensor
    """(K,) bool, groups annotated as one object (COCO's `iscrowd`), which training ignores and COCO's AP handles."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.id_map.shape[-2:]
        return height, width

    @classmethod
    def from_id_map(
        cls, id_map: Tensor, labels: Tensor | None = None, crowd: Tensor | None = None
    ) -> ObjectAnnotations:
        """Make annotations of all objects whose ids occur in an id map.

        Args:
            id_map: (H, W) or (L, H, W) integers from 0.
            labels: class indices; the object with id i has `labels[i - 1]`. None: every object has class 0.
            crowd: bool, in the order of `labels`; None: no object is a crowd.
        """
        id_map = id_map.to(torch.int32)
        layered = id_map if id_map.ndim == 3 else id_map[None]
        ids, layers, boxes, areas = _measure_objects(layered.numpy())
        positions = torch.from_numpy(ids - 1)
        return cls(
            id_map=layered,
            ids=torch.from_numpy(ids),
            layers=torch.from_numpy(layers),
            labels=torch.zeros_like(positions) if labels is None else labels.to(torch.int64)[positions],
            boxes=torch.from_numpy(boxes),
            areas=torch.from_numpy(areas),
            crowd=torch.zeros(len(positions), dtype=torch.bool) if crowd is None else crowd[positions],
        )

    @classmethod
    def from_masks(cls, masks: Tensor, labels: Tensor | None = None, crowd: Tensor | None = None) -> ObjectAnnotations:
        """Make annotations from bitmasks.

        Each object is put on the first layer where it overlaps no other; empty masks are left out.

        Args:
            masks: (K, H, W) bool.
            labels: (K,) class indices; None: every object has class 0.
            crowd: (K,) bool; None: no object is a crowd.
        """
        height, width = masks.shape[-2:]
        layers: list[Tensor] = []
        for object_id, mask in enumerate(masks, start=1):
            for layer in layers:
                if not (layer[mask] != 0).any():
                    break
            else:
                layers.append(layer := torch.zeros(height, width, dtype=torch.int32))
            layer[mask] = object_id
        id_map = torch.stack(layers) if layers else torch.zeros(1, height, width, dtype=torch.int32)
        return cls.from_id_map(id_map, labels, crowd)

    def transformed(self, transform: Callable[[Tensor], Tensor]) -> ObjectAnnotations:
        """Return the annotations after a geometric transform of the image.

        Boxes and areas are measured on the transformed masks. Objects without a remaining pixel are dropped.

        Args:
            transform: crops, resizes, flips or pads (with 0) the (L, H, W) id map.
        """
        id_map = transform(self.id_map).contiguous()
        ids, layers, boxes, areas = _measure_objects(id_map.numpy())
        position_of = {object_id: k for k, object_id in enumerate(self.ids.tolist())}
        # indexing drops objects but keeps their pixels in the id map
        known = np.array([object_id in position_of for object_id in ids.tolist()], bool)
        positions = torch.tensor([position_of[object_id] for object_id in ids[known].tolist()], dtype=torch.int64)
        return ObjectAnnotations(
            id_map=id_map,
            ids=torch.from_numpy(ids[known]),
            layers=torch.from_numpy(layers[known]),
            labels=self.labels[positions],
            boxes=torch.from_numpy(boxes[known]),
            areas=torch.from_numpy(areas[known]),
            crowd=self.crowd[positions],
        )

    def __getitem__(self, index: Tensor) -> ObjectAnnotations:
        """Return the objects at these positions, or where a (K,) bool tensor is true; the id map is shared."""
        return replace(
            self,
            ids=self.ids[index],
            layers=self.layers[index],
            labels=self.labels[index],
            boxes=self.boxes[index],
            areas=self.areas[index],
            crowd=self.crowd[index],
        )

    def bitmask(self, position: int) -> Tensor:
        """Return the mask of the object at a position, (H, W) bool."""
        return self.id_map[self.layers[position]] == self.ids[position]


def _measure_objects(id_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, layers, boxes and areas of the objects in an (L, H, W) id map, sorted by id."""
    objects = []
    for layer, plane in enumerate(id_map):
        counts = np.bincount(plane.ravel())
        for object_id, slices in enumerate(ndimage.find_objects(plane), start=1):
            if slices is not None:
                rows, columns = slices
                box = (columns.start, rows.start, columns.stop, rows.stop)
                objects.append((object_id, layer, box, counts[object_id]))
    objects.sort(key=lambda entry: entry[0])
    return (
        np.array([entry[0] for entry in objects], np.int64),
        np.array([entry[1] for entry in objects], np.int64),
        np.array([entry[2] for entry in objects], np.float32).reshape(-1, 4),
        np.array([entry[3] for entry in objects], np.float32),
    )
