"""The FCN paper's table 8 (journal version): what a network looks at, by masking the objects, the background, or both.

    python recipes/cues.py --camvid CAMVID --output runs/cues --docs docs/results

FCN-8s over EfficientNet-Lite0, on generated scenes and on CamVid with a whole video held out, three seeds: four
trainings each, of 500 images, about half a minute a training on a CPU. Interrupted, the same command goes on
where it stopped. Without --camvid, the scenes alone. For one's own data there is `upscore analyze cues`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.console import Console
from table_pages import count, verdict

from upscore.data import open_splits
from upscore.experiments.cues.conditions import ROWS, Cues, CueScores, Guess, mean_color
from upscore.experiments.cues.report import PICTURES, advice, as_json, definitions, plot_cues, write_cues
from upscore.experiments.cues.run import Experiment, count_classes, foreground_of, measure_cues
from upscore.experiments.cues.training_setup import TrainingSetup
from upscore.files import atomic_path, write_text
from upscore.models.preprocessing import LITE0
from upscore.text import markdown_table
from upscore.training.callbacks import TerminalProgress
from upscore.training.loader import default_workers
from upscore.training.recipes import MODERN

SCENES, CAMVID = "scenes", "camvid"
OBJECTS = {SCENES: None, CAMVID: ["Pole", "SignSymbol", "Car", "Pedestrian", "Bicyclist"]}
"""The foreground; None: all but the background."""

HOLDOUT, HELD_OUT, SIDE, IMAGES = "0006R0*", 0.1, 240, 500
"""CamVid's video, the share of scenes, the longer side of photos in pixels, and the images seen in a training."""

RECIPE = MODERN.model_copy(
    update={"crop": 160, "scale": (0.75, 1.33), "colour": 0.0, "patience": 0, "validate_every": 10**6}
)
"""The default one, in crops as large as a scene. Scored is the last epoch, so that none is chosen by what is held out;
batch normalisation keeps statistics of its own, as masked photos are unlike the classifier's."""

ABOUT = f"""\
FCN-8s over EfficientNet-Lite0 with ImageNet weights, photos of at most {SIDE} pixels, crops of 160. Each network is
trained on photos of which the foreground, the background or both are masked, and tested on such photos; *Reference-FG*
and *Reference-BG* are the reference tested on what it was not trained for. All networks of a seed start from the same
weights and see the same crops."""

PLACES = {
    SCENES: "Generated scenes, whose classes differ in shape alone",
    CAMVID: "CamVid, the video 0006R0 held out",
}

MASK_ONLY = PICTURES["shape"][0]
"""The lecture's figure; of each seed in its folder, and of the scenes beside the page."""

REASONS = {
    SCENES: "Where the paper's order does not show: these classes are told apart by their outlines and nothing else, "
    "and a mask draws the outline, of the objects or of the hole that they leave. It is more than the photo says.",
    CAMVID: "Where the paper's order does not show: at this size the objects are a few pixels wide, so that what is "
    "inside them says little, and five classes differ in outline and place, which every mask shows.",
}

