"""FCN-32s, 16s and 8s with EfficientNet-Lite0 on CamVid for 8 epochs each, and FCN-8s with the default recipe.

    python recipes/camvid.py CAMVID --output runs/camvid

CAMVID contains `train/` and `val/` with `images/` and `labels/` each (11 classes, 480x360). Both are merged, and the
video 0006R0 (101 frames) is used for validation, since other frames of a training video would give optimistic scores.
An interrupted run is resumed by the same command. The table is written to OUTPUT/camvid.md; that of a run on 2 CPU
cores is docs/results/camvid.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from upscore.console import Console
from upscore.files import write_text
from upscore.text import markdown_table
from upscore.training import train
from upscore.training.callbacks import TerminalProgress

RUNS: dict[str, dict] = {
    "fcn32s": {"model": "fcn32s", "epochs": 8},
    "fcn16s": {"model": "fcn16s", "epochs": 8},
    "fcn8s": {"model": "fcn8s", "epochs": 8},
    "fcn8s, defaults": {"model": "fcn8s"},
}
VAL_PATTERN = "0006R0*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/camvid"))
    arguments = parser.parse_args()
    console = Console(stderr=True)
    folders = {name: arguments.output / name.replace(", ", "-") for name in RUNS}
    for name, settings in RUNS.items():
        callbacks = [TerminalProgress(console, name)]
        train(arguments.data, folders[name], **settings, val_pattern=VAL_PATTERN, resume=True, callbacks=callbacks)
    text = table(folders)
    write_text(arguments.output / "camvid.md", text)
    print(text)


def table(runs: dict[str, Path]) -> str:
    """Return tables of the best epoch of each run, with scores, times, and the IoU of each class."""
    rows, per_class = [], {}
    for net, run in runs.items():
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        scores = json.loads((run / "scores.json").read_text())
        epochs = sorted(record["seconds"] for record in records)
        minutes = sum(record["seconds"] + record["validation_seconds"] for record in records) / 60
        shown = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")
        cost = [str(len(records)), f"{epochs[len(epochs) // 2]:.0f}", f"{minutes:.0f}"]
        rows.append([net, *(f"{scores[name]:.1%}" for name in shown), *cost])
        per_class[net] = scores["per_class"]
    title = ["network", "pixel acc.", "mean acc.", "mean IoU", "f.w. IoU", "epochs", "s per epoch", "minutes"]
    names = list(next(iter(per_class.values())))
    classes = [[name, *(f"{per_class[net][name]:.1%}" for net in runs)] for name in names]
    return markdown_table(title, rows) + "\n\n" + markdown_table(["IoU", *runs], classes) + "\n"


if __name__ == "__main__":
    main()
