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
from upscore.models.losses import LossSum
from upscore.models.mask_rcnn.anchors import AnchorGenerator
from upscore.models.mask_rcnn.boxes import class_nms, clip, decode, encode, nonempty
from upscore.models.mask_rcnn.matcher import match_boxes, sample_matches
from upscore.models.mask_rcnn.presets import Limits, Preset
from upscore.models.precision import autocast_disabled, autocasts_to_bfloat16


class RPNOutputs(NamedTuple):
    """What the head says of every anchor, level by level."""

    objectness: list[Tensor]
    """(N, A, h, w), logits."""
    deltas: list[Tensor]
    """(N, 4A, h, w), the four of an anchor side by side."""


class RPNHead(nn.Module):
    """The same few convolutions on every level: is there an object around, and how does its box differ?

    Args:
        channels: of the maps.
        anchors_per_cell: A.
        convs: 3x3 convolutions before the two predictors; 2 in torchvision's second version.
    """

    def __init__(self, channels: int, anchors_per_cell: int, *, convs: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, std=0.01) if name.endswith("weight") else nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor]) -> RPNOutputs:
        """Objectness and deltas of each map."""
        levels = [self._level(features) for features in maps]
        return RPNOutputs([objectness for objectness, _ in levels], [deltas for _, deltas in levels])

    def _level(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The predictors are in float32 always, see `upscore.models.fcn.fcn`."""
        device, learned = features.device, torch.is_grad_enabled() and self.objectness.weight.requires_grad
        if learned and len(self.convs) == 1 and device.type == "cpu" and autocasts_to_bfloat16(device):
            return self._level_of_few_cells(features)
        for conv in self.convs:
            features = conv(features).relu()
        with autocast_disabled(device):
            features = features.float()
            return self.objectness(features), self.deltas(features)

    def _level_of_few_cells(self, features: Tensor) -> tuple[Tensor, Tensor]:
        layers = (self.convs[0], self.objectness, self.deltas)
        weight, bias, *predictors = (value for layer in layers for value in (layer.weight, layer.bias))
        with autocast_disabled(features.device):
            return SparseRPNHead.apply(features, weight.to(torch.bfloat16), bias.to(torch.bfloat16), *predictors)  # pyright: ignore


class RPN(nn.Module):
    """The head, its anchors, and what becomes of its answers.

    Args:
        head, anchors: for the same levels.
        preset: which of the rules that differ between code bases hold.
        batch_size: anchors that are learned from in each image.
        positive_fraction: the largest share of positives among them.
        positive_iou, negative_iou: see `match_boxes`.
        nms_iou: of two proposals of a level that overlap more, the worse one goes.
        training, inference: how many proposals are kept, where not the preset's numbers.
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
        """Maps from fine to coarse -> objectness and deltas."""
        return self.head(maps)

    @torch.no_grad()
    def proposals(
        self, outputs: RPNOutputs, sizes: Sequence[tuple[int, int]], limits: Limits
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The likeliest boxes of each image first, cut to its (height, width): N x (P, 4), and their logits N x (P,).

        No gradient flows through their coordinates ("approximate joint training", Faster R-CNN section 3.2).
        """
        map_sizes = _map_sizes(outputs)
        levels = []
        for level, (objectness, deltas) in enumerate(zip(outputs.objectness, outputs.deltas, strict=True)):
            scores = _by_anchor(objectness, 1)[..., 0]
            best, which = scores.topk(min(limits.before_nms, scores.shape[1]), dim=1)
            chosen = _by_anchor(deltas, 4).gather(1, which[..., None].expand(-1, -1, 4))
            levels.append((best, decode(chosen, self.anchors.at(map_sizes, level, which))))
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
        # by probability, as torchvision: where float32 no longer tells two apart, the finer level comes first
        best = class_nms(boxes, scores.sigmoid(), levels, self.nms_iou, limits.after_nms)
        return boxes[best], scores[best]

    def losses(
        self, outputs: RPNOutputs, objects: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """The means of `loss_sums`, whose anchors are sampled by torch's own random numbers.

        Args:
            objects: each image's boxes (G, 4).
            sizes: unused by rules that keep the anchors which cross the border, as all of ours do.
        """
        loss_sums = self.loss_sums(outputs, objects, [None] * len(objects))
        return {name: loss_sum.mean for name, loss_sum in loss_sums.items()}

    def loss_sums(
        self, outputs: RPNOutputs, objects: Sequence[Tensor], generators: Sequence[torch.Generator | None]
    ) -> dict[str, LossSum]:
        """Binary cross-entropy over the sampled anchors, and the box loss over the positive ones.

        Args:
            objects: each image's boxes (G, 4).
            generators: what each image's anchors are sampled by.
        """
        anchors = torch.cat(self._anchors(outputs))
        objectness = torch.cat([_by_anchor(level, 1)[..., 0] for level in outputs.objectness], dim=1)
        deltas = torch.cat([_by_anchor(level, 4) for level in outputs.deltas], dim=1)
        classification, regression, sampled = objectness.new_zeros(()), deltas.new_zeros(()), 0
        for logits, predicted, boxes, generator in zip(objectness, deltas, objects, generators, strict=True):
            matched = match_boxes(boxes, anchors, self.positive_iou, self.negative_iou, allow_low_quality=True)
            positive, negative = sample_matches(matched, self.batch_size, self.positive_fraction, generator)
            chosen = logits[torch.cat([positive, negative])]
            target = torch.zeros_like(chosen)
            target[: len(positive)] = 1
            wanted = encode(boxes[matched[positive]], anchors[positive])
            beta = self.preset.rpn_beta
            classification = classification + F.binary_cross_entropy_with_logits(chosen, target, reduction="sum")
            regression = regression + F.smooth_l1_loss(predicted[positive], wanted, reduction="sum", beta=beta)
            sampled += len(chosen)
        chosen = self.batch_size * len(objects) if self.preset.rpn_average == "batch size" else sampled
        count = torch.tensor(chosen, device=objectness.device)
        return {"objectness": LossSum(classification, count), "rpn_box": LossSum(regression, count)}

    def _anchors(self, outputs: RPNOutputs) -> list[Tensor]:
        return self.anchors(_map_sizes(outputs), outputs.objectness[0].device)


def _map_sizes(outputs: RPNOutputs) -> list[tuple[int, int]]:
    return [(level.shape[-2], level.shape[-1]) for level in outputs.objectness]


def _by_anchor(level: Tensor, values: int) -> Tensor:
    """(N, A * values, h, w) -> (N, h * w * A, values), in the order of the anchors."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, values).float()
