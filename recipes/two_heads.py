"""One network for two questions (the FCN paper's table 6, SIFT Flow): two heads over one backbone against two networks.

    python recipes/two_heads.py --output runs/two_heads --docs docs/results

FCN-8s over EfficientNet-Lite0 on generated scenes, three seeds. The second question is how a shape lies: on the ground
or on another shape. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from scene_runs import HELD_OUT, SIDE, Asked, Row, Runs, main
from table_pages import count, differences, dots, scores_table

from upscore.viz.plots import ORANGE, new_figure, save, style

ROWS = {
    "semantic": Row(title="semantic head alone"),
    "geometric": Row(title="geometric head alone", geometric=True),
    "both": Row(title="two heads", options={"geometric_classes": 3}),
}
TITLES = {name: row.title for name, row in ROWS.items()}
SEMANTIC = {"mean_iu": "mean IoU", "pixel_accuracy": "pixel acc."}
GEOMETRIC = {"geometric_mean_iu": "mean IoU", "geometric_accuracy": "pixel acc."}


def page(runs: Runs, asked: Asked, path: Path, picture: Path) -> str:
    """A table for each question, the plot, and what to take."""
    plot(runs, picture)
    semantic, geometric = ({name: runs[name] for name in (alone, "both")} for alone in ("semantic", "geometric"))
    none = dict.fromkeys(ROWS, "")
    return f"""\
# Two heads or two networks

    {asked.command("two_heads")}

FCN-8s over EfficientNet-Lite0. Each run is trained on {asked.scenes} generated scenes of {SIDE} x {SIDE} pixels, each
seen once, and scored on {max(1, round(asked.scenes * HELD_OUT))} others; {count(asked.seeds, "seed")}, each with its
own scenes and first weights. The semantic question is a pixel's shape (8 classes); the geometric one, how that shape
lies: ground, lying on the ground, or stacked on another shape. With two heads their losses are added. The paper has two
heads alone, and no network for each question to compare them with: on SIFT Flow, FCN-8s has 85.9 pixel acc. and 41.2
mean IoU, and a geometric pixel acc. of 94.6.

![Mean IoU of each row, a dot for each seed]({os.path.relpath(picture, path.parent)})

Semantic classes:

{scores_table(semantic, TITLES, SEMANTIC, paper=none, whose="")}
Geometric classes:

{scores_table(geometric, TITLES, GEOMETRIC, paper=none, whose="")}
{advice(runs)}
"""


def advice(runs: Runs) -> str:
    """Whether one network with two heads is worse than two, and what it saves."""
    changes = {
        "semantic": differences(runs, "both", "semantic", "mean_iu"),
        "geometric": differences(runs, "both", "geometric", "geometric_mean_iu"),
    }
    seconds = {name: mean(run["seconds"] for run in row) for name, row in runs.items()}
    share = seconds["both"] / (seconds["semantic"] + seconds["geometric"])
    told = " and ".join(f"{mean(points):+.1f} points ({head})" for head, points in changes.items())
    cost = f"two heads train in {share:.0%} of the time of two networks, and change mean IoU by {told}"
    worse = [head for head, points in changes.items() if max(points) < 0]
    if worse:
        return (
            f"To choose: a network for each question where the {' and the '.join(worse)} classes matter most; {cost}."
        )
    return f"To choose: two heads, which are worse at neither question in every seed; {cost}."


def plot(runs: Runs, path: Path) -> None:
    """A panel for each question."""
    figure = new_figure(10, 2.8)
    panels = figure.subplots(1, 2)
    for axes, alone, score in zip(panels, ("semantic", "geometric"), ("mean_iu", "geometric_mean_iu"), strict=True):
        shown = {name: runs[name] for name in (alone, "both")}
        note = f"bar: mean of {count(len(runs['both']), 'seed')}" if alone == "geometric" else ""
        style(axes, alone.capitalize(), note, ORANGE)
        dots(axes, shown, TITLES, score, "mean IoU")
    save(figure, path)


def run_recipe(arguments: Sequence[str] | None = None) -> None:
    main("two_heads", __doc__, ROWS, page, arguments)


if __name__ == "__main__":
    run_recipe()
