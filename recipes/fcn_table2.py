"""The FCN paper's table 2 (journal version): accumulated, online and heavy learning, and that momentum is a batch size.

    python recipes/fcn_table2.py --camvid CAMVID --output runs/tables --docs docs/results

FCN-8s over EfficientNet-Lite0, on generated scenes and on CamVid with a whole video held out, three seeds. All rows see
the same images in the same order. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

import numpy as np
from table_pages import Results, differences
from table_runs import CAMVID, SCENES, Row, Table
from tables import PLACES, main

from upscore.training.recipes import HEAVY
from upscore.viz.plots import BLUE, FOREGROUND, MUTED, ORANGE, new_figure, save, style

RATE = 5e-9
"""Of all three regimes, as in the paper; found by line search for heavy learning. The loss is a sum over pixels."""

ACCUM, ONLINE, BATCH = 0.9, 0.9, 20
SMALL_BATCH = 5
"""What heavy learning is compared at: with 20 images a step, the rate that is worth its own diverges in ten steps."""

HEAVY_MOMENTUM = HEAVY.momentum


def momentum_at(batch: int, momentum: float, other: int) -> float:
    """The momentum at which steps of `other` images forget as fast as those of `batch` with `momentum`.

    An image enters the update with the weight p^(j/k) when j images have come after it (FCN section 6.2), so that
    p^(1/k) is to be the same.
    """
    return momentum ** (other / batch)


def rate_at(rate: float, batch: int, momentum: float, other: int) -> float:
    """The rate at which an image moves the weights as far in the end: rate / batch / (1 - momentum) is the same.

    Gradients of a batch are averaged.
    """
    return rate * (other / batch) * (1 - momentum_at(batch, momentum, other)) / (1 - momentum)


def regime(batch: int, momentum: float, rate: float = RATE) -> dict[str, float]:
    """What of the recipe makes the regime."""
    return {"accumulate": batch, "momentum": momentum, "learning_rate": rate}


def equivalent(batch: int, momentum: float, other: int) -> dict[str, float]:
    """The regime of `other` images a step that is to learn like the one of `batch`."""
    return regime(other, momentum_at(batch, momentum, other), rate_at(RATE, batch, momentum, other))


PAIRS = {"accum": "accum_as_1", "heavy": "heavy_as_5"}
"""Regimes that are to learn alike."""

REMARK = f"""\
At one rate for all, the regimes differ first of all in how far an image moves the weights in the end: accumulated a
twentieth of online, heavy ten times as far. That makes most of the paper's order; where heavy is not ahead of online,
its steps are too long for an end at a constant rate. Equal forgetting has a limit: at {BATCH} images a step the rate
that is worth heavy's own diverged within ten steps, for so long a step is no longer a sum of short ones."""

TABLE = Table(
    name="fcn_table2",
    title="FCN's table 2: accumulated, online and heavy learning",
    plot="mean IoU by regime",
    about=f"""\
FCN-8s over EfficientNet-Lite0, SGD without augmentation, whole images, a loss that is summed over pixels, the same
rate ({RATE:g}) in the first three rows. *Accumulated*: gradients of {BATCH} images are averaged for a step, momentum
{ACCUM}. *Online*: a step for each image. *Heavy*: that, with momentum {HEAVY_MOMENTUM}. The other two rows test that
momentum p with k images a step is worth momentum p' with k' where p^(1/k) = p'^(1/k') (section 6.2), with rates at
which an image moves the weights as far in the end: they should learn as the row they are named after does.""",
    rows={
        "accum": Row(title="accumulated", model="fcn8s", recipe=regime(BATCH, ACCUM), paper="51.9"),
        "online": Row(title="online", model="fcn8s", recipe=regime(1, ONLINE), paper="60.7"),
        "heavy": Row(title="heavy", model="fcn8s", recipe=regime(1, HEAVY_MOMENTUM), paper="63.6"),
        "accum_as_1": Row(
            title=f"accumulated, as momentum {momentum_at(BATCH, ACCUM, 1):.4f} at batch 1",
            model="fcn8s",
            recipe=equivalent(BATCH, ACCUM, 1),
        ),
        "heavy_as_5": Row(
            title=f"heavy, as momentum {momentum_at(1, HEAVY_MOMENTUM, SMALL_BATCH):.3f} at batch {SMALL_BATCH}",
            model="fcn8s",
            recipe=equivalent(1, HEAVY_MOMENTUM, SMALL_BATCH),
        ),
    },
    orders=[("accum", "online"), ("online", "heavy")],
    base=HEAVY.model_copy(update={"replacement": False}),
    paper="mean IoU in the paper (VGG16, VOC 2011)",
    remarks={SCENES: REMARK, CAMVID: REMARK},
)


def curves(data: str, _source: Path | None, results: Results, images: Path, page: Path) -> str:
    """The training loss of the regimes, the two of a pair in one colour."""
    figure = new_figure(7.2, 3.8)
    axes = figure.add_subplot()
    seeds = len(next(iter(results.values())))
    style(axes, f"{PLACES[data]}: training loss", f"mean of {seeds} seeds" if seeds > 1 else "")
    colors = {"accum": BLUE, "online": MUTED, "heavy": ORANGE, "accum_as_1": BLUE, "heavy_as_5": ORANGE}
    for row, runs in results.items():
        points = max(len(run["losses"]) for run in runs)
        whole = [run["losses"] for run in runs if len(run["losses"]) == points]  # of a resumed run the start is lost
        losses = np.mean(whole, axis=0)
        twin = row in PAIRS.values()
        axes.plot(
            np.linspace(0, 100, points, endpoint=False) + 50 / points,
            losses,
            color=colors[row],
            linewidth=3.5 if twin else 1.6,
            alpha=0.35 if twin else 1,
            label=TABLE.rows[row].title,
        )
    axes.set_xlabel("images seen, in % of all", color=MUTED)
    axes.set_ylabel("loss of an image, summed over its pixels", color=MUTED)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=FOREGROUND)
    path = images / f"{TABLE.name}_{data}_losses.png"
    save(figure, path)
    return f"![The training loss of each regime]({os.path.relpath(path, page.parent)})\n\n{likeness(results)}\n"


def likeness(results: Results) -> str:
    """How far the pairs are from one another, beside how far the regimes are."""
    sentences = []
    for row, twin in PAIRS.items():
        if row in results and twin in results:
            apart = differences(results, twin, row, "mean_iu")
            sentences.append(
                f"*{TABLE.rows[twin].title}* is {mean(apart):+.1f} points of mean IoU from *{TABLE.rows[row].title}*"
            )
    return f"The pairs of equal forgetting: {'; '.join(sentences)}." if sentences else ""


if __name__ == "__main__":
    main(TABLE, __doc__, more=curves)
