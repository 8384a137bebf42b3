"""Depth as an additional input, with early or late fusion (table 5 of the FCN paper, NYUDv2).

    python recipes/rgbd.py --output runs/rgbd --docs docs/results

FCN-8s with EfficientNet-Lite0 on generated scenes, three seeds: RGB only, depth only, depth in the first convolution
(early), a backbone for each with averaged scores (late), and late fusion that starts from the first two networks, as in
the paper. An interrupted run is resumed by the same command.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from scene_runs import HELD_OUT, SIDE, Arguments, Row, Runs, main
from table_pages import count, differences, plot_rows, recommend, scores_table

ROWS = {
    "colour": Row(title="RGB only"),
    "depth": Row(title="depth only", options={"depth": "only"}),
    "early": Row(title="early", options={"depth": "early"}),
    "late": Row(title="late", options={"depth": "late"}),
    "staged": Row(title="late, from the two", options={"depth": "late"}, after=("colour", "depth")),
}
SCORES = {"mean_iu": "mean IoU", "thin_iu": "IoU of bar and cross", "pixel_accuracy": "pixel acc."}
PAPER = {"colour": "31.6", "depth": "25.2 (HHA)", "early": "31.7", "late": "", "staged": "33.3 (HHA)"}
"""Mean IoU of FCN-32s on NYUDv2."""


def page(runs: Runs, arguments: Arguments, path: Path, picture: Path) -> str:
    """Return the page with table, plot and recommendation."""
    titles = {name: row.title for name, row in ROWS.items()}
    plot_rows(runs, titles, picture, title="RGB and depth", score="mean_iu", label="mean IoU")
    return f"""\
# RGB and depth: early or late fusion

    {arguments.command("rgbd")}

FCN-8s with EfficientNet-Lite0. Each run is trained once on {arguments.scenes} generated scenes of {SIDE} x {SIDE}
pixels, and scored on {max(1, round(arguments.scenes * HELD_OUT))} others; {count(arguments.seeds, "seed")}, each with
its own scenes and initial weights. The depth has noise and holes like that of a camera; it shows the borders of
shapes, but not their classes. *Early*: depth is an input channel of the first convolution. *Late*: a backbone for each,
with averaged scores; *from the two*: it starts from the networks of the first two rows, whose time is included, so that
it is trained on more images in total.

![Mean IoU of each row, a dot for each seed]({os.path.relpath(picture, path.parent)})

{scores_table(runs, titles, SCORES, paper=PAPER, whose="mean IoU in the paper (NYUDv2)")}
{recommend(runs, titles, "mean_iu")} {advice(runs)}
"""


def advice(runs: Runs) -> str:
    """Return a sentence about the gain by depth, for the better of early and late fusion."""
    better = max(("early", "late"), key=lambda name: mean(run["mean_iu"] for run in runs[name]))
    points = differences(runs, better, "colour", "mean_iu")
    thin = mean(differences(runs, better, "colour", "thin_iu"))
    gain = (
        f"{better} fusion changes mean IoU by {mean(points):+.1f} points compared with RGB only ({thin:+.1f} for thin "
        "shapes)"
    )
    ratio = mean(run["seconds"] for run in runs["late"]) / mean(run["seconds"] for run in runs["early"])
    cost = f"training of late fusion takes {ratio:.1f} times as long as early fusion"
    if min(points) > 0:
        return f"Use depth if it is available: {gain}, an increase in {count(len(points), 'seed')}; {cost}."
    return f"The gain by depth is not significant here: {gain}, and not an increase in every seed; {cost}."


def run_recipe(arguments: Sequence[str] | None = None) -> None:
    main("rgbd", __doc__, ROWS, page, arguments)


if __name__ == "__main__":
    run_recipe()
