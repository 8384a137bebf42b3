"""Which anchor or proposal answers for which object, and which of them are learned from (Faster R-CNN section 3.1.2).

G objects, A anchors or proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE, IGNORED = -1, -2

ENTRIES_AT_ONCE = 500_000
"""Of the G x A table of overlaps, which for hundreds of objects would not fit into memory as a whole."""


def match_boxes(
    objects: Tensor, anchors: Tensor, positive: float, negative: float, *, allow_low_quality: bool
) -> Tensor:
    """Boxes (G, 4) and (A, 4) -> (A,) int64: the object that each anchor overlaps most, `NEGATIVE` or `IGNORED`.

    Args:
        positive: least intersection over union to answer for an object.
        negative: below it, an anchor is background; between the two it is ignored.
        allow_low_quality: an anchor that no other surpasses for some object answers for the object that it overlaps
            most itself, whatever the overlap; all ties do.
    """
    from torchvision.ops import box_iou  # slow to import, and not needed at inference

    if not len(objects) or not len(anchors):
        return torch.full((len(anchors),), NEGATIVE, device=anchors.device)
    chunks = anchors.split(max(1, ENTRIES_AT_ONCE // len(objects)))
    found = [_highest(box_iou(objects, chunk)) for chunk in chunks]
    overlap, best = (torch.cat([part[i] for part in found]) for i in (0, 1))
    matched = torch.where(overlap >= positive, best, IGNORED)
    matched[overlap < negative] = NEGATIVE
    if allow_low_quality:
        # an object that nothing overlaps has no best anchor
        highest = torch.stack([of_objects for *_, of_objects in found]).amax(dim=0)[:, None]
        saved = [((box_iou(objects, chunk) == highest) & (highest > 0)).any(dim=0) for chunk in chunks]
        matched = torch.where(torch.cat(saved), best, matched)
    return matched


def _highest(overlaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(G, A) -> each anchor's highest and whose it is, each object's highest."""
    overlap, best = overlaps.max(dim=0)
    return overlap, best, overlaps.amax(dim=1)


def sample_matches(
    matched: Tensor, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Positions of up to `count` anchors chosen at random: positives, at most their share of it, and negatives."""
    positive, negative = (matched >= 0).nonzero()[:, 0], (matched == NEGATIVE).nonzero()[:, 0]
    positives = min(len(positive), int(count * positive_fraction))
    negatives = min(len(negative), count - positives)
    return _choose(positive, positives, generator), _choose(negative, negatives, generator)


def _choose(among: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    return among[torch.randperm(len(among), generator=generator, device=among.device)[:count]]
