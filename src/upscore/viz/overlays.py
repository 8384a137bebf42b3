"""Label maps and heat maps as pictures.

C: classes; H, W: height and width in pixels. Photos are (H, W, 3) uint8 RGB, class maps (H, W) integers: a class's
index, or 255 for void. Pixels are blended by Pillow, in bytes: a 12-megapixel photo needs no array of floats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES, VOID
from upscore.viz import legend as lettering
from upscore.viz.colormaps import class_colors, heat_colors, palette
from upscore.viz.legend import BACKGROUND, FOREGROUND, LegendEntry, fit, font, font_size, percent, scale, stack

BACKGROUNDS = {"background", "bg", "class 0", "void", "unlabeled", "unlabelled", "unknown", "none", "ignore"}
"""Names of a class 0 that is drawn as the bare photo; underscores, spaces and case do not matter."""

READABLE_WIDTH = 256
"""Narrower photos are enlarged by a whole factor, to at least this width, for a legend to have room beneath."""

SMALLEST_WITH_LINES = 100
"""Lines, one pixel thin, would hide much of what is on a smaller photo."""

MAX_SIDE = 16_384
"""No picture made of several is wider than this, whatever their shapes."""


def index_image(class_map: np.ndarray, num_classes: int) -> Image.Image:
    """A mask file's image: the (H, W) class indices as they are, shown in VOC's colours by any viewer (mode P).

    Raises:
        UserError: a value is neither a class nor void.
    """
    picture = Image.fromarray(_checked(class_map, num_classes))
    colors = np.zeros((256, 3), np.uint8)
    colors[:num_classes] = palette(num_classes)
    colors[VOID] = palette(256)[VOID]
    picture.putpalette(colors.tobytes())
    return picture


def overlay(
    image: np.ndarray, class_map: np.ndarray, classes: Sequence[str], opacity: float = 0.55, legend: bool = True
) -> Image.Image:
    """The photo under its classes' colours, each region with a thin line inside its border.

    A legend beneath names the classes that occur, with their share of all pixels, the largest first. With it a photo
    narrower than 256 pixels is enlarged by a whole factor; without it the picture has the photo's size. A class 0
    called "background" (or void, unlabeled, class_0 ...) is left as the bare photo, and so is void. `opacity` is 0..1
    (0: the lines alone); the photo pales with it too, so that colours on a dark photo are those of the legend.

    Raises:
        UserError: the map is not of the photo's size, or has a value that is neither a class nor void; the opacity is
            not in 0..1.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"the opacity is {opacity}, but it goes from 0 (the photo) to 1 (the colours)")
    _same_size(image, class_map, "class map")
    class_map = _checked(class_map, len(classes))
    if legend:
        factor = enlargement(image)
        image, class_map = enlarged(image, factor), enlarged(class_map, factor)
    bare = has_background(classes)
    colors = class_colors(len(classes))
    tinted = np.zeros(256, bool)
    tinted[bare : len(classes)] = True

    picture = _tint(image, class_map, colors, tinted, opacity)
    if not legend:
        return picture
    share = np.array(Image.fromarray(class_map).histogram())[: len(classes)] / class_map.size
    chips = [
        LegendEntry(classes[k], percent(share[k]), [tuple(colors[k].tolist())] if tinted[k] else [])
        for k in map(int, np.argsort(-share, kind="stable"))
        if share[k]
    ]
    return stack([picture, lettering.legend(chips, max(picture.width, READABLE_WIDTH), font_size(picture))])


def has_background(classes: Sequence[str]) -> bool:
    """Whether class 0 is the background, by its name."""
    return bool(classes) and classes[0].lower().replace("_", " ").strip() in BACKGROUNDS


