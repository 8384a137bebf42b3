"""Evaluation on a Ray cluster. Workers predict and compare images; the driver adds up counts and collects matches."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from upscore.data.datasets import Dataset, parse_scenes, subset
from upscore.distributed.ray.cluster import ModelFiles, load_files
from upscore.distributed.ray.task_runner import Row, run_on_cluster
from upscore.errors import UserError
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.evaluation.semantic import SemanticScores, TwoHeadedScores, semantic_scores, two_headed_scores
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.session import resolve_engine
from upscore.inference.evaluate import ClassOrders, class_orders, compare_objects, evaluate, open_for_scoring
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.progress import ProgressCallback


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Result of a distributed evaluation."""

    scores: SemanticScores | InstanceScores
    images: int
    """Number of evaluated images."""
    split: str | None
    """Split of the evaluated images; None: all images."""


def evaluate_on_ray(
    model: str,
    data: str,
    split: str | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> Evaluated:
    """Run `upscore.inference.evaluate` on a Ray cluster.

    The data must be on a file system that all machines share, or be generated scenes. The model is sent to the workers.

    Args:
        model, data, split: see `upscore.inference.evaluate.evaluate`.
        address: address of the cluster; None uses RAY_ADDRESS, or else this machine.
        workers: number of processes; None uses the capacity of the cluster.
        cpus: number of CPUs of each process.
        engine, precision: see `upscore.inference.load.load`.
        progress: called after each image.

    Raises:
        UserError: there is no data, model or cluster, the model lacks a class of the data, or an image cannot be read
            or has no labels.
    """
    resolve_engine(engine, precision)
    predictor = load(model, engine="torch", precision="float32")
    dataset, split = open_for_scoring(_source(data), split, predictor.task, predictor.training)
    orders = class_orders(predictor, dataset)
    total = _Total(predictor)
    items: list[Row] = [{} for _ in range(len(dataset))]
    arguments = {"dataset": dataset, "orders": orders, "engine": engine, "precision": precision}
    rows = run_on_cluster(model, items, Scorer, arguments, address=address, workers=workers, cpus=cpus)
    with closing(rows):
        for done, row in enumerate(rows, start=1):
            total.add(row["number"], row)
            if progress:
                progress(done, len(dataset))
    return Evaluated(scores=total.scores(), images=len(dataset), split=split)


def _source(data: str) -> str | Path:
    """Return a source with an absolute path, which is valid on each machine."""
    if "://" in data:
        raise UserError(f"{data} is in an object store: labels need a file system that all machines share")
    return data if parse_scenes(data) else Path(data).absolute()


class _Total:
    """Sum of the rows of all images, which arrive in any order."""

    def __init__(self, predictor: Model) -> None:
        self.predictor = predictor
        self.counts: np.ndarray | int = 0
        self.geometric: np.ndarray | int = 0
        self.matches: dict[int, InstanceEvaluator] = {}

    def add(self, number: int, row: Row) -> None:
        self.counts = self.counts + row["counts"]
        self.geometric = self.geometric + row["geometric"]
        if row["matches"] is not None:
            self.matches[number] = row["matches"]

    def scores(self) -> SemanticScores | InstanceScores:
        classes = self.predictor.classes
        if self.predictor.task == "instances":
            merged = InstanceEvaluator(classes, max_detections=self.predictor.max_detections)
            for number in sorted(self.matches):  # in the order of the images, which breaks ties of scores
                merged.extend(self.matches[number])
            return merged.scores(self.predictor.display_threshold)
        semantic = semantic_scores(torch.as_tensor(self.counts), classes)
        if not np.size(self.geometric):
            return semantic
        geometric = semantic_scores(torch.as_tensor(self.geometric), self.predictor.geometric_classes)
        return two_headed_scores(semantic, geometric)


class Scorer:
    """Actor that holds the network and the data set."""

    def __init__(
        self, files: ModelFiles, dataset: Dataset, orders: ClassOrders, engine: EngineName, precision: Precision
    ) -> None:
        self.dataset, self.orders = dataset, orders
        self.error, self.predictor = "", None
        try:
            self.predictor = load_files(files, engine, precision)
        except UserError as error:
            self.error = str(error)

    def do(self, item: Row) -> Row:
        """Return the confusion matrices of an image, or its matched objects."""
        if self.predictor is None:
            return _row(error=self.error)
        try:
            return _compare(self.predictor, subset(self.dataset, [item["number"]]), self.orders)
        except UserError as error:
            return _row(error=str(error))

    def lost(self, item: Row) -> Row:
        """Return the row of an image on which workers died."""
        names = getattr(self.dataset, "names", None)
        name = names[item["number"]] if names else f"image {item['number'] + 1}"
        return _row(error=f"{name}: all workers that evaluated it died: it may need more memory than a machine has")


def _compare(predictor: Model, image: Dataset, orders: ClassOrders) -> Row:
    if predictor.task == "instances":
        return _row(matches=compare_objects(predictor, image, orders=orders))
    scores = evaluate(predictor, image, orders=orders)
    if isinstance(scores, TwoHeadedScores):
        return _row(counts=scores.confusion, geometric=scores.geometric.confusion)
    assert isinstance(scores, SemanticScores)
    return _row(counts=scores.confusion)


def _row(
    counts: list[list[int]] | None = None,
    geometric: list[list[int]] | None = None,
    matches: InstanceEvaluator | None = None,
    error: str = "",
) -> Row:
    """Return a row with confusion matrices, matched objects or an error."""
    matrices = {"counts": np.array(counts or [], np.int64), "geometric": np.array(geometric or [], np.int64)}
    return {**matrices, "matches": matches, "error": error}
