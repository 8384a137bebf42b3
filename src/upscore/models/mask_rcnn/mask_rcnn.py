"""Mask R-CNN (He, Gkioxari, Dollar, Girshick 2017): Faster R-CNN with a mask branch.

N images, K classes, R regions, P proposals, D detections; H W pixels of the network's input. Boxes are
(x1, y1, x2, y2) in these pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from upscore.annotations import ObjectAnnotations
from upscore.models.backbones.base import Backbone
from upscore.models.loss_sum import LossSum
from upscore.models.mask_rcnn.presets import Preset
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.models.mask_rcnn.roi_align import RoIPooler
from upscore.models.mask_rcnn.roi_heads import (
    BoxPredictor,
    MaskLoss,
    RoISettings,
    box_loss_sums,
    decode_detections,
    mask_loss_sum,
    mask_probabilities,
    mask_targets,
    sample_regions,
    trainable_objects,
)
from upscore.models.mask_rcnn.rpn import RPN, RPNOutputs
from upscore.models.precision import autocast_disabled, has_depthwise
from upscore.models.preprocessing import Preprocessing

MASK_BATCH = 256
"""Number of regions that go through the mask head together at inference, to limit memory."""


class Outputs(NamedTuple):
    """Outputs of the layers that are applied to whole images."""

    maps: list[Tensor]
    """Feature maps from fine to coarse."""
    proposals: RPNOutputs
    """Objectness and deltas of all anchors."""


class Branches(NamedTuple):
    """The two functions of pooled regions (R, C, P, P), whose channels may be last in memory."""

    box: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Regions -> class logits (R, K + 1) and deltas (R, K, 4)."""
    mask: Callable[[Tensor, Tensor], Tensor]
    """Regions and labels (R,) -> mask probabilities (R, m, m) of each region's class."""


class Detections(NamedTuple):
    """The objects detected in one image, in descending order of scores, on the network's device."""

    boxes: Tensor
    """(D, 4) float32, in pixels of the network's input."""
    scores: Tensor
    """(D,) float32, 0 to 1."""
    labels: Tensor
    """(D,) int64, class indices from 0."""
    masks: Tensor
    """(D, m, m) float32, the probability that a point of the box belongs to the object."""
    size: tuple[int, int]
    """(H, W) of the image, before padding."""


