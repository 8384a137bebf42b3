"""What the mask branch should say, and how far from it it is (Mask R-CNN section 3, "Mask Representation").

R regions, K classes, m the side of a mask; H W pixels of the network's input.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.models.profiles import Profile
from upscore.models.terms import Term
from upscore.objects import Objects

MaskLoss = Literal["sigmoid", "softmax"]
"""sigmoid: each class has a mask of its own, and only that of the true class is trained; softmax: classes compete for
every pixel, the background being one of them (table 2b)."""


def mask_targets(objects: Objects, which: Tensor, boxes: Tensor, size: int, profile: Profile) -> Tensor:
    """The mask of object `which[r]` as seen through box r: (R,), (R, 4) -> (R, m, m) float32, 0 to 1.

    What lies outside the box is lost: it is the proposal's, not the object's.
    """
    from torchvision.ops import roi_align  # slow to import, and not needed at inference

    targets = torch.zeros(len(boxes), size, size)
    height, width = objects.size
    outer = torch.stack(
        [boxes[:, 0].floor() - 2, boxes[:, 1].floor() - 2, boxes[:, 2].ceil() + 2, boxes[:, 3].ceil() + 2], dim=1
    )
    corners = outer.long().tolist()
    layers, numbers = objects.layers[which].tolist(), objects.numbers[which].tolist()
    for r, (left, top, right, bottom) in enumerate(corners):
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        crop = (objects.id_map[layers[r], top:bottom, left:right] == numbers[r]).float()
        if crop.numel():
            box = boxes[r] - boxes.new_tensor([left, top, left, top])
            targets[r] = roi_align(crop[None, None], [box[None]], size, aligned=profile.aligned_targets)[0, 0]
    return targets if profile.soft_targets else (targets >= 0.5).float()


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor, kind: MaskLoss) -> Tensor:
    """The mean of `mask_term`."""
    return mask_term(logits, labels, targets, kind).mean


def mask_term(logits: Tensor, labels: Tensor, targets: Tensor, kind: MaskLoss) -> Term:
    """Over regions and pixels; without regions 0, but still connected to the logits.

    Args:
        logits: (R, K, m, m), or (R, 1, m, m) of a class-agnostic head, or (R, K + 1, m, m) for softmax.
        labels: (R,) the true classes.
        targets: (R, m, m).
    """
    count = torch.tensor(targets.numel(), device=logits.device)
    if not len(logits):
        return Term(logits.float().sum(), count)
    if kind == "softmax":
        background = logits.shape[1] - 1
        classes = torch.where(targets >= 0.5, labels[:, None, None], background)
        return Term(F.cross_entropy(logits, classes, reduction="sum"), count)
    return Term(F.binary_cross_entropy_with_logits(own_class(logits, labels), targets, reduction="sum"), count)


def mask_probabilities(logits: Tensor, labels: Tensor, kind: MaskLoss) -> Tensor:
    """Logits as in `mask_loss` and predicted classes (R,) -> (R, m, m), the probability of the class at each point."""
    if kind == "softmax":
        return own_class(logits.softmax(dim=1), labels)
    return own_class(logits, labels).sigmoid()


def own_class(values: Tensor, labels: Tensor) -> Tensor:
    """(R, K or 1, m, m) -> (R, m, m), each region's channel of its class."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(len(values), device=values.device), labels]
