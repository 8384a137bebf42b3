"""Scores of a model on labelled photos."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.evaluation.metrics import ConfusionMatrix, SemanticScores, semantic_scores
from upscore.inference.predictor import Predictor
from upscore.labels import VOID


def evaluate(
    model: Predictor, dataset: Dataset, *, progress: Callable[[int, int], None] | None = None
) -> SemanticScores:
    """Predict every photo at its own size and compare with its labels, over the whole set.

    The classes of the data are matched with the model's by name; if none of the names agree but their number does
    (an unnamed set), by their order.

    Raises:
        UserError: the data has a class that the model doesn't know, or a photo has no labels.
    """
    classes = dataset.classes
    order = _match(classes, model.classes)
    confusion = ConfusionMatrix(len(model.classes))
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.name} has no labels to compare with")
        target = sample.class_map if order is None else order[sample.class_map.long()]
        confusion.update(model.predict(sample.image).class_map, target)
        if progress:
            progress(index + 1, len(dataset))
    return semantic_scores(confusion.counts, model.classes)


def _match(data: list[str], model: list[str]) -> Tensor | None:
    """A lookup table from the data's class indices to the model's, or None where they are the same."""
    if data == model or (len(data) == len(model) and not set(data) & set(model)):
        return None
    if unknown := [name for name in data if name not in model]:
        raise UserError(
            f"the data has classes that the model was not trained on: {', '.join(unknown[:5])} "
            f"(the model knows {', '.join(model[:12])}{', …' if len(model) > 12 else ''})"
        )
    table = torch.full((256,), VOID, dtype=torch.uint8)
    for index, name in enumerate(data):
        table[index] = model.index(name)
    return table
