"""The pictures of an evaluation and of a training run, as PNG files.

C: classes. Figures are made through matplotlib's object API: no pyplot, no global state, from any thread.
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
from upscore.evaluation.metrics import SemanticScores, semantic_scores
from upscore.files import atomic_path

PAPER, INK, PALE_INK, GRID = "#fcfcfa", "#26262a", "#78787e", "#e6e6e1"
BLUE, ORANGE, GREEN, PINK = "#0067b0", "#d96c00", "#009e73", "#b65a93"
SHARES = LinearSegmentedColormap.from_list(
    "shares", [PAPER, "#d3e3ee", "#93bedb", "#4a8dbf", "#195895", "#0a2a5a"]
).with_extremes(bad=GRID)

LOSSES = {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}
RATE = {"learning_rate": ("learning rate", PALE_INK)}
METRICS = {
    "pixel_accuracy": ("pixel accuracy", GREEN),
    "frequency_weighted_iu": ("frequency weighted IU", PINK),
    "mean_accuracy": ("mean accuracy", ORANGE),
    "mean_iu": ("mean IU", BLUE),
}

CELLS_WITH_NUMBERS = 25
"""Numbers in more than 25 x 25 cells cannot be read."""

NAMES = 80
"""More than 80 names cannot be read along an axis: it has the classes' indices instead."""

Curves = dict[float, dict[str, float]]
"""What was measured at each epoch, in order."""


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
    figure = _figure(max(side, 2.5) + 2.9, max(side, 2.5) + 2.2)
    axes = figure.add_subplot()
    _style(axes, "Confusion", f"mean IU {scores.mean_iu:.1%}")
    axes.grid(visible=False)
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
    if size <= NAMES:
        _name_ticks(axes, "x", classes, rotation=90 if size > 12 else 45)
        _name_ticks(axes, "y", classes)
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
    _save(figure, path)


def plot_per_class(scores: SemanticScores, path: str | Path) -> None:
    """A bar of IU for each class, the best on top, and a line at the mean; classes without an IU come last."""
    bars = sorted(((-1.0 if iu is None else iu, name) for name, iu in scores.per_class.items()), key=lambda bar: bar[0])
    figure = _figure(7.2, 1.2 + 0.27 * len(bars))
    axes = figure.add_subplot()
    _style(axes, "IU of each class", f"mean {scores.mean_iu:.1%}", ORANGE)
    axes.grid(visible=False, axis="y")
    axes.axvline(scores.mean_iu, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=4)
    for row, (iu, _) in enumerate(bars):
        axes.barh(row, max(iu, 0), height=0.64, color=BLUE, zorder=3)
        text, ink = ("does not occur", PALE_INK) if iu < 0 else (f"{iu:.1%}", INK)
        label = axes.text(max(iu, 0) + 0.012, row, text, va="center", size=8.5, color=ink, zorder=5)
        label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1})
    _name_ticks(axes, "y", [name for _, name in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    _save(figure, path)


def plot_curves(records: Sequence[Mapping[str, object]], path: str | Path) -> None:
    """The losses, the learning rate and the metrics of a run, from the records of its `metrics.jsonl`.

    The best epoch is marked: the one with the highest mean IU, or the lowest validation loss where no mean IU was
    measured. Records of one epoch are put together, later ones win; values that are missing or not finite are left out.

    Raises:
        UserError: no record has an epoch.
    """
    curves = _curves(records)
    if not curves:
        raise UserError("there is nothing to plot: no record has a number called 'epoch'")
    highest_rate = max(values.get("learning_rate", 0) for values in curves.values())
    figure = _figure(11, 4.8)
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 1))
    loss = figure.add_subplot(grid[0, 0] if highest_rate else grid[:, 0])
    metrics = figure.add_subplot(grid[:, 1])
    best = _best(curves)
    _style(loss, "Loss")
    _style(metrics, "Metrics", _verdict(curves, best), BLUE)
    _draw(loss, curves, LOSSES, best)
    _draw(metrics, curves, METRICS, best)
    low, high = metrics.get_ylim()
    metrics.set_ylim(max(low - 0.05, 0), min(high + 0.05, 1))
    metrics.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if highest_rate:
        rate = figure.add_subplot(grid[1, 0])
        _style(rate)
        _draw(rate, curves, RATE, best)
        rate.set_ylim(0, 1.15 * highest_rate)
        rate.set_yticks([0, highest_rate], ["0", f"{highest_rate:.3g}"])
        loss.tick_params(labelbottom=False)
        loss.set_xlabel("")
    _save(figure, path)


def _curves(records: Sequence[Mapping[str, object]]) -> Curves:
    curves: Curves = {}
    for record in records:
        values = {key: float(v) for key, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
        if "epoch" in values:
            curves.setdefault(values["epoch"], {}).update(values)
    return dict(sorted(curves.items()))


def _best(curves: Curves) -> float | None:
    scored = {epoch: values["mean_iu"] for epoch, values in curves.items() if "mean_iu" in values}
    lost = {epoch: -values["val_loss"] for epoch, values in curves.items() if "val_loss" in values}
    ranked = scored or lost
    return max(ranked, key=lambda epoch: ranked[epoch], default=None)


def _verdict(curves: Curves, best: float | None) -> str:
    if best is None:
        return ""
    note = f"best epoch {best:g}"
    return f"{note}, mean IU {curves[best]['mean_iu']:.1%}" if "mean_iu" in curves[best] else note


def _draw(axes: Axes, curves: Curves, lines: Mapping[str, tuple[str, str]], best: float | None) -> None:
    """The lines that were measured, over epochs, with their legend and the best epoch."""
    first, last = min(curves), max(curves)
    margin = max(0.5, (last - first) / 40)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=PALE_INK)
    for key, (name, color) in lines.items():
        points = [(epoch, values[key]) for epoch, values in curves.items() if key in values]
        if points:
            marker = "o" if len(points) <= 30 else ""
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3.5, linewidth=1.7, label=name)
        if best is not None and key in curves[best]:
            axes.plot(best, curves[best][key], "o", color=PAPER, markeredgecolor=color, markeredgewidth=1.7, zorder=4)
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", ha="center", color=PALE_INK, transform=axes.transAxes)
        axes.tick_params(labelleft=False)
        return
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    if best is not None:
        axes.axvline(best, color=PALE_INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)


def _figure(width: float, height: float) -> Figure:
    """Width and height in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    return Figure((width, height), dpi=150, facecolor=PAPER, layout=layout)


def _style(axes: Axes, title: str = "", note: str = "", note_color: str = PALE_INK) -> None:
    """The look of every plot: no box, a pale grid behind, the title on the left and a note on the right."""
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", size=12.5, weight="bold", color=INK, pad=10)
    axes.set_title(note, loc="right", size=9.5, color=note_color, pad=10)


def _name_ticks(axes: Axes, axis: Literal["x", "y"], names: Sequence[str], rotation: float = 0) -> None:
    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_ticks(range(len(names)), [_short(name) for name in names])
    for label in ticks.get_ticklabels():
        label.set_parse_math(False)  # A name may have dollar signs.
        if rotation:
            label.set(rotation=rotation, rotation_mode="anchor", ha="right", va="center" if rotation == 90 else "top")


def _short(name: str) -> str:
    """Names often differ at their ends, so a long one loses its middle."""
    return name if len(name) <= 24 else f"{name[:13].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[-10:].lstrip()}"


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
