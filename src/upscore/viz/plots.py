"""Plots of scores and training curves, and their common style.

Figures use matplotlib's object API without pyplot, so that they can be created in any thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from upscore.errors import UserError
from upscore.evaluation.instances import InstanceScores
from upscore.evaluation.semantic import SemanticScores, semantic_scores
from upscore.files import atomic_path

BACKGROUND, FOREGROUND, MUTED, GRID = "#fcfcfa", "#26262a", "#78787e", "#e6e6e1"

BLUE, ORANGE, GREEN, PINK = "#0067b0", "#d96c00", "#009e73", "#b65a93"

OLIVE, TEAL, PALE_BLUE = "#8c7a00", "#3f9db5", "#b9d3e6"

SHARES = LinearSegmentedColormap.from_list(
    "shares", [BACKGROUND, "#d3e3ee", "#93bedb", "#4a8dbf", "#195895", "#0a2a5a"]
).with_extremes(bad=GRID)

CELLS_WITH_NUMBERS = 25
"""Largest number of classes for which the cells of a confusion matrix show numbers."""

NAMES = 80
"""Largest number of class names on an axis; beyond it the axis shows class indices."""

FRACTIONS = [0, 0.2, 0.4, 0.6, 0.8, 1]
"""Ticks of axes from 0 to 1."""

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
    figure, axes = _bar_figure([name for _, name in bars], "IoU of each class", f"mean {scores.mean_iu:.1%}")
    axes.axvline(scores.mean_iu, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (iu, _) in enumerate(bars):
        _draw_bar(axes, row, [(max(iu, 0), BLUE)], None if iu < 0 else f"{iu:.1%}", "does not occur")
    save(figure, path)


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
    mean = "" if math.isnan(scores.AP) else f"mean {scores.AP:.1%}; pale: at IoU 0.5, mean {scores.AP50:.1%}"
    figure, axes = _bar_figure([name for name, _ in bars], "Mask AP of each class", mean)
    if not math.isnan(scores.AP):
        axes.axvline(scores.AP, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (_, entry) in enumerate(bars):
        absent = math.isnan(entry.AP)
        widths = [(0.0, PALE_BLUE), (0.0, BLUE)] if absent else [(entry.AP50, PALE_BLUE), (entry.AP, BLUE)]
        _draw_bar(axes, row, widths, None if absent else f"{entry.AP:.1%}", "no objects")
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """Create a figure with a width and height in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    return Figure((width, height), dpi=150, facecolor=BACKGROUND, layout=layout)


def style(axes: Axes, title: str = "", note: str = "", note_color: str = MUTED) -> None:
    """Apply the common style to axes and set their title and note."""
    axes.set_facecolor(BACKGROUND)
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor=FOREGROUND)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", size=12.5, weight="bold", color=FOREGROUND, pad=10)
    axes.set_title(note, loc="right", size=9.5, color=note_color, pad=10)


def name_ticks(axes: Axes, axis: Literal["x", "y"], names: Sequence[str], rotation: float = 0) -> None:
    """Label the ticks of an axis with names."""
    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_ticks(range(len(names)), [_short(name) for name in names])
    for label in ticks.get_ticklabels():
        label.set_parse_math(False)  # names may contain dollar signs
        if rotation:
            label.set(rotation=rotation, rotation_mode="anchor", ha="right", va="center" if rotation == 90 else "top")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _short(name: str) -> str:
    """Shorten a long name in the middle, since names often differ at their ends."""
    return name if len(name) <= 24 else f"{name[:13].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[-10:].lstrip()}"


def _bar_figure(names: Sequence[str], title: str, note: str) -> tuple[Figure, Axes]:
    """Create a figure for horizontal bars of fractions with names."""
    figure = new_figure(7.2, 1.2 + 0.27 * len(names))
    axes = figure.add_subplot()
    style(axes, title, note, ORANGE)
    axes.grid(visible=False, axis="y")
    name_ticks(axes, "y", names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(FRACTIONS)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure, axes


def _draw_bar(axes: Axes, row: int, widths: Sequence[tuple[float, str]], value: str | None, absent: str) -> None:
    """Draw bars of given widths and colours over each other, with a value or the text for absent values."""
    for width, color in widths:
        axes.barh(row, width, height=0.64, color=color, zorder=3)
    text, text_color = (absent, MUTED) if value is None else (value, FOREGROUND)
    end = max(width for width, _ in widths)
    label = axes.text(end + 0.012, row, text, va="center", size=8.5, color=text_color, zorder=5)
    label.set_bbox({"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1})


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
