"""Boxes and the deltas that move them.

Boxes are (x1, y1, x2, y2) in continuous pixels: a width is x2 - x1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms

MAX_LOG_SCALE = math.log(1000 / 16)
"""What dw and dh are clamped to when decoded, so that no box becomes infinite."""

Weights = tuple[float, float, float, float]
UNIT: Weights = (1.0, 1.0, 1.0, 1.0)


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = UNIT) -> Tensor:
    """Boxes (..., 4) as seen from anchors (..., 4): (dx, dy, dw, dh), each times its weight (Faster R-CNN, eq. 2)."""
    centre, size = _centre_and_size(boxes)
    from_centre, from_size = _centre_and_size(anchors)
    deltas = torch.cat([(centre - from_centre) / from_size, (size / from_size).log()], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights = UNIT) -> Tensor:
    """The reverse of `encode`; anchors (..., 4) are broadcast over deltas (..., 4)."""
    shift, scale = (deltas / deltas.new_tensor(weights)).split(2, dim=-1)
    from_centre, from_size = _centre_and_size(anchors)
    centre = from_centre + shift * from_size
    half = 0.5 * scale.clamp(max=MAX_LOG_SCALE).exp() * from_size
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    start, end = boxes.split(2, dim=-1)
    size = end - start
    return start + 0.5 * size, size


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes (..., 4) to an image of (height, width)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def nonempty(boxes: Tensor, min_size: float) -> Tensor:
    """(R, 4) -> (R,) bool: finite, and both sides at least `min_size` and above 0."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes.isfinite().all(dim=1) & (sides >= min_size).all(dim=1) & (sides > 0).all(dim=1)


def class_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """The positions of the boxes that no better one of their group overlaps by more than `iou`, best first."""
    return batched_nms(boxes.float(), scores.float(), groups, iou)
