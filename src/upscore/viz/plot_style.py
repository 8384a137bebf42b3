"""Common style of all plots: no frame, a light grid, the title on the left and a note on the right.

Figures use matplotlib's object API without pyplot, so that they can be created in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from upscore.files import atomic_path

BACKGROUND, FOREGROUND, MUTED, GRID = "#fcfcfa", "#26262a", "#78787e", "#e6e6e1"
BLUE, ORANGE, GREEN, PINK = "#0067b0", "#d96c00", "#009e73", "#b65a93"
OLIVE, TEAL, PALE_BLUE = "#8c7a00", "#3f9db5", "#b9d3e6"


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


def _short(name: str) -> str:
    """Shorten a long name in the middle, since names often differ at their ends."""
    return name if len(name) <= 24 else f"{name[:13].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[-10:].lstrip()}"


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
