"""Overlays of class maps, objects and heat maps.

N objects, C classes; H, W: height and width in pixels. Images are (H, W, 3) uint8 RGB, class maps (H, W) integers:
class indices, or 255 for void. Pillow blends pixels as uint8, so that large images need no floating-point arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from upscore.errors import UserError, require_unit_interval
from upscore.labels import MAX_CLASSES, VOID
from upscore.results import InstanceResult
from upscore.viz.colormaps import COLORS, class_colors, heat_colors, palette
from upscore.viz.legend import (
    BACKGROUND,
    FOREGROUND,
    LegendEntry,
    draw_color_bar,
    draw_legend,
    fit,
    font,
    font_size,
    percent,
    stack,
)

BACKGROUNDS = {"background", "bg", "class 0", "void", "unlabeled", "unlabelled", "unknown", "none", "ignore"}
"""Names of a class 0 that is not coloured in overlays; underscores, spaces and case are ignored."""

READABLE_WIDTH = 256
"""Narrower images are enlarged by an integer factor to at least this width, so that a legend fits below."""

SMALLEST_WITH_LINES = 100
"""Images with a smaller side have no border lines, which would hide too much of them."""

MAX_SIDE = 16_384
"""Largest width in pixels of pictures side by side."""

ROWS_AT_ONCE = 256
"""Rows of an image that are drawn at a time."""

SIMILAR_DISTANCE = 150
"""Colours closer than this perceptually weighted RGB distance are avoided for neighbours."""

STRIPES = 4
"""Largest number of colours in the legend patch of a class."""

LABEL_SHARE = 0.2
"""Largest fraction of an object's area that its label may cover."""


def index_image(class_map: np.ndarray, num_classes: int) -> Image.Image:
    """Convert a class map (H, W) to a palette image (mode P) with the colours of PASCAL VOC.

    Raises:
        UserError: a value is neither a class index nor void.
    """
    picture = Image.fromarray(_as_bytes(class_map, num_classes))
    colors = np.zeros((256, 3), np.uint8)
    colors[:num_classes] = palette(num_classes)
    colors[VOID] = palette(256)[VOID]
    picture.putpalette(colors.tobytes())
    return picture


def overlay(
    image: np.ndarray, class_map: np.ndarray, classes: Sequence[str], opacity: float = 0.55, legend: bool = True
) -> Image.Image:
    """Draw a class map on the image in the colours of its classes, with a thin line inside the border of each region.

    Void pixels and a class 0 named "background" (or a name in `BACKGROUNDS`) are not coloured. The image is lightened
    with increasing opacity, so that colours on dark images match the legend.

    Args:
        image: (H, W, 3) uint8, RGB.
        class_map: (H, W) class indices, 255 for void.
        classes: names of the classes.
        opacity: opacity of the colours from 0 (lines only) to 1.
        legend: add a legend below the image with the classes that occur and their fraction of the pixels; images
            narrower than 256 pixels are then enlarged by an integer factor.

    Raises:
        UserError: the class map has another size than the image, a value is neither a class index nor void, or
            `opacity` is not in 0..1.
    """
    require_unit_interval("opacity", opacity)
    _same_size(image, class_map, "class map")
    class_map = _as_bytes(class_map, len(classes))
    if legend:
        factor = enlargement(image)
        image, class_map = enlarged(image, factor), enlarged(class_map, factor)
    colors = class_colors(len(classes))
    tinted = np.zeros(256, bool)
    tinted[has_background(classes) : len(classes)] = True

    picture = _tint(image, class_map, colors, tinted, opacity)
    if not legend:
        return picture
    share = np.array(Image.fromarray(class_map).histogram())[: len(classes)] / class_map.size
    entries = [
        LegendEntry(classes[k], percent(share[k]), [tuple(colors[k].tolist())] if tinted[k] else [])
        for k in map(int, np.argsort(-share, kind="stable"))
        if share[k]
    ]
    return stack([picture, draw_legend(entries, max(picture.width, READABLE_WIDTH), font_size(picture))])


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
    require_unit_interval("opacity", opacity)
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


