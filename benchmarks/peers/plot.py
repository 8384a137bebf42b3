"""Plot of the results: a bar for the ratio of each variant, with a line at the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from peers.page import format_ratio
from peers.results import Result, SideResult
from upscore.viz.plots import BACKGROUND, BLUE, FOREGROUND, MUTED, ORANGE, PALE_BLUE, new_figure, save, style

BAR, GAP, SPACE = 0.62, 1.0, 0.25
"""Height of a bar, height of a row's title, and gap below a row, in units of the distance of bars."""


def plot_results(rows: Sequence[Result], path: Path) -> None:
    """Plot the ratios on a logarithmic axis, with their spread."""
    positions = _positions(rows)
    height = positions[-1][1] + 0.5
    figure = new_figure(8.2, 1.5 + 0.29 * height)
    axes = figure.add_subplot()
    style(axes, "Speed relative to peers", "the peer's time divided by ours")
    _scale(axes, rows, height)
    for row, y, side in positions:
        _bar(axes, y, side)
        if side is row.sides[0]:
            _title(axes, y - GAP + 0.12, row)
    axes.set_yticks([y for _, y, _ in positions], [side.name for _, _, side in positions])
    _legend(axes)
    save(figure, path)


def _positions(rows: Sequence[Result]) -> list[tuple[Result, float, SideResult]]:
    """Return the position of the bar of each variant, from the top."""
    positions, y = [], 0.0
    for row in rows:
        y += GAP
        for side in row.sides:
            positions.append((row, y, side))
            y += 1
        y += SPACE
    return positions


def _scale(axes: Axes, rows: Sequence[Result], height: float) -> None:
    ends = [
        value for row in rows for side in row.sides for value in (side.ratio, side.high, side.low, side.target or 1)
    ]
    axes.set_xscale("log")
    axes.set_xlim(min(0.9, 0.9 * min(ends)), 1.5 * max(2, *ends))
    axes.set_ylim(height, -0.5)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.grid(visible=False, axis="y")
    axes.axvline(1, color=MUTED, linewidth=1, zorder=1.7)


def _bar(axes: Axes, y: float, side: SideResult) -> None:
    color = {True: BLUE, False: ORANGE, None: PALE_BLUE}[side.reached]
    axes.barh(y, side.ratio - 1, BAR, left=1, color=color)
    axes.plot([side.low, side.high], [y, y], color=FOREGROUND, linewidth=0.9, alpha=0.55)
    if side.target is not None:
        axes.plot([side.target] * 2, [y - 0.46, y + 0.46], color=FOREGROUND, linewidth=2.2, solid_capstyle="butt")
    end = max(side.ratio, side.high, side.target or 0, 1)
    text = axes.annotate(format_ratio(side.ratio), (end, y), (6, 0), textcoords="offset points", va="center")
    text.set(size=9, color=FOREGROUND, weight="bold" if side.target is not None else "normal")


def _title(axes: Axes, y: float, row: Result) -> None:
    axes.axhspan(y - 0.42, y + 0.34, color=BACKGROUND, linewidth=0, zorder=1.8)  # over the grid
    transform = axes.get_yaxis_transform()
    axes.text(0, y, row.work, transform=transform, size=9, weight="bold", color=FOREGROUND, va="center")
    axes.text(1, y, f"against {row.peer_name}", transform=transform, size=8, color=MUTED, va="center", ha="right")


def _legend(axes: Axes) -> None:
    handles = [
        Patch(color=BLUE, label="target reached"),
        Patch(color=ORANGE, label="target missed"),
        Patch(color=PALE_BLUE, label="for information"),
        Line2D([], [], color=FOREGROUND, linewidth=2.2, label="target"),
        Line2D([], [], color=FOREGROUND, linewidth=0.9, alpha=0.55, label="spread of rounds"),
    ]
    axes.legend(
        handles=handles, frameon=False, fontsize=8.5, labelcolor=FOREGROUND, ncols=5, loc="upper center",
        bbox_to_anchor=(0.5, -0.06), handlelength=1.4, columnspacing=1.4,
    )  # fmt: skip
