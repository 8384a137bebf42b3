"""Evaluation of a model on a labelled data set."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upscore.data.datasets import (
    Dataset,
    data_digest,
    default_split,
    geometric_classes,
    open_dataset,
    open_splits,
    same_source,
)
from upscore.data.instance_datasets import open_instance_splits, open_instances
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.evaluation.class_matching import ClassMatchWarning, match_classes
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.evaluation.semantic import ConfusionMatrix, SemanticScores, semantic_scores, two_headed_scores
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.threading import in_threads
from upscore.labels import VOID
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult, SemanticResult


class TrainingImagesWarning(UserWarning):
    """The data contains images that the model was trained on."""


class ClassOrders(NamedTuple):
    """Class indices of the model for the classes of a data set, in their order."""

    classes: Sequence[int]
    geometric: Sequence[int] | None = None
    """Class indices of the second head; None if it is not scored."""


def class_orders(model: Model, dataset: Dataset) -> ClassOrders:
    """Match the classes of a data set with those of the model, see `match_classes`.

    Warns:
        ClassMatchWarning: names differ in case, or unnamed classes are matched by position.

    Raises:
        UserError: the model lacks a class of the data set.
    """
    pairs = [(dataset.classes, model.classes)]
    if model.geometric_classes and (names := geometric_classes(dataset)):
        pairs.append((names, model.geometric_classes))
    matches = [match_classes(*pair) for pair in pairs]
    for note in {match.note: None for match in matches if match.note}:
        warnings.warn(note, ClassMatchWarning, stacklevel=3)
    return ClassOrders(*(match.indices for match in matches))


def open_for_scoring(
    data: str | Path, split: str | None, task: str, training: dict[str, Any]
) -> tuple[Dataset, str | None]:
    """Open the images of a source that a model is scored on.

    Args:
        data, split: see `evaluate`.
        task: task of the model.
        training: training metadata of the model.

    Returns:
        The images and their split: "val" if a model that was trained on a folder without validation and test images is
        scored on the images of this folder that were held out.

    Warns:
        TrainingImagesWarning: the model was trained on images of `data`.
    """
    default = default_split(data)
    if same_source(training.get("data"), data):
        if default is None and split in (None, "val") and (held_out := _held_out(data, task, training)):
            warnings.warn(
                f"the model was trained on other images of {data}: only the {len(held_out)} images that were held out "
                "are scored",
                TrainingImagesWarning,
                stacklevel=3,
            )
            return held_out, "val"
        if (split or default) in (None, "train", "trainval"):
            warnings.warn(
                f"{data} contains the images that this model was trained on: its scores here are usually higher than "
                "on new images",
                TrainingImagesWarning,
                stacklevel=3,
            )
    split = split or default
    return (open_instances(data, split) if task == "instances" else open_dataset(data, split)), split


def _held_out(data: str | Path, task: str, training: dict[str, Any]) -> Dataset | None:
    """Return the images that the training held out; None if the files have changed since then."""
    try:
        train, val = (open_instance_splits if task == "instances" else open_splits)(
            data, val_pattern=training.get("val_pattern")
        )
    except UserError:
        return None
    digest = data_digest(train, val)
    return val if digest is not None and digest == training.get("data_digest") else None


def evaluate(
    model: Model | str | Path,
    data: Dataset | str | Path,
    *,
    split: str | None = None,
    progress: ProgressCallback | None = None,
    orders: ClassOrders | None = None,
) -> SemanticScores | InstanceScores:
    """Predict all images of a data set at their own sizes and compare the results with the labels.

    >>> scores = upscore.evaluate("runs/streets", "camvid/")
    >>> scores.mean_iu, scores.to_json()

    Average precision ranks all objects that the network detects; `ap_dsb` and F1 count the objects that overlays show
    (`MaskRCNN.final_threshold`). A model with two heads is scored on both if the data set has labels for both.

    Args:
        model: a loaded model, or a source for `upscore.load`.
        data: a data set of labelled images, or a folder, a COCO file or "scenes:COUNT" to open.
        split: split of a folder: "train", "val", "test" or "trainval". None is "test" if it exists, else "val", else
            the images that the training of this model held out of the same folder, else all images with labels.
        progress: called after each image.
        orders: matching of the classes; None is the result of `class_orders`.

    Returns:
        `SemanticScores` for semantic segmentation, `InstanceScores` for object detection. `to_json()` returns what
        `upscore evaluate --json` writes, apart from the names of the model and the data.

    Warns:
        TrainingImagesWarning: the model was trained on images of `data`.

    Raises:
        UserError: the model or the data does not exist, the data has a class that the model lacks, or an image has no
            labels.
    """
    if not isinstance(model, Model):
        model = load(model)
    if isinstance(data, str | Path):
        dataset, _ = open_for_scoring(data, split, model.task, model.training)
    elif split is not None:
        raise UserError(f"split={split!r} applies to folders only: leave it out for a data set")
    else:
        dataset = data
    orders = orders or class_orders(model, dataset)
    if model.task == "instances":
        return compare_objects(model, dataset, progress=progress, orders=orders).scores(model.display_threshold)
    geometric = None if orders.geometric is None else _table(orders.geometric)
    return _score_pixels(model, _counted(dataset, progress), _table(orders.classes), geometric)


def _score_pixels(
    model: Model, samples: Iterator[Sample], table: Tensor, geometric_table: Tensor | None
) -> SemanticScores:
    """Score semantic segmentation; the tables map values of label maps to the model's classes."""
    confusion, geometric = ConfusionMatrix(len(model.classes)), ConfusionMatrix(len(model.geometric_classes))
    for sample in samples:
        if sample.class_map is None or (geometric_table is not None and sample.geometric_map is None):
            raise UserError(f"{sample.name} has no labels: add labels, or remove the image")
        if sample.depth is None and model.depth_channels:
            raise UserError(f"{sample.name} has no depth, which this model requires: add a depth map")
        found = model.predict(sample.image, depth=sample.depth if model.depth_channels else None)
        assert isinstance(found, SemanticResult)
        confusion.update(found.class_map, table[sample.class_map.long()])
        if geometric_table is not None and sample.geometric_map is not None and found.geometric is not None:
            geometric.update(found.geometric.class_map, geometric_table[sample.geometric_map.long()])
    scores = semantic_scores(confusion.counts, model.classes)
    if geometric_table is None:
        return scores
    return two_headed_scores(scores, semantic_scores(geometric.counts, model.geometric_classes))


