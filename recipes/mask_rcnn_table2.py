"""Ablations of Mask R-CNN's table 2 on generated scenes: RoIAlign, RoIWarp or RoIPool, masks, heads, C4 or FPN.

    python recipes/mask_rcnn_table2.py --output runs/table2 --docs docs/results

Each row is Mask R-CNN with EfficientNet-Lite0-FPN and one change. A seed defines the training and validation scenes and
the initial weights: all rows of a seed use the same scenes in the same order, so that rows are compared seed by seed.
Each scene is used once, so there is no augmentation; other settings are those of the recipe `modern`. There are seven
rows with three seeds (C4 with one), each with 500 scenes.

An interrupted run is resumed by the same command; runs in OUTPUT/results.json are not repeated. `--rows` selects rows;
they are added to the existing ones. The table is written to mask_rcnn_table2.md in OUTPUT, or in `--docs`.
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
from table_pages import Results, compare_with_paper, count, differences, plot_rows, recommend, scores_table

from upscore.console import Console
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
    """A row of the table: a change of the network, and the paper's mask AP for it and for the reference."""

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: tuple[float, float] | None = None
    where: str = ""
    seeds: int = 3
    """Largest number of seeds; one for runs longer than 15 minutes."""


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
"""Number of training scenes, their side in pixels, validation scenes per training scene, and images per step."""

REGIONS = 128
"""Number of regions per scene in training; a scene has about five objects."""

C4_REGIONS = 64
"""Number of regions of a C4 network, as in the paper, which has 512 with a feature pyramid (section 3.1)."""

AP = next(iter(SCORES))
TITLES = {name: row.title for name, row in ROWS.items()}
PAPER = {n: "" if row.paper is None else f"{row.paper[0]}, {row.paper[1]} ({row.where})" for n, row in ROWS.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/table2"))
    parser.add_argument("--docs", type=Path, help="folder of the table; the plot is written to ../images")
    parser.add_argument("--rows", nargs="+", choices=DEFAULT_ROWS, default=DEFAULT_ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=SCENES, help="training scenes of each run")
    args = parser.parse_args(arguments)
    if args.seeds < 1 or args.scenes < 1:
        parser.error("--seeds and --scenes must be 1 or more")

    runs = _read(args.output / "results.json")
    for seed in range(args.seeds):
        for row in [REFERENCE, *args.rows]:
            if seed >= ROWS[row].seeds:
                continue
            name = f"{row}-{seed}"
            folder = RunFolder(args.output / name)
            has_state = folder.open({"row": row, "seed": seed, "scenes": args.scenes}, resume=True)
            if name not in runs:
                runs[name] = run(row, seed, args.scenes, folder, resume=has_state)
                write_text(args.output / "results.json", json.dumps(runs, indent=2) + "\n")
            (folder.path / "state.pt").unlink(missing_ok=True)  # large, and not needed any more
    results = {
        row: [runs[f"{row}-{seed}"] for seed in range(min(args.seeds, ROWS[row].seeds))]
        for row in ROWS
        if all(f"{row}-{seed}" in runs for seed in range(min(args.seeds, ROWS[row].seeds)))
    }
    table, picture = args.output / "mask_rcnn_table2.md", args.output / "mask_rcnn_table2.png"
    if args.docs:
        table, picture = args.docs / table.name, args.docs.parent / "images" / picture.name
    plot_rows(results, TITLES, picture, title="Mask AP on validation scenes", score=AP, label="mask AP")
    text = report(results, args.scenes, os.path.relpath(picture, table.parent))
    write_text(table, text)
    print(text)


def run(row: str, seed: int, scenes: int, folder: RunFolder, *, resume: bool) -> dict[str, float]:
    """Train and validate one network; returns its scores and the seconds it took."""
    train, val = open_instance_splits(f"scenes:{scenes}:{seed}", fraction=HELD_OUT)
    torch.manual_seed(seed)  # the mask head is built last, so that the other layers are equal in all rows
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
    """Return the page: table, comparison with the paper's order, and recommendation."""
    seeds, held_out = len(results[REFERENCE]), max(1, round(scenes * HELD_OUT))
    others = [row for row in results if row != REFERENCE]
    seconds = [scores["seconds"] for runs in results.values() for scores in runs]
    verdicts = "\n".join(
        f"- {compare_with_paper(differences(results, row, REFERENCE, AP), ROWS[row].title, 'the reference')}"
        for row in others
    )
    command = "python recipes/mask_rcnn_table2.py"
    if others != DEFAULT_ROWS:
        command += f" --rows {' '.join(others)}"
    command += f" --seeds {seeds}" * (seeds != 3) + f" --scenes {scenes}" * (scenes != SCENES)
    return f"""\
# Mask R-CNN's table 2 on generated scenes

    {command}

EfficientNet-Lite0-FPN, 7 classes that differ in shape only, scenes of {SIDE}x{SIDE} pixels. Each run is trained once on
{scenes} scenes, {BATCH} per step, and scored on {count(held_out, "other")}. {count(seeds, "seed")}, each with its own
scenes and initial weights, equal for all rows. A run took
{median(seconds):.0f} s (the median; {sum(seconds) / 60:.0f} minutes in total). This small experiment shows tendencies,
not the size of the effects on real images. Softmax masks are thresholded at a probability of one half for the class of
the box, which few pixels reach after short training; the paper does not state the treatment of the background. The C4
network pools from one map of stride 16, with only 10 x 10 cells for these scenes, has the last stages of
EfficientNet-Lite0 in its head, and is trained on {C4_REGIONS} regions per scene, as in the paper; it has one seed,
since its runs are many times longer. With 16 regions it reached a mask AP of 1.8, so its training is far from complete:
its row shows that a network with a feature pyramid is trained faster, not the difference after complete training.

![Mask AP of each row, a dot for each seed]({picture})

Scores are means over the seeds, for mask AP with the lowest and the highest in brackets. The paper's scores are AP on
COCO of the row and of its reference, with other backbones (according to its text, RoIPool with a feature pyramid loses
1.5 points).

{scores_table(results, TITLES, SCORES, paper=PAPER, whose="AP in the paper (row, reference)")}
{verdicts}

{recommend(results, TITLES, AP)}
"""


def _read(path: Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main()
