"""Found objects as a picture.

N: objects; H, W: height and width in pixels. Photos are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from upscore.errors import UserError
from upscore.results import InstanceResult
from upscore.viz import legend as lettering
from upscore.viz.colormaps import COLORS, class_colors
from upscore.viz.legend import BACKGROUND, FOREGROUND, LegendEntry, font, font_size, stack
from upscore.viz.overlays import READABLE_WIDTH, blend, borders, enlarged, enlargement, line_width

ROWS_AT_ONCE = 256
"""Rows of a photo that are painted at the same time."""

ALIKE = 150
"""Colours this near, in RGB with weights for the eye's, are not given to neighbours while there are others."""

STRIPES = 4
"""Colours of a class's patch in the legend."""

LABEL_SHARE = 0.2
"""An object carries a label that hides no more of it than this."""


def instance_overlay(
    image: np.ndarray, instances: InstanceResult, classes: Sequence[str], opacity: float = 0.55, legend: bool = True
) -> Image.Image:
    """The photo with every object in a colour of its own, a thin light line inside its border.

    Neighbours differ clearly in colour. Objects with room for it carry their class and score; where they overlap, the
    smaller one is in front. A legend beneath counts the objects of each class, the most frequent first.
    With it a photo narrower than 256 pixels is enlarged by a whole factor. `opacity` is 0..1 (0: the lines alone).

    Raises:
        UserError: the objects are not of the photo's size; the opacity is not in 0..1.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"the opacity is {opacity}, but it goes from 0 (the photo) to 1 (the colours)")
    if instances.size != image.shape[:2]:
        sizes = f"the objects are of a photo of the shape {instances.size}, but this one has {image.shape[:2]}"
        raise UserError(f"{sizes}: bring them to its size with resized() first")
    if legend and (factor := enlargement(image)) > 1:
        image = enlarged(image, factor)
        instances = instances.resized(image.shape[:2])
    colors = object_colors(instances.boxes)
    picture, areas = _painted(image, instances, colors, opacity)
    _label(picture, instances, areas, classes, colors)
    if not legend:
        return picture
    chips = _counts(instances.labels, classes, colors)
    return stack([picture, lettering.legend(chips, max(picture.width, READABLE_WIDTH), font_size(picture))])


def object_colors(boxes: np.ndarray) -> np.ndarray:
    """(N, 3) uint8: for each object in turn the colour that the fewest neighbours have one like, then the least used.

    Neighbours are those whose boxes (N, 4), a little enlarged, meet.
    """
    choices = class_colors(len(COLORS)).astype(int)
    # How different the eye finds two colours depends on the mean of their reds (Riemersma's weights).
    difference, red = choices[:, None] - choices, (choices[:, None, 0] + choices[:, 0]) / 2
    weights = np.stack([2 + red / 256, np.full_like(red, 4), 3 - red / 256], -1)
    alike = np.sqrt((weights * difference**2).sum(-1)) < ALIKE

    margin = 2 + (boxes[:, 2:] - boxes[:, :2]).mean(1, keepdims=True) / 8
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    chosen, used = np.zeros(len(boxes), int), np.zeros(len(choices), int)
    for k in range(len(boxes)):
        near = ((low[:k] < high[k]) & (high[:k] > low[k])).all(1)
        like = alike[:, chosen[:k][near]].sum(1)
        chosen[k] = np.lexsort([used, like])[0]
        used[chosen[k]] += 1
    return choices[chosen].astype(np.uint8)


def _painted(
    image: np.ndarray, instances: InstanceResult, colors: np.ndarray, opacity: float
) -> tuple[Image.Image, np.ndarray]:
    """The photo with its objects, the smaller ones in front, and how many pixels of each are to be seen (N,)."""
    x1, y1, x2, y2 = instances.boxes.T
    order = ((x2 - x1) * (y2 - y1)).argsort(kind="stable")
    id_map = instances[order].label_map()
    height, width = id_map.shape
    line = line_width((width, height))
    of_id = np.concatenate([np.zeros((1, 3), np.uint8), colors[order]])
    light = (of_id * 0.35 + 255 * 0.65).astype(np.uint8)
    areas = np.zeros(len(of_id), np.int64)
    picture = Image.new("RGB", (width, height))  # from the whole array it would take a second copy for a while
    for top in range(0, height, ROWS_AT_ONCE):
        ids = id_map[top : top + ROWS_AT_ONCE]
        areas += np.bincount(ids.ravel(), minlength=len(of_id))
        photo = Image.fromarray(image[top : top + ROWS_AT_ONCE])
        painted = blend(photo, Image.fromarray(of_id[ids]), opacity)
        if line:
            above = min(top, line)
            edge = borders(id_map[top - above : top + ROWS_AT_ONCE + line], line)[above : above + len(ids)]
            painted.paste(Image.fromarray(light[ids]), mask=Image.fromarray(edge * np.uint8(220)))
        picture.paste(Image.composite(painted, photo, Image.fromarray((ids > 0) * np.uint8(255))), (0, top))
    visible = np.empty_like(areas[1:])
    visible[order] = areas[1:]
    return picture, visible


def _label(
    picture: Image.Image, instances: InstanceResult, areas: np.ndarray, classes: Sequence[str], colors: np.ndarray
) -> None:
    """Write class and score into the top left corners of objects, those with the highest scores first."""
    size = max(11, round(font_size(picture) * 0.7))
    face, draw = font(size, "".join(classes)), ImageDraw.Draw(picture)
    pad, height = round(size * 0.4), round(size * 1.5)
    placed = np.zeros((0, 4))
    columns = (instances.boxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), areas, colors)
    for (x1, y1, x2, _), label, score, area, color in zip(*columns, strict=True):
        if area * LABEL_SHARE < 4 * height * height:
            continue  # even the shortest name has no room
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


def _counts(labels: np.ndarray, classes: Sequence[str], colors: np.ndarray) -> list[LegendEntry]:
    """A legend's entries: a class, the first colours of its objects, and their number."""
    counts = np.bincount(labels, minlength=len(classes))
    chips = []
    for label in map(int, np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]):
        first = dict.fromkeys(map(tuple, colors[labels == label].tolist()))
        chips.append(LegendEntry(classes[label], str(counts[label]), list(first)[:STRIPES]))
    return chips
