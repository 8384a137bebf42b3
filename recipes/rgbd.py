"""What depth is worth beside the photo, and where it should come in (the FCN paper's table 5, NYUDv2).

    python recipes/rgbd.py --output runs/rgbd --docs docs/results

FCN-8s over EfficientNet-Lite0 on generated scenes, three seeds: the photo alone, the depth alone, depth in the first
convolution (early), a backbone for each whose scores are averaged (late), and late fusion that starts from the first
two networks, as the paper's does. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from scene_runs import HELD_OUT, SIDE, Asked, Row, Runs, main
from table_pages import choice, count, differences, plot_rows, scores_table

ROWS = {
    "colour": Row(title="photo alone"),
    "depth": Row(title="depth alone", options={"depth": "only"}),
    "early": Row(title="early", options={"depth": "early"}),
    "late": Row(title="late", options={"depth": "late"}),
    "staged": Row(title="late, from the two", options={"depth": "late"}, after=("colour", "depth")),
}
SCORES = {"mean_iu": "mean IoU", "thin_iu": "IU of bar and cross", "pixel_accuracy": "pixel acc."}
PAPER = {"colour": "31.6", "depth": "25.2 (HHA)", "early": "31.7", "late": "", "staged": "33.3 (HHA)"}
"""Mean IoU on NYUDv2, of FCN-32s."""


def page(runs: Runs, asked: Asked, path: Path, picture: Path) -> str:
    """The table, the plot, and what to take."""
    titles = {name: row.title for name, row in ROWS.items()}
    plot_rows(runs, titles, picture, title="Depth beside the photo", score="mean_iu", label="mean IoU")
    return f"""\
# Depth beside the photo: early or late

    {asked.command("rgbd")}

FCN-8s over EfficientNet-Lite0. Each run is trained on {asked.scenes} generated scenes of {SIDE} x {SIDE} pixels, each
seen once, and scored on {max(1, round(asked.scenes * HELD_OUT))} others; {count(asked.seeds, "seed")}, each with its
own scenes and first weights. The depth is that of a camera with noise and holes; it says where shapes end, and nothing
of their classes by itself. *Early*: the first convolution sees it beside the colours. *Late*: a backbone for each,
whose scores are averaged; *from the two*: it starts from the networks of the first two rows, whose time is counted
too: more was learned from in all.

![Mean IoU of each row, a dot for each seed]({os.path.relpath(picture, path.parent)})

{scores_table(runs, titles, SCORES, paper=PAPER, whose="the paper's mean IoU (NYUDv2)")}
{choice(runs, titles, "mean_iu")} {advice(runs)}
"""


def advice(runs: Runs) -> str:
    """What depth brings, by the better way of the two that cost the same training."""
    better = max(("early", "late"), key=lambda name: mean(run["mean_iu"] for run in runs[name]))
    points = differences(runs, better, "colour", "mean_iu")
    thin = mean(differences(runs, better, "colour", "thin_iu"))
    gain = (
        f"{better} fusion is {mean(points):+.1f} points of mean IoU from the photo alone ({thin:+.1f} for thin shapes)"
    )
    ratio = mean(run["seconds"] for run in runs["late"]) / mean(run["seconds"] for run in runs["early"])
    cost = f"late fusion trains {ratio:.1f} times as long as early"
    if min(points) > 0:
        return f"If your camera has depth, use it: {gain}, higher in {every(points)}; {cost}."
    return f"Depth is not surely worth its trouble here: {gain}, and not higher in every seed; {cost}."


def every(points: Sequence[float]) -> str:
    return "every seed" if len(points) > 1 else "the one seed"


def run_recipe(arguments: Sequence[str] | None = None) -> None:
    main("rgbd", __doc__, ROWS, page, arguments)


if __name__ == "__main__":
    run_recipe()
