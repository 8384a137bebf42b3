"""What is said of each region: its class, a better box, its mask (Mask R-CNN figure 4).

R regions, K classes, C channels, P bins a side of what was pooled, m the side of a mask.
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
from upscore.models.losses import LossSum
from upscore.models.mask_rcnn import boxes as box_ops
from upscore.models.mask_rcnn.matcher import match_boxes, sample_matches
from upscore.models.mask_rcnn.presets import Preset
from upscore.models.precision import autocast_disabled

MaskHeadName = Literal["fcn", "mlp"]


class BoxHead(nn.Module):
    """(R, C, P, P) -> (R, D): two fully connected layers, or four convolutions and one of them (torchvision's v2)."""

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
        """Flattened in the order C, P, P, as all published weights are."""
        features = self.convs(regions).flatten(1)
        for fc in self.fcs:
            features = fc(features).relu()
        return features


class BoxPredictor(nn.Module):
    """(R, D) -> class logits (R, K + 1), the background last, and box deltas (R, K, 4), those of each class."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(features, num_classes + 1)
        self.deltas = nn.Linear(features, 4 * num_classes)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """In float32: they are cheap, and decide."""
        with autocast_disabled(features.device):
            features = features.float()
            return self.classes(features), self.deltas(features).unflatten(1, (-1, 4))


class FCNMaskHead(nn.Module):
    """(R, C, P, P) -> mask logits (R, outputs, 2P, 2P): convolutions, one upsampling, one logit a class (figure 4).

    Args:
        channels: of the regions.
        hidden: of the convolutions and the upsampled map.
        outputs: K, or 1 for a class-agnostic mask, or K + 1 for a softmax over classes.
        convs: 4 over a pyramid, none over res5 in the C4 network.
        norm: batch normalisation in place of the convolutions' biases.
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
        """The last layer is in float32, see `upscore.models.fcn.fcn`."""
        features = self.upsample(self.convs(regions)).relu()
        with autocast_disabled(features.device):
            return self.predictor(features.float())


class MLPMaskHead(nn.Module):
    """(R, C, P, P) -> mask logits (R, outputs, m, m) by fully connected layers, which know no neighbours (table 2e)."""

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
        """As `FCNMaskHead`."""
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
    max_detections: int = 100
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


def trainable_objects(objects: ObjectAnnotations, device: torch.device) -> ObjectAnnotations:
    """Without crowds and without boxes that have no area or no finite sides; boxes and labels on `device`."""
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
    """Of an image's proposals (P, 4) and G objects: a share of positives, and negatives for the rest."""
    boxes = torch.cat([proposed, objects.boxes])  # the truth is a proposal too, so that there are good ones early
    matched = match_boxes(objects.boxes, boxes, settings.positive_iou, settings.positive_iou, allow_low_quality=False)
    positive, negative = sample_matches(matched, settings.batch_size, settings.positive_fraction, generator)
    index = torch.cat([positive, negative])
    labels = torch.full((len(index),), num_classes, device=boxes.device)
    labels[: len(positive)] = objects.labels[matched[positive]]
    return Regions(boxes[index], labels, matched[positive], objects.boxes[matched[positive]], len(positive))


def box_loss_sums(logits: Tensor, deltas: Tensor, regions: Sequence[Regions], beta: float) -> dict[str, LossSum]:
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
        "class": LossSum(F.cross_entropy(logits, labels, reduction="sum"), count),
        "box": LossSum(F.smooth_l1_loss(own, wanted, reduction="sum", beta=beta), count),
    }


def decode_detections(
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
    kept = box_ops.class_nms(boxes, scores, labels, settings.nms_iou, settings.max_detections)
    return boxes[kept], scores[kept], labels[kept]


MaskLoss = Literal["sigmoid", "softmax"]
"""sigmoid: each class has a mask of its own, and only that of the true class is trained; softmax: classes compete for
every pixel, the background being one of them (table 2b)."""


def mask_targets(objects: ObjectAnnotations, which: Tensor, boxes: Tensor, size: int, preset: Preset) -> Tensor:
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
    layers, numbers = objects.layers[which].tolist(), objects.ids[which].tolist()
    for r, (left, top, right, bottom) in enumerate(corners):
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        crop = (objects.id_map[layers[r], top:bottom, left:right] == numbers[r]).float()
        if crop.numel():
            box = boxes[r] - boxes.new_tensor([left, top, left, top])
            targets[r] = roi_align(crop[None, None], [box[None]], size, aligned=preset.aligned_targets)[0, 0]
    return targets if preset.soft_targets else (targets >= 0.5).float()


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor, kind: MaskLoss) -> Tensor:
    """The mean of `mask_loss_sum`."""
    return mask_loss_sum(logits, labels, targets, kind).mean


def mask_loss_sum(logits: Tensor, labels: Tensor, targets: Tensor, kind: MaskLoss) -> LossSum:
    """Over regions and pixels; without regions 0, but still connected to the logits.

    Args:
        logits: (R, K, m, m), or (R, 1, m, m) of a class-agnostic head, or (R, K + 1, m, m) for softmax.
        labels: (R,) the true classes.
        targets: (R, m, m).
    """
    count = torch.tensor(targets.numel(), device=logits.device)
    if not len(logits):
        return LossSum(logits.float().sum(), count)
    if kind == "softmax":
        background = logits.shape[1] - 1
        classes = torch.where(targets >= 0.5, labels[:, None, None], background)
        return LossSum(F.cross_entropy(logits, classes, reduction="sum"), count)
    return LossSum(F.binary_cross_entropy_with_logits(select_class(logits, labels), targets, reduction="sum"), count)


def mask_probabilities(logits: Tensor, labels: Tensor, kind: MaskLoss) -> Tensor:
    """Logits as in `mask_loss` and predicted classes (R,) -> (R, m, m), the probability of the class at each point."""
    if kind == "softmax":
        return select_class(logits.softmax(dim=1), labels)
    return select_class(logits, labels).sigmoid()


def select_class(values: Tensor, labels: Tensor) -> Tensor:
    """(R, K or 1, m, m) -> (R, m, m), each region's channel of its class."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(len(values), device=values.device), labels]
