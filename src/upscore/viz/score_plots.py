"""Plots of semantic and instance segmentation scores, as PNG files.

C: classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from upscore.evaluation.instances import InstanceScores
from upscore.evaluation.semantic import SemanticScores, semantic_scores
from upscore.viz.plot_style import (
    BACKGROUND,
    BLUE,
    FOREGROUND,
    GREEN,
    GRID,
    MUTED,
    ORANGE,
    PALE_BLUE,
    name_ticks,
    new_figure,
    save,
    style,
)

SHARES = LinearSegmentedColormap.from_list(
    "shares", [BACKGROUND, "#d3e3ee", "#93bedb", "#4a8dbf", "#195895", "#0a2a5a"]
).with_extremes(bad=GRID)

CELLS_WITH_NUMBERS = 25
"""Largest number of classes for which the cells of a confusion matrix show numbers."""

NAMES = 80
"""Largest number of class names on an axis; beyond it the axis shows class indices."""


def plot_confusion(counts: Tensor, classes: Sequence[str], path: str | Path) -> None:
    """Plot a confusion matrix (C, C), normalised by the true class.

    For up to 25 classes, cells of at least 0.5 % show their percentage. Rows of classes without ground truth are grey.
    """
    scores = semantic_scores(counts, classes)
    counts = counts.detach().cpu()
    shares = (counts.double() / counts.sum(1, keepdim=True)).numpy()  # NaN for absent classes
    size = len(classes)
    readable = size <= CELLS_WITH_NUMBERS
    side = 0.42 * size if readable else 0.17 * min(size, NAMES)
    figure = new_figure(max(side, 2.5) + 2.9, max(side, 2.5) + 2.2)
    axes = figure.add_subplot()
    style(axes, "Confusion", f"mean IoU {scores.mean_iu:.1%}")
    axes.grid(visible=False)
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
    if size <= NAMES:
        name_ticks(axes, "x", classes, rotation=90 if size > 12 else 45)
        name_ticks(axes, "y", classes)
    axes.tick_params(labelsize=9 if readable else 7)
    axes.spines[:].set(visible=True, color=GRID)
    axes.set_xlabel("predicted class, in % of the true class", color=MUTED)
    axes.set_ylabel("true class", color=MUTED)
    if readable:
        for i, j in zip(*(shares >= 0.005).nonzero(), strict=True):
            text_color = BACKGROUND if shares[i, j] > 0.5 else FOREGROUND
            axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", size=8, color=text_color)
    bar = figure.colorbar(ScalarMappable(cmap=SHARES), ax=axes, shrink=0.5, aspect=22, format=PercentFormatter(1))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    save(figure, path)


def plot_per_class(scores: SemanticScores, path: str | Path) -> None:
    """Plot the IoU of each class as bars in descending order, with a line at the mean; undefined IoUs come last."""
    bars = sorted(((-1.0 if iu is None else iu, name) for name, iu in scores.per_class.items()), key=lambda bar: bar[0])
    figure = new_figure(7.2, 1.2 + 0.27 * len(bars))
    axes = figure.add_subplot()
    style(axes, "IoU of each class", f"mean {scores.mean_iu:.1%}", ORANGE)
    axes.grid(visible=False, axis="y")
    axes.axvline(scores.mean_iu, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (iu, _) in enumerate(bars):
        axes.barh(row, max(iu, 0), height=0.64, color=BLUE, zorder=3)
        text, text_color = ("does not occur", MUTED) if iu < 0 else (f"{iu:.1%}", FOREGROUND)
        label = axes.text(max(iu, 0) + 0.012, row, text, va="center", size=8.5, color=text_color, zorder=5)
        label.set_bbox({"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1})
    name_ticks(axes, "y", [name for _, name in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    save(figure, path)


FRACTIONS = [0, 0.2, 0.4, 0.6, 0.8, 1]


def plot_precision_recall(scores: InstanceScores, path: str | Path) -> None:
    """Plot precision over recall, and beside it `ap_dsb` and F1 over the IoU threshold."""
    figure = new_figure(10.4, 4.9)
    precision, matched = figure.subplots(1, 2)
    style(precision, "Precision and recall", _note("mask AP", scores.AP), BLUE)
    style(matched, "Matched objects", _note("F1 at IoU 0.5", scores.f1["0.5"]), GREEN)
    recalls = [step / 100 for step in range(101)]
    for key, name, value, color in (
        ("0.5", "IoU 0.5", scores.AP50, GREEN),
        ("0.75", "IoU 0.75", scores.AP75, ORANGE),
        ("mean", "mean of IoU 0.5 to 0.95", scores.AP, BLUE),
    ):
        if not math.isnan(value):
            label = f"{name}, AP {value:.1%}"
            precision.plot(recalls, scores.precision[key], color=color, linewidth=1.9, label=label)
    if not math.isnan(scores.AP):
        precision.fill_between(recalls, scores.precision["mean"], color=BLUE, alpha=0.08, linewidth=0)
    for name, values, color in (("F1", scores.f1, GREEN), ("AP (StarDist, DSB2018)", scores.ap_dsb, BLUE)):
        points = [(float(iou), value) for iou, value in values.items() if not math.isnan(value)]
        if points:
            matched.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, linewidth=1.9, label=name)
            matched.fill_between(*zip(*points, strict=True), color=color, alpha=0.08, linewidth=0)
    _as_fractions(precision, "recall", "precision")
    _as_fractions(matched, "IoU threshold", "")
    matched.set_xlim(0.48, 0.92)
    matched.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9])
    matched.xaxis.set_major_formatter("{x:g}")
    for axes in (precision, matched):
        if not axes.lines:
            axes.text(0.5, 0.5, "no objects", ha="center", color=MUTED, transform=axes.transAxes)
    if precision.lines:
        corner = "lower left" if scores.AP50 > 0.5 else "upper right"
        precision.legend(frameon=False, fontsize=9, labelcolor=FOREGROUND, loc=corner)
    if matched.lines:
        matched.legend(frameon=False, fontsize=9, labelcolor=FOREGROUND, loc="lower left")
    save(figure, path)


def plot_class_precision(scores: InstanceScores, path: str | Path) -> None:
    """Plot mask AP of each class as bars in descending order over pale bars of AP50, with absent classes last."""
    bars = sorted(scores.per_class.items(), key=lambda bar: -1 if math.isnan(bar[1].AP) else bar[1].AP)
    figure = new_figure(7.2, 1.2 + 0.27 * len(bars))
    axes = figure.add_subplot()
    mean = "" if math.isnan(scores.AP) else f"mean {scores.AP:.1%}; pale: at IoU 0.5, mean {scores.AP50:.1%}"
    style(axes, "Mask AP of each class", mean, ORANGE)
    axes.grid(visible=False, axis="y")
    if not math.isnan(scores.AP):
        axes.axvline(scores.AP, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (_, entry) in enumerate(bars):
        absent = math.isnan(entry.AP)
        widths, text = ((0, 0), "no objects") if absent else ((entry.AP50, entry.AP), f"{entry.AP:.1%}")
        for width, color in zip(widths, (PALE_BLUE, BLUE), strict=True):
            axes.barh(row, width, height=0.64, color=color, zorder=3)
        text_color = MUTED if absent else FOREGROUND
        label = axes.text(max(widths) + 0.012, row, text, va="center", size=8.5, color=text_color, zorder=5)
        label.set_bbox({"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1})
    name_ticks(axes, "y", [name for name, _ in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(FRACTIONS)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    save(figure, path)


def _note(name: str, value: float) -> str:
    return "" if math.isnan(value) else f"{name} {value:.1%}"


def _as_fractions(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(FRACTIONS)
    axes.set_yticks(FRACTIONS)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
