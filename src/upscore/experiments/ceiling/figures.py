"""The pictures of ceilings, as PNG files.

C classes; IU from 0 to 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from upscore.experiments.ceiling.meter import METHODS, PAPER_MEAN_IOU, Ceilings, Method
from upscore.experiments.ceiling.report import FINE, NETWORKS, PAPER_TITLE, TITLES
from upscore.viz.plot_style import (
    BACKGROUND,
    BLUE,
    FOREGROUND,
    GREEN,
    GRID,
    MUTED,
    ORANGE,
    name_ticks,
    new_figure,
    save,
    style,
)
from upscore.viz.score_plots import NAMES, SHARES

COLORS: dict[Method, str] = {"nearest": GREEN, "bilinear": BLUE}


def plot_ceilings(ceilings: Ceilings, path: str | Path) -> None:
    """Mean IoU over the stride, which doubles from mark to mark: both methods, and the paper's curve, pale."""
    figure = new_figure(7.2, 4.7)
    axes = figure.add_subplot()
    at = {stride: place for place, stride in enumerate(ceilings.strides)}
    photos = f"{ceilings.images:,} photo{'' if ceilings.images == 1 else 's'}"
    style(axes, "The most that a stride allows", f"{len(ceilings.present)} classes, {photos}")
    paper = {at[stride]: iu for stride, iu in PAPER_MEAN_IOU.items() if stride in at}
    axes.plot(
        *zip(*sorted(paper.items()), strict=True), color=MUTED, alpha=0.6, linestyle=(0, (4, 3)), label=PAPER_TITLE
    )
    for method in METHODS:
        ius = [ceilings.mean_iu[method][stride] for stride in ceilings.strides]
        axes.plot(ius, color=COLORS[method], marker="o", markersize=4, linewidth=1.9, label=TITLES[method])
    for stride in NETWORKS:
        kinder = max(ceilings.mean_iu[method][stride] for method in METHODS)
        label = axes.annotate(f"{kinder:.0%}", (at[stride], kinder), (0, 8), textcoords="offset points", ha="center")
        label.set(color=FOREGROUND, size=9, zorder=5)
    _stride_ticks(axes, ceilings)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("mean IoU", color=MUTED)
    axes.legend(frameon=False, fontsize=9, labelcolor=FOREGROUND, loc="lower left")
    save(figure, path)


def plot_class_ceilings(ceilings: Ceilings, path: str | Path) -> None:
    """A heat map of IU, a row for each class that the labels have and a column for each stride, by the kinder method.

    The classes that keep the most are on top. A line parts what is fine from what is not.
    """
    strides = ceilings.strides
    rows = {name: [ceilings.best(name, stride) for stride in strides] for name in ceilings.present}
    names = sorted(rows, key=lambda name: -sum(rows[name]))
    readable = len(names) <= NAMES
    figure = new_figure(7.2, 1.7 + (0.3 if readable else 0.17) * len(names))
    axes = figure.add_subplot()
    style(axes, "The most that a stride allows each class", f"IU in %; line: {FINE:.0%}", ORANGE)
    axes.grid(visible=False)
    values = np.array([rows[name] for name in names])
    axes.imshow(values, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        ink = BACKGROUND if values[i, j] > 0.5 else FOREGROUND
        axes.text(j, i, f"{100 * values[i, j]:.0f}", ha="center", va="center", size=9 if readable else 6, color=ink)
    edges = (values.round(2) >= FINE).cumprod(axis=1).sum(axis=1) - 0.5
    sides = np.arange(len(names) + 1) - 0.5
    axes.plot(edges.repeat(2), sides.repeat(2)[1:-1], color=ORANGE, linewidth=2, solid_joinstyle="miter")
    name_ticks(axes, "y", names)
    _stride_ticks(axes, ceilings)
    axes.set_xlim(-0.5, len(strides) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", labelsize=9 if readable else 6)
    axes.spines[:].set(visible=True, color=GRID)
    save(figure, path)


def _stride_ticks(axes: Axes, ceilings: Ceilings) -> None:
    """Strides along the x axis, and below them the networks that have them."""
    names = [f"{stride}\n{NETWORKS.get(stride, '')}" for stride in ceilings.strides]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("output stride in pixels", color=MUTED)
