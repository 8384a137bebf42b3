"""The pictures of an evaluation by pixels, as PNG files.

C: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from upscore.evaluation.metrics import SemanticScores, semantic_scores
from upscore.evaluation.plot_style import (
    BLUE,
    GRID,
    INK,
    ORANGE,
    PALE_INK,
    PAPER,
    name_ticks,
    new_figure,
    save,
    style,
)

SHARES = LinearSegmentedColormap.from_list(
    "shares", [PAPER, "#d3e3ee", "#93bedb", "#4a8dbf", "#195895", "#0a2a5a"]
).with_extremes(bad=GRID)

CELLS_WITH_NUMBERS = 25
"""Numbers in more than 25 x 25 cells cannot be read."""

NAMES = 80
"""More than 80 names cannot be read along an axis: it has the classes' indices instead."""


def plot_confusion(counts: Tensor, classes: Sequence[str], path: str | Path) -> None:
    """A heat map of (C, C) counts: row i has the shares of true class i's pixels that were predicted as each class.

    Up to 25 classes, cells say the share in per cent where it is at least half of one. Rows of classes that are not in
    the truth are grey.
    """
    scores = semantic_scores(counts, classes)
    counts = counts.detach().cpu()
    shares = (counts.double() / counts.sum(1, keepdim=True)).numpy()  # NaN where a class is absent.
    size = len(classes)
    readable = size <= CELLS_WITH_NUMBERS
    side = 0.42 * size if readable else 0.17 * min(size, NAMES)
    figure = new_figure(max(side, 2.5) + 2.9, max(side, 2.5) + 2.2)
    axes = figure.add_subplot()
    style(axes, "Confusion", f"mean IU {scores.mean_iu:.1%}")
    axes.grid(visible=False)
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
    if size <= NAMES:
        name_ticks(axes, "x", classes, rotation=90 if size > 12 else 45)
        name_ticks(axes, "y", classes)
    axes.tick_params(labelsize=9 if readable else 7)
    axes.spines[:].set(visible=True, color=GRID)
    axes.set_xlabel("predicted class, in % of the true class", color=PALE_INK)
    axes.set_ylabel("true class", color=PALE_INK)
    if readable:
        for i, j in zip(*(shares >= 0.005).nonzero(), strict=True):
            ink = PAPER if shares[i, j] > 0.5 else INK
            axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", size=8, color=ink)
    bar = figure.colorbar(ScalarMappable(cmap=SHARES), ax=axes, shrink=0.5, aspect=22, format=PercentFormatter(1))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=PALE_INK)
    save(figure, path)


def plot_per_class(scores: SemanticScores, path: str | Path) -> None:
    """A bar of IU for each class, the best on top, and a line at the mean; classes without an IU come last."""
    bars = sorted(((-1.0 if iu is None else iu, name) for name, iu in scores.per_class.items()), key=lambda bar: bar[0])
    figure = new_figure(7.2, 1.2 + 0.27 * len(bars))
    axes = figure.add_subplot()
    style(axes, "IU of each class", f"mean {scores.mean_iu:.1%}", ORANGE)
    axes.grid(visible=False, axis="y")
    axes.axvline(scores.mean_iu, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (iu, _) in enumerate(bars):
        axes.barh(row, max(iu, 0), height=0.64, color=BLUE, zorder=3)
        text, ink = ("does not occur", PALE_INK) if iu < 0 else (f"{iu:.1%}", INK)
        label = axes.text(max(iu, 0) + 0.012, row, text, va="center", size=8.5, color=ink, zorder=5)
        label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1})
    name_ticks(axes, "y", [name for _, name in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    save(figure, path)