def _table(order: Sequence[int]) -> Tensor:
    """Return (256,) uint8: the model's class index for each value of a label map."""
    table = torch.full((256,), VOID, dtype=torch.uint8)
    table[: len(order)] = torch.tensor(order, dtype=torch.uint8)
    return table


def compare_objects(
    model: Model,
    dataset: Dataset,
    *,
    progress: ProgressCallback | None = None,
    orders: ClassOrders | None = None,
) -> InstanceEvaluator:
    """Predict the images of an instance segmentation data set and match the objects; see `evaluate`."""
    order = torch.tensor((orders or class_orders(model, dataset)).classes)
    evaluator = InstanceEvaluator(model.classes, max_detections=model.max_detections)
    for sample in _counted(dataset, progress):
        objects = sample.objects
        if objects is None:
            raise UserError(f"{sample.name} has no object annotations: add annotations, or remove the image")
        objects = replace(objects, labels=order[objects.labels])
        found = model.predict(sample.image, score_threshold=0.0)
        assert isinstance(found, InstanceResult)
        evaluator.update(found, objects)
    return evaluator


def _counted(dataset: Dataset, progress: ProgressCallback | None) -> Generator[Sample, None, None]:
    """Yield the samples, read in background threads, and report the progress of each."""
    with closing(in_threads(range(len(dataset)), dataset.__getitem__)) as samples:
        for index, sample in samples:
            yield sample
            if progress:
                progress(index + 1, len(dataset))
