"""Assignment of anchors or proposals to ground truth objects, and sampling of them (Faster R-CNN section 3.1.2).

G objects, A anchors or proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE, IGNORED = -1, -2

MAX_TABLE_SIZE = 500_000
"""Number of entries of the G x A table of overlaps that are computed at a time, to limit memory."""


def match_boxes(
    objects: Tensor, anchors: Tensor, positive: float, negative: float, *, allow_low_quality: bool
) -> Tensor:
    """Match each anchor to the object that it overlaps most.

    Args:
        objects: ground truth boxes (G, 4).
        anchors: (A, 4).
        positive: minimum intersection over union of a match.
        negative: anchors below this overlap are `NEGATIVE`; between the thresholds they are `IGNORED`.
        allow_low_quality: also match anchors that have the highest overlap of all anchors with some object, including
            ties. Such an anchor is matched to the object that it overlaps most itself.

    Returns:
        (A,) int64, the index of the matched object, `NEGATIVE` or `IGNORED`.
    """
    from torchvision.ops import box_iou  # imported here because it is slow to import and not needed at inference

    if not len(objects) or not len(anchors):
        return torch.full((len(anchors),), NEGATIVE, device=anchors.device)
    chunks = anchors.split(max(1, MAX_TABLE_SIZE // len(objects)))
    maxima = [_maxima(box_iou(objects, chunk)) for chunk in chunks]
    overlap, best = (torch.cat([part[i] for part in maxima]) for i in (0, 1))
    matched = torch.where(overlap >= positive, best, IGNORED)
    matched[overlap < negative] = NEGATIVE
    if allow_low_quality:
        # an object without any overlap has no best anchor
        highest = torch.stack([object_maxima for *_, object_maxima in maxima]).amax(dim=0)[:, None]
        is_best = [((box_iou(objects, chunk) == highest) & (highest > 0)).any(dim=0) for chunk in chunks]
        matched = torch.where(torch.cat(is_best), best, matched)
    return matched


def _maxima(overlaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest overlap of each anchor and its object (A,), and the highest overlap of each object (G,)."""
    overlap, best = overlaps.max(dim=0)
    return overlap, best, overlaps.amax(dim=1)


def sample_matches(
    matched: Tensor, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Sample up to `count` anchors at random.

    Args:
        matched: the output of `match_boxes`.
        count: maximum number of sampled anchors.
        positive_fraction: maximum fraction of positives; negatives fill up the rest.
        generator: random number generator; None: torch's global one.

    Returns:
        Indices of the sampled positives and of the sampled negatives.
    """
    positive, negative = (matched >= 0).nonzero()[:, 0], (matched == NEGATIVE).nonzero()[:, 0]
    positives = min(len(positive), int(count * positive_fraction))
    negatives = min(len(negative), count - positives)
    return _choose(positive, positives, generator), _choose(negative, negatives, generator)


def _choose(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator, device=indices.device)[:count]]
