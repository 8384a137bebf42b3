"""Segments and what became of them, as pictures.

H W: pixels of a photo; h w: of what it was clustered at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from PIL import Image, ImageDraw

from upscore.experiments.superpixels.comparison import Comparison, Row
from upscore.labels import VOID
from upscore.viz import plot_style
from upscore.viz.colormaps import class_colors
from upscore.viz.legend import BACKGROUND, FOREGROUND, LegendEntry, draw_legend, fit, font, stack
from upscore.viz.overlays import BACKGROUNDS, borders, enlarged, enlargement, overlay, resize_longer_side, side_by_side
from upscore.viz.plot_style import BLUE, GREEN, MUTED, ORANGE, new_figure, save, style

PANEL, GAP, TITLE = 400, 10, 20
"""In the picture of a comparison: the longer side of a photo, the space between two, the size of letters; in pixels."""

CROWDED = 0.35
"""Of a picture's pixels: where more are borders, lines tell nothing."""

LINE = (255, 236, 120)


def segments_picture(photo: np.ndarray, segments: np.ndarray, title: str) -> Image.Image:
    """An (H, W, 3) uint8 photo with its (H, W) segments' borders, and beside it each segment in its mean colour."""
    factor = enlargement(photo)
    photo, segments = enlarged(photo, factor), enlarged(segments, factor)
    return side_by_side(
        [outlined(photo, segments), Image.fromarray(mean_colors(photo, segments))], [title, "mean colours"]
    )


def outlined(photo: np.ndarray, segments: np.ndarray) -> Image.Image:
    """The photo with a light line along the borders of its segments, in a dark hem that sets it off.

    Where lines would hide the photo, as those of scattered colours do, there are none.
    """
    width = max(1, round(min(photo.shape[:2]) / 500))
    picture = Image.fromarray(photo)
    hem = borders(segments, width + 1)
    line = borders(segments, width)
    if line.mean() > CROWDED:
        return picture
    picture.paste((20, 20, 24), mask=Image.fromarray(hem * np.uint8(110)))
    picture.paste(LINE, mask=Image.fromarray(line * np.uint8(225)))
    return picture


def mean_colors(photo: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, each pixel in the mean colour of its segment."""
    flat = segments.ravel()
    sizes = np.bincount(flat)
    sums = [np.bincount(flat, weights=photo[..., channel].ravel()) for channel in range(3)]
    return np.rint(np.stack(sums, axis=1) / sizes[:, None]).astype(np.uint8)[segments]


def comparison_picture(comparison: Comparison) -> Image.Image:
    """A row for each photo: photo, truth, segments, oracle, unsupervised, network; the classes' colours beneath.

    Over each map stands the share of the photo's labelled pixels that are right.
    """
    rows = [_row(row, comparison.classes) for row in comparison.rows]
    occurring = np.unique(np.concatenate([row.truth.ravel() for row in comparison.rows] + [_said(comparison)]))
    colors = class_colors(len(comparison.classes))
    chips = [
        LegendEntry(name, "", [] if _is_bare(index, name) else [tuple(colors[index].tolist())])
        for index, name in enumerate(comparison.classes)
        if index in occurring
    ]
    return stack([*rows, draw_legend(chips, rows[0].width, TITLE)])


def plot_oracle(comparison: Comparison, path: str | Path) -> None:
    """Mean IoU of the oracle against the number of segments a photo, beside what needs no oracle."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style(axes, f"What {comparison.method}'s segments would be worth", f"{comparison.photos:,} photos")
    counts = [oracle.segments for oracle in comparison.oracles]
    values = [oracle.scores.mean_iu for oracle in comparison.oracles]
    axes.set_xscale("log")
    axes.plot(counts, values, "o-", color=BLUE, linewidth=1.8, markersize=5.5, zorder=4)
    for count, value in zip(counts, values, strict=True):
        axes.annotate(
            f"{value:.0%}", (count, value), (0, 8), textcoords="offset points", ha="center", size=9.5, color=BLUE
        )
    levels = [("without labels", comparison.unsupervised.mean_iu, ORANGE)]
    if comparison.network is not None:
        levels.append(("trained FCN", comparison.network.mean_iu, GREEN))
    low, high = min(counts) / 1.6, max(counts) * 1.6
    for name, value, color in levels:
        axes.axhline(value, color=color, linewidth=1.6, linestyle=(0, (5, 3)), zorder=3)
        label = axes.text(
            high / 1.03, value + 0.014, f"{name}: {value:.0%}", ha="right", va="bottom", size=9.5, color=color
        )
        label.set_bbox({"facecolor": plot_style.BACKGROUND, "edgecolor": "none", "pad": 1})
    axes.text(
        low * 1.05, 0.975, "the oracle nears 100% as segments become single pixels", va="top", size=9, color=MUTED
    )
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("segments a photo (mean)", color=MUTED)
    axes.set_ylabel("mean IoU of the oracle", color=MUTED)
    save(figure, path)


def _said(comparison: Comparison) -> np.ndarray:
    maps = [image for row in comparison.rows for image in (row.oracle, row.unsupervised, row.network)]
    return np.concatenate([image.ravel() for image in maps if image is not None])


def _is_bare(index: int, name: str) -> bool:
    """Whether overlays leave the class as the bare photo."""
    return index == 0 and name.lower().replace("_", " ").strip() in BACKGROUNDS


def _row(row: Row, classes: list[str]) -> Image.Image:
    photo = resize_longer_side(row.photo, PANEL)
    maps = {"oracle": row.oracle, "unsupervised": row.unsupervised, "FCN": row.network}
    panels = {row.name: Image.fromarray(photo), "truth": _over(photo, row.truth, classes)}
    segments = resize_longer_side(row.segments, PANEL)
    crowded = borders(segments, 1).mean() > CROWDED
    drawn = Image.fromarray(mean_colors(photo, segments)) if crowded else outlined(photo, segments)
    panels[f"{row.segments.max() + 1} segments"] = drawn
    for name, class_map in maps.items():
        if class_map is not None:
            panels[f"{name}: {_right(class_map, row.truth)}"] = _over(photo, class_map, classes)
    width, height = photo.shape[1], photo.shape[0]
    sheet = Image.new("RGB", (len(panels) * (PANEL + GAP) + GAP, height + 2 * TITLE + GAP), BACKGROUND)
    draw, face = ImageDraw.Draw(sheet), font(TITLE, row.name)
    for k, (title, panel) in enumerate(panels.items()):
        left = GAP + k * (PANEL + GAP) + (PANEL - width) // 2
        draw.text((left, TITLE), fit(title, face, max(width, PANEL // 2)), FOREGROUND, face, anchor="lm")
        sheet.paste(panel, (left, 2 * TITLE))
    return sheet


def _right(class_map: np.ndarray, truth: np.ndarray) -> str:
    labelled = truth != VOID
    return f"{(class_map == truth)[labelled].mean():.0%} right" if labelled.any() else "nothing labelled"


def _over(photo: np.ndarray, class_map: np.ndarray, classes: list[str]) -> Image.Image:
    return overlay(photo, resize_longer_side(class_map, PANEL), classes, opacity=0.75, legend=False)
