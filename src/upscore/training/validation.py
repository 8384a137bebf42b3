"""A validation under way, for each of the questions that networks are trained for.

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
from upscore.inference.detector import instance_result
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN, Outputs

Scores = SemanticScores | InstanceScores


class Measurement(Protocol):
    """One validation under way."""

    def update(self, outputs: Any, targets: Any, sizes: Sequence[tuple[int, int]]) -> None:
        """Compare a batch's outputs, of images of these sizes before padding, with its targets."""
        ...

    def seen(self) -> Any:
        """All that was compared, for another process's measurement of the same network."""
        ...

    def add(self, seen: Any) -> None:
        """Take over what another one has seen, as if it came next."""
        ...

    def scores(self) -> Scores:
        """The scores of all batches."""
        ...


class Pixels:
    """The classes of pixels."""

    def __init__(self, net: FCN, device: torch.device) -> None:
        self.net, self.confusion = net, ConfusionMatrix(net.num_classes, device=device)

    def update(self, outputs: Tensor, targets: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
        self.confusion.update(outputs.max(dim=1).indices, targets)

    def seen(self) -> Tensor:
        return self.confusion.counts.cpu()

    def add(self, seen: Tensor) -> None:
        self.confusion.counts += seen.to(self.confusion.counts.device)

    def scores(self) -> SemanticScores:
        return semantic_scores(self.confusion.counts, self.net.classes)


class TwoMaps:
    """The classes of pixels, twice."""

    def __init__(self, net: TwoHeads, device: torch.device) -> None:
        self.net, self.semantic = net, Pixels(net, device)
        self.geometric = ConfusionMatrix(len(net.geometric_classes), device=device)

    def update(self, outputs: Tensor, targets: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
        (semantic, geometric), (class_maps, geometric_maps) = self.net.split(outputs), targets.unbind(1)
        self.semantic.update(semantic, class_maps, sizes)
        self.geometric.update(geometric.max(dim=1).indices, geometric_maps)

    def seen(self) -> tuple[Tensor, Tensor]:
        return self.semantic.seen(), self.geometric.counts.cpu()

    def add(self, seen: tuple[Tensor, Tensor]) -> None:
        self.semantic.add(seen[0])
        self.geometric.counts += seen[1].to(self.geometric.counts.device)

    def scores(self) -> TwoHeadedScores:
        geometric = semantic_scores(self.geometric.counts, self.net.geometric_classes)
        return two_headed_scores(self.semantic.scores(), geometric)


class ObjectsFound:
    """The objects in photos."""

    def __init__(self, net: MaskRCNN) -> None:
        self.net = net
        self.evaluator = InstanceEvaluator(net.classes, max_detections=net.max_detections)

    def update(self, outputs: Outputs, targets: list[ObjectAnnotations], sizes: Sequence[tuple[int, int]]) -> None:
        for detections, objects in zip(self.net.decode(outputs, sizes), targets, strict=True):
            self.evaluator.update(instance_result(self.net, detections), objects)

    def seen(self) -> InstanceEvaluator:
        return self.evaluator

    def add(self, seen: InstanceEvaluator) -> None:
        self.evaluator.extend(seen)

    def scores(self) -> InstanceScores:
        """At the operating point that is best for these photos, which becomes the network's own."""
        self.net.score_threshold = self.evaluator.best_score_threshold().score_threshold
        return self.evaluator.scores(self.net.score_threshold)
