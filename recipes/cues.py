"""Table 8 of the FCN paper (journal version): networks on images with masked foreground, background, or both.

    python recipes/cues.py --camvid CAMVID --output runs/cues --docs docs/results

FCN-8s with EfficientNet-Lite0 is trained on generated scenes and on CamVid (one video for validation) with three seeds:
four trainings each of 500 images, about half a minute per training on a CPU. An interrupted run is resumed by the same
command. Without --camvid, only the scenes are used. For other data, use `upscore analyze cues`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from table_pages import compare_with_paper, count

from upscore.console import Console
from upscore.data import open_splits
from upscore.experiments.cues.conditions import CONDITIONS, Cues, CueScores, Guess, mean_color
from upscore.experiments.cues.report import PICTURES, advice, as_json, definitions, plot_cues, write_cues
from upscore.experiments.cues.run import Experiment, count_classes, measure_cues, select_foreground
from upscore.experiments.cues.training_setup import TrainingSetup
from upscore.files import atomic_path, write_text
from upscore.models.preprocessing import LITE0
from upscore.text import markdown_table
from upscore.training.callbacks import TerminalProgress
from upscore.training.loader import default_workers
from upscore.training.recipes import MODERN

SCENES, CAMVID = "scenes", "camvid"
OBJECTS = {SCENES: None, CAMVID: ["Pole", "SignSymbol", "Car", "Pedestrian", "Bicyclist"]}
"""Foreground classes; None for all classes except the background."""

VAL_PATTERN, HELD_OUT, SIDE, IMAGES = "0006R0*", 0.1, 240, 500
"""Validation images of CamVid, fraction of validation scenes, longer side of images in pixels, and training images."""

RECIPE = MODERN.model_copy(
    update={"crop": 160, "scale": (0.75, 1.33), "colour": 0.0, "patience": 0, "validate_every": 10**6}
)
"""The default recipe with crops as large as a scene. Only the last epoch is validated, so that it is not selected by
its score. Batch normalisation is not frozen, since masked images differ from those of the classifier."""

ABOUT = f"""\
FCN-8s with EfficientNet-Lite0 and ImageNet weights, images of at most {SIDE} pixels, crops of 160. Each network is
trained and tested on images with masked foreground, background or both; *Reference-FG* and *Reference-BG* are tests of
the reference on masked images. All networks of a seed have the same initial weights and the same crops."""

DATA_TITLES = {
    SCENES: "Generated scenes, whose classes differ in shape only",
    CAMVID: "CamVid, validated on the video 0006R0",
}

MASK_ONLY = PICTURES["shape"][0]
"""File name of the figure of predictions from masks only."""

REMARKS = {
    SCENES: "Differences from the paper's order: these classes differ in shape only, and a mask shows the shape of the "
    "objects more clearly than the image.",
    CAMVID: "Differences from the paper's order: at this size the objects are a few pixels wide, so that their texture "
    "carries little information, and the five classes differ in shape and position, which every mask shows.",
}

PAPER_ORDER = [
    ("reference_fg", "reference"),
    ("fg_only", "reference_fg"),
    ("bg_only", "fg_only"),
    ("shape", "bg_only"),
    ("reference_bg", "shape"),
]
"""Pairs (lower, higher) of conditions in the paper."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="folder of CamVid, to include its runs")
    parser.add_argument("--output", type=Path, default=Path("runs/cues"))
    parser.add_argument("--docs", type=Path, help="folder of the page; plots are written to ../images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="training images of each run, rounded up to whole epochs"
    )
    args = parser.parse_args(arguments)
    if args.seeds < 1 or args.images < 1:
        parser.error("--seeds and --images must be 1 or more")
    page = (args.docs or args.output) / "cues.md"
    pictures = args.docs.parent / "images" if args.docs else args.output
    command = "python recipes/cues.py" + " --camvid CAMVID" * (args.camvid is not None)
    command += f" --seeds {args.seeds}" * (args.seeds != 3) + f" --images {args.images}" * (args.images != IMAGES)
    parts, results = [f"# Masked foreground and background: FCN's table 8\n\n    {command}\n\n{ABOUT}\n"], {}
    for data in [SCENES] + [CAMVID] * (args.camvid is not None):
        runs = []
        for seed in range(args.seeds):
            runs.append(run(data, args.camvid, seed, args.images, args.output / data / f"seed-{seed}"))
            results[f"{data}/{seed}"] = as_json(runs[-1])
            write_text(args.output / "results.json", json.dumps(results, indent=1) + "\n")
        picture = pictures / f"cues_{data}.png"
        plot_cues(runs, picture, f"{DATA_TITLES[data].split(',')[0]}: scores with masked pixels")
        parts.append(section(data, runs, os.path.relpath(picture, page.parent)))
        if data == SCENES:
            figure = pictures / "cues_mask_only.png"
            with atomic_path(figure) as temporary:
                shutil.copyfile(args.output / SCENES / "seed-0" / MASK_ONLY, temporary)
            parts.append(f"![Predictions from masks only]({os.path.relpath(figure, page.parent)})\n")
    text = "\n".join(parts)
    write_text(page, text)
    print(text)


