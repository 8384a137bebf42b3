"""Runs on generated scenes with images, class maps, a second label map and depth.

Each row is trained once for each seed, in OUTPUT/ROW-SEED; the results are in OUTPUT/results.json, and no run is
repeated. A seed defines the training and validation scenes and the initial weights: all rows of a seed use the same
scenes in the same order. Each scene is used once, so there is no augmentation; other settings are those of the recipe
`modern`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from upscore.console import Console
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
from upscore.training.dataset_stats import fit_depth_preprocessing
from upscore.training.init_weights import load_initial_weights
from upscore.training.recipes import MODERN
from upscore.training.run_folder import RunFolder
from upscore.training.validation import Scores

SCENES, SIDE, HELD_OUT = 500, 160, 0.2
"""Number of training scenes, their side in pixels, and validation scenes per training scene."""

BASE = MODERN.model_copy(update={"crop": 0, "scale": None, "flip": 0, "colour": 0, "patience": 0})
THIN = [name for name in SHAPES if name in ("bar", "cross")]

Runs = dict[str, list[dict[str, Any]]]
"""Row -> results of the seeds 0, 1, ..."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network of a table."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `build`."""
    geometric: bool = False
    """Train on the geometric classes only."""
    after: tuple[str, str] | None = None
    """Rows with the initial weights of the RGB and of the depth backbone."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command line."""

    output: Path
    docs: Path | None
    seeds: int
    scenes: int

    def command(self, name: str) -> str:
        """Return the command that repeats the runs."""
        seeds, scenes = (
            f" --seeds {self.seeds}" * (self.seeds != 3),
            f" --scenes {self.scenes}" * (self.scenes != SCENES),
        )
        return f"python recipes/{name}.py{seeds}{scenes}"


def main(
    name: str,
    doc: str | None,
    rows: Mapping[str, Row],
    page: Callable[[Runs, Arguments, Path, Path], str],
    arguments: Any,
) -> None:
    """Run the command line of a recipe.

    Args:
        name: name of the recipe.
        doc: its description.
        rows: the rows of the table.
        page: returns the text of the page for the runs, the arguments, and the paths of the page and the plot.
        arguments: the command line.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs") / name)
    parser.add_argument("--docs", type=Path, help="folder of the page; the plot is written to ../images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=SCENES, help="training scenes of each run")
    args = Arguments(**vars(parser.parse_args(arguments)))
    if args.seeds < 1 or args.scenes < 1:
        parser.error("--seeds and --scenes must be 1 or more")
    runs = make_runs(rows, args)
    path, picture = args.output / f"{name}.md", args.output / f"{name}.png"
    if args.docs:
        path, picture = args.docs / path.name, args.docs.parent / "images" / picture.name
    text = page(runs, args, path, picture)
    write_text(path, text)
    print(text)


def make_runs(rows: Mapping[str, Row], args: Arguments) -> Runs:
    """Run all rows and seeds that are not finished, and return the results."""
    results = args.output / "results.json"
    done: dict[str, dict[str, Any]] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    for seed in range(args.seeds):
        for name, row in rows.items():
            folder = RunFolder(args.output / f"{name}-{seed}")
            has_state = folder.open({"row": name, "seed": seed, "scenes": args.scenes}, resume=True)
            if folder.path.name not in done:
                starts = [args.output / f"{other}-{seed}" / "best" for other in row.after or ()]
                result_scores = run(row, folder, starts, seed=seed, scenes=args.scenes, resume=has_state)
                result_scores["seconds"] += sum(done[f"{other}-{seed}"]["seconds"] for other in row.after or ())
                done[folder.path.name] = result_scores
                write_text(results, json.dumps(done, indent=2) + "\n")
            (folder.path / "state.pt").unlink(missing_ok=True)  # large, and not needed any more
    return {name: [done[f"{name}-{seed}"] for seed in range(args.seeds)] for name in rows}


class Geometric:
    """Data set with the second label map as class map."""

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
    """Train and score a network; returns its scores and training time in seconds."""
    data = open_splits(f"scenes:{scenes}:{seed}", fraction=HELD_OUT)
    train, val = (Geometric(part) for part in data) if row.geometric else data
    torch.manual_seed(seed)
    net = build("fcn8s", num_classes=len(train.classes), pretrained=True, **row.options)
    net.classes = train.classes
    assert isinstance(net, FCN)
    if isinstance(net, TwoHeads):
        net.geometric_classes = geometric_classes(train)
    if starts:
        load_initial_weights(net, *starts)
    elif net.backbone.depth_preprocessing is not None:
        net.backbone.depth_preprocessing = fit_depth_preprocessing(train, net.preprocessing)
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
    return {**selected_scores(last.scores, geometric=row.geometric), "seconds": seconds}


def selected_scores(scores: Scores | None, *, geometric: bool) -> dict[str, float]:
    """Return the scores of the tables."""
    assert isinstance(scores, SemanticScores)
    if geometric:
        return {"geometric_mean_iu": scores.mean_iu, "geometric_accuracy": scores.pixel_accuracy}
    thin = sum(scores.per_class[name] or 0.0 for name in THIN) / len(THIN)
    result_scores = {"mean_iu": scores.mean_iu, "pixel_accuracy": scores.pixel_accuracy, "thin_iu": thin}
    if isinstance(scores, TwoHeadedScores):
        result_scores |= selected_scores(scores.geometric, geometric=True)
    return result_scores
