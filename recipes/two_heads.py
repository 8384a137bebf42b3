"""Two heads on one backbone, compared with two networks (table 6 of the FCN paper, SIFT Flow).

    python recipes/two_heads.py --output runs/two_heads --docs docs/results

FCN-8s with EfficientNet-Lite0 on generated scenes, three seeds. The geometric classes are ground, shapes on the ground,
and shapes on other shapes. An interrupted run is resumed by the same command.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from scene_runs import HELD_OUT, SIDE, Arguments, Row, Runs, main
from table_pages import count, differences, plot_seeds, scores_table

from upscore.viz.plots import ORANGE, new_figure, save, style

ROWS = {
    "semantic": Row(title="semantic head only"),
    "geometric": Row(title="geometric head only", geometric=True),
    "both": Row(title="two heads", options={"geometric_classes": 3}),
}
TITLES = {name: row.title for name, row in ROWS.items()}
SEMANTIC = {"mean_iu": "mean IoU", "pixel_accuracy": "pixel acc."}
GEOMETRIC = {"geometric_mean_iu": "mean IoU", "geometric_accuracy": "pixel acc."}


def page(runs: Runs, arguments: Arguments, path: Path, picture: Path) -> str:
    """Return the page with a table for each head, plot and recommendation."""
    plot(runs, picture)
    semantic, geometric = ({name: runs[name] for name in (alone, "both")} for alone in ("semantic", "geometric"))
    none = dict.fromkeys(ROWS, "")
    return f"""\
# Two heads or two networks

    {arguments.command("two_heads")}

FCN-8s with EfficientNet-Lite0. Each run is trained once on {arguments.scenes} generated scenes of {SIDE} x {SIDE}
pixels, and scored on {max(1, round(arguments.scenes * HELD_OUT))} others; {count(arguments.seeds, "seed")}, each with
its own scenes and initial weights. The 8 semantic classes are the shapes; the geometric classes are ground, lying on
the ground, and stacked on another shape. With two heads, the losses are added. The paper reports two heads only,
without separate networks: on SIFT Flow, FCN-8s has a pixel accuracy of 85.9, a mean IoU of 41.2, and a geometric pixel
accuracy of 94.6.

![Mean IoU of each row, a dot for each seed]({os.path.relpath(picture, path.parent)})

Semantic classes:

{scores_table(semantic, TITLES, SEMANTIC, paper=none, whose="")}
Geometric classes:

{scores_table(geometric, TITLES, GEOMETRIC, paper=none, whose="")}
{advice(runs)}
"""


def advice(runs: Runs) -> str:
    """Return a sentence that compares a network with two heads to two networks, and their training times."""
    changes = {
        "semantic": differences(runs, "both", "semantic", "mean_iu"),
        "geometric": differences(runs, "both", "geometric", "geometric_mean_iu"),
    }
    seconds = {name: mean(run["seconds"] for run in row) for name, row in runs.items()}
    share = seconds["both"] / (seconds["semantic"] + seconds["geometric"])
    differences_text = " and ".join(f"{mean(points):+.1f} points ({head})" for head, points in changes.items())
    cost = (
        f"training of two heads takes {share:.0%} of the time of two networks, and changes mean IoU by "
        f"{differences_text}"
    )
    worse = [head for head, points in changes.items() if max(points) < 0]
    if worse:
        return f"Recommended: separate networks if the {' and '.join(worse)} classes are most important; {cost}."
    return f"Recommended: two heads, since neither is worse in all seeds; {cost}."


def plot(runs: Runs, path: Path) -> None:
    """Write a plot with a panel for each head."""
    figure = new_figure(10, 2.8)
    panels = figure.subplots(1, 2)
    for axes, alone, score in zip(panels, ("semantic", "geometric"), ("mean_iu", "geometric_mean_iu"), strict=True):
        shown = {name: runs[name] for name in (alone, "both")}
        note = f"bar: mean of {count(len(runs['both']), 'seed')}" if alone == "geometric" else ""
        style(axes, alone.capitalize(), note, ORANGE)
        plot_seeds(axes, shown, TITLES, score, "mean IoU")
    save(figure, path)


def run_recipe(arguments: Sequence[str] | None = None) -> None:
    main("two_heads", __doc__, ROWS, page, arguments)


if __name__ == "__main__":
    run_recipe()