ORDERS = [
    ("reference_fg", "reference"),
    ("fg_only", "reference_fg"),
    ("bg_only", "fg_only"),
    ("shape", "bg_only"),
    ("reference_bg", "shape"),
]
"""(lower, higher), as the paper has them."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="CamVid's folder: its runs are made too, and stand in the page")
    parser.add_argument("--output", type=Path, default=Path("runs/cues"))
    parser.add_argument("--docs", type=Path, help="where the page goes, its plots going to ../images from there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="seen in each training, rounded up to whole passes over the photos"
    )
    asked = parser.parse_args(arguments)
    if asked.seeds < 1 or asked.images < 1:
        parser.error("--seeds and --images must be 1 or more")
    page = (asked.docs or asked.output) / "cues.md"
    pictures = asked.docs.parent / "images" if asked.docs else asked.output
    command = "python recipes/cues.py" + " --camvid CAMVID" * (asked.camvid is not None)
    command += f" --seeds {asked.seeds}" * (asked.seeds != 3) + f" --images {asked.images}" * (asked.images != IMAGES)
    parts, results = [f"# What the network looks at: FCN's table 8\n\n    {command}\n\n{ABOUT}\n"], {}
    for data in [SCENES] + [CAMVID] * (asked.camvid is not None):
        runs = []
        for seed in range(asked.seeds):
            runs.append(run(data, asked.camvid, seed, asked.images, asked.output / data / f"seed-{seed}"))
            results[f"{data}/{seed}"] = as_json(runs[-1])
            write_text(asked.output / "results.json", json.dumps(results, indent=1) + "\n")
        picture = pictures / f"cues_{data}.png"
        plot_cues(runs, picture, f"{PLACES[data].split(',')[0]}: what the network looks at")
        parts.append(section(data, runs, os.path.relpath(picture, page.parent)))
        if data == SCENES:
            figure = pictures / "cues_mask_only.png"
            with atomic_path(figure) as temporary:
                shutil.copyfile(asked.output / SCENES / "seed-0" / MASK_ONLY, temporary)
            parts.append(f"![What the network says from the mask only]({os.path.relpath(figure, page.parent)})\n")
    text = "\n".join(parts)
    write_text(page, text)
    print(text)


def run(data: str, camvid: Path | None, seed: int, images: int, folder: Path) -> Cues:
    """All rows with one seed, as far as they are not there yet."""
    if data == SCENES:
        train, val = open_splits(f"scenes:{images}:{seed}", fraction=HELD_OUT)
    else:
        assert camvid is not None
        train, val = open_splits(camvid, val_pattern=HOLDOUT)
    experiment = Experiment(
        train=train,
        val=val,
        foreground=foreground_of(train.classes, OBJECTS[data]),
        setup=TrainingSetup(
            architecture={"name": "fcn8s", "backbone": "efficientnet_lite0", "num_classes": len(train.classes)},
            recipe=RECIPE.model_copy(update={"images": images}),
            max_side=SIDE,
        ),
        output=folder,
        seed=seed,
    )
    counts = count_classes(val)
    bar = TerminalProgress(Console(stderr=True))
    cues = measure_cues(experiment, counts, workers=default_workers(), callbacks=[bar])
    if not (folder / MASK_ONLY).exists():
        about = {"data": PLACES[data], "model": "fcn8s"}
        write_cues(experiment, cues, counts, about, advice(cues), definitions(cues, mean_color(LITE0), 0))
    return cues


def section(data: str, runs: Sequence[Cues], picture: str) -> str:
    """The table of a data set, whether the paper's order shows, and what to take from the means."""
    means = average(runs)
    each = {name: [cues.scores[name].foreground_iu for cues in runs] for name in ROWS}
    lines = []
    for name, row in ROWS.items():
        scores = means.scores[name]
        iu = f"{scores.foreground_iu:.1%} ({min(each[name]):.1%} to {max(each[name]):.1%})"
        share = f"{scores.foreground_iu / (means.scores['reference'].foreground_iu or 1):.0%}"
        paper = f"{row.paper:.1%} ({row.paper / ROWS['reference'].paper:.0%})"
        lines.append([row.title, iu, share, paper, f"{scores.mean_iu:.1%}", f"{scores.found:.1%}"])
    header = ["", "mean IoU of FG", "share", "paper's", "mean IoU of all", "FG found"]
    verdicts = [
        verdict([100 * (a - b) for a, b in zip(each[low], each[high], strict=True)], ROWS[low].title, ROWS[high].title)
        for low, high in ORDERS
    ]
    *sentences, last = advice(means)
    return "\n".join(
        [
            f"## {PLACES[data]}\n\n{count(means.photos, 'photo')} held out, {count(len(runs), 'seed')}.\n",
            f"![Mean IoU of each row, a dot for each seed]({picture})\n",
            markdown_table(header, lines, escape=False) + "\n",
            "".join(f"- {sentence}\n" for sentence in verdicts),
            REASONS[data] + "\n",
            "".join(f"- {sentence}\n" for sentence in definitions(means, mean_color(LITE0), 0)),
            " ".join(sentences) + "\n",
            f"**{last}**\n",
        ]
    )


def average(runs: Sequence[Cues]) -> Cues:
    """The means of the seeds' scores."""
    scores = {}
    for name in ROWS:
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
        photos=first.photos,
    )


if __name__ == "__main__":
    main()
