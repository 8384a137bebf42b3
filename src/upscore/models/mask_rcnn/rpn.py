"""Region proposal network (Faster R-CNN section 3.1; over a pyramid, FPN section 4.1).

N images, A anchors per cell, P proposals; a level's map is (N, C, h, w). Boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.kernels.sparse_rpn import SparseRPNHead
from upscore.models.loss_sum import LossSum
from upscore.models.mask_rcnn.anchors import AnchorGenerator
from upscore.models.mask_rcnn.boxes import class_nms, clip, decode, encode, nonempty
from upscore.models.mask_rcnn.matcher import match_boxes, sample_matches
from upscore.models.mask_rcnn.presets import Limits, Preset
from upscore.models.precision import autocast_disabled, autocasts_to_bfloat16


class RPNOutputs(NamedTuple):
    """Outputs of the RPN head for all anchors of each level."""

    objectness: list[Tensor]
    """(N, A, h, w) of each level, logits."""
    deltas: list[Tensor]
    """(N, 4A, h, w) of each level; the four deltas of an anchor are adjacent channels."""


class RPNHead(nn.Module):
    """RPN head: convolutions, shared by all levels, that predict objectness and box deltas of each anchor.

    Args:
        channels: C.
        anchors_per_cell: A.
        convs: number of 3x3 convolutions before the two predictors; 2 in torchvision's v2.
    """

    def __init__(self, channels: int, anchors_per_cell: int, *, convs: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, std=0.01) if name.endswith("weight") else nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor]) -> RPNOutputs:
        """Compute the objectness and deltas of each map (N, C, h, w)."""
        levels = [self._level(features) for features in maps]
        return RPNOutputs([objectness for objectness, _ in levels], [deltas for _, deltas in levels])

    def _level(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the head to a level; the predictors are always in float32, see `upscore.models.fcn.fcn`."""
        device, trained = features.device, torch.is_grad_enabled() and self.objectness.weight.requires_grad
        if trained and len(self.convs) == 1 and device.type == "cpu" and autocasts_to_bfloat16(device):
            return self._sparse_level(features)
        for conv in self.convs:
            features = conv(features).relu()
        with autocast_disabled(device):
            features = features.float()
            return self.objectness(features), self.deltas(features)

    def _sparse_level(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the head to a level with a sparse backward pass."""
        layers = (self.convs[0], self.objectness, self.deltas)
        weight, bias, *predictors = (value for layer in layers for value in (layer.weight, layer.bias))
        with autocast_disabled(features.device):
            return SparseRPNHead.apply(features, weight.to(torch.bfloat16), bias.to(torch.bfloat16), *predictors)  # pyright: ignore


class RPN(nn.Module):
    """Region proposal network: head, anchors, selection of proposals, and losses.

    Args:
        head: the head.
        anchors: the anchors of the head's levels.
        preset: the rules that differ between code bases.
        batch_size: anchors sampled from each image in training.
        positive_fraction: maximum fraction of positives among the sampled anchors.
        positive_iou, negative_iou: thresholds of `match_boxes`.
        nms_iou: proposals that overlap a better one of their level by more than this are suppressed.
        training, inference: numbers of proposals; None: those of the preset.
    """

    def __init__(
        self,
        head: RPNHead,
        anchors: AnchorGenerator,
        preset: Preset,
        *,
        batch_size: int = 256,
        positive_fraction: float = 0.5,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        nms_iou: float = 0.7,
        training: Limits | None = None,
        inference: Limits | None = None,
    ) -> None:
        super().__init__()
        self.head, self.anchors, self.preset = head, anchors, preset
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.positive_iou, self.negative_iou, self.nms_iou = positive_iou, negative_iou, nms_iou
        self.training_limits, self.inference_limits = training or preset.training, inference or preset.inference

    def forward(self, maps: Sequence[Tensor]) -> RPNOutputs:
        """Compute objectness and deltas of maps (N, C, h, w), from fine to coarse."""
        return self.head(maps)

    @torch.no_grad()
    def proposals(
        self, outputs: RPNOutputs, sizes: Sequence[tuple[int, int]], limits: Limits
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Select the best proposals of each image.

        Gradients do not flow through proposals ("approximate joint training", Faster R-CNN section 3.2).

        Args:
            outputs: the output of `forward`.
            sizes: (height, width) of each image, to which proposals are clipped.
            limits: numbers of proposals.

        Returns:
            The proposals (P, 4) of each image and their logits (P,), in descending order.
        """
        map_sizes = _map_sizes(outputs)
        levels = []
        for level, (objectness, deltas) in enumerate(zip(outputs.objectness, outputs.deltas, strict=True)):
            scores = _by_anchor(objectness, 1)[..., 0]
            best, index = scores.topk(min(limits.before_nms, scores.shape[1]), dim=1)
            chosen = _by_anchor(deltas, 4).gather(1, index[..., None].expand(-1, -1, 4))
            levels.append((best, decode(chosen, self.anchors.at(map_sizes, level, index))))
        scores, boxes = (torch.cat([level[i] for level in levels], dim=1) for i in (0, 1))
        groups = torch.cat([torch.full((b.shape[1],), i, device=b.device) for i, (_, b) in enumerate(levels)])
        kept = [
            self._suppress(logits, candidates, groups, size, limits)
            for logits, candidates, size in zip(scores, boxes, sizes, strict=True)
        ]
        return [boxes for boxes, _ in kept], [scores for _, scores in kept]

    def _suppress(
        self, scores: Tensor, boxes: Tensor, levels: Tensor, size: tuple[int, int], limits: Limits
    ) -> tuple[Tensor, Tensor]:
        boxes = clip(boxes, size)
        usable = nonempty(boxes, self.preset.min_size) & ~scores.isnan()
        boxes, scores, levels = boxes[usable], scores[usable], levels[usable]
        # sorted by probability, as in torchvision: if two are equal in float32, the finer level comes first
        best = class_nms(boxes, scores.sigmoid(), levels, self.nms_iou, limits.after_nms)
        return boxes[best], scores[best]

    def losses(
        self, outputs: RPNOutputs, objects: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """Return the means of `loss_sums`; anchors are sampled with torch's global generator.

        Args:
            outputs: the output of `forward`.
            objects: the ground truth boxes (G, 4) of each image.
            sizes: not used, because no preset ignores anchors that cross the border of the image.
        """
        loss_sums = self.loss_sums(outputs, objects, [None] * len(objects))
        return {name: loss_sum.mean for name, loss_sum in loss_sums.items()}

    def loss_sums(
        self, outputs: RPNOutputs, objects: Sequence[Tensor], generators: Sequence[torch.Generator | None]
    ) -> dict[str, LossSum]:
        """Return the binary cross-entropy of sampled anchors, and the box loss of the positive ones.

        Args:
            outputs: the output of `forward`.
            objects: the ground truth boxes (G, 4) of each image.
            generators: the random number generator of each image; None: torch's global one.
        """
        anchors = torch.cat(self._anchors(outputs))
        objectness = torch.cat([_by_anchor(level, 1)[..., 0] for level in outputs.objectness], dim=1)
        deltas = torch.cat([_by_anchor(level, 4) for level in outputs.deltas], dim=1)
        classification, regression, sampled = objectness.new_zeros(()), deltas.new_zeros(()), 0
        for logits, predicted, boxes, generator in zip(objectness, deltas, objects, generators, strict=True):
            matched = match_boxes(boxes, anchors, self.positive_iou, self.negative_iou, allow_low_quality=True)
            positive, negative = sample_matches(matched, self.batch_size, self.positive_fraction, generator)
            chosen = logits[torch.cat([positive, negative])]
            truth = torch.zeros_like(chosen)
            truth[: len(positive)] = 1
            targets = encode(boxes[matched[positive]], anchors[positive])
            beta = self.preset.rpn_beta
            classification = classification + F.binary_cross_entropy_with_logits(chosen, truth, reduction="sum")
            regression = regression + F.smooth_l1_loss(predicted[positive], targets, reduction="sum", beta=beta)
            sampled += len(chosen)
        normaliser = self.batch_size * len(objects) if self.preset.rpn_average == "batch size" else sampled
        count = torch.tensor(normaliser, device=objectness.device)
        return {"objectness": LossSum(classification, count), "rpn_box": LossSum(regression, count)}

    def _anchors(self, outputs: RPNOutputs) -> list[Tensor]:
        return self.anchors(_map_sizes(outputs), outputs.objectness[0].device)


def _map_sizes(outputs: RPNOutputs) -> list[tuple[int, int]]:
    return [(level.shape[-2], level.shape[-1]) for level in outputs.objectness]


def _by_anchor(level: Tensor, values: int) -> Tensor:
    """Reshape (N, A * values, h, w) to (N, h * w * A, values), in the order of anchors."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, values).float()