class MaskRCNN(nn.Module):
    """Mask R-CNN: backbone, neck, region proposal network, box branch and mask branch.

    Args:
        backbone: images -> {stride: map}.
        neck: {stride: map} -> maps from fine to coarse; an `FPN` or a `SingleMap`.
        rpn: the region proposal network on these maps.
        num_classes: K, without a background.
        box_pooler, box_head, box_predictor: the box branch; the output of the head is (R, features).
        mask_pooler, mask_head: the mask branch; the output of the head is (R, K, m, m).
        preset: the rules that differ between code bases.
        resizing: the resizing of images before `forward`.
        settings: sampling and thresholds of regions; None: the defaults.
        shared_head: layers before both heads, such as res5 in the C4 architecture.
        mask_loss: independent masks of classes ("sigmoid"), or classes that compete for pixels ("softmax").
    """

    task = "instances"

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        rpn: RPN,
        *,
        num_classes: int,
        box_pooler: RoIPooler,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        mask_pooler: RoIPooler,
        mask_head: nn.Module,
        preset: Preset,
        resizing: Resizing,
        settings: RoISettings | None = None,
        shared_head: nn.Module | None = None,
        mask_loss: MaskLoss = "sigmoid",
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn = backbone, neck, rpn
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.mask_pooler, self.mask_head, self.shared_head = mask_pooler, mask_head, shared_head
        self.num_classes, self.preset, self.resizing = num_classes, preset, resizing
        self.settings = settings or RoISettings()
        self.mask_loss: MaskLoss = mask_loss
        self.classes = [f"class_{index}" for index in range(num_classes)]
        self.category_ids: list[int] | None = None
        """Category id of each class in the COCO data set of the training; None for other data."""
        self.score_threshold = 0.5
        """Minimum score of the objects that a prediction returns."""
        self.mask_nms = True
        """Whether a prediction omits objects of whose mask better objects of the same class cover more than half."""
        self.display_threshold: float | None = None
        """Minimum score of the objects that are drawn and counted; None: `score_threshold`."""
        self.architecture: dict[str, str | int | float | bool] = {}
        """The arguments of `build` that rebuild this network; empty if it was not made by `build`."""
        # on a CPU, depthwise convolutions are slower in bfloat16, and the other layers are faster
        self.backbone_in_float32 = has_depthwise(backbone)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the input of `forward`."""
        return self.backbone.preprocessing

    @property
    def final_threshold(self) -> float:
        """Minimum score of objects in overlays, `ap_dsb` and F1."""
        return self.score_threshold if self.display_threshold is None else self.display_threshold

    @property
    def max_detections(self) -> int:
        """Maximum number of objects per image."""
        return self.settings.max_detections

    def forward(self, images: Tensor) -> Outputs:
        """Apply backbone, neck and RPN to preprocessed images (N, 3, H, W).

        Smaller images of a batch are padded with zeros at the bottom and right.
        """
        return self.dense(self.backbone.padded(images))

    def dense(self, images: Tensor) -> Outputs:
        """Apply `forward` to images whose sides are multiples of `backbone.multiple`."""
        if self.backbone_in_float32 and images.device.type == "cpu":
            with autocast_disabled(images.device):
                features = self.backbone(images)
        else:
            features = self.backbone(images)
        maps = self.neck(features)
        return Outputs(maps, self.rpn(maps))

    def losses(self, outputs: Outputs, targets: Sequence[ObjectAnnotations]) -> dict[str, Tensor]:
        """Return the five losses, whose sum is minimised (section 3): the means of `loss_sums`."""
        return {name: loss_sum.mean for name, loss_sum in self.loss_sums(outputs, targets).items()}

    def loss_sums(
        self, outputs: Outputs, targets: Sequence[ObjectAnnotations], seeds: Sequence[int] | None = None
    ) -> dict[str, LossSum]:
        """Return the sums and counts of the losses: objectness, rpn_box, class, box and mask.

        Args:
            outputs: the output of `forward`.
            targets: the objects of each image, at the scale of the network's input and without padding. Crowds and
                boxes without area are ignored.
            seeds: seeds for the sampling of anchors and regions of each image; None: torch's global generator.
        """
        device = outputs.maps[0].device
        targets = [trainable_objects(objects, device) for objects in targets]
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds] if seeds else [None] * len(targets)
        sizes = [objects.size for objects in targets]
        losses = self.rpn.loss_sums(outputs.proposals, [objects.boxes for objects in targets], generators)
        proposed, _ = self.rpn.proposals(outputs.proposals, sizes, self.rpn.training_limits)
        regions = [
            sample_regions(*image, self.num_classes, self.settings)
            for image in zip(proposed, targets, generators, strict=True)
        ]

        features = self._shared(self.box_pooler(outputs.maps, [region.boxes for region in regions]))
        logits, deltas = self.box_predictor(self.box_head(features))
        losses |= box_loss_sums(logits, deltas, regions, self.preset.box_beta)

        positive = [region.boxes[: region.positives] for region in regions]
        labels = torch.cat([region.labels[: region.positives] for region in regions])
        if self.shared_head is None:
            features = self.mask_pooler(outputs.maps, positive)
        else:  # pooler and shared head are those of the box branch, and so are the features
            features = features[torch.cat([region.is_positive for region in regions])]
        mask_logits = self.mask_head(features)
        side = mask_logits.shape[-1]
        target_masks = [
            mask_targets(objects, region.objects.cpu(), boxes.cpu(), side, self.preset)
            for objects, region, boxes in zip(targets, regions, positive, strict=True)
        ]
        losses["mask"] = mask_loss_sum(mask_logits, labels, torch.cat(target_masks).to(labels.device), self.mask_loss)
        return losses

    def box_branch(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits (R, K + 1) and deltas (R, K, 4) of pooled regions (R, C, P, P)."""
        return self.box_predictor(self.box_head(self._shared(regions)))

    def mask_branch(self, regions: Tensor, labels: Tensor) -> Tensor:
        """Compute mask probabilities (R, m, m) of the classes (R,) of pooled regions (R, C, P, P)."""
        return mask_probabilities(self.mask_head(self._shared(regions)), labels, self.mask_loss)

    def decode(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], branches: Branches | None = None
    ) -> list[Detections]:
        """Detect the objects of each image from the output of `forward` (section 3.1).

        Args:
            outputs: the output of `forward`.
            sizes: (height, width) of each image before padding.
            branches: functions that replace `box_branch` and `mask_branch`, such as compiled ones.
        """
        branches = branches or Branches(self.box_branch, self.mask_branch)
        proposed, _ = self.rpn.proposals(outputs.proposals, sizes, self.rpn.inference_limits)
        logits, deltas = branches.box(self.box_pooler(outputs.maps, proposed))
        counts = [len(boxes) for boxes in proposed]
        detected = [
            decode_detections(*image, self.settings)
            for image in zip(proposed, logits.split(counts), deltas.split(counts), sizes, strict=True)
        ]
        return [
            Detections(
                boxes,
                scores,
                labels,
                self._masks([m[i : i + 1] for m in outputs.maps], boxes, labels, branches.mask),
                size,
            )
            for i, ((boxes, scores, labels), size) in enumerate(zip(detected, sizes, strict=True))
        ]

    def _masks(
        self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor, branch: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Compute the mask probabilities (D, m, m) of the detections in one image."""
        parts = zip(boxes.split(MASK_BATCH), labels.split(MASK_BATCH), strict=True)
        return torch.cat([branch(self.mask_pooler(maps, [rois]), classes) for rois, classes in parts])

    def _shared(self, regions: Tensor) -> Tensor:
        """Apply the shared head, if there is one."""
        if self.shared_head is None:
            return regions
        if self.backbone_in_float32 and regions.device.type == "cpu":  # the shared head is a part of the backbone
            with autocast_disabled(regions.device):
                return self.shared_head(regions.float())
        return self.shared_head(regions)
