"""The ablations of Mask R-CNN's table 2 on generated scenes: RoIAlign or RoIPool, sigmoid or softmax, FCN or MLP masks.

    python recipes/mask_rcnn_table2.py --output runs/table2 --docs docs/results

Every row is the same network, Mask R-CNN over EfficientNet-Lite0-FPN, but for one choice. A seed stands for its own
scenes, to train on and held out, and its own first weights: all rows of a seed see the same scenes in the same order,
so rows are compared seed by seed. A scene is seen once, hence there is no augmentation; the rest is the recipe
`modern`. By default, four rows times three seeds are run, each on 500 scenes.

Interrupted, the same command goes on where it stopped; a run that is in OUTPUT/results.json is not run again. Further
rows (`--rows roiwarp agnostic`) join those that are there. The table is mask_rcnn_table2.md in OUTPUT, or in `--docs`.

20 minutes on 2 cores; mask AP 28.3% for the reference, 20.3% RoIPool, 5.8% softmax, 25.4% MLP (means of three seeds).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from matplotlib.ticker import PercentFormatter
from rich.console import Console

from upscore.data.instance_datasets import open_instance_splits
from upscore.evaluation.plot_style import BLUE, INK, ORANGE, PALE_INK, name_ticks, new_figure, save, style
from upscore.files import write_text
from upscore.models import build
from upscore.models.precision import resolve_precision
from upscore.training import fit
from upscore.training.recipes import MODERN_INSTANCES
from upscore.training.run_folder import RunFolder
from upscore.training.watchers import TerminalWatcher


@dataclass(frozen=True)
class Row:
    """One choice, and the mask AP that the paper has for it and for the reference."""

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: tuple[float, float] | None = None
    where: str = ""


REFERENCE = "reference"
ROWS = {
    REFERENCE: Row("RoIAlign, sigmoid, FCN"),
    "roipool": Row("RoIPool", {"pooling": "pool"}, (26.9, 30.3), "2c, R-50-C4"),
    "softmax": Row("softmax masks", {"mask_loss": "softmax"}, (24.8, 30.3), "2b, R-50-C4"),
    "mlp": Row("MLP mask head", {"mask_head": "mlp"}, (31.5, 33.6), "2e, R-50-FPN"),
    "roiwarp": Row("RoIWarp", {"pooling": "warp"}, (27.1, 30.3), "2c, R-50-C4"),
    "agnostic": Row("class-agnostic masks", {"class_agnostic": True}, (29.7, 30.3), "section 4.2, R-50-C4"),
}
DEFAULT_ROWS = ["roipool", "softmax", "mlp"]
SCORES = {"AP": "mask AP", "AP50": "AP50", "AP75": "AP75", "box_AP": "box AP"}
SCENES, SIDE, HELD_OUT, BATCH = 500, 160, 0.1, 4
"""Scenes to train on; their side in pixels; how many are held out, for each that is trained on; photos in a step."""

REGIONS = 128
"""Regions that are learned from in each scene, which has about five objects."""

Results = dict[str, list[dict[str, float]]]
"""row -> the scores of its seeds 0, 1, ..."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/table2"))
    parser.add_argument("--docs", type=Path, help="where the table goes, its picture going to ../images from there")
    parser.add_argument("--rows", nargs="+", choices=[row for row in ROWS if row != REFERENCE], default=DEFAULT_ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=SCENES, help="to train on, in each run")
    asked = parser.parse_args(arguments)
    if asked.seeds < 1 or asked.scenes < 1:
        parser.error("--seeds and --scenes must be 1 or more")

    runs = _read(asked.output / "results.json")
    for seed in range(asked.seeds):
        for row in [REFERENCE, *asked.rows]:
            name = f"{row}-{seed}"
            folder = RunFolder(asked.output / name)
            begun = folder.open({"row": row, "seed": seed, "scenes": asked.scenes}, resume=True)
            if name not in runs:
                runs[name] = run(row, seed, asked.scenes, folder, resume=begun)
                write_text(asked.output / "results.json", json.dumps(runs, indent=2) + "\n")
            (folder.path / "state.pt").unlink(missing_ok=True)  # larger than all else, and of no more use
    results = {
        row: [runs[f"{row}-{seed}"] for seed in range(asked.seeds)]
        for row in ROWS
        if all(f"{row}-{seed}" in runs for seed in range(asked.seeds))
    }
    table, picture = asked.output / "mask_rcnn_table2.md", asked.output / "mask_rcnn_table2.png"
    if asked.docs:
        table, picture = asked.docs / table.name, asked.docs.parent / "images" / picture.name
    plot(results, picture)
    text = report(results, asked.scenes, os.path.relpath(picture, table.parent))
    write_text(table, text)
    print(text)


