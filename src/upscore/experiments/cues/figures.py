"""What the networks of an analysis of cues saw and said, as pictures, and their scores as a plot.

N photos, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.ticker import PercentFormatter
from PIL import Image

from upscore.data.datasets import Dataset
from upscore.experiments.cues.conditions import ROWS, Cues
from upscore.inference import Model
from upscore.labels import VOID
from upscore.results import as_semantic
from upscore.viz.colormaps import class_colors
from upscore.viz.legend import LegendEntry, draw_legend, stack
from upscore.viz.overlays import overlay, resize_longer_side, side_by_side
from upscore.viz.plot_style import BLUE, FOREGROUND, MUTED, ORANGE, PALE_BLUE, name_ticks, new_figure, save, style

PANEL = 480
"""The longer side of a photo in pixels; what is small is enlarged to it."""

LETTERS, OPACITY = 22, 0.8
SPECK = 0.005
"""Classes with a smaller share of a photo are not what it is chosen for."""


def choose_photos(counts: np.ndarray, foreground: Sequence[int], number: int) -> list[int]:
    """Of the (N, C) pixels of photos, in each of `number` stretches the photo that shows most of the foreground.

    Most classes first, then most pixels.
    """
    objects = counts[:, list(foreground)] / counts.sum(1, keepdims=True).clip(1)
    value = (objects >= SPECK).sum(1) + objects.sum(1).clip(0, 0.99)
    edges = np.linspace(0, len(counts), min(number, len(counts)) + 1).astype(int)
    return [int(start + value[start:stop].argmax()) for start, stop in pairwise(edges.tolist())]


def strips(
    photos: Dataset, seen: Dataset, predictor: Model, chosen: Sequence[int], foreground: Sequence[int], saw: str
) -> Image.Image:
    """A row for each photo: the photo, what the network saw, the truth, what it says; the classes' colours beneath.

    `saw` says what of the photo that is. Over what it says stands the share of the objects' pixels that is right.
    """
    rows, occurring = [], set()
    for index in chosen:
        photo, sample = photos[index], seen[index]
        assert photo.class_map is not None
        truth, said = photo.class_map.numpy(), as_semantic(predictor.predict(sample.image)).class_map
        assert said is not None
        pixels, shown = (resize_longer_side(part.image.permute(1, 2, 0).numpy(), PANEL) for part in (photo, sample))
        panels = {
            "photo": Image.fromarray(pixels),
            f"what the network sees: {saw}": Image.fromarray(shown),
            "truth": overlay(pixels, resize_longer_side(truth, PANEL), predictor.classes, OPACITY, legend=False),
            f"says: {_right(said, truth, foreground)}": overlay(
                shown, resize_longer_side(said, PANEL), predictor.classes, OPACITY, legend=False
            ),
        }
        rows.append(side_by_side(list(panels.values()), list(panels)))
        occurring |= {*np.unique(truth).tolist(), *np.unique(said).tolist()}
    colors = class_colors(len(predictor.classes))
    chips = [
        LegendEntry(name, "", [tuple(colors[k].tolist())] if k or name.lower() not in ("background", "bg") else [])
        for k, name in enumerate(predictor.classes)
        if k in occurring
    ]
    return stack([*rows, draw_legend(chips, rows[0].width, LETTERS)])


def plot_cues(runs: Sequence[Cues], path: str | Path, title: str = "What the network looks at") -> None:
    """Bars of both scores for each row, the paper's as pale marks; of several runs their means, and a dot for each."""
    figure = new_figure(8, 4.8)
    axes = figure.add_subplot()
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    style(axes, title, f"{runs[0].photos:,} held-out photo{'' if runs[0].photos == 1 else 's'}{seeds}")
    for offset, color, field, label in (
        (-0.19, BLUE, "foreground_iu", "mean IoU of the foreground"),
        (0.19, PALE_BLUE, "mean_iu", "mean IoU of all classes"),
    ):
        each = [[getattr(cues.scores[name], field) for cues in runs] for name in ROWS]
        places = [place + offset for place in range(len(ROWS))]
        means = [mean(values) for values in each]
        axes.bar(places, means, 0.36, color=color, label=label, zorder=2)
        for place, values, height in zip(places, each, means, strict=True):
            top = max(values)
            if len(runs) > 1:
                axes.plot([place] * len(values), values, "o", color=FOREGROUND, markersize=2.6, zorder=4)
            axes.annotate(
                f"{height:.0%}",
                (place, top),
                (0, 4),
                textcoords="offset points",
                ha="center",
                size=8.5,
                color=FOREGROUND,
            )
    for place, row in enumerate(ROWS.values()):
        axes.plot([place - 0.38, place], [row.paper] * 2, color=MUTED, alpha=0.55, linewidth=2.4, zorder=3)
    axes.plot([], [], color=MUTED, alpha=0.55, linewidth=2.4, label="the paper's, of the foreground (VOC)")
    guess = mean(cues.guess.foreground_iu for cues in runs)
    axes.axhline(guess, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)
    axes.plot([], [], color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), label="every object called the same")
    name_ticks(axes, "x", [row.title for row in ROWS.values()])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = axes.get_legend_handles_labels()
    order = [2, 3, 0, 1]  # bars before lines
    axes.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        frameon=False,
        fontsize=8.5,
        labelcolor=FOREGROUND,
        loc="upper right",
    )
    save(figure, path)


def _right(said: np.ndarray, truth: np.ndarray, foreground: Sequence[int]) -> str:
    objects = np.isin(truth, foreground) & (truth != VOID)
    return f"{(said == truth)[objects].mean():.0%} of the objects right" if objects.any() else "no objects here"
