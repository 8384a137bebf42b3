"""Overlays of instance segmentation results.

N: objects; H, W: height and width in pixels. Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from upscore.errors import UserError
from upscore.results import InstanceResult
from upscore.viz.colormaps import COLORS, class_colors
from upscore.viz.legend import BACKGROUND, FOREGROUND, LegendEntry, draw_legend, font, font_size, stack
from upscore.viz.overlays import READABLE_WIDTH, blend, borders, enlarged, enlargement, line_width

ROWS_AT_ONCE = 256
"""Rows of an image that are drawn at a time."""

SIMILAR_DISTANCE = 150
"""Colours closer than this perceptually weighted RGB distance are avoided for neighbours."""

STRIPES = 4
"""Largest number of colours in the legend patch of a class."""

LABEL_SHARE = 0.2
"""Largest fraction of an object's area that its label may cover."""


def instance_overlay(
    image: np.ndarray, instances: InstanceResult, classes: Sequence[str], opacity: float = 0.55, legend: bool = True
) -> Image.Image:
    """Draw each object on the image in its own colour, with a thin light line inside its border.

    Neighbouring objects differ clearly in colour, and smaller objects are drawn over larger ones. Objects that are
    large enough are labelled with class and score.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: the objects.
        classes: names of the classes.
        opacity: opacity of the colours from 0 (lines only) to 1.
        legend: add a legend with the number of objects of each class below the image; images narrower than 256
            pixels are then enlarged by an integer factor.

    Raises:
        UserError: the objects belong to an image of another size, or `opacity` is not in 0..1.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity={opacity} is invalid: use a number from 0 to 1")
    if instances.size != image.shape[:2]:
        raise UserError(
            f"the objects belong to an image of size {instances.size}, but this image has size {image.shape[:2]}: "
            "call instances.resized() first"
        )
    if legend and (factor := enlargement(image)) > 1:
        image = enlarged(image, factor)
        instances = instances.resized(image.shape[:2])
    colors = object_colors(instances.boxes)
    picture, areas = _draw_objects(image, instances, colors, opacity)
    _label(picture, instances, areas, classes, colors)
    if not legend:
        return picture
    entries = _legend_entries(instances.labels, classes, colors)
    return stack([picture, draw_legend(entries, max(picture.width, READABLE_WIDTH), font_size(picture))])


def object_colors(boxes: np.ndarray) -> np.ndarray:
    """Assign a colour to each object so that neighbours differ, as (N, 3) uint8.

    Each object takes the colour with the fewest similar colours among its neighbours, then the least used one.
    Neighbours are objects whose boxes (N, 4), slightly enlarged, overlap.
    """
    choices = class_colors(len(COLORS)).astype(int)
    # Riemersma's weighted distance: the perceived difference depends on the mean of the red values.
    difference, red = choices[:, None] - choices, (choices[:, None, 0] + choices[:, 0]) / 2
    weights = np.stack([2 + red / 256, np.full_like(red, 4), 3 - red / 256], -1)
    similar = np.sqrt((weights * difference**2).sum(-1)) < SIMILAR_DISTANCE

    margin = 2 + (boxes[:, 2:] - boxes[:, :2]).mean(1, keepdims=True) / 8
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    chosen, used = np.zeros(len(boxes), int), np.zeros(len(choices), int)
    for k in range(len(boxes)):
        near = ((low[:k] < high[k]) & (high[:k] > low[k])).all(1)
        conflicts = similar[:, chosen[:k][near]].sum(1)
        chosen[k] = np.lexsort([used, conflicts])[0]
        used[chosen[k]] += 1
    return choices[chosen].astype(np.uint8)


def _draw_objects(
    image: np.ndarray, instances: InstanceResult, colors: np.ndarray, opacity: float
) -> tuple[Image.Image, np.ndarray]:
    """Draw the objects on the image, smaller ones in front; also return the number of visible pixels of each (N,)."""
    x1, y1, x2, y2 = instances.boxes.T
    order = ((x2 - x1) * (y2 - y1)).argsort(kind="stable")
    id_map = instances[order].label_map()
    height, width = id_map.shape
    line = line_width((width, height))
    id_colors = np.concatenate([np.zeros((1, 3), np.uint8), colors[order]])
    light = (id_colors * 0.35 + 255 * 0.65).astype(np.uint8)
    areas = np.zeros(len(id_colors), np.int64)
    picture = Image.new(
        "RGB", (width, height)
    )  # filled in strips: Image.fromarray of the whole array would make a second copy
    for top in range(0, height, ROWS_AT_ONCE):
        ids = id_map[top : top + ROWS_AT_ONCE]
        areas += np.bincount(ids.ravel(), minlength=len(id_colors))
        strip = Image.fromarray(image[top : top + ROWS_AT_ONCE])
        painted = blend(strip, Image.fromarray(id_colors[ids]), opacity)
        if line:
            above = min(top, line)
            edge = borders(id_map[top - above : top + ROWS_AT_ONCE + line], line)[above : above + len(ids)]
            painted.paste(Image.fromarray(light[ids]), mask=Image.fromarray(edge * np.uint8(220)))
        picture.paste(Image.composite(painted, strip, Image.fromarray((ids > 0) * np.uint8(255))), (0, top))
    visible = np.empty_like(areas[1:])
    visible[order] = areas[1:]
    return picture, visible


def _label(
    picture: Image.Image, instances: InstanceResult, areas: np.ndarray, classes: Sequence[str], colors: np.ndarray
) -> None:
    """Write class and score into the top left corners of the objects, in order of descending score."""
    size = max(11, round(font_size(picture) * 0.7))
    face, draw = font(size, "".join(classes)), ImageDraw.Draw(picture)
    pad, height = round(size * 0.4), round(size * 1.5)
    placed = np.zeros((0, 4))
    columns = (instances.boxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), areas, colors)
    for (x1, y1, x2, _), label, score, area, color in zip(*columns, strict=True):
        if area * LABEL_SHARE < 4 * height * height:
            continue  # too small even for the shortest name
        text = f"{classes[label]} {score:.2f}"
        width = face.getlength(text) + 2 * pad
        left, top = round(x1), round(y1)
        box = np.array([left, top, left + width, top + height])
        taken = ((placed[:, :2] < box[2:]) & (placed[:, 2:] > box[:2])).all(1).any()
        if width > x2 - x1 or width * height > area * LABEL_SHARE or taken:
            continue
        placed = np.concatenate([placed, box[None]])
        dark = color @ [0.299, 0.587, 0.114] < 130
        draw.rounded_rectangle(box.tolist(), size * 0.25, fill=tuple(color.tolist()))
        draw.text((left + pad, top + height / 2), text, BACKGROUND if dark else FOREGROUND, face, anchor="lm")


def _legend_entries(labels: np.ndarray, classes: Sequence[str], colors: np.ndarray) -> list[LegendEntry]:
    """Return a legend entry for each class: its name, its number of objects and the colours of the first of them."""
    counts = np.bincount(labels, minlength=len(classes))
    entries = []
    for label in map(int, np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]):
        first = dict.fromkeys(map(tuple, colors[labels == label].tolist()))
        entries.append(LegendEntry(classes[label], str(counts[label]), list(first)[:STRIPES]))
    return entries