def run(row: str, seed: int, scenes: int, folder: RunFolder, *, resume: bool) -> dict[str, float]:
    """Train and validate one network; returns its scores and the seconds it took."""
    train, val = open_instance_splits(f"scenes:{scenes}:{seed}", fraction=HELD_OUT)
    torch.manual_seed(seed)  # the mask head is made last: what comes before it is the same in all rows
    options = ROWS[row].options
    net = build("mask_rcnn", num_classes=len(train.classes), pretrained=True, min_side=SIDE, **options)
    net.classes = train.classes
    net.settings = replace(net.settings, batch_size=REGIONS)
    changes = {"batch_size": BATCH, "images": scenes, "crop": 0, "scale": None, "flip": 0, "colour": 0}
    recipe = MODERN_INSTANCES.model_copy(update=changes)
    watcher = TerminalWatcher(Console(stderr=True), folder.path.name)
    try:
        result = fit(
            net,
            train,
            val,
            recipe,
            folder,
            max_side=SIDE,
            dtype=resolve_precision(net, "auto"),
            seed=seed,
            workers=1,
            resume=resume,
            watchers=[watcher],
        )
    finally:
        watcher.close()
    last = result.records[-1]
    return {**{name: last[name] or 0.0 for name in SCORES}, "seconds": last["seconds"] + last["validation_seconds"]}


def report(results: Results, scenes: int, picture: str) -> str:
    """The page: the table, what it says of the paper's order, and what to choose."""
    seeds, held_out = len(results[REFERENCE]), max(1, round(scenes * HELD_OUT))
    others = [row for row in results if row != REFERENCE]
    seconds = [scores["seconds"] for runs in results.values() for scores in runs]
    verdicts = "\n".join(f"- {verdict(row, differences(results, row))}" for row in others)
    command = "python recipes/mask_rcnn_table2.py"
    if others != DEFAULT_ROWS:
        command += f" --rows {' '.join(others)}"
    command += f" --seeds {seeds}" * (seeds != 3) + f" --scenes {scenes}" * (scenes != SCENES)
    return f"""\
# Mask R-CNN's table 2 on generated scenes

    {command}

EfficientNet-Lite0-FPN, 7 classes of shapes whose colour and texture say nothing, scenes of {SIDE}x{SIDE} pixels. Each
run is trained on {scenes} scenes, {BATCH} a step, each seen once; the scores are those of {_count(held_out, "other")}.
{_count(seeds, "seed")}, each with its own scenes and first weights; all rows of a seed see the same. A run took
{median(seconds):.0f} s (the median; {sum(seconds) / 60:.0f} minutes in all). This is a small experiment: it shows which
way a choice tends, not how much it is worth on photos. Softmax masks are cut where the class of the box has half of the
probability, which after so short a training few points have; the paper does not say how it treats the background.

![Mask AP of each row, a dot for each seed]({picture})

Scores are means over the seeds, of mask AP with the lowest and the highest in brackets.

{_scores_table(results)}
Differences to the reference, in points of mask AP and seed by seed, beside the paper's (COCO, other backbones; in its
text, RoIPool over a pyramid costs 1.5 points).

{_differences_table(results)}
{verdicts}

{choice(results)}
"""


