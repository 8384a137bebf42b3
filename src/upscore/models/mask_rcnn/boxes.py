"""Box regression, clipping and non-maximum suppression.

R boxes (x1, y1, x2, y2) in continuous pixel coordinates: the width is x2 - x1.
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
"""Upper bound of the decoded dw and dh, so that boxes remain finite."""

MAX_JOINT_NMS = {"cpu": 1000, "cuda": 25_000}
"""Number of boxes up to which all groups are suppressed in a single call, as in torchvision. The time grows with the
square of the number, so that for more boxes one call per group is faster."""

CANDIDATES = 8
"""Number of best boxes per requested box that are tried first; worse boxes can't suppress better ones."""

Weights = tuple[float, float, float, float]
UNIT_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = UNIT_WEIGHTS) -> Tensor:
    """Encode boxes (..., 4) relative to anchors (..., 4) as weighted deltas (dx, dy, dw, dh) (Faster R-CNN eq. 2)."""
    centre, size = _centre_and_size(boxes)
    from_centre, from_size = _centre_and_size(anchors)
    deltas = torch.cat([(centre - from_centre) / from_size, (size / from_size).log()], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights = UNIT_WEIGHTS) -> Tensor:
    """Decode deltas (..., 4) relative to anchors, which are broadcast, to boxes (..., 4); the inverse of `encode`."""
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
    """Clip boxes (..., 4) to an image of (height, width)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def nonempty(boxes: Tensor, min_size: float) -> Tensor:
    """Return (R,) bool: whether boxes (R, 4) are finite, and both sides are at least `min_size` and positive."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes.isfinite().all(dim=1) & (sides >= min_size).all(dim=1) & (sides > 0).all(dim=1)


def class_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, count: int) -> Tensor:
    """Apply non-maximum suppression within each group of boxes, such as a class or a pyramid level.

    Args:
        boxes: (R, 4).
        scores: (R,), without NaN.
        groups: (R,) int64, from 0.
        iou: a box is suppressed if its intersection over union with a better box of its group is larger.
        count: maximum number of boxes to keep.

    Returns:
        Indices of the kept boxes, at most (count,), in descending order of scores.
    """
    boxes, scores = boxes.float(), scores.float()
    if len(boxes) <= MAX_JOINT_NMS.get(boxes.device.type, 1000):
        return _nms_with_offsets(boxes, scores, groups, iou)[:count]
    order = scores.argsort(descending=True, stable=True)
    candidates = CANDIDATES * count
    while True:
        best = order[:candidates].sort().values
        kept = best[_nms_by_group(boxes[best], scores[best], groups[best], iou)]
        if len(kept) >= count or candidates >= len(order):
            return kept[scores[kept].sort(descending=True).indices][:count]
        candidates *= 4


def _nms_with_offsets(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Suppress all groups in one call, shifted by offsets so that they do not overlap; best first."""
    if not len(boxes):
        return groups
    offsets = groups.to(boxes) * (boxes.max() + 1)
    return nms(boxes + offsets[:, None], scores, iou)


def _nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Suppress each group in a call of its own; the order of boxes does not change."""
    kept = torch.zeros_like(groups, dtype=torch.bool)
    for members in groups.argsort(stable=True).split(groups.unique(return_counts=True)[1].tolist()):
        kept[members[nms(boxes[members], scores[members], iou)]] = True
    return kept.nonzero()[:, 0]


LIBRARIES = ("_C", "_C_stable")
"""Names of torchvision's extension module in its different versions."""


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Return the indices of boxes (R, 4) that no better box overlaps by more than `iou`, in descending score order."""
    _load_operators()
    return torch.ops.torchvision.nms(boxes, scores, iou)


@cache
def _load_operators() -> None:
    """Load torchvision's operators without importing torchvision."""
    # `import torchvision.ops` takes 2.3 s of CPU time, against 2 ms for its library: the first prediction of a process
    # from a warm cache, which must take less than 3 s, does not need the rest of torchvision
    package = find_spec("torchvision")
    folders = (package and package.submodule_search_locations) or []
    for name in LIBRARIES:
        library = PathFinder.find_spec(name, list(folders))
        if library is not None and library.origin is not None:
            with suppress(OSError):  # built for another torch; the import below raises an explanation
                torch.ops.load_library(library.origin)
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision.ops  # noqa: F401  # registers the operators in any version
