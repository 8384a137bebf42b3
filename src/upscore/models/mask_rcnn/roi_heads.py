"""Box and mask heads of Mask R-CNN (figure 4), sampling of regions, their losses, and detection.

R regions, G objects, P proposals or P x P bins of a pooled region, K classes, C channels; masks are m x m.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.annotations import ObjectAnnotations
from upscore.models.loss_sum import LossSum
from upscore.models.mask_rcnn import boxes as box_ops
from upscore.models.mask_rcnn.matcher import match_boxes, sample_matches
from upscore.models.mask_rcnn.presets import Preset
from upscore.models.precision import autocast_disabled

MaskHeadName = Literal["fcn", "mlp"]


class BoxHead(nn.Module):
    """Box head: (R, C, P, P) -> (R, features).

    Args:
        channels: C.
        features: number of output features.
        size: P.
        convs: number of convolutions. With 0 there are two fully connected layers, otherwise one (torchvision's v2).
        norm: use batch normalisation instead of the bias of convolutions.
    """

    def __init__(self, channels: int, features: int, *, size: int = 7, convs: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_conv(channels, channels, norm) for _ in range(convs)))
        sides = [channels * size**2, features] if convs else [channels * size**2, features, features]
        layers = [nn.Linear(i, o) for i, o in itertools.pairwise(sides)]
        for fc in layers:
            nn.init.kaiming_uniform_(fc.weight, a=1)
            nn.init.zeros_(fc.bias)
        self.fcs = nn.ModuleList(layers)
        self.out_features = features

    def forward(self, regions: Tensor) -> Tensor:
        """Compute features; regions are flattened in the order C, P, P, as for published weights."""
        features = self.convs(regions).flatten(1)
        for fc in self.fcs:
            features = fc(features).relu()
        return features


class BoxPredictor(nn.Module):
    """Output layers of the box branch: (R, features) -> class logits (R, K + 1) and deltas (R, K, 4) of each class.

    The background is the last class.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(features, num_classes + 1)
        self.deltas = nn.Linear(features, 4 * num_classes)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and deltas, always in float32, which is cheap here."""
        with autocast_disabled(features.device):
            features = features.float()
            return self.classes(features), self.deltas(features).unflatten(1, (-1, 4))


class FCNMaskHead(nn.Module):
    """Mask head of convolutions: (R, C, P, P) -> mask logits (R, outputs, 2P, 2P) (figure 4).

    Args:
        channels: C.
        hidden: channels of the convolutions and of the upsampled map.
        outputs: K, 1 for class-agnostic masks, or K + 1 for a softmax over classes.
        convs: number of convolutions; 4 with a pyramid, 0 after res5 in the C4 architecture.
        norm: use batch normalisation instead of the bias of convolutions.
    """

    def __init__(self, channels: int, hidden: int, outputs: int, *, convs: int = 4, norm: bool = False) -> None:
        super().__init__()
        widths = [channels] + [hidden] * convs
        self.convs = nn.Sequential(*(_conv(i, o, norm) for i, o in itertools.pairwise(widths)))
        self.upsample = nn.ConvTranspose2d(widths[-1], hidden, 2, stride=2)
        self.predictor = nn.Conv2d(hidden, outputs, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        for layer in (self.upsample, self.predictor):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """Compute mask logits; the last layer is always in float32, see `upscore.models.fcn.fcn`."""
        features = self.upsample(self.convs(regions)).relu()
        with autocast_disabled(features.device):
            return self.predictor(features.float())


class MLPMaskHead(nn.Module):
    """Mask head of fully connected layers: (R, C, P, P) -> mask logits (R, outputs, m, m) (table 2e)."""

    def __init__(self, channels: int, hidden: int, outputs: int, *, size: int = 7, mask_size: int = 28) -> None:
        super().__init__()
        self.outputs, self.mask_size = outputs, mask_size
        self.fcs = nn.Sequential(
            nn.Linear(channels * size**2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.predictor = nn.Linear(hidden, outputs * mask_size**2)

    def forward(self, regions: Tensor) -> Tensor:
        """Compute mask logits; the last layer is always in float32."""
        features = self.fcs(regions.flatten(1))
        with autocast_disabled(features.device):
            return self.predictor(features.float()).view(-1, self.outputs, self.mask_size, self.mask_size)


def _conv(in_channels: int, out_channels: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, *([nn.BatchNorm2d(out_channels)] if norm else []), nn.ReLU())


BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Factors of box deltas, which give them about the scale of class logits (Fast R-CNN's code)."""

MIN_SIDE = 1e-2
"""Minimum side of a detection in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoISettings:
    """Sampling of regions in training and thresholds of detections (Mask R-CNN section 3.1)."""

    batch_size: int = 512
    """Regions sampled from each image in training (64 in the paper's C4 networks)."""
    positive_fraction: float = 0.25
    """Maximum fraction of positives among the sampled regions."""
    positive_iou: float = 0.5
    """Minimum intersection over union of a positive region with an object."""
    score_threshold: float = 0.05
    """Minimum score of a detection."""
    nms_iou: float = 0.5
    """Detections that overlap a better one of their class by more than this intersection over union are suppressed."""
    max_detections: int = 100
    """Maximum number of objects per image."""


class Regions(NamedTuple):
    """The regions sampled from one image in training."""

    boxes: Tensor
    """(R, 4), positive regions first."""
    labels: Tensor
    """(R,), class indices; K for the background."""
    objects: Tensor
    """(positives,), the index of the matched object of each positive region."""
    truth: Tensor
    """(positives, 4), the boxes of the matched objects."""
    positives: int
    """Number of positive regions."""

    @property
    def is_positive(self) -> Tensor:
        """(R,) bool, whether each region is positive."""
        return torch.arange(len(self.boxes), device=self.boxes.device) < self.positives


def trainable_objects(objects: ObjectAnnotations, device: torch.device) -> ObjectAnnotations:
    """Return the objects that are neither crowds nor have a box without area or with infinite sides.

    Boxes and labels are moved to `device`.
    """
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    usable = objects.crowd.logical_not() & (sides > 0).all(dim=1) & objects.boxes.isfinite().all(dim=1)
    kept = objects[usable]
    kept.boxes, kept.labels = kept.boxes.to(device), kept.labels.to(device)
    return kept


@torch.no_grad()
def sample_regions(
    proposed: Tensor,
    objects: ObjectAnnotations,
    generator: torch.Generator | None,
    num_classes: int,
    settings: RoISettings,
) -> Regions:
    """Sample positive and negative regions from the proposals (P, 4) and the G objects of an image."""
    boxes = torch.cat([proposed, objects.boxes])  # ground truth boxes are added, because early proposals are poor
    matched = match_boxes(objects.boxes, boxes, settings.positive_iou, settings.positive_iou, allow_low_quality=False)
    positive, negative = sample_matches(matched, settings.batch_size, settings.positive_fraction, generator)
    index = torch.cat([positive, negative])
    labels = torch.full((len(index),), num_classes, device=boxes.device)
    labels[: len(positive)] = objects.labels[matched[positive]]
    return Regions(boxes[index], labels, matched[positive], objects.boxes[matched[positive]], len(positive))


def box_loss_sums(logits: Tensor, deltas: Tensor, regions: Sequence[Regions], beta: float) -> dict[str, LossSum]:
    """Return the cross-entropy of classes and the smooth L1 loss of the true class's deltas (Fast R-CNN eq. 1 to 3).

    Both are normalised by the number of all sampled regions.

    Args:
        logits: (R, K + 1), of the regions of all images.
        deltas: (R, K, 4).
        regions: the sampled regions of each image.
        beta: transition of smooth L1 from quadratic to linear; 0: L1 loss.
    """
    labels = torch.cat([region.labels for region in regions])
    positive = torch.cat([region.is_positive for region in regions])
    targets = torch.cat([box_ops.encode(r.truth, r.boxes[: r.positives], BOX_WEIGHTS) for r in regions])
    predicted = deltas[positive, labels[positive]]
    count = torch.tensor(len(labels), device=labels.device)
    return {
        "class": LossSum(F.cross_entropy(logits, labels, reduction="sum"), count),
        "box": LossSum(F.smooth_l1_loss(predicted, targets, reduction="sum", beta=beta), count),
    }


def decode_detections(
    proposed: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int], settings: RoISettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Convert the outputs of the box branch for an image to detections.

    Args:
        proposed: proposals (P, 4).
        logits: (P, K + 1).
        deltas: (P, K, 4).
        size: (height, width) of the image.
        settings: thresholds.

    Returns:
        Boxes (D, 4), scores (D,) in 0..1 and labels (D,), in descending order of scores.
    """
    scores = logits.softmax(dim=1)[:, :-1]
    boxes = box_ops.clip(box_ops.decode(deltas, proposed[:, None], BOX_WEIGHTS), size)
    # every class above the threshold is a candidate, not only the best class of a proposal
    index, labels = (scores > settings.score_threshold).nonzero().unbind(1)
    boxes, scores = boxes[index, labels], scores[index, labels]
    usable = box_ops.nonempty(boxes, MIN_SIDE)
    boxes, scores, labels = boxes[usable], scores[usable], labels[usable]
    kept = box_ops.class_nms(boxes, scores, labels, settings.nms_iou, settings.max_detections)
    return boxes[kept], scores[kept], labels[kept]


MaskLoss = Literal["sigmoid", "softmax"]
"""sigmoid: an independent mask for each class, of which only that of the true class is trained. softmax: classes and
the background compete for each pixel (table 2b)."""


def mask_targets(objects: ObjectAnnotations, matched: Tensor, boxes: Tensor, size: int, preset: Preset) -> Tensor:
    """Resample the masks of matched objects within regions.

    The parts of a mask outside its region are cut off, because regions are proposals and not the objects' boxes.

    Args:
        objects: the objects of an image.
        matched: (R,), the index of the matched object of each region.
        boxes: (R, 4), the regions.
        size: m.
        preset: rules of resampling.

    Returns:
        (R, m, m) float32 in 0..1.
    """
    from torchvision.ops import roi_align  # slow to import, and not needed at inference

    targets = torch.zeros(len(boxes), size, size)
    height, width = objects.size
    outer = torch.stack(
        [boxes[:, 0].floor() - 2, boxes[:, 1].floor() - 2, boxes[:, 2].ceil() + 2, boxes[:, 3].ceil() + 2], dim=1
    )
    corners = outer.long().tolist()
    layers, ids = objects.layers[matched].tolist(), objects.ids[matched].tolist()
    for r, (left, top, right, bottom) in enumerate(corners):
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        crop = (objects.id_map[layers[r], top:bottom, left:right] == ids[r]).float()
        if crop.numel():
            box = boxes[r] - boxes.new_tensor([left, top, left, top])
            targets[r] = roi_align(crop[None, None], [box[None]], size, aligned=preset.aligned_targets)[0, 0]
    return targets if preset.soft_targets else (targets >= 0.5).float()


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor, loss: MaskLoss) -> Tensor:
    """Return the mean of `mask_loss_sum`."""
    return mask_loss_sum(logits, labels, targets, loss).mean


def mask_loss_sum(logits: Tensor, labels: Tensor, targets: Tensor, loss: MaskLoss) -> LossSum:
    """Return the mask loss over regions and pixels; without regions it is 0, with a gradient of 0.

    Args:
        logits: (R, K, m, m); (R, 1, m, m) from a class-agnostic head; (R, K + 1, m, m) for softmax.
        labels: (R,), the true classes.
        targets: (R, m, m), in 0..1.
        loss: the type of the loss.
    """
    count = torch.tensor(targets.numel(), device=logits.device)
    if not len(logits):
        return LossSum(logits.float().sum(), count)
    if loss == "softmax":
        background = logits.shape[1] - 1
        classes = torch.where(targets >= 0.5, labels[:, None, None], background)
        return LossSum(F.cross_entropy(logits, classes, reduction="sum"), count)
    return LossSum(F.binary_cross_entropy_with_logits(select_class(logits, labels), targets, reduction="sum"), count)


def mask_probabilities(logits: Tensor, labels: Tensor, loss: MaskLoss) -> Tensor:
    """Convert logits as in `mask_loss_sum` to the probabilities (R, m, m) of the predicted classes (R,)."""
    if loss == "softmax":
        return select_class(logits.softmax(dim=1), labels)
    return select_class(logits, labels).sigmoid()


def select_class(values: Tensor, labels: Tensor) -> Tensor:
    """Select the channel of each region's class: (R, K or 1, m, m) -> (R, m, m)."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(len(values), device=values.device), labels]
