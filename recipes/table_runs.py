"""The runs of a table: rows that differ in one choice, each trained once for every seed, and what they measured.

Every run belongs to a data set, a row and a seed, and has a folder OUTPUT/DATA/ROW-SEED; all runs of all tables that
share an OUTPUT are in OUTPUT/results.json. A seed stands for the first weights, the order and the augmentation of the
photos, and on generated scenes for the scenes: rows are compared seed by seed.
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
from rich.console import Console
from table_pages import SCORES

from upscore.data.datasets import Dataset, open_splits
from upscore.data.resizing import resize_longest
from upscore.data.samples import Sample
from upscore.files import write_text
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.training import fit
from upscore.training.callbacks import Callback, TerminalProgress
from upscore.training.dataset_stats import median_frequency_weights
from upscore.training.init_weights import start_from
from upscore.training.recipes import MODERN, Recipe
from upscore.training.run_folder import RunFolder

Runs = dict[str, dict[str, Any]]
"""DATA/ROW-SEED -> what was measured."""

SCENES, CAMVID = "scenes", "camvid"
HOLDOUT, SIDE = "0006R0*", 240
"""The video of CamVid that is held out, and the longer side in pixels to which its photos are reduced."""

IMAGES, DIFFERENT, HELD_OUT = 900, 400, 200
"""Images seen in a run; of generated scenes, how many different ones, and how many others are scored."""

BASE = MODERN.model_copy(update={"crop": 160, "scale": (0.75, 1.33), "frozen_norm": True, "patience": 0})
"""The default recipe, with crops as large as a scene and statistics of the classifier, for runs of a minute."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice."""

    title: str
    model: str = "fcn8s"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `build`."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What is changed of the table's recipe."""
    pretrained: bool = True
    head_only: bool = False
    after: str | None = None
    """The row whose network of the same seed it starts from."""
    share: float = 1
    """Of the images that other rows see; a row that starts from another has the rest from there."""
    paper: str = ""
    """The paper's mean IoU."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows, and what the paper says of their order."""

    name: str
    title: str
    about: str
    rows: Mapping[str, Row]
    hidden: Mapping[str, Row] = field(default_factory=dict)
    """Stages on the way to a row, which are no rows themselves."""
    orders: Sequence[tuple[str, str]] = ()
    """(lower, higher), as the paper has them."""
    base: Recipe = BASE
    paper: str = "the paper's mean IoU"
    plot: str = ""
    """The title of its plots."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """Data set -> what was found where an order does not show."""


class Remembered:
    """A data set read once and kept in memory, at the size at which the network sees it."""

    def __init__(self, dataset: Dataset, max_side: int) -> None:
        self.classes = dataset.classes
        self.samples: list[Sample] = [resize_longest(dataset[index], max_side) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class Repeated:
    """A data set over and over, so that one epoch has any number of images."""

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.classes = dataset.classes
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index % len(self.dataset)]


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.values.append(loss)


def make_runs(table: Table, data: str, source: Path | None, output: Path, *, seeds: int, images: int) -> None:
    """All runs of a table on one data set that are not there yet."""
    for seed in range(seeds):
        sets: tuple[Remembered, Remembered] | None = None
        for name, row in {**table.hidden, **table.rows}.items():
            folder = RunFolder(output / data / f"{name}-{seed}")
            begun = folder.open({"row": name, "seed": seed, "images": images}, resume=True)
            if (folder.path / "result.json").exists():
                continue
            sets = sets or open_data(data, source, seed)
            start = None if row.after is None else output / data / f"{row.after}-{seed}" / "best"
            result = run(row, table.base, *sets, folder, start=start, seed=seed, images=images, resume=begun)
            if row.after is not None:
                result["seconds"] += read_runs(output)[f"{data}/{row.after}-{seed}"]["seconds"]
            write_text(folder.path / "result.json", json.dumps(result) + "\n")
            for left in ("state.pt", "metrics.jsonl"):
                (folder.path / left).unlink(missing_ok=True)
            shutil.rmtree(folder.last, ignore_errors=True)
            write_text(output / "results.json", json.dumps(read_runs(output), indent=1) + "\n")


def read_runs(output: Path) -> Runs:
    """What all finished runs measured."""
    paths = sorted(output.glob("*/*/result.json"))
    return {str(path.parent.relative_to(output)): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def open_data(data: str, source: Path | None, seed: int) -> tuple[Remembered, Remembered]:
    """What to train on and what to score."""
    if data == SCENES:
        train, val = open_splits(f"scenes:{DIFFERENT}:{seed}", fraction=HELD_OUT / DIFFERENT)
    else:
        assert source is not None
        train, val = open_splits(source, val_pattern=HOLDOUT)
    return Remembered(train, SIDE), Remembered(val, SIDE)


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
    """Train and score one network; returns its scores, the seconds it took and its losses."""
    torch.manual_seed(seed)
    net = build(row.model, num_classes=len(train.classes), pretrained=row.pretrained, **row.options)
    assert isinstance(net, FCN)
    net.classes = list(train.classes)
    if start is not None:
        start_from(net, start)
    recipe = base.model_copy(update={"images": max(1, round(images * row.share)), **row.recipe})
    if recipe.class_weights == "median":
        net.class_weights = torch.tensor(median_frequency_weights(train))
    if recipe.patches < 1:
        grown = {name: round(getattr(recipe, name) / recipe.patches) for name in ("batch_size", "images")}
        recipe = recipe.model_copy(update=grown)
    losses = Losses()
    bar = TerminalProgress(Console(stderr=True), f"{folder.path.parent.name}/{folder.path.name}")
    result = fit(
        net,
        Repeated(train, recipe.images),
        val,
        recipe,
        folder,
        max_side=SIDE,
        head_only=row.head_only,
        seed=seed,
        resume=resume,
        callbacks=[bar, losses],
    )
    last = result.records[-1]
    return {
        **{name: last[name] for name in SCORES},
        "seconds": sum(record["seconds"] for record in result.records),
        "losses": _thinned(losses.values),
        "per_class": _per_class(folder),
    }


def _thinned(losses: Sequence[float], points: int = 60) -> list[float]:
    """At most so many means of neighbouring steps."""
    edges = [round(index * len(losses) / points) for index in range(points + 1)]
    parts = [losses[start:stop] for start, stop in pairwise(edges)]
    return [round(mean(part), 5) for part in parts if part]


def _per_class(folder: RunFolder) -> dict[str, float | None]:
    card = json.loads((folder.best / "model.json").read_text(encoding="utf-8"))
    per_class = card["scores"]["validation"]["per_class"]
    return {name: None if iu is None else round(iu, 4) for name, iu in per_class.items()}
