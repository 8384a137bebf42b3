"""Mask R-CNN (He, Gkioxari, Dollar, Girshick): Faster R-CNN with one more branch.

N images, K classes, R regions, P proposals, D detections; H W pixels of the network's input. Boxes are
(x1, y1, x2, y2) in these pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.instances import Instances
from upscore.models import boxes as box_ops
from upscore.models.mask_targets import MaskLoss, mask_probabilities, mask_targets, mask_term
from upscore.models.matching import match_boxes, sample
from upscore.models.precision import has_depthwise, in_float32
from upscore.models.preprocessing import Preprocessing
from upscore.models.profiles import Profile
from upscore.models.resizing import Resizing
from upscore.models.roi_align import RoIPooler
from upscore.models.roi_heads import BoxPredictor
from upscore.models.rpn import RPN, RPNOutputs
from upscore.models.terms import Term
from upscore.models.trunks import Trunk
from upscore.objects import Objects
from upscore.structures import Prediction

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""What box deltas are multiplied by, so that they are about as large as class logits (Fast R-CNN's code)."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RoISettings:
    """Section 3.1: which regions are trained on, and what becomes of them at inference."""

    batch_size: int = 512
    """Regions trained on in each image (64 in the paper's C4 networks)."""
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100
    """The most objects that are found in an image."""


class MaskRCNN(nn.Module):
    """Trunk, neck, proposals, and two branches: what and where (box), and which pixels (mask).

    Args:
        trunk: maps of several strides.
        neck: {stride: map} -> maps from fine to coarse, as `FPN`, or a single one (`C4`).
        rpn: what proposes regions on these.
        box_pooler, box_head, box_predictor: the box branch; the head's output is (R, D).
        mask_pooler, mask_head: the mask branch; the head's output is (R, K, m, m).
        shared_head: what both branches' regions go through first, as res5 in the C4 network.
        mask_loss: whether classes compete for pixels.
        profile, resizing, settings: rules and numbers.
    """

    task = "instances"

    def __init__(
        self,
        trunk: Trunk,
        neck: nn.Module,
        rpn: RPN,
        *,
        num_classes: int,
        box_pooler: RoIPooler,
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        mask_pooler: RoIPooler,
        mask_head: nn.Module,
        profile: Profile,
        resizing: Resizing,
        settings: RoISettings | None = None,
        shared_head: nn.Module | None = None,
        mask_loss: MaskLoss = "sigmoid",
    ) -> None:
        super().__init__()
        self.trunk, self.neck, self.rpn = trunk, neck, rpn
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.mask_pooler, self.mask_head, self.shared_head = mask_pooler, mask_head, shared_head
        self.num_classes, self.profile, self.resizing = num_classes, profile, resizing
        self.settings = settings or RoISettings()
        self.mask_loss: MaskLoss = mask_loss
        self.classes = [f"class_{index}" for index in range(num_classes)]
        self.min_score = 0.5
        """The operating point: what scores less is no detection for whoever wants objects rather than a ranking."""
        self.architecture: dict[str, str | int | float | bool] = {}
        """The arguments of `build` that make this network again; empty for one put together by hand."""
        # depthwise convolutions move memory, which bfloat16 makes slower on a CPU; what follows them gains
        self.trunk_in_float32 = has_depthwise(trunk)

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns pixels into the input of `forward`."""
        return self.trunk.preprocessing

    @property
    def detections(self) -> int:
        """The most objects that are found in an image."""
        return self.settings.detections

    def forward(self, images: Tensor) -> Outputs:
        """Preprocessed images (N, 3, H, W), smaller ones padded at the bottom and the right by zeros."""
        return self.dense(self.trunk.padded(images))

    def dense(self, images: Tensor) -> Outputs:
        """As `forward`, of images whose sides are multiples of `trunk.multiple`."""
        if self.trunk_in_float32 and images.device.type == "cpu":
            with in_float32(images.device):
                features = self.trunk(images)
        else:
            features = self.trunk(images)
        maps = self.neck(features)
        return Outputs(maps, self.rpn(maps))

    def losses(self, outputs: Outputs, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """The five losses, whose sum is minimised (section 3), each the mean of one of the `terms`."""
        return {name: term.mean for name, term in self.terms(outputs, targets).items()}

    def terms(
        self, outputs: Outputs, targets: Sequence[Objects], seeds: Sequence[int] | None = None
    ) -> dict[str, Term]:
        """The five losses over what is sampled.

        Args:
            outputs: of `forward`.
            targets: of each image, at the size of the network's input and with its image's own size. Crowds and objects
                without area are left out.
            seeds: each image's for what is sampled of it; None: torch's own random numbers.
        """
        device = outputs.maps[0].device
        targets = [_trainable(objects, device) for objects in targets]
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds] if seeds else [None] * len(targets)
        sizes = [objects.size for objects in targets]
        losses = self.rpn.terms(outputs.proposals, [objects.boxes for objects in targets], generators)
        proposed, _ = self.rpn.proposals(outputs.proposals, sizes, self.rpn.training_limits)
        regions = [self._sample(*of_image) for of_image in zip(proposed, targets, generators, strict=True)]

        features = self._shared(self.box_pooler(outputs.maps, [region.boxes for region in regions]))
        logits, deltas = self.box_predictor(self.box_head(features))
        losses |= self._box_losses(logits, deltas, regions)

        positive = [region.boxes[: region.positives] for region in regions]
        labels = torch.cat([region.labels[: region.positives] for region in regions])
        if self.shared_head is None:
            features = self.mask_pooler(outputs.maps, positive)
        else:  # the same pooling and the same head, so the same features
            first = torch.cat([torch.arange(len(r.boxes), device=labels.device) < r.positives for r in regions])
            features = features[first]
        mask_logits = self.mask_head(features)
        side = mask_logits.shape[-1]
        wanted = [
            mask_targets(objects, region.objects.cpu(), boxes.cpu(), side, self.profile)
            for objects, region, boxes in zip(targets, regions, positive, strict=True)
        ]
        losses["mask"] = mask_term(mask_logits, labels, torch.cat(wanted).to(labels.device), self.mask_loss)
        return losses

    @torch.no_grad()
    def _sample(self, proposed: Tensor, objects: Objects, generator: torch.Generator | None) -> _Regions:
        """The regions of one image to learn from: a share of positives, first, and negatives for the rest."""
        boxes = torch.cat([proposed, objects.boxes])  # the truth is a proposal too, so that there are good ones early
        chosen = self.settings
        matched = match_boxes(objects.boxes, boxes, chosen.positive_iou, chosen.positive_iou, rescue=False)
        positive, negative = sample(matched, chosen.batch_size, chosen.positive_fraction, generator)
        index = torch.cat([positive, negative])
        labels = torch.full((len(index),), self.num_classes, device=boxes.device)
        labels[: len(positive)] = objects.labels[matched[positive]]
        return _Regions(boxes[index], labels, matched[positive], objects.boxes[matched[positive]], len(positive))

    def _box_losses(self, logits: Tensor, deltas: Tensor, regions: Sequence[_Regions]) -> dict[str, Term]:
        """Cross-entropy over K + 1 classes, and smooth L1 of the true class's deltas; both over all sampled regions."""
        labels = torch.cat([region.labels for region in regions])
        first = torch.cat([torch.arange(len(r.boxes), device=labels.device) < r.positives for r in regions])
        wanted = torch.cat([box_ops.encode(r.truth, r.boxes[: r.positives], BOX_WEIGHTS) for r in regions])
        own = deltas[first, labels[first]]
        count = torch.tensor(len(labels), device=labels.device)
        return {
            "class": Term(F.cross_entropy(logits, labels, reduction="sum"), count),
            "box": Term(F.smooth_l1_loss(own, wanted, reduction="sum", beta=self.profile.box_beta), count),
        }

    def box_branch(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """What was pooled for boxes (R, C, P, P) -> class logits (R, K + 1) and deltas (R, K, 4)."""
        return self.box_predictor(self.box_head(self._shared(regions)))

    def mask_branch(self, regions: Tensor, labels: Tensor) -> Tensor:
        """What was pooled for masks (R, C, P, P), and predicted classes (R,) -> the class's probabilities (R, m, m)."""
        return mask_probabilities(self.mask_head(self._shared(regions)), labels, self.mask_loss)

    def decode(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], branches: Branches | None = None
    ) -> list[Prediction]:
        """Outputs -> what is found in each image (section 3.1).

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
            self._detections(*of_image)
            for of_image in zip(proposed, logits.split(counts), deltas.split(counts), sizes, strict=True)
        ]
        return [
            Prediction(
                instances=Instances(
                    boxes=boxes.cpu(),
                    scores=scores.cpu(),
                    labels=labels.cpu(),
                    masks=self._masks([m[i : i + 1] for m in outputs.maps], boxes, labels, branches.mask).cpu(),
                    size=size,
                    pasting=self.profile.pasting,
                ),
                classes=self.classes,
            )
            for i, ((boxes, scores, labels), size) in enumerate(zip(found, sizes, strict=True))
        ]

    def _detections(
        self, proposed: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals (P, 4) and what the box branch says of them -> boxes (D, 4), scores (D,), labels (D,)."""
        scores = logits.softmax(dim=1)[:, :-1]
        boxes = box_ops.clip(box_ops.decode(deltas, proposed[:, None], BOX_WEIGHTS), size)
        # any class of a proposal that is likely enough is a candidate, not only the likeliest
        which, labels = (scores > self.settings.score_threshold).nonzero().unbind(1)
        boxes, scores = boxes[which, labels], scores[which, labels]
        usable = box_ops.nonempty(boxes, MIN_SIDE)
        boxes, scores, labels = boxes[usable], scores[usable], labels[usable]
        kept = box_ops.class_nms(boxes, scores, labels, self.settings.nms_iou, self.settings.detections)
        return boxes[kept], scores[kept], labels[kept]

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
        if self.trunk_in_float32 and regions.device.type == "cpu":  # it is the trunk's last part
            with in_float32(regions.device):
                return self.shared_head(regions.float())
        return self.shared_head(regions)


MIN_SIDE = 1e-2
"""Detections with a side under this many pixels are dropped."""


class _Regions(NamedTuple):
    boxes: Tensor
    """(R, 4), positives first."""
    labels: Tensor
    """(R,), K for the background."""
    objects: Tensor
    """(positives,), the position of each one's object."""
    truth: Tensor
    """(positives, 4), its box."""
    positives: int


def _trainable(objects: Objects, device: torch.device) -> Objects:
    """Without crowds and without boxes that have no area or no finite sides; boxes and labels on `device`."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    usable = objects.crowd.logical_not() & (sides > 0).all(dim=1) & objects.boxes.isfinite().all(dim=1)
    kept = objects[usable]
    kept.boxes, kept.labels = kept.boxes.to(device), kept.labels.to(device)
    return kept