def heat_overlay(image: np.ndarray, heat: np.ndarray, title: str) -> Image.Image:
    """The photo under an (H, W) heat map in 0..1: bare where it is cold, dark violet to pale yellow where it is hot.

    A strip beneath has the title and the scale. Values outside 0..1 are drawn as the nearer end, NaN as cold. Photos
    narrower than 256 pixels are enlarged by a whole factor.

    Raises:
        UserError: the heat map is not of the photo's size.
    """
    _same_size(image, heat, "heat map")
    factor = enlargement(image)
    image, heat = enlarged(image, factor), enlarged(heat, factor)
    level = np.rint(np.nan_to_num(heat.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    colors = heat_colors()
    glow = _paint(level, colors)
    # Opacity rises quickly and then stays: what is half hot should not look half hidden too.
    ramp = np.linspace(0, 1, 256)
    opacity = np.rint(255 * 0.85 * np.clip(2 * ramp, 0, 1) ** 1.2).astype(np.uint8)
    picture = Image.composite(glow, Image.fromarray(image), Image.fromarray(opacity[level]))
    bar = _paint(np.arange(256, dtype=np.uint8)[None], colors)
    strip = scale(title, bar, max(picture.width, READABLE_WIDTH), font_size(picture))
    return stack([picture, strip])


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures in a row under their titles, all as high as the highest, with small gaps.

    Raises:
        UserError: there are no pictures.
    """
    if not images:
        raise UserError("no pictures to lay side by side: give at least one")
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


def _checked(class_map: np.ndarray, num_classes: int) -> np.ndarray:
    assert num_classes <= MAX_CLASSES, f"{num_classes} classes do not fit in a byte"
    wrong = (class_map < 0) | (class_map >= num_classes) & (class_map != VOID)
    if wrong.any():
        value = class_map[wrong][0]
        raise UserError(f"the class map has the value {value}, but labels are 0..{num_classes - 1} or {VOID} for void")
    return class_map.astype(np.uint8, copy=False)


def _same_size(image: np.ndarray, values: np.ndarray, name: str) -> None:
    assert image.dtype == np.uint8, f"a photo has bytes, not {image.dtype}"
    assert image.shape[2:] == (3,), f"a photo is (H, W, 3), not {image.shape}"
    if values.shape != image.shape[:2]:
        sizes = f"the {name} has the shape {values.shape}, but its photo {image.shape[:2]}"
        raise UserError(f"{sizes}: bring it to the photo's size first")


def _paint(indices: np.ndarray, colors: np.ndarray) -> Image.Image:
    """(H, W) uint8 indices in up to 256 colours."""
    picture = Image.fromarray(indices)
    picture.putpalette(colors.tobytes())
    return picture.convert("RGB")


def _tint(
    image: np.ndarray, class_map: np.ndarray, colors: np.ndarray, tinted: np.ndarray, opacity: float
) -> Image.Image:
    # plane by plane, for photos come out of tensors
    photo = Image.merge("RGB", [Image.fromarray(image[..., channel]) for channel in range(3)])
    painted = blend(photo, _paint(class_map, colors), opacity)
    if width := line_width(photo.size):
        line = borders(class_map, width)
        light = (0.5 * colors + 0.5 * 255).astype(np.uint8)
        painted.paste(_paint(class_map, light), mask=Image.fromarray(line * np.uint8(200)))
    photo.paste(painted, mask=Image.fromarray(class_map).point((tinted * 255).tolist()))
    return photo


def blend(photo: Image.Image, colors: Image.Image, opacity: float) -> Image.Image:
    """A photo under colours, paled so that they look the same over what is dark."""
    pale = photo.convert("L").point([112 + k * 143 // 255 for k in range(256)]).convert("RGB")
    return Image.blend(Image.blend(photo, pale, opacity), colors, opacity)


def line_width(size: tuple[int, int]) -> int:
    """Of the lines inside regions, in pixels; 0 on small pictures."""
    return max(1, round(min(size) / 700)) if min(size) >= SMALLEST_WITH_LINES else 0


def borders(labels: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels with another label `width` pixels away in the row or the column."""
    border = np.zeros(labels.shape, bool)
    across = labels[:, width:] != labels[:, :-width]
    border[:, width:] |= across
    border[:, :-width] |= across
    down = labels[width:] != labels[:-width]
    border[width:] |= down
    border[:-width] |= down
    return border


def enlargement(image: np.ndarray) -> int:
    """The whole factor that makes a small photo wide enough for a legend, without making it very high."""
    height, width = image.shape[:2]
    return min(-(-READABLE_WIDTH // width), max(1, 4 * READABLE_WIDTH // height))


def enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    return values if factor == 1 else values.repeat(factor, 0).repeat(factor, 1)


def at_side(values: np.ndarray, side: int) -> np.ndarray:
    """A photo (H, W, 3) or a map (H, W), its longer side brought to `side` pixels.

    Labels by the nearest pixel, and what is small in sharp pixels.
    """
    height, width = values.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    smooth = values.ndim == 3 and factor < 1
    filtering = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(values).resize(size, filtering))
