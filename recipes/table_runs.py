"""Runs of a table: rows that differ in one setting, trained once for each seed.

The run of a data set, a row and a seed has the folder OUTPUT/DATA/ROW-SEED; OUTPUT/results.json contains the results of
all tables with the same OUTPUT. A seed defines initial weights, order and augmentation, and generated scenes, so that
rows are compared seed by seed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from table_pages import SCORES

from upscore.console import Console
from upscore.data.datasets import Dataset, open_splits
from upscore.data.resizing import resize_longest
from upscore.data.samples import Sample
from upscore.files import write_text
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.training import fit
from upscore.training.callbacks import Callback, TerminalProgress
from upscore.training.dataset_stats import median_frequency_weights
from upscore.training.init_weights import load_initial_weights
from upscore.training.recipes import MODERN, Recipe
from upscore.training.run_folder import RunFolder

Runs = dict[str, dict[str, Any]]
"""DATA/ROW-SEED -> results."""

SCENES, CAMVID = "scenes", "camvid"
VAL_PATTERN, SIDE = "0006R0*", 240
"""Validation images of CamVid, and the longer side in pixels to which images are reduced."""

IMAGES, DIFFERENT, HELD_OUT = 900, 400, 200
"""Training images of a run, counting repetitions; number of different training scenes, and of validation scenes."""

BASE = MODERN.model_copy(update={"crop": 160, "scale": (0.75, 1.33), "frozen_norm": True, "patience": 0})
"""The default recipe with crops as large as a scene and frozen batch normalisation, for runs of a minute."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: a network and its training."""

    title: str
    model: str = "fcn8s"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `build`."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the table's recipe."""
    pretrained: bool = True
    head_only: bool = False
    after: str | None = None
    """Row with the initial weights, with the same seed."""
    share: float = 1
    """Fraction of the training images of other rows, for rows that start from another row."""
    paper: str = ""
    """Mean IoU in the paper."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of runs."""

    name: str
    title: str
    about: str
    rows: Mapping[str, Row]
    hidden: Mapping[str, Row] = field(default_factory=dict)
    """Stages of a row, which are not shown."""
    orders: Sequence[tuple[str, str]] = ()
    """Pairs (lower, higher) of rows in the paper."""
    base: Recipe = BASE
    paper: str = "mean IoU in the paper"
    plot: str = ""
    """Title of the plots."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """Data set -> remarks on differences from the paper."""


class CachedDataset:
    """Data set in memory, resized to the network's input size."""

    def __init__(self, dataset: Dataset, max_side: int) -> None:
        self.classes = dataset.classes
        self.samples: list[Sample] = [resize_longest(dataset[index], max_side) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class RepeatedDataset:
    """Data set that repeats another one, so that an epoch has a given number of images."""

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.classes = dataset.classes
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index % len(self.dataset)]


class Losses(Callback):
    """Records the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.values.append(loss)


def make_runs(table: Table, data: str, source: Path | None, output: Path, *, seeds: int, images: int) -> None:
    """Run all rows and seeds of a table on a data set that are not finished."""
    for seed in range(seeds):
        sets: tuple[CachedDataset, CachedDataset] | None = None
        for name, row in {**table.hidden, **table.rows}.items():
            folder = RunFolder(output / data / f"{name}-{seed}")
            has_state = folder.open({"row": name, "seed": seed, "images": images}, resume=True)
            if (folder.path / "result.json").exists():
                continue
            sets = sets or open_data(data, source, seed)
            start = None if row.after is None else output / data / f"{row.after}-{seed}" / "best"
            result = run(row, table.base, *sets, folder, start=start, seed=seed, images=images, resume=has_state)
            if row.after is not None:
                result["seconds"] += read_runs(output)[f"{data}/{row.after}-{seed}"]["seconds"]
            write_text(folder.path / "result.json", json.dumps(result) + "\n")
            for name_of_file in ("state.pt", "metrics.jsonl"):
                (folder.path / name_of_file).unlink(missing_ok=True)
            shutil.rmtree(folder.last, ignore_errors=True)
            write_text(output / "results.json", json.dumps(read_runs(output), indent=1) + "\n")


def read_runs(output: Path) -> Runs:
    """Read the results of all finished runs."""
    paths = sorted(output.glob("*/*/result.json"))
    return {str(path.parent.relative_to(output)): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def open_data(data: str, source: Path | None, seed: int) -> tuple[CachedDataset, CachedDataset]:
    """Open the training and validation data."""
    if data == SCENES:
        train, val = open_splits(f"scenes:{DIFFERENT}:{seed}", fraction=HELD_OUT / DIFFERENT)
    else:
        assert source is not None
        train, val = open_splits(source, val_pattern=VAL_PATTERN)
    return CachedDataset(train, SIDE), CachedDataset(val, SIDE)


def run(
    row: Row,
    base: Recipe,
    train: Dataset,
    val: Dataset,
    folder: RunFolder,
    *,
    start: Path | None,
    seed: int,
    images: int,
    resume: bool,
) -> dict[str, Any]:
    """Train and score a network; returns its scores, training time in seconds and losses."""
    torch.manual_seed(seed)
    net = build(row.model, num_classes=len(train.classes), pretrained=row.pretrained, **row.options)
    assert isinstance(net, FCN)
    net.classes = list(train.classes)
    if start is not None:
        load_initial_weights(net, start)
    recipe = base.model_copy(update={"images": max(1, round(images * row.share)), **row.recipe})
    if recipe.class_weights == "median":
        net.class_weights = torch.tensor(median_frequency_weights(train))
    if recipe.patches < 1:
        grown = {name: round(getattr(recipe, name) / recipe.patches) for name in ("batch_size", "images")}
        recipe = recipe.model_copy(update=grown)
    losses = Losses()
    progress = TerminalProgress(Console(stderr=True), f"{folder.path.parent.name}/{folder.path.name}")
    result = fit(
        net,
        RepeatedDataset(train, recipe.images),
        val,
        recipe,
        folder,
        max_side=SIDE,
        head_only=row.head_only,
        seed=seed,
        resume=resume,
        callbacks=[progress, losses],
    )
    last = result.records[-1]
    return {
        **{name: last[name] for name in SCORES},
        "seconds": sum(record["seconds"] for record in result.records),
        "losses": _thinned(losses.values),
        "per_class": _per_class(folder),
    }


def _thinned(losses: Sequence[float], points: int = 60) -> list[float]:
    """Reduce losses to at most `points` means of consecutive steps."""
    edges = [round(index * len(losses) / points) for index in range(points + 1)]
    parts = [losses[start:stop] for start, stop in pairwise(edges)]
    return [round(mean(part), 5) for part in parts if part]


def _per_class(folder: RunFolder) -> dict[str, float | None]:
    config = json.loads((folder.best / "model.json").read_text(encoding="utf-8"))
    per_class = config["scores"]["validation"]["per_class"]
    return {name: None if iu is None else round(iu, 4) for name, iu in per_class.items()}