def heat_overlay(image: np.ndarray, heat: np.ndarray, title: str) -> Image.Image:
    """Draw a heat map on the image, from transparent at 0 over dark violet to pale yellow at 1.

    A strip below has the title and a colour bar. Images narrower than 256 pixels are enlarged by an integer factor.

    Args:
        image: (H, W, 3) uint8, RGB.
        heat: (H, W) values in 0..1; others are clipped, and NaN is drawn as 0.
        title: text beside the colour bar.

    Raises:
        UserError: the heat map has another size than the image.
    """
    _same_size(image, heat, "heat map")
    factor = enlargement(image)
    image, heat = enlarged(image, factor), enlarged(heat, factor)
    level = np.rint(np.nan_to_num(heat.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    colors = heat_colors()
    glow = _paint(level, colors)
    # The opacity saturates at 0.5, so that medium values are not only darker but also clearly visible.
    ramp = np.linspace(0, 1, 256)
    opacity = np.rint(255 * 0.85 * np.clip(2 * ramp, 0, 1) ** 1.2).astype(np.uint8)
    picture = Image.composite(glow, Image.fromarray(image), Image.fromarray(opacity[level]))
    bar = _paint(np.arange(256, dtype=np.uint8)[None], colors)
    strip = draw_color_bar(title, bar, max(picture.width, READABLE_WIDTH), font_size(picture))
    return stack([picture, strip])


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Place pictures side by side below their titles, scaled to the height of the highest.

    Raises:
        UserError: there are no pictures.
    """
    if not images:
        raise UserError("images is empty: give at least one picture")
    height = max(image.height for image in images)
    width = sum(image.width * height / image.height for image in images)
    height = max(1, round(height * min(1.0, MAX_SIDE / width)))
    size = max(12, round(height / 30))
    face, gap = font(size, "".join(titles)), max(4, size // 2)

    panels = []
    for image, title in zip(images, titles, strict=True):
        wide = min(MAX_SIDE, max(1, round(image.width * height / image.height)))
        scaled = image.convert("RGB").resize((wide, height), Image.Resampling.LANCZOS)
        head = Image.new("RGB", (max(wide, 4 * size), 2 * size), BACKGROUND)
        ImageDraw.Draw(head).text((0, size), fit(title, face, head.width), FOREGROUND, face, anchor="lm")
        panels.append(stack([head, scaled]))
    row = Image.new("RGB", (sum(p.width + gap for p in panels) + gap, panels[0].height + gap), BACKGROUND)
    left = gap
    for panel in panels:
        row.paste(panel, (left, 0))
        left += panel.width + gap
    return row


def has_background(classes: Sequence[str]) -> bool:
    """Return whether the name of class 0 denotes the background."""
    return bool(classes) and classes[0].lower().replace("_", " ").strip() in BACKGROUNDS


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


def blend(image: Image.Image, colors: Image.Image, opacity: float) -> Image.Image:
    """Blend colours over a lightened image, so that they look similar on dark and bright regions."""
    pale = image.convert("L").point([112 + k * 143 // 255 for k in range(256)]).convert("RGB")
    return Image.blend(Image.blend(image, pale, opacity), colors, opacity)


def line_width(size: tuple[int, int]) -> int:
    """Return the width in pixels of the lines inside region borders; 0 for small pictures."""
    return max(1, round(min(size) / 700)) if min(size) >= SMALLEST_WITH_LINES else 0


def borders(labels: np.ndarray, width: int) -> np.ndarray:
    """Return (H, W) bool: pixels with a different label `width` pixels away in their row or column."""
    border = np.zeros(labels.shape, bool)
    across = labels[:, width:] != labels[:, :-width]
    border[:, width:] |= across
    border[:, :-width] |= across
    down = labels[width:] != labels[:-width]
    border[width:] |= down
    border[:-width] |= down
    return border


def enlargement(image: np.ndarray) -> int:
    """Return the integer factor by which a small image is enlarged for its legend, limited for tall images."""
    height, width = image.shape[:2]
    return min(-(-READABLE_WIDTH // width), max(1, 4 * READABLE_WIDTH // height))


def enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    """Repeat the rows and columns of an array `factor` times."""
    return values if factor == 1 else values.repeat(factor, 0).repeat(factor, 1)


def resize_longer_side(values: np.ndarray, side: int) -> np.ndarray:
    """Resize an image (H, W, 3) or a map (H, W) so that its longer side has `side` pixels.

    Maps and enlarged images use nearest-neighbour interpolation, reduced images use Lanczos filtering.
    """
    height, width = values.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    smooth = values.ndim == 3 and factor < 1
    filtering = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(values).resize(size, filtering))


def _as_bytes(class_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a class map as uint8 after a check of its values."""
    assert num_classes <= MAX_CLASSES, f"{num_classes} classes do not fit in a byte"
    invalid = (class_map < 0) | (class_map >= num_classes) & (class_map != VOID)
    if invalid.any():
        value = class_map[invalid][0]
        raise UserError(f"the class map has the value {value}: labels must be 0..{num_classes - 1}, or {VOID} for void")
    return class_map.astype(np.uint8, copy=False)


def _same_size(image: np.ndarray, values: np.ndarray, name: str) -> None:
    assert image.dtype == np.uint8, f"an image has dtype uint8, not {image.dtype}"
    assert image.shape[2:] == (3,), f"an image has shape (H, W, 3), not {image.shape}"
    if values.shape != image.shape[:2]:
        raise UserError(
            f"the {name} has the shape {values.shape}, but the image has {image.shape[:2]}: resize the {name} first"
        )


def _paint(indices: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Convert indices (H, W) uint8 to an RGB picture with up to 256 colours."""
    picture = Image.fromarray(indices)
    picture.putpalette(colors.tobytes())
    return picture.convert("RGB")


def _tint(
    image: np.ndarray, class_map: np.ndarray, colors: np.ndarray, tinted: np.ndarray, opacity: float
) -> Image.Image:
    # Merged from channels, since images converted from tensors are not contiguous.
    picture = Image.merge("RGB", [Image.fromarray(image[..., channel]) for channel in range(3)])
    painted = blend(picture, _paint(class_map, colors), opacity)
    if width := line_width(picture.size):
        line = borders(class_map, width)
        light = (0.5 * colors + 0.5 * 255).astype(np.uint8)
        painted.paste(_paint(class_map, light), mask=Image.fromarray(line * np.uint8(200)))
    picture.paste(painted, mask=Image.fromarray(class_map).point((tinted * 255).tolist()))
    return picture


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
