"""Tasks: data, losses and scores of training semantic segmentation and instance segmentation.

N images, C classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.data.datasets import Dataset, open_splits
from upscore.data.instance_datasets import open_instance_splits
from upscore.data.resizing import resize_longest, resize_to
from upscore.data.samples import Sample
from upscore.data.transforms import Batch
from upscore.evaluation.instances import InstanceScores
from upscore.evaluation.semantic import SemanticScores, TwoHeadedScores
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.loss_sum import LossSum
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN, Outputs
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.training.loader import Resize
from upscore.training.recipes import INSTANCE_RECIPES, RECIPES, Recipe
from upscore.training.validation import InstanceMeasurement, Measurement, SemanticMeasurement, TwoHeadedMeasurement

Network = FCN | MaskRCNN


class Task(Protocol):
    """Data, losses and scores of a type of network."""

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes by name."""
        ...

    @property
    def primary(self) -> str:
        """Name of the score that determines the best epoch, as in the records."""
        ...

    @property
    def title(self) -> str:
        """Name of that score for display."""
        ...

    @property
    def summable(self) -> bool:
        """Whether losses are sums over pixels that may be added over batches; otherwise they are means of batches."""
        ...

    def open_splits(self, source: str | Path, *, val_pattern: str | None = None) -> tuple[Dataset, Dataset]:
        """Open the training and validation data."""
        ...

    def resize(self, net: Any, max_side: int) -> Resize:
        """Return the function that resizes samples to the network's input size."""
        ...

    def inputs(self, net: Any, batch: Batch, device: torch.device) -> Tensor:
        """Return the network's input for a batch, preprocessed."""
        ...

    def forward(self, net: Any, images: Tensor) -> Any:
        """Compute the network's outputs for `loss_sums`."""
        ...

    def targets(self, batch: Batch, device: torch.device) -> Any:
        """Return the ground truth of a batch for `loss_sums`."""
        ...

    def loss_sums(self, net: Any, outputs: Any, targets: Any, seeds: Sequence[int]) -> dict[str, LossSum]:
        """Compute the losses by name; `seeds` has a seed per image for the sampling of regions."""
        ...

    def measure(self, net: Any, device: torch.device) -> Measurement:
        """Start a validation."""
        ...

    def record(self, scores: Any) -> dict[str, float | None]:
        """Return the scores that are recorded for each epoch; None for undefined ones."""
        ...


class SemanticTask:
    """Semantic segmentation."""

    recipes = RECIPES
    primary, title = "mean_iu", "mean IoU"
    summable = True

    def open_splits(self, source: str | Path, *, val_pattern: str | None = None) -> tuple[Dataset, Dataset]:
        return open_splits(source, val_pattern=val_pattern)

    def resize(self, net: FCN, max_side: int) -> Resize:
        depth, geometric = net.backbone.depth_preprocessing is not None, isinstance(net, TwoHeads)
        return partial(_resize_longest, max_side=max_side, depth=depth, geometric=geometric)

    def inputs(self, net: FCN, batch: Batch, device: torch.device) -> Tensor:
        """Return the preprocessed images, (N, 3, H, W), or (N, 3 + D, H, W) with D channels of depth."""
        depth = None if batch.depth is None else batch.depth.to(device, non_blocking=True)
        return net.backbone.prepare(batch.images.to(device, non_blocking=True), depth)

    def forward(self, net: FCN, images: Tensor) -> Any:
        return net.forward_for_loss(images)

    def targets(self, batch: Batch, device: torch.device) -> Tensor:
        """Return class indices, (N, H, W), 255 for void."""
        assert batch.class_maps is not None
        return batch.class_maps.to(device, non_blocking=True)

    def loss_sums(self, net: FCN, outputs: Tensor, targets: Tensor, seeds: Sequence[int]) -> dict[str, LossSum]:
        counts = net.counts(targets)
        return {name: LossSum(loss, counts[name]) for name, loss in net.losses(outputs, targets, "sum").items()}

    def measure(self, net: FCN, device: torch.device) -> Measurement:
        return SemanticMeasurement(net, device)

    def record(self, scores: SemanticScores) -> dict[str, float | None]:
        return {
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
            "mean_iu": scores.mean_iu,
            "frequency_weighted_iu": scores.frequency_weighted_iu,
        }


