"""The pictures of an evaluation and of a training run of instance segmentation, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from upscore.errors import UserError
from upscore.evaluation.instances import InstanceScores
from upscore.evaluation.plots import (
    BLUE,
    GREEN,
    INK,
    LOSSES,
    ORANGE,
    PALE_INK,
    PAPER,
    PINK,
    RATE,
    Curves,
    _curves,
    _draw,
    _figure,
    _name_ticks,
    _save,
    _style,
)

OLIVE, TEAL, PALE_BLUE = "#8c7a00", "#3f9db5", "#b9d3e6"
PART_COLORS = (BLUE, ORANGE, GREEN, PINK, OLIVE, TEAL)
METRICS = {
    "AP50": ("mask AP50", GREEN),
    "AP75": ("mask AP75", ORANGE),
    "box_AP": ("box AP", PINK),
    "matched_f": ("matched F", OLIVE),
    "AP": ("mask AP", BLUE),
}
FRACTIONS = [0, 0.2, 0.4, 0.6, 0.8, 1]


def plot_precision_recall(scores: InstanceScores, path: str | Path) -> None:
    """Precision over recall, at an IoU of 0.5, of 0.75 and the mean, and beside it matched F over IoU."""
    figure = _figure(10.4, 4.9)
    precision, matched = figure.subplots(1, 2)
    _style(precision, "Precision and recall", _note("mask AP", scores.AP), BLUE)
    _style(matched, "Matched F", _note("at IoU 0.5", scores.matched_f["0.5"]), BLUE)
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
    points = [(float(iou), f) for iou, f in scores.matched_f.items() if not math.isnan(f)]
    if points:
        matched.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=4, linewidth=1.9)
        matched.fill_between(*zip(*points, strict=True), color=BLUE, alpha=0.08, linewidth=0)
    _as_fractions(precision, "recall", "precision")
    _as_fractions(matched, "IoU from which on a pair is a match", "TP / (TP + FP + FN)")
    matched.set_xlim(0.48, 0.92)
    matched.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9])
    matched.xaxis.set_major_formatter("{x:g}")
    for axes in (precision, matched):
        if not axes.lines:
            axes.text(0.5, 0.5, "no objects", ha="center", color=PALE_INK, transform=axes.transAxes)
    if precision.lines:
        corner = "lower left" if scores.AP50 > 0.5 else "upper right"
        precision.legend(frameon=False, fontsize=9, labelcolor=INK, loc=corner)
    _save(figure, path)


def plot_class_precision(scores: InstanceScores, path: str | Path) -> None:
    """A bar of mask AP for each class, the best on top, before a pale one of AP50; classes without objects are last."""
    bars = sorted(scores.per_class.items(), key=lambda bar: -1 if math.isnan(bar[1].AP) else bar[1].AP)
    figure = _figure(7.2, 1.2 + 0.27 * len(bars))
    axes = figure.add_subplot()
    mean = "" if math.isnan(scores.AP) else f"mean {scores.AP:.1%}; pale: at IoU 0.5, mean {scores.AP50:.1%}"
    _style(axes, "Mask AP of each class", mean, ORANGE)
    axes.grid(visible=False, axis="y")
    if not math.isnan(scores.AP):
        axes.axvline(scores.AP, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (_, entry) in enumerate(bars):
        absent = math.isnan(entry.AP)
        widths, text = ((0, 0), "no objects") if absent else ((entry.AP50, entry.AP), f"{entry.AP:.1%}")
        for width, color in zip(widths, (PALE_BLUE, BLUE), strict=True):
            axes.barh(row, width, height=0.64, color=color, zorder=3)
        ink = PALE_INK if absent else INK
        label = axes.text(max(widths) + 0.012, row, text, va="center", size=8.5, color=ink, zorder=5)
        label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1})
    _name_ticks(axes, "y", [name for name, _ in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(FRACTIONS)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    _save(figure, path)


def plot_instance_curves(records: Sequence[Mapping[str, object]], path: str | Path) -> None:
    """The losses, the parts of the training loss, the learning rate and the metrics of a run, from its `metrics.jsonl`.

    The best epoch is marked: the one with the highest mask AP, or the lowest validation loss where no AP was measured.
    Every other number called "..._loss" is a part. Records are put together as `plot_curves` does.

    Raises:
        UserError: no record has an epoch.
    """
    curves = _curves(records)
    if not curves:
        raise UserError("there is nothing to plot: no record has a number called 'epoch'")
    best = _best(curves)
    parts = _parts(curves)
    highest_rate = max(values.get("learning_rate", 0) for values in curves.values())
    columns = 3 if parts else 2
    figure = _figure(5 * columns, 4.8)
    grid = figure.add_gridspec(2, columns, height_ratios=(4, 1))
    loss = figure.add_subplot(grid[0, 0] if highest_rate else grid[:, 0])
    metrics = figure.add_subplot(grid[:, -1])
    _style(loss, "Loss")
    _style(metrics, "Metrics", _verdict(curves, best), BLUE)
    _draw(loss, curves, LOSSES, best)
    _draw(metrics, curves, METRICS, best)
    metrics.set_ylim(0, min(1.05 * metrics.get_ylim()[1], 1) or 1)
    metrics.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if parts:
        axes = figure.add_subplot(grid[:, 1])
        _style(axes, "Parts of the training loss")
        _draw(axes, curves, parts, best)
        axes.set_ylim(bottom=0)
    if highest_rate:
        rate = figure.add_subplot(grid[1, 0])
        _style(rate)
        _draw(rate, curves, RATE, best)
        rate.set_ylim(0, 1.15 * highest_rate)
        rate.set_yticks([0, highest_rate], ["0", f"{highest_rate:.3g}"])
        loss.tick_params(labelbottom=False)
        loss.set_xlabel("")
    _save(figure, path)


def _parts(curves: Curves) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys(key for values in curves.values() for key in values if key.endswith("_loss"))
    parts = [key for key in names if key not in LOSSES]
    colors = [PART_COLORS[k % len(PART_COLORS)] for k in range(len(parts))]
    return {key: (key[:-5].replace("_", " "), color) for key, color in zip(parts, colors, strict=True)}


def _best(curves: Curves) -> float | None:
    scored = {epoch: values["AP"] for epoch, values in curves.items() if "AP" in values}
    lost = {epoch: -values["val_loss"] for epoch, values in curves.items() if "val_loss" in values}
    ranked = scored or lost
    return max(ranked, key=lambda epoch: ranked[epoch], default=None)


def _verdict(curves: Curves, best: float | None) -> str:
    if best is None:
        return ""
    note = f"best epoch {best:g}"
    return f"{note}, mask AP {curves[best]['AP']:.1%}" if "AP" in curves[best] else note


def _note(name: str, value: float) -> str:
    return "" if math.isnan(value) else f"{name} {value:.1%}"


def _as_fractions(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(FRACTIONS)
    axes.set_yticks(FRACTIONS)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(x, color=PALE_INK)
    axes.set_ylabel(y, color=PALE_INK)
