"""Table 2 of the FCN paper (journal version): accumulated, online and heavy learning, and momentum as batch size.

    python recipes/fcn_table2.py --camvid CAMVID --output runs/tables --docs docs/results

FCN-8s with EfficientNet-Lite0 on generated scenes and on CamVid (one video for validation), three seeds. All rows use
the same images in the same order. An interrupted run is resumed by the same command.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

import numpy as np
from table_pages import Results, differences
from table_runs import CAMVID, SCENES, Row, Table
from tables import DATA_TITLES, main

from upscore.training.recipes import HEAVY
from upscore.viz.plots import BLUE, FOREGROUND, MUTED, ORANGE, new_figure, save, style

RATE = 5e-9
"""Learning rate of all three regimes, as in the paper, from a line search for heavy learning with a summed loss."""

ACCUM, ONLINE, BATCH = 0.9, 0.9, 20
SMALL_BATCH = 5
"""Batch size equivalent to heavy learning; with 20 images per step, the equivalent rate diverges within ten steps."""

HEAVY_MOMENTUM = HEAVY.momentum


def momentum_at(batch: int, momentum: float, other: int) -> float:
    """Return the momentum for a batch size of `other` that is equivalent to `momentum` for `batch`.

    An image has the weight p^(j/k) in the update after j further images, for momentum p and batch size k (FCN section
    6.2), so that p^(1/k) has to be equal.
    """
    return momentum ** (other / batch)


def rate_at(rate: float, batch: int, momentum: float, other: int) -> float:
    """Return the learning rate for a batch size of `other` with an equal total update by an image.

    Gradients of a batch are averaged, so that rate / batch / (1 - momentum) has to be equal.
    """
    return rate * (other / batch) * (1 - momentum_at(batch, momentum, other)) / (1 - momentum)


def regime(batch: int, momentum: float, rate: float = RATE) -> dict[str, float]:
    """Return the settings of a recipe that define a regime."""
    return {"accumulate": batch, "momentum": momentum, "learning_rate": rate}


def equivalent(batch: int, momentum: float, other: int) -> dict[str, float]:
    """Return the regime with `other` images per step that is equivalent to that with `batch`."""
    return regime(other, momentum_at(batch, momentum, other), rate_at(RATE, batch, momentum, other))


PAIRS = {"accum": "accum_as_1", "heavy": "heavy_as_5"}
"""Pairs of equivalent regimes."""

REMARK = f"""\
With equal rates, the regimes differ mainly in the total update by an image: for accumulated learning it is a twentieth
of online learning, for heavy learning ten times as large. This explains most of the paper's order. Where heavy learning
is not better than online learning, its steps are too large for a constant rate. The equivalence has a limit: at {BATCH}
images per step, the rate equivalent to heavy learning diverged within ten steps."""

TABLE = Table(
    name="fcn_table2",
    title="FCN's table 2: accumulated, online and heavy learning",
    plot="mean IoU by regime",
    about=f"""\
FCN-8s with EfficientNet-Lite0, SGD without augmentation, whole images, a loss summed over pixels, and an equal learning
rate ({RATE:g}) in the first three rows. *Accumulated*: gradients of {BATCH} images are averaged for a step, momentum
{ACCUM}. *Online*: one image per step. *Heavy*: one image per step with momentum {HEAVY_MOMENTUM}. The other two rows
test whether momentum p with batch size k is equivalent to momentum p' with k' if p^(1/k) = p'^(1/k') (section 6.2), at
rates with an equal total update by an image.""",
    rows={
        "accum": Row(title="accumulated", model="fcn8s", recipe=regime(BATCH, ACCUM), paper="51.9"),
        "online": Row(title="online", model="fcn8s", recipe=regime(1, ONLINE), paper="60.7"),
        "heavy": Row(title="heavy", model="fcn8s", recipe=regime(1, HEAVY_MOMENTUM), paper="63.6"),
        "accum_as_1": Row(
            title=f"like accumulated, momentum {momentum_at(BATCH, ACCUM, 1):.4f}, batch 1",
            model="fcn8s",
            recipe=equivalent(BATCH, ACCUM, 1),
        ),
        "heavy_as_5": Row(
            title=f"like heavy, momentum {momentum_at(1, HEAVY_MOMENTUM, SMALL_BATCH):.3f}, batch {SMALL_BATCH}",
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
    """Plot the training loss of the regimes, with one colour for each pair, and return the text about it."""
    figure = new_figure(7.2, 3.8)
    axes = figure.add_subplot()
    seeds = len(next(iter(results.values())))
    style(axes, f"{DATA_TITLES[data]}: training loss", f"mean of {seeds} seeds" if seeds > 1 else "")
    colors = {"accum": BLUE, "online": MUTED, "heavy": ORANGE, "accum_as_1": BLUE, "heavy_as_5": ORANGE}
    for row, runs in results.items():
        points = max(len(run["losses"]) for run in runs)
        complete = [run["losses"] for run in runs if len(run["losses"]) == points]  # resumed runs lack the first losses
        losses = np.mean(complete, axis=0)
        equivalent_row = row in PAIRS.values()
        axes.plot(
            np.linspace(0, 100, points, endpoint=False) + 50 / points,
            losses,
            color=colors[row],
            linewidth=3.5 if equivalent_row else 1.6,
            alpha=0.35 if equivalent_row else 1,
            label=TABLE.rows[row].title,
        )
    axes.set_xlabel("training images, in % of all", color=MUTED)
    axes.set_ylabel("loss per image, summed over pixels", color=MUTED)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=FOREGROUND)
    path = images / f"{TABLE.name}_{data}_losses.png"
    save(figure, path)
    return f"![The training loss of each regime]({os.path.relpath(path, page.parent)})\n\n{describe_pairs(results)}\n"


def describe_pairs(results: Results) -> str:
    """Return a sentence about the differences of mean IoU within the pairs."""
    sentences = []
    for row, equivalent_row in PAIRS.items():
        if row in results and equivalent_row in results:
            apart = differences(results, equivalent_row, row, "mean_iu")
            sentences.append(
                f"*{TABLE.rows[equivalent_row].title}* differs by {mean(apart):+.1f} points of mean IoU from "
                f"*{TABLE.rows[row].title}*"
            )
    return f"Equivalent regimes: {'; '.join(sentences)}." if sentences else ""


if __name__ == "__main__":
    main(TABLE, __doc__, more=curves)
