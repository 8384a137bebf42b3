"""`upscore evaluate` over a cluster: workers predict and compare; counts and matches are put together here.

C classes; n[i, j] pixels of true class i predicted as j.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upscore.data import open_dataset
from upscore.data.datasets import Dataset, parse_scenes, subset
from upscore.data.instance_datasets import open_instances
from upscore.distributed.ray.cluster import connected, plan_workers
from upscore.distributed.ray.model_files import load_files, read_model
from upscore.distributed.ray.task_runner import Row, run
from upscore.errors import UserError
from upscore.evaluation.instances import InstanceEvaluator, InstanceScores
from upscore.evaluation.semantic import SemanticScores, TwoHeadedScores, semantic_scores, two_headed_scores
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.select import resolve_engine
from upscore.inference.evaluate import ClassOrders, class_orders, compare_objects, evaluate
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.progress import ProgressCallback


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Scores, and what has to be known to tell of them."""

    scores: SemanticScores | InstanceScores
    images: int
    training: dict[str, Any]
    """Where the model's weights come from."""


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
    """The scores that `upscore.inference.evaluate` gives, by the workers of a cluster.

    The data lies on a file system that all machines share, or is generated scenes. The model is brought to the workers.

    Args:
        model, data, split, engine, precision: as `upscore evaluate` has them.
        address: of the cluster; by default RAY_ADDRESS, or else this machine alone.
        workers, cpus: how many processes, and how many processors each may use; by default what there is.
        progress: told after each photo.

    Raises:
        UserError: there is no data, no model or no cluster, the data has a class that the model doesn't know, or a
            photo can't be read or has no labels.
    """
    resolve_engine(engine, precision)
    predictor = load(model, engine="torch", precision="float32")
    dataset = _open(data, split, predictor.task)
    orders = class_orders(predictor, dataset)
    total = _Total(predictor)
    items: list[Row] = [{} for _ in range(len(dataset))]
    with connected(address) as ray:
        arguments = {"files": ray.put(read_model(model)), "dataset": ray.put(dataset), "orders": orders}
        arguments |= {"engine": engine, "precision": precision}
        plan = plan_workers(ray, workers, cpus)
        with closing(run(ray, items, Scorer, arguments, plan)) as rows:
            for done, row in enumerate(rows, start=1):
                if row["fault"]:
                    raise UserError(row["fault"])
                total.add(row["number"], row)
                if progress:
                    progress(done, len(dataset))
    return Evaluated(scores=total.scores(), images=len(dataset), training=predictor.training)


def _open(data: str, split: str | None, task: str) -> Dataset:
    """The data set with paths that are the same on each machine."""
    if "://" in data:
        raise UserError(f"{data}: labels are read from a file system that all machines share: mount it, give its path")
    source = data if parse_scenes(data) else Path(data).absolute()
    return open_instances(source, split) if task == "instances" else open_dataset(source, split)


class _Total:
    """What all photos sum up to, in whatever order they come."""

    def __init__(self, predictor: Model) -> None:
        self.predictor = predictor
        self.counts: np.ndarray | int = 0
        self.geometric: np.ndarray | int = 0
        self.compared: dict[int, InstanceEvaluator] = {}

    def add(self, number: int, row: Row) -> None:
        self.counts = self.counts + row["counts"]
        self.geometric = self.geometric + row["geometric"]
        if row["compared"] is not None:
            self.compared[number] = row["compared"]

    def scores(self) -> SemanticScores | InstanceScores:
        classes = self.predictor.classes
        if self.predictor.task == "instances":
            together = InstanceEvaluator(classes, max_detections=self.predictor.max_detections)
            for number in sorted(self.compared):  # of equal scores, the first photo's rank first
                together.extend(self.compared[number])
            return together.scores(self.predictor.display_threshold)
        own = semantic_scores(torch.as_tensor(self.counts), classes)
        if not np.size(self.geometric):
            return own
        surfaces = semantic_scores(torch.as_tensor(self.geometric), self.predictor.geometric_classes)
        return two_headed_scores(own, surfaces)


class Scorer:
    """Holds the network and the list of the labelled photos."""

    def __init__(self, files: Any, dataset: Any, orders: ClassOrders, engine: EngineName, precision: Precision) -> None:
        import ray

        self.orders = orders
        self.dataset: Dataset = ray.get(dataset)
        self.fault, self.predictor = "", None
        try:
            self.predictor = load_files(ray.get(files), engine, precision)
        except UserError as error:
            self.fault = str(error)

    def do(self, item: Row) -> Row:
        """The photo's counts, or its objects with their matches."""
        if self.predictor is None:
            return _row(fault=self.fault)
        try:
            return _compare(self.predictor, subset(self.dataset, [item["number"]]), self.orders)
        except UserError as error:
            return _row(fault=str(error))

    def lost(self, item: Row) -> Row:
        """The row of a photo at which processes died."""
        names = getattr(self.dataset, "names", None)
        name = names[item["number"]] if names else f"photo {item['number'] + 1}"
        return _row(fault=f"{name}: each process that had it died; is it too large for the memory of a machine?")


def _compare(predictor: Model, photo: Dataset, orders: ClassOrders) -> Row:
    if predictor.task == "instances":
        return _row(compared=compare_objects(predictor, photo, orders=orders))
    scores = evaluate(predictor, photo, orders=orders)
    if isinstance(scores, TwoHeadedScores):
        return _row(counts=scores.confusion, geometric=scores.geometric.confusion)
    assert isinstance(scores, SemanticScores)
    return _row(counts=scores.confusion)


def _row(
    counts: list[list[int]] | None = None,
    geometric: list[list[int]] | None = None,
    compared: InstanceEvaluator | None = None,
    fault: str = "",
) -> Row:
    """Confusion matrices, or objects with their matches; or what is wrong."""
    matrices = {"counts": np.array(counts or [], np.int64), "geometric": np.array(geometric or [], np.int64)}
    return {**matrices, "compared": compared, "fault": fault}
