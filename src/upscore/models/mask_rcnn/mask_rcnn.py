"""Mask R-CNN (He, Gkioxari, Dollar, Girshick): Faster R-CNN with one more branch.

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
from upscore.models.losses import LossSum
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

MASKS_AT_ONCE = 256
"""Regions that go through the mask head together at inference, which bounds its memory."""


class Outputs(NamedTuple):
    """What is computed densely, once for an image."""

    maps: list[Tensor]
    """From fine to coarse, those that regions are pooled from."""
    proposals: RPNOutputs


class Branches(NamedTuple):
    """What is computed of each region; regions (R, C, P, P) are pooled, and may have their channels last in memory."""

    box: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Class logits (R, K + 1) and deltas (R, K, 4)."""
    mask: Callable[[Tensor, Tensor], Tensor]
    """With labels (R,): the probabilities of each region's class, (R, m, m)."""


class Detections(NamedTuple):
    """The objects found in one image, in descending order of their scores, on the network's device."""

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
    """Backbone, neck, proposals, and two branches: what and where (box), and which pixels (mask).

    Args:
        backbone: maps of several strides.
        neck: {stride: map} -> maps from fine to coarse, as `FPN`, or a single one (`C4`).
        rpn: what proposes regions on these.
        box_pooler, box_head, box_predictor: the box branch; the head's output is (R, D).
        mask_pooler, mask_head: the mask branch; the head's output is (R, K, m, m).
        shared_head: what both branches' regions go through first, as res5 in the C4 network.
        mask_loss: whether classes compete for pixels.
        preset, resizing, settings: rules and numbers.
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
        """The id of each class in the COCO data set that it was trained on; None where there is none."""
        self.score_threshold = 0.5
        """Score threshold of the objects that a prediction returns."""
        self.mask_nms = True
        """Whether a prediction leaves out objects of which better ones of the same class hide more than half."""
        self.display_threshold: float | None = None
        """Score threshold of the objects that are drawn and counted; None: `score_threshold`."""
        self.architecture: dict[str, str | int | float | bool] = {}
        """The arguments of `build` that make this network again; empty for one put together by hand."""
        # depthwise convolutions move memory, which bfloat16 makes slower on a CPU; what follows them gains
        self.backbone_in_float32 = has_depthwise(backbone)

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns pixels into the input of `forward`."""
        return self.backbone.preprocessing

    @property
    def final_threshold(self) -> float:
        """Score threshold of overlays, `ap_dsb` and F1."""
        return self.score_threshold if self.display_threshold is None else self.display_threshold

    @property
    def max_detections(self) -> int:
        """The most objects that are found in an image."""
        return self.settings.max_detections

    def forward(self, images: Tensor) -> Outputs:
        """Preprocessed images (N, 3, H, W), smaller ones padded at the bottom and the right by zeros."""
        return self.dense(self.backbone.padded(images))

    def dense(self, images: Tensor) -> Outputs:
        """As `forward`, of images whose sides are multiples of `backbone.multiple`."""
        if self.backbone_in_float32 and images.device.type == "cpu":
            with autocast_disabled(images.device):
                features = self.backbone(images)
        else:
            features = self.backbone(images)
        maps = self.neck(features)
        return Outputs(maps, self.rpn(maps))

    def losses(self, outputs: Outputs, targets: Sequence[ObjectAnnotations]) -> dict[str, Tensor]:
        """The five losses, whose sum is minimised (section 3), each the mean of one of the `loss_sums`."""
        return {name: loss_sum.mean for name, loss_sum in self.loss_sums(outputs, targets).items()}

    def loss_sums(
        self, outputs: Outputs, targets: Sequence[ObjectAnnotations], seeds: Sequence[int] | None = None
    ) -> dict[str, LossSum]:
        """The five losses over what is sampled.

        Args:
            outputs: of `forward`.
            targets: of each image, at the size of the network's input and with its image's own size. Crowds and objects
                without area are left out.
            seeds: each image's for what is sampled of it; None: torch's own random numbers.
        """
        device = outputs.maps[0].device
        targets = [trainable_objects(objects, device) for objects in targets]
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds] if seeds else [None] * len(targets)
        sizes = [objects.size for objects in targets]
        losses = self.rpn.loss_sums(outputs.proposals, [objects.boxes for objects in targets], generators)
        proposed, _ = self.rpn.proposals(outputs.proposals, sizes, self.rpn.training_limits)
        regions = [
            sample_regions(*of_image, self.num_classes, self.settings)
            for of_image in zip(proposed, targets, generators, strict=True)
        ]

        features = self._shared(self.box_pooler(outputs.maps, [region.boxes for region in regions]))
        logits, deltas = self.box_predictor(self.box_head(features))
        losses |= box_loss_sums(logits, deltas, regions, self.preset.box_beta)

        positive = [region.boxes[: region.positives] for region in regions]
        labels = torch.cat([region.labels[: region.positives] for region in regions])
        if self.shared_head is None:
            features = self.mask_pooler(outputs.maps, positive)
        else:  # the same pooling and the same head, so the same features
            features = features[torch.cat([region.is_positive for region in regions])]
        mask_logits = self.mask_head(features)
        side = mask_logits.shape[-1]
        wanted = [
            mask_targets(objects, region.objects.cpu(), boxes.cpu(), side, self.preset)
            for objects, region, boxes in zip(targets, regions, positive, strict=True)
        ]
        losses["mask"] = mask_loss_sum(mask_logits, labels, torch.cat(wanted).to(labels.device), self.mask_loss)
        return losses

    def box_branch(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """What was pooled for boxes (R, C, P, P) -> class logits (R, K + 1) and deltas (R, K, 4)."""
        return self.box_predictor(self.box_head(self._shared(regions)))

    def mask_branch(self, regions: Tensor, labels: Tensor) -> Tensor:
        """What was pooled for masks (R, C, P, P), and predicted classes (R,) -> the class's probabilities (R, m, m)."""
        return mask_probabilities(self.mask_head(self._shared(regions)), labels, self.mask_loss)

    def decode(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], branches: Branches | None = None
    ) -> list[Detections]:
        """Outputs -> the objects found in each image (section 3.1).

        Args:
            outputs: of `forward`.
            sizes: each image's (height, width) before padding.
            branches: what runs in place of `box_branch` and `mask_branch`, as an engine compiles them.
        """
        branches = branches or Branches(self.box_branch, self.mask_branch)
        proposed, _ = self.rpn.proposals(outputs.proposals, sizes, self.rpn.inference_limits)
        logits, deltas = branches.box(self.box_pooler(outputs.maps, proposed))
        counts = [len(boxes) for boxes in proposed]
        found = [
            decode_detections(*of_image, self.settings)
            for of_image in zip(proposed, logits.split(counts), deltas.split(counts), sizes, strict=True)
        ]
        return [
            Detections(
                boxes,
                scores,
                labels,
                self._masks([m[i : i + 1] for m in outputs.maps], boxes, labels, branches.mask),
                size,
            )
            for i, ((boxes, scores, labels), size) in enumerate(zip(found, sizes, strict=True))
        ]

    def _masks(
        self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor, branch: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The masks of detections in one image: (D, m, m) probabilities of the predicted class."""
        parts = zip(boxes.split(MASKS_AT_ONCE), labels.split(MASKS_AT_ONCE), strict=True)
        return torch.cat([branch(self.mask_pooler(maps, [some]), classes) for some, classes in parts])

    def _shared(self, regions: Tensor) -> Tensor:
        """Through what both branches have in common."""
        if self.shared_head is None:
            return regions
        if self.backbone_in_float32 and regions.device.type == "cpu":  # it is the backbone's last part
            with autocast_disabled(regions.device):
                return self.shared_head(regions.float())
        return self.shared_head(regions)
