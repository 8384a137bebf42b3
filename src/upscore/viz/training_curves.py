"""Plots of losses, learning rate and metrics of a training run, from the records of its `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from upscore.errors import UserError
from upscore.viz.plot_style import (
    BACKGROUND,
    BLUE,
    FOREGROUND,
    GREEN,
    MUTED,
    OLIVE,
    ORANGE,
    PINK,
    TEAL,
    new_figure,
    save,
    style,
)

LOSSES = {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}
RATE = {"learning_rate": ("learning rate", MUTED)}
METRICS = {
    "pixel_accuracy": ("pixel accuracy", GREEN),
    "frequency_weighted_iu": ("frequency weighted IoU", PINK),
    "mean_accuracy": ("mean accuracy", ORANGE),
    "mean_iu": ("mean IoU", BLUE),
    "AP50": ("mask AP50", GREEN),
    "AP75": ("mask AP75", ORANGE),
    "box_AP": ("box AP", PINK),
    "f1": ("F1 at IoU 0.5", OLIVE),
    "ap_dsb": ("AP at IoU 0.5 (StarDist, DSB2018)", TEAL),
    "AP": ("mask AP", BLUE),
}
PRIMARY = ("mean_iu", "AP")
"""Metrics that determine the best epoch; a run has at most one of them."""

PART_COLORS = (BLUE, ORANGE, GREEN, PINK, OLIVE, TEAL)

Curves = dict[float, dict[str, float]]
"""Measured values by name for each epoch, in order."""


def plot_curves(records: Sequence[Mapping[str, object]], path: str | Path) -> None:
    """Plot the losses, the components of the training loss, the learning rate and the metrics of a run.

    The best epoch is marked: it has the highest mean IoU or mask AP, or the lowest validation loss if neither was
    measured. Components of the loss are all other values named "..._loss". Records of the same epoch are merged, with
    later values replacing earlier ones; missing and non-finite values are skipped.

    Args:
        records: records of `metrics.jsonl`.
        path: PNG file to write.

    Raises:
        UserError: no record has an epoch.
    """
    curves = _curves(records)
    if not curves:
        raise UserError("no record has an 'epoch': there is nothing to plot")
    highest_rate = max(values.get("learning_rate", 0) for values in curves.values())
    best, parts = _best(curves), _parts(curves)
    columns = 3 if parts else 2
    figure = new_figure(5.2 * columns, 4.8)
    grid = figure.add_gridspec(2, columns, height_ratios=(4, 1))
    loss = figure.add_subplot(grid[0, 0] if highest_rate else grid[:, 0])
    metrics = figure.add_subplot(grid[:, -1])
    style(loss, "Loss")
    style(metrics, "Metrics", _summary(curves, best), BLUE)
    _draw(loss, curves, LOSSES, best)
    _draw(metrics, curves, METRICS, best)
    low, high = metrics.get_ylim()
    metrics.set_ylim(max(low - 0.05, 0), min(high + 0.05, 1))
    metrics.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if parts:
        axes = figure.add_subplot(grid[:, 1])
        style(axes, "Components of the training loss")
        _draw(axes, curves, parts, best)
        axes.set_ylim(bottom=0)
    if highest_rate:
        rate = figure.add_subplot(grid[1, 0])
        style(rate)
        _draw(rate, curves, RATE, best)
        rate.set_ylim(0, 1.15 * highest_rate)
        rate.set_yticks([0, highest_rate], ["0", f"{highest_rate:.3g}"])
        loss.tick_params(labelbottom=False)
        loss.set_xlabel("")
    save(figure, path)


def _curves(records: Sequence[Mapping[str, object]]) -> Curves:
    curves: Curves = {}
    for record in records:
        values = {key: float(v) for key, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
        if "epoch" in values:
            curves.setdefault(values["epoch"], {}).update(values)
    return dict(sorted(curves.items()))


def _parts(curves: Curves) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys(key for values in curves.values() for key in values if key.endswith("_loss"))
    parts = [key for key in names if key not in LOSSES]
    colors = [PART_COLORS[k % len(PART_COLORS)] for k in range(len(parts))]
    return {key: (key[:-5].replace("_", " "), color) for key, color in zip(parts, colors, strict=True)}


def _best(curves: Curves) -> float | None:
    for sign, name in ((1, PRIMARY[0]), (1, PRIMARY[1]), (-1, "val_loss")):
        ranked = {epoch: sign * values[name] for epoch, values in curves.items() if name in values}
        if ranked:
            return max(ranked, key=lambda epoch: ranked[epoch])
    return None


def _summary(curves: Curves, best: float | None) -> str:
    if best is None:
        return ""
    scores = [f", {METRICS[name][0]} {curves[best][name]:.1%}" for name in PRIMARY if name in curves[best]]
    return "".join([f"best epoch {best:g}", *scores])


def _draw(axes: Axes, curves: Curves, lines: Mapping[str, tuple[str, str]], best: float | None) -> None:
    """Plot measured values over epochs, with a legend and a mark at the best epoch."""
    first, last = min(curves), max(curves)
    margin = max(0.5, (last - first) / 40)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=MUTED)
    for key, (name, color) in lines.items():
        points = [(epoch, values[key]) for epoch, values in curves.items() if key in values]
        if points:
            marker = "o" if len(points) <= 30 else ""
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3.5, linewidth=1.7, label=name)
        if best is not None and key in curves[best]:
            axes.plot(
                best, curves[best][key], "o", color=BACKGROUND, markeredgecolor=color, markeredgewidth=1.7, zorder=4
            )
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", ha="center", color=MUTED, transform=axes.transAxes)
        axes.tick_params(labelleft=False)
        return
    axes.legend(frameon=False, fontsize=9, labelcolor=FOREGROUND)
    if best is not None:
        axes.axvline(best, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
