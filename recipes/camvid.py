"""FCN-32s, 16s and 8s over EfficientNet-Lite0 on CamVid, side by side for 8 epochs each, and 8s by the default recipe.

    python recipes/camvid.py CAMVID --output runs/camvid

CAMVID holds `train/` and `val/` with `images/` and `labels/` each (11 classes, 480x360). Both are pooled and one whole
video, 0006R0 (101 frames), is held out: frames of a video that is also trained on would flatter the scores.
Interrupted, the same command goes on where it stopped. The table is written to OUTPUT/camvid.md; the one of a run on
2 CPU cores is docs/results/camvid.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

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
HOLDOUT = "0006R0*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/camvid"))
    arguments = parser.parse_args()
    console = Console(stderr=True)
    folders = {name: arguments.output / name.replace(", ", "-") for name in RUNS}
    for name, settings in RUNS.items():
        callbacks = [TerminalProgress(console, name)]
        train(arguments.data, folders[name], **settings, val_pattern=HOLDOUT, resume=True, callbacks=callbacks)
    text = table(folders)
    write_text(arguments.output / "camvid.md", text)
    print(text)


def table(runs: dict[str, Path]) -> str:
    """The best epoch of each run, per class too, and what it cost."""
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
    title = ["net", "pixel acc.", "mean acc.", "mean IoU", "f.w. IU", "epochs", "s / epoch", "minutes in all"]
    names = list(next(iter(per_class.values())))
    classes = [[name, *(f"{per_class[net][name]:.1%}" for net in runs)] for name in names]
    return markdown_table(title, rows) + "\n\n" + markdown_table(["IU", *runs], classes) + "\n"


if __name__ == "__main__":
    main()