def run(data: str, camvid: Path | None, seed: int, images: int, folder: Path) -> Cues:
    """Train and score all conditions with one seed; finished ones are not repeated."""
    if data == SCENES:
        train, val = open_splits(f"scenes:{images}:{seed}", fraction=HELD_OUT)
    else:
        assert camvid is not None
        train, val = open_splits(camvid, val_pattern=VAL_PATTERN)
    experiment = Experiment(
        train=train,
        val=val,
        foreground=select_foreground(train.classes, OBJECTS[data]),
        setup=TrainingSetup(
            architecture={"name": "fcn8s", "backbone": "efficientnet_lite0", "num_classes": len(train.classes)},
            recipe=RECIPE.model_copy(update={"images": images}),
            max_side=SIDE,
        ),
        output=folder,
        seed=seed,
    )
    counts = count_classes(val)
    progress = TerminalProgress(Console(stderr=True))
    cues = measure_cues(experiment, counts, workers=default_workers(), callbacks=[progress])
    if not (folder / MASK_ONLY).exists():
        about = {"data": DATA_TITLES[data], "model": "fcn8s"}
        write_cues(experiment, cues, counts, about, advice(cues), definitions(cues, mean_color(LITE0), 0))
    return cues


def section(data: str, runs: Sequence[Cues], picture: str) -> str:
    """Return the section of a data set: table, comparison with the paper's order, and advice for the means."""
    means = average(runs)
    each = {name: [cues.scores[name].foreground_iu for cues in runs] for name in CONDITIONS}
    lines = []
    for name, row in CONDITIONS.items():
        scores = means.scores[name]
        iu = f"{scores.foreground_iu:.1%} ({min(each[name]):.1%} to {max(each[name]):.1%})"
        share = f"{scores.foreground_iu / (means.scores['reference'].foreground_iu or 1):.0%}"
        paper = f"{row.paper:.1%} ({row.paper / CONDITIONS['reference'].paper:.0%})"
        lines.append([row.title, iu, share, paper, f"{scores.mean_iu:.1%}", f"{scores.found:.1%}"])
    header = ["", "mean IoU of FG", "relative", "paper", "mean IoU of all", "FG detected"]
    verdicts = [
        compare_with_paper(
            [100 * (a - b) for a, b in zip(each[low], each[high], strict=True)],
            CONDITIONS[low].title,
            CONDITIONS[high].title,
        )
        for low, high in PAPER_ORDER
    ]
    *sentences, last = advice(means)
    return "\n".join(
        [
            f"## {DATA_TITLES[data]}\n\n{count(means.images, 'validation image')}, {count(len(runs), 'seed')}.\n",
            f"![Mean IoU of each condition, a dot for each seed]({picture})\n",
            markdown_table(header, lines, escape=False) + "\n",
            "".join(f"- {sentence}\n" for sentence in verdicts),
            REMARKS[data] + "\n",
            "".join(f"- {sentence}\n" for sentence in definitions(means, mean_color(LITE0), 0)),
            " ".join(sentences) + "\n",
            f"**{last}**\n",
        ]
    )


def average(runs: Sequence[Cues]) -> Cues:
    """Return the mean scores over the seeds."""
    scores = {}
    for name in CONDITIONS:
        rows = [cues.scores[name] for cues in runs]
        scores[name] = CueScores(
            foreground_iu=mean(row.foreground_iu for row in rows),
            mean_iu=mean(row.mean_iu for row in rows),
            found=mean(row.found for row in rows),
            per_class={},
        )
    first = runs[0]
    return Cues(
        scores=scores,
        foreground=first.foreground,
        background=first.background,
        guess=Guess(first.guess.name, mean(cues.guess.foreground_iu for cues in runs)),
        images=first.images,
    )


if __name__ == "__main__":
    main()
