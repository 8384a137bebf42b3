"""Scores of a model on labelled photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.evaluation.metrics import ConfusionMatrix, SemanticScores, semantic_scores
from upscore.inference.predictor import Predictor
from upscore.labels import VOID
from upscore.models.mask_rcnn import MaskRCNN
from upscore.structures import Sample

Advance = Callable[[int, int], None]
"""(done, total): how many photos are behind us."""


def evaluate(model: Predictor, dataset: Dataset, *, progress: Advance | None = None) -> SemanticScores | InstanceScores:
    """Predict every photo at its own size and compare with its labels, over the whole set.

    The classes of the data are matched with the model's by name; if none of the names agree but their number does
    (an unnamed set), by their order. Of objects, all candidates are ranked for average precision; for matched F, those
    count that the model's operating point lets through.

    Raises:
        UserError: the data has a class that the model doesn't know, or a photo has no labels.
    """
    samples = _counted(dataset, progress)
    order = _match(dataset.classes, model.classes)
    if isinstance(model.net, MaskRCNN):
        return _score_objects(model, model.net, samples, order)
    return _score_pixels(model, samples, order)


def _score_pixels(model: Predictor, samples: Iterator[Sample], order: list[int] | None) -> SemanticScores:
    table = torch.full((256,), VOID, dtype=torch.uint8)
    if order is not None:
        table[: len(order)] = torch.tensor(order, dtype=torch.uint8)
    confusion = ConfusionMatrix(len(model.classes))
    for sample in samples:
        if sample.class_map is None:
            raise UserError(f"{sample.name} has no labels to compare with")
        class_map = model.predict(sample.image).class_map
        assert class_map is not None
        confusion.update(class_map, sample.class_map if order is None else table[sample.class_map.long()])
    return semantic_scores(confusion.counts, model.classes)


def _score_objects(
    model: Predictor, net: MaskRCNN, samples: Iterator[Sample], order: list[int] | None
) -> InstanceScores:
    evaluator = InstanceEvaluator(model.classes, max_detections=net.detections)
    for sample in samples:
        objects = sample.objects
        if objects is None:
            raise UserError(f"{sample.name} has no labelled objects to compare with")
        if order is not None:
            objects = replace(objects, labels=torch.tensor(order)[objects.labels])
        found = model.predict(sample.image, min_score=0.0).instances
        assert found is not None
        evaluator.update(found, objects)
    return evaluator.scores(net.min_score)


def _counted(dataset: Dataset, progress: Advance | None) -> Iterator[Sample]:
    """The samples; one counts as done when the next is asked for."""
    for index in range(len(dataset)):
        yield dataset[index]
        if progress:
            progress(index + 1, len(dataset))


def _match(data: list[str], model: list[str]) -> list[int] | None:
    """The model's class index for each of the data's, or None where they are the same."""
    if data == model or (len(data) == len(model) and not set(data) & set(model)):
        return None
    if unknown := [name for name in data if name not in model]:
        raise UserError(
            f"the data has classes that the model was not trained on: {', '.join(unknown[:5])} "
            f"(the model knows {', '.join(model[:12])}{', …' if len(model) > 12 else ''})"
        )
    return [model.index(name) for name in data]
