"""Which regions are learned from, what the box branch loses on them, and what it detects at inference.

P proposals, G objects, R regions, D detections, K classes; boxes are (x1, y1, x2, y2) in pixels of the network's input.

Fast R-CNN (Girshick 2015) sections 2.3 and 3, with the numbers of Mask R-CNN section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.models import boxes as box_ops
from upscore.models.matching import match_boxes, sample
from upscore.models.terms import Term
from upscore.objects import Objects

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""What box deltas are multiplied by, so that they are about as large as class logits (Fast R-CNN's code)."""

MIN_SIDE = 1e-2
"""Detections with a side under this many pixels are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoISettings:
    """Which regions are trained on, and what becomes of them at inference (Mask R-CNN section 3.1)."""

    batch_size: int = 512
    """Regions trained on in each image (64 in the paper's C4 networks)."""
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100
    """The most objects that are found in an image."""


class Regions(NamedTuple):
    """What is learned from in one image."""

    boxes: Tensor
    """(R, 4), positives first."""
    labels: Tensor
    """(R,), K for the background."""
    objects: Tensor
    """(positives,), the position of each one's object."""
    truth: Tensor
    """(positives, 4), its box."""
    positives: int

    @property
    def is_positive(self) -> Tensor:
        """(R,) bool."""
        return torch.arange(len(self.boxes), device=self.boxes.device) < self.positives


def trainable(objects: Objects, device: torch.device) -> Objects:
    """Without crowds and without boxes that have no area or no finite sides; boxes and labels on `device`."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    usable = objects.crowd.logical_not() & (sides > 0).all(dim=1) & objects.boxes.isfinite().all(dim=1)
    kept = objects[usable]
    kept.boxes, kept.labels = kept.boxes.to(device), kept.labels.to(device)
    return kept


@torch.no_grad()
def sample_regions(
    proposed: Tensor,
    objects: Objects,
    generator: torch.Generator | None,
    num_classes: int,
    settings: RoISettings,
) -> Regions:
    """Of an image's proposals (P, 4) and G objects: a share of positives, and negatives for the rest."""
    boxes = torch.cat([proposed, objects.boxes])  # the truth is a proposal too, so that there are good ones early
    matched = match_boxes(objects.boxes, boxes, settings.positive_iou, settings.positive_iou, rescue=False)
    positive, negative = sample(matched, settings.batch_size, settings.positive_fraction, generator)
    index = torch.cat([positive, negative])
    labels = torch.full((len(index),), num_classes, device=boxes.device)
    labels[: len(positive)] = objects.labels[matched[positive]]
    return Regions(boxes[index], labels, matched[positive], objects.boxes[matched[positive]], len(positive))


def box_terms(logits: Tensor, deltas: Tensor, regions: Sequence[Regions], beta: float) -> dict[str, Term]:
    """Cross-entropy over K + 1 classes, and smooth L1 of the true class's deltas (Fast R-CNN equations 1 to 3).

    Both are over all sampled regions.

    Args:
        logits: (R, K + 1) of all images' regions.
        deltas: (R, K, 4).
        regions: of each image.
        beta: where smooth L1 turns from quadratic to linear; 0: L1.
    """
    labels = torch.cat([region.labels for region in regions])
    positive = torch.cat([region.is_positive for region in regions])
    wanted = torch.cat([box_ops.encode(r.truth, r.boxes[: r.positives], BOX_WEIGHTS) for r in regions])
    own = deltas[positive, labels[positive]]
    count = torch.tensor(len(labels), device=labels.device)
    return {
        "class": Term(F.cross_entropy(logits, labels, reduction="sum"), count),
        "box": Term(F.smooth_l1_loss(own, wanted, reduction="sum", beta=beta), count),
    }


def detect(
    proposed: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int], settings: RoISettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Proposals (P, 4) of an image (height, width), and the box branch's logits (P, K + 1) and deltas (P, K, 4) of
    them -> boxes (D, 4), scores (D,) in 0..1 and labels (D,), best first."""
    scores = logits.softmax(dim=1)[:, :-1]
    boxes = box_ops.clip(box_ops.decode(deltas, proposed[:, None], BOX_WEIGHTS), size)
    # any class of a proposal that is likely enough is a candidate, not only the likeliest
    which, labels = (scores > settings.score_threshold).nonzero().unbind(1)
    boxes, scores = boxes[which, labels], scores[which, labels]
    usable = box_ops.nonempty(boxes, MIN_SIDE)
    boxes, scores, labels = boxes[usable], scores[usable], labels[usable]
    kept = box_ops.class_nms(boxes, scores, labels, settings.nms_iou, settings.detections)
    return boxes[kept], scores[kept], labels[kept]