def differences(results: Results, row: str) -> list[float]:
    """Mask AP less the reference's of the same seed, in points."""
    pairs = zip(results[row], results[REFERENCE], strict=True)
    return [100 * (ours["AP"] - theirs["AP"]) for ours, theirs in pairs]


def verdict(row: str, points: list[float]) -> str:
    """Whether the paper's order shows."""
    lower = sum(difference < 0 for difference in points)
    if lower == len(points):
        seen = "shows in all seeds" if len(points) > 1 else "shows, in one seed"
    elif mean(points) < 0:
        seen = f"shows on average, and in {lower} of {_count(len(points), 'seed')}"
    else:
        seen = f"does not show: the mean difference is {mean(points):+.1f}"
    return f"{ROWS[row].title} below the reference: the paper's order {seen}."


def choice(results: Results) -> str:
    """What to take."""
    gains = {row: differences(results, row) for row in results if row != REFERENCE}
    better = [ROWS[row].title for row, points in gains.items() if mean(points) > 0]
    surely = [ROWS[row].title for row, points in gains.items() if min(points) > 0]
    default = "the defaults (RoIAlign, sigmoid, FCN mask head)"
    if not better:
        return f"To choose: take {default}; no alternative was better."
    if surely and len(results[REFERENCE]) > 1:
        return f"To choose: on data like this try {' and '.join(surely)}, better in every seed; elsewhere, {default}."
    return f"To choose: take {default}; {' and '.join(better)} had the higher mean, but the seeds do not agree on it."


def _scores_table(results: Results) -> str:
    lines = []
    for row, runs in results.items():
        means = [f"{mean(scores[name] for scores in runs):.1%}" for name in SCORES]
        each = [scores["AP"] for scores in runs]
        means[0] += f" ({min(each):.1%} to {max(each):.1%})"
        lines.append([ROWS[row].title, *means, ", ".join(f"{ap:.1%}" for ap in each)])
    return markdown(["", *SCORES.values(), "mask AP of each seed"], lines)


def _differences_table(results: Results) -> str:
    lines = []
    for row in results:
        if paper := ROWS[row].paper:
            points = differences(results, row)
            theirs = f"{paper[0]} - {paper[1]} = {paper[0] - paper[1]:+.1f} ({ROWS[row].where})"
            lines.append([ROWS[row].title, f"{mean(points):+.1f}", ", ".join(f"{d:+.1f}" for d in points), theirs])
    return markdown(["", "mean", "each seed", "the paper's"], lines)


def markdown(title: list[str], rows: list[list[str]]) -> str:
    """A table with numbers to the right."""
    lines = [title, ["---", *["---:"] * (len(title) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(results: Results, path: Path) -> None:
    """A dot for each seed and a bar for their mean, row by row, the reference on top."""
    figure = new_figure(7.2, 1.6 + 0.5 * len(results))
    axes = figure.add_subplot()
    style(axes, "Mask AP on held-out scenes", f"bar: mean of {_count(len(results[REFERENCE]), 'seed')}", ORANGE)
    for row, runs in enumerate(results.values()):
        each = [scores["AP"] for scores in runs]
        axes.plot([mean(each)] * 2, [row - 0.32, row + 0.32], color=ORANGE, linewidth=2.2)
        for seed, ap in enumerate(each):
            place = row + 0.5 * ((seed + 0.5) / len(each) - 0.5)  # seeds under one another, so that none is hidden
            axes.plot(ap, place, "o", color=BLUE, markersize=5)
            axes.annotate(str(seed), (ap, place), (5, 0), textcoords="offset points", va="center", size=7, color=INK)
    axes.axvline(mean(scores["AP"] for scores in results[REFERENCE]), color=PALE_INK, linewidth=0.9, linestyle="--")
    name_ticks(axes, "y", [ROWS[row].title for row in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("mask AP; numbers are seeds", color=PALE_INK)
    save(figure, path)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _read(path: Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main()
