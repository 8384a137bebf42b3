"""The ablations of Mask R-CNN's table 2 on generated scenes: RoIAlign, RoIWarp or RoIPool, masks, heads, C4 or FPN.

    python recipes/mask_rcnn_table2.py --output runs/table2 --docs docs/results

Every row is the same network, Mask R-CNN over EfficientNet-Lite0-FPN, but for one choice. A seed stands for its own
scenes, to train on and held out, and its own first weights: all rows of a seed see the same scenes in the same order,
so rows are compared seed by seed. A scene is seen once, hence there is no augmentation; the rest is the recipe
`modern`. Seven rows times three seeds are run (C4 once), each on 500 scenes.

Interrupted, the same command goes on where it stopped; a run that is in OUTPUT/results.json is not run again. `--rows`
makes some of them only; they join those that are there. The table is mask_rcnn_table2.md in OUTPUT, or in `--docs`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from table_pages import Results, choice, count, differences, plot_rows, scores_table, verdict

from upscore.data.instance_datasets import open_instance_splits
from upscore.files import write_text
from upscore.models import build
from upscore.training import fit
from upscore.training.callbacks import TerminalProgress
from upscore.training.precision import choose_precision
from upscore.training.recipes import MODERN_INSTANCES
from upscore.training.run_folder import RunFolder


@dataclass(frozen=True)
class Row:
    """One choice, and the mask AP that the paper has for it and for the reference."""

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: tuple[float, float] | None = None
    where: str = ""
    seeds: int = 3
    """At most: fewer where a run takes longer than a quarter of an hour."""


REFERENCE = "reference"
ROWS = {
    REFERENCE: Row("RoIAlign, sigmoid, FCN"),
    "roipool": Row("RoIPool", {"pooling": "pool"}, (26.9, 30.3), "2c, R-50-C4"),
    "softmax": Row("softmax masks", {"mask_loss": "softmax"}, (24.8, 30.3), "2b, R-50-C4"),
    "mlp": Row("MLP mask head", {"mask_head": "mlp"}, (31.5, 33.6), "2e, R-50-FPN"),
    "roiwarp": Row("RoIWarp", {"pooling": "warp"}, (27.1, 30.3), "2c, R-50-C4"),
    "agnostic": Row("class-agnostic masks", {"class_agnostic": True}, (29.7, 30.3), "section 4.2, R-50-C4"),
    "c4": Row("C4 instead of FPN", {"neck": "c4"}, (30.3, 33.6), "2a, R-50", seeds=1),
}
DEFAULT_ROWS = [row for row in ROWS if row != REFERENCE]
SCORES = {"AP": "mask AP", "AP50": "AP50", "AP75": "AP75", "box_AP": "box AP"}
SCENES, SIDE, HELD_OUT, BATCH = 500, 160, 0.1, 4
"""Scenes to train on; their side in pixels; how many are held out, for each that is trained on; photos in a step."""

REGIONS = 128
"""Regions that are learned from in each scene, which has about five objects."""

C4_REGIONS = 64
"""By a C4 network, as in the paper, where one with a pyramid has 512 (section 3.1)."""

AP = next(iter(SCORES))
TITLES = {name: row.title for name, row in ROWS.items()}
PAPER = {n: "" if row.paper is None else f"{row.paper[0]}, {row.paper[1]} ({row.where})" for n, row in ROWS.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/table2"))
    parser.add_argument("--docs", type=Path, help="where the table goes, its picture going to ../images from there")
    parser.add_argument("--rows", nargs="+", choices=DEFAULT_ROWS, default=DEFAULT_ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=SCENES, help="to train on, in each run")
    asked = parser.parse_args(arguments)
    if asked.seeds < 1 or asked.scenes < 1:
        parser.error("--seeds and --scenes must be 1 or more")

    runs = _read(asked.output / "results.json")
    for seed in range(asked.seeds):
        for row in [REFERENCE, *asked.rows]:
            if seed >= ROWS[row].seeds:
                continue
            name = f"{row}-{seed}"
            folder = RunFolder(asked.output / name)
            begun = folder.open({"row": row, "seed": seed, "scenes": asked.scenes}, resume=True)
            if name not in runs:
                runs[name] = run(row, seed, asked.scenes, folder, resume=begun)
                write_text(asked.output / "results.json", json.dumps(runs, indent=2) + "\n")
            (folder.path / "state.pt").unlink(missing_ok=True)  # larger than all else, and of no more use
    results = {
        row: [runs[f"{row}-{seed}"] for seed in range(min(asked.seeds, ROWS[row].seeds))]
        for row in ROWS
        if all(f"{row}-{seed}" in runs for seed in range(min(asked.seeds, ROWS[row].seeds)))
    }
    table, picture = asked.output / "mask_rcnn_table2.md", asked.output / "mask_rcnn_table2.png"
    if asked.docs:
        table, picture = asked.docs / table.name, asked.docs.parent / "images" / picture.name
    plot_rows(
        results, TITLES, picture, title="Mask AP on held-out scenes", score=AP, label="mask AP; numbers are seeds"
    )
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
    regions = C4_REGIONS if options.get("neck") == "c4" else REGIONS
    net.settings = replace(net.settings, batch_size=regions)
    changes = {"batch_size": BATCH, "images": scenes, "crop": 0, "scale": None, "flip": 0, "colour": 0}
    recipe = MODERN_INSTANCES.model_copy(update=changes)
    result = fit(
        net,
        train,
        val,
        recipe,
        folder,
        max_side=SIDE,
        dtype=getattr(torch, choose_precision(net).name),
        seed=seed,
        workers=1,
        resume=resume,
        callbacks=[TerminalProgress(Console(stderr=True))],
    )
    last = result.records[-1]
    return {**{name: last[name] or 0.0 for name in SCORES}, "seconds": last["seconds"] + last["validation_seconds"]}


def report(results: Results, scenes: int, picture: str) -> str:
    """The page: the table, what it says of the paper's order, and what to choose."""
    seeds, held_out = len(results[REFERENCE]), max(1, round(scenes * HELD_OUT))
    others = [row for row in results if row != REFERENCE]
    seconds = [scores["seconds"] for runs in results.values() for scores in runs]
    verdicts = "\n".join(
        f"- {verdict(differences(results, row, REFERENCE, AP), ROWS[row].title, 'the reference')}" for row in others
    )
    command = "python recipes/mask_rcnn_table2.py"
    if others != DEFAULT_ROWS:
        command += f" --rows {' '.join(others)}"
    command += f" --seeds {seeds}" * (seeds != 3) + f" --scenes {scenes}" * (scenes != SCENES)
    return f"""\
# Mask R-CNN's table 2 on generated scenes

    {command}

EfficientNet-Lite0-FPN, 7 classes of shapes whose colour and texture say nothing, scenes of {SIDE}x{SIDE} pixels. Each
run is trained on {scenes} scenes, {BATCH} a step, each seen once; the scores are those of {count(held_out, "other")}.
{count(seeds, "seed")}, each with its own scenes and first weights; all rows of a seed see the same. A run took
{median(seconds):.0f} s (the median; {sum(seconds) / 60:.0f} minutes in all). This is a small experiment: it shows which
way a choice tends, not how much it is worth on photos. Softmax masks are cut where the class of the box has half of the
probability, which after so short a training few points have; the paper does not say how it treats the background. The
C4 network pools from one map of stride 16, which has but 10 x 10 cells of these scenes, has EfficientNet-Lite0's last
stages in its head, and learns from {C4_REGIONS} regions of a scene, as many as the paper's; it has one seed, for its
runs are many times as long. From 16 regions it had learned a mask AP of 1.8, so it is far from its end after so few
steps: its row says that a pyramid gets there much sooner, not what a pyramid is worth once both are there.

![Mask AP of each row, a dot for each seed]({picture})

Scores are means over the seeds, of mask AP with the lowest and the highest in brackets. The paper's are AP on COCO, of
the row and of its reference, with other backbones (in its text, RoIPool over a pyramid costs 1.5 points).

{scores_table(results, TITLES, SCORES, paper=PAPER, whose="the paper's, and its reference")}
{verdicts}

{choice(results, TITLES, AP)}
"""


def _read(path: Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main()
