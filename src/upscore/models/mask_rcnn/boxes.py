"""Boxes and the deltas that move them.

Boxes are (x1, y1, x2, y2) in continuous pixels: a width is x2 - x1.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""What dw and dh are clamped to when decoded, so that no box becomes infinite."""

TOGETHER = {"cpu": 1000, "cuda": 25_000}
"""Boxes that are suppressed in one go, with each group moved aside, as torchvision does: more of them take longer than
group by group, for the time grows with their square."""

CANDIDATES = 8
"""For each box that is wanted, the best so many are looked at first: what is worse can't suppress any of them."""

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


def class_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, count: int) -> Tensor:
    """The positions of the `count` best boxes that no better one of their group overlaps by more than `iou`.

    Args:
        boxes: (R, 4).
        scores: (R,), none of them NaN.
        groups: (R,), whole numbers from 0.

    Returns:
        (count,) or fewer, best first.
    """
    boxes, scores = boxes.float(), scores.float()
    if len(boxes) <= TOGETHER.get(boxes.device.type, 1000):
        return _nms_aside(boxes, scores, groups, iou)[:count]
    order = scores.argsort(descending=True, stable=True)
    candidates = CANDIDATES * count
    while True:
        best = order[:candidates].sort().values
        kept = best[_nms_by_group(boxes[best], scores[best], groups[best], iou)]
        if len(kept) >= count or candidates >= len(order):
            return kept[scores[kept].sort(descending=True).indices][:count]
        candidates *= 4


def _nms_aside(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """All groups at once, moved so far apart that they don't meet; best first."""
    if not len(boxes):
        return groups
    shift = groups.to(boxes) * (boxes.max() + 1)
    return nms(boxes + shift[:, None], scores, iou)


def _nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Group by group; in the order that they come in."""
    kept = torch.zeros_like(groups, dtype=torch.bool)
    for members in groups.argsort(stable=True).split(groups.unique(return_counts=True)[1].tolist()):
        kept[members[nms(boxes[members], scores[members], iou)]] = True
    return kept.nonzero()[:, 0]


LIBRARIES = ("_C", "_C_stable")
"""Extension modules of torchvision that may hold its operators; the name depends on the version."""


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """The positions of the boxes (R, 4) that no better one overlaps by more than `iou`, best first."""
    _load()
    return torch.ops.torchvision.nms(boxes, scores, iou)


@cache
def _load() -> None:
    package = find_spec("torchvision")
    folders = (package and package.submodule_search_locations) or []
    for name in LIBRARIES:
        library = PathFinder.find_spec(name, list(folders))
        if library is not None and library.origin is not None:
            with suppress(OSError):  # built for another torch: torchvision's own import says so
                torch.ops.load_library(library.origin)
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision.ops  # noqa: F401  # loads them from wherever this version has them
