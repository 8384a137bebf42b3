"""Runs on generated scenes with all that they have: photos, classes, a second label map, depth.

A row is trained once for every seed, in OUTPUT/ROW-SEED; what is measured is in OUTPUT/results.json, and no run is made
twice. A seed stands for its own scenes, to train on and held out, and for the first weights: all rows of a seed see the
same scenes in the same order. A scene is seen once, hence there is no augmentation; the rest is the recipe `modern`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from upscore.data.datasets import Dataset, geometric_classes, open_splits
from upscore.data.samples import Sample
from upscore.data.synthetic import SHAPES
from upscore.evaluation.semantic import SemanticScores, TwoHeadedScores
from upscore.files import write_text
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.training import fit
from upscore.training.callbacks import Callback, TerminalProgress
from upscore.training.dataset_stats import fitting_depth
from upscore.training.init_weights import start_from
from upscore.training.recipes import MODERN
from upscore.training.run_folder import RunFolder
from upscore.training.validation import Scores

SCENES, SIDE, HELD_OUT = 500, 160, 0.2
"""Scenes to train on; their side in pixels; how many are held out, for each that is trained on."""

BASE = MODERN.model_copy(update={"crop": 0, "scale": None, "flip": 0, "colour": 0, "patience": 0})
THIN = [name for name in SHAPES if name in ("bar", "cross")]

Runs = dict[str, list[dict[str, Any]]]
"""row -> what was measured with seeds 0, 1, ..."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `build`."""
    geometric: bool = False
    """It learns the geometric classes as if there were no others."""
    after: tuple[str, str] | None = None
    """The rows of photos and of depth alone whose networks it starts from."""


@dataclass(frozen=True)
class Asked:
    """The command line."""

    output: Path
    docs: Path | None
    seeds: int
    scenes: int

    def command(self, name: str) -> str:
        """How the runs are made again."""
        seeds, scenes = (
            f" --seeds {self.seeds}" * (self.seeds != 3),
            f" --scenes {self.scenes}" * (self.scenes != SCENES),
        )
        return f"python recipes/{name}.py{seeds}{scenes}"


def main(
    name: str, doc: str | None, rows: Mapping[str, Row], page: Callable[[Runs, Asked, Path, Path], str], arguments: Any
) -> None:
    """The command line of a recipe; `page` makes its text out of (runs, what was asked, its path, its picture's)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs") / name)
    parser.add_argument("--docs", type=Path, help="where the page goes, its picture going to ../images from there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=SCENES, help="to train on, in each run")
    asked = Asked(**vars(parser.parse_args(arguments)))
    if asked.seeds < 1 or asked.scenes < 1:
        parser.error("--seeds and --scenes must be 1 or more")
    runs = make_runs(rows, asked)
    path, picture = asked.output / f"{name}.md", asked.output / f"{name}.png"
    if asked.docs:
        path, picture = asked.docs / path.name, asked.docs.parent / "images" / picture.name
    text = page(runs, asked, path, picture)
    write_text(path, text)
    print(text)


def make_runs(rows: Mapping[str, Row], asked: Asked) -> Runs:
    """Make those that are not there yet."""
    results = asked.output / "results.json"
    done: dict[str, dict[str, Any]] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    for seed in range(asked.seeds):
        for name, row in rows.items():
            folder = RunFolder(asked.output / f"{name}-{seed}")
            begun = folder.open({"row": name, "seed": seed, "scenes": asked.scenes}, resume=True)
            if folder.path.name not in done:
                starts = [asked.output / f"{other}-{seed}" / "best" for other in row.after or ()]
                found = run(row, folder, starts, seed=seed, scenes=asked.scenes, resume=begun)
                found["seconds"] += sum(done[f"{other}-{seed}"]["seconds"] for other in row.after or ())
                done[folder.path.name] = found
                write_text(results, json.dumps(done, indent=2) + "\n")
            (folder.path / "state.pt").unlink(missing_ok=True)  # larger than all else, and of no more use
    return {name: [done[f"{name}-{seed}"] for seed in range(asked.seeds)] for name in rows}


class Geometric:
    """A data set with its second label map in the first one's place."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.classes = dataset, geometric_classes(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return replace(sample, class_map=sample.geometric_map)


class Last(Callback):
    """Keeps the scores of the last validation."""

    scores: Scores | None = None

    def on_epoch_end(self, records: list[dict[str, Any]], scores: Scores | None, is_best: bool) -> None:
        self.scores = scores


def run(row: Row, folder: RunFolder, starts: Sequence[Path], *, seed: int, scenes: int, resume: bool) -> dict[str, Any]:
    """Train and score one network; returns its scores and the seconds that its training took."""
    data = open_splits(f"scenes:{scenes}:{seed}", fraction=HELD_OUT)
    train, val = (Geometric(part) for part in data) if row.geometric else data
    torch.manual_seed(seed)
    net = build("fcn8s", num_classes=len(train.classes), pretrained=True, **row.options)
    net.classes = train.classes
    assert isinstance(net, FCN)
    if isinstance(net, TwoHeads):
        net.geometric_classes = geometric_classes(train)
    if starts:
        start_from(net, *starts)
    elif net.backbone.depth_preprocessing is not None:
        net.backbone.depth_preprocessing = fitting_depth(train, net.preprocessing)
    recipe = BASE.model_copy(update={"images": scenes})
    last = Last()
    result = fit(
        net,
        train,
        val,
        recipe,
        folder,
        max_side=SIDE,
        seed=seed,
        workers=1,
        resume=resume,
        callbacks=[TerminalProgress(Console(stderr=True)), last],
    )
    seconds = sum(record["seconds"] for record in result.records)
    return {**measured(last.scores, geometric=row.geometric), "seconds": seconds}


def measured(scores: Scores | None, *, geometric: bool) -> dict[str, float]:
    """What of the scores goes into the tables."""
    assert isinstance(scores, SemanticScores)
    if geometric:
        return {"geometric_mean_iu": scores.mean_iu, "geometric_accuracy": scores.pixel_accuracy}
    thin = sum(scores.per_class[name] or 0.0 for name in THIN) / len(THIN)
    found = {"mean_iu": scores.mean_iu, "pixel_accuracy": scores.pixel_accuracy, "thin_iu": thin}
    if isinstance(scores, TwoHeadedScores):
        found |= measured(scores.geometric, geometric=True)
    return found