class TwoHeadedTask(SemanticTask):
    """Semantic segmentation with two heads for two sets of classes."""

    def targets(self, batch: Batch, device: torch.device) -> Tensor:
        """Return class indices of both sets, (N, 2, H, W), 255 for void."""
        assert batch.class_maps is not None
        assert batch.geometric_maps is not None
        return torch.stack([batch.class_maps, batch.geometric_maps], 1).to(device, non_blocking=True)

    def measure(self, net: FCN, device: torch.device) -> Measurement:
        assert isinstance(net, TwoHeads)
        return TwoHeadedMeasurement(net, device)

    def record(self, scores: SemanticScores) -> dict[str, float | None]:
        assert isinstance(scores, TwoHeadedScores)
        geometric = {f"geometric_{name}": value for name, value in super().record(scores.geometric).items()}
        return super().record(scores) | geometric


class InstanceTask:
    """Instance segmentation."""

    recipes = INSTANCE_RECIPES
    primary, title = "AP", "mask AP"
    summable = False

    def open_splits(self, source: str | Path, *, val_pattern: str | None = None) -> tuple[Dataset, Dataset]:
        return open_instance_splits(source, val_pattern=val_pattern)

    def resize(self, net: MaskRCNN, max_side: int) -> Resize:
        return partial(_resize_by, resizing=net.resizing)

    def inputs(self, net: MaskRCNN, batch: Batch, device: torch.device) -> Tensor:
        return net.preprocessing(batch.images.to(device, non_blocking=True))

    def forward(self, net: MaskRCNN, images: Tensor) -> Outputs:
        return net(images)

    def targets(self, batch: Batch, device: torch.device) -> list[ObjectAnnotations]:
        """Return the objects of each image at its size before padding, on the CPU."""
        assert batch.objects is not None
        return batch.objects

    def loss_sums(
        self, net: MaskRCNN, outputs: Outputs, targets: list[ObjectAnnotations], seeds: Sequence[int]
    ) -> dict[str, LossSum]:
        return net.loss_sums(outputs, targets, seeds)

    def measure(self, net: MaskRCNN, device: torch.device) -> Measurement:
        return InstanceMeasurement(net)

    def record(self, scores: InstanceScores) -> dict[str, float | None]:
        values = {
            "AP": scores.AP,
            "AP50": scores.AP50,
            "AP75": scores.AP75,
            "box_AP": scores.box_AP,
            "ap_dsb": scores.ap_dsb["0.5"],
            "f1": scores.f1["0.5"],
            "score_threshold": scores.score_threshold,
        }
        return {name: None if math.isnan(value) else value for name, value in values.items()}


SEMANTIC, TWO_HEADED, INSTANCES = SemanticTask(), TwoHeadedTask(), InstanceTask()


def task_for(net: Network) -> Task:
    """Return the task of a network."""
    if net.task == "instances":
        return INSTANCES
    return TWO_HEADED if isinstance(net, TwoHeads) else SEMANTIC


def task_for_model(model: str) -> Task:
    """Return the task of a network by its name in `build`."""
    return INSTANCES if model == "mask_rcnn" else SEMANTIC


def _resize_longest(sample: Sample, max_side: int, *, depth: bool, geometric: bool) -> Sample:
    """Reduce a sample to at most `max_side` pixels, without the fields that the network does not use."""
    kept = replace(
        sample,
        depth=sample.depth if depth else None,
        geometric_map=sample.geometric_map if geometric else None,
    )
    return resize_longest(kept, max_side)


def _resize_by(sample: Sample, resizing: Resizing) -> Sample:
    resized = resize_to(sample, resizing.size(*sample.image.shape[-2:]))
    return resized if resizing.rule == "pixels" else replace(resized, image=resizing.pixels(sample.image))
