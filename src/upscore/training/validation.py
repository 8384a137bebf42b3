"""Accumulates the scores of a validation for each task.

N images, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.evaluation.semantic import (
    ConfusionMatrix,
    SemanticScores,
    TwoHeadedScores,
    semantic_scores,
    two_headed_scores,
)
from upscore.inference.mask_rcnn_runner import instance_result
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN, Outputs

Scores = SemanticScores | InstanceScores


class Measurement(Protocol):
    """Accumulates the scores of a validation over batches and processes."""

    def update(self, outputs: Any, targets: Any, sizes: Sequence[tuple[int, int]]) -> None:
        """Compare the outputs of a batch with its targets; `sizes` are (H, W) of the images before padding."""
        ...

    def state(self) -> Any:
        """Return a picklable state for `merge` in another process."""
        ...

    def merge(self, state: Any) -> None:
        """Add the state of another process, as if its batches came next."""
        ...

    def scores(self) -> Scores:
        """Compute the scores of all batches."""
        ...


class SemanticMeasurement:
    """Accumulates the confusion matrix of semantic segmentation."""

    def __init__(self, net: FCN, device: torch.device) -> None:
        self.net, self.confusion = net, ConfusionMatrix(net.num_classes, device=device)

    def update(self, outputs: Tensor, targets: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
        self.confusion.update(outputs.max(dim=1).indices, targets)

    def state(self) -> Tensor:
        return self.confusion.counts.cpu()

    def merge(self, state: Tensor) -> None:
        self.confusion.counts += state.to(self.confusion.counts.device)

    def scores(self) -> SemanticScores:
        return semantic_scores(self.confusion.counts, self.net.classes)


class TwoHeadedMeasurement:
    """Accumulates the confusion matrices of a network with two heads."""

    def __init__(self, net: TwoHeads, device: torch.device) -> None:
        self.net, self.semantic = net, SemanticMeasurement(net, device)
        self.geometric = ConfusionMatrix(len(net.geometric_classes), device=device)

    def update(self, outputs: Tensor, targets: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
        (semantic, geometric), (class_maps, geometric_maps) = self.net.split(outputs), targets.unbind(1)
        self.semantic.update(semantic, class_maps, sizes)
        self.geometric.update(geometric.max(dim=1).indices, geometric_maps)

    def state(self) -> tuple[Tensor, Tensor]:
        return self.semantic.state(), self.geometric.counts.cpu()

    def merge(self, state: tuple[Tensor, Tensor]) -> None:
        self.semantic.merge(state[0])
        self.geometric.counts += state[1].to(self.geometric.counts.device)

    def scores(self) -> TwoHeadedScores:
        geometric = semantic_scores(self.geometric.counts, self.net.geometric_classes)
        return two_headed_scores(self.semantic.scores(), geometric)


class InstanceMeasurement:
    """Accumulates the objects of instance segmentation."""

    def __init__(self, net: MaskRCNN) -> None:
        self.net = net
        self.evaluator = InstanceEvaluator(net.classes, max_detections=net.max_detections)

    def update(self, outputs: Outputs, targets: list[ObjectAnnotations], sizes: Sequence[tuple[int, int]]) -> None:
        for detections, objects in zip(self.net.decode(outputs, sizes), targets, strict=True):
            self.evaluator.update(instance_result(self.net, detections), objects)

    def state(self) -> InstanceEvaluator:
        return self.evaluator

    def merge(self, state: InstanceEvaluator) -> None:
        self.evaluator.extend(state)

    def scores(self) -> InstanceScores:
        """Compute the scores at the best score threshold for these images, which is set on the network."""
        self.net.score_threshold = self.evaluator.best_score_threshold().score_threshold
        return self.evaluator.scores(self.net.score_threshold)
