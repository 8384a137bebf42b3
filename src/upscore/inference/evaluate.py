"""Scores of a model on labelled photos."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from upscore.data.datasets import Dataset, geometric_classes
from upscore.errors import UserError
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.evaluation.metrics import ConfusionMatrix, SemanticScores, semantic_scores, two_headed_scores
from upscore.inference.predictor import Predictor
from upscore.inference.threads import in_threads
from upscore.labels import VOID
from upscore.models.mask_rcnn import MaskRCNN
from upscore.progress import ProgressCallback
from upscore.structures import Sample


def evaluate(
    model: Predictor, dataset: Dataset, *, progress: ProgressCallback | None = None
) -> SemanticScores | InstanceScores:
    """Predict every photo at its own size and compare with its labels, over the whole set.

    The classes of the data are matched with the model's by name; if none of the names agree but their number does
    (an unnamed set), by their order. Of objects, all candidates are ranked for average precision; for matched F, those
    count that the model's operating point lets through. Of two heads, both are scored where the data has both labels.

    Raises:
        UserError: the data has a class that the model doesn't know, or a photo has no labels.
    """
    if isinstance(model.net, MaskRCNN):
        return compare_objects(model, model.net, dataset, progress=progress).scores(model.net.min_score)
    samples = _counted(dataset, progress)
    order = _match(dataset.classes, model.classes)
    names = geometric_classes(dataset) if model.geometric_classes else []
    surfaces = _table(_match(names, model.geometric_classes)) if names else None
    return _score_pixels(model, samples, _table(order), surfaces)


def _score_pixels(
    model: Predictor, samples: Iterator[Sample], table: Tensor, geometric_table: Tensor | None
) -> SemanticScores:
    """`table` has the model's class for each value of a label map; `geometric_table` too, where that is labelled."""
    confusion, geometric = ConfusionMatrix(len(model.classes)), ConfusionMatrix(len(model.geometric_classes))
    for sample in samples:
        if sample.class_map is None or (geometric_table is not None and sample.geometric_map is None):
            raise UserError(f"{sample.name} has no labels to compare with")
        if sample.depth is None and model.depth_channels:
            raise UserError(f"{sample.name} has no depth, which this model sees beside the photo")
        found = model.predict(sample.image, depth=sample.depth if model.depth_channels else None)
        assert found.class_map is not None
        confusion.update(found.class_map, table[sample.class_map.long()])
        if geometric_table is not None and sample.geometric_map is not None and found.geometric_map is not None:
            geometric.update(found.geometric_map, geometric_table[sample.geometric_map.long()])
    scores = semantic_scores(confusion.counts, model.classes)
    if geometric_table is None:
        return scores
    return two_headed_scores(scores, semantic_scores(geometric.counts, model.geometric_classes))


def _table(order: list[int] | None) -> Tensor:
    """(256,) uint8, the model's class index for each value of a label map."""
    table = torch.full((256,), VOID, dtype=torch.uint8)
    known = range(VOID) if order is None else order
    table[: len(known)] = torch.tensor(known, dtype=torch.uint8)
    return table


def compare_objects(
    model: Predictor, net: MaskRCNN, dataset: Dataset, *, progress: ProgressCallback | None = None
) -> InstanceEvaluator:
    """The photos of a set of objects, predicted and compared with their labels; see `evaluate`."""
    order = _match(dataset.classes, model.classes)
    evaluator = InstanceEvaluator(model.classes, max_detections=net.detections)
    for sample in _counted(dataset, progress):
        objects = sample.objects
        if objects is None:
            raise UserError(f"{sample.name} has no labelled objects to compare with")
        if order is not None:
            objects = replace(objects, labels=torch.tensor(order)[objects.labels])
        found = model.predict(sample.image, min_score=0.0).instances
        assert found is not None
        evaluator.update(found, objects)
    return evaluator


def _counted(dataset: Dataset, progress: ProgressCallback | None) -> Generator[Sample, None, None]:
    """The samples, read ahead; one counts as done when the next is asked for."""
    with closing(in_threads(range(len(dataset)), dataset.__getitem__)) as samples:
        for index, sample in samples:
            yield sample
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
