"""Pictures of microscope images, of the objects in them, and of the steps from a proposal to a mask.

N objects, P boxes; H W pixels of the image. Images are (H, W, 3) uint8 RGB, label maps (H, W) integers with 0 for the
background; boxes are (x1, y1, x2, y2) in pixels of the image. All pictures are enlarged by `ENLARGED`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import regionprops

from upscore.viz.instance_overlay import object_colors
from upscore.viz.legend import BACKGROUND, FOREGROUND
from upscore.viz.overlays import blend, borders

ENLARGED = 2
OPACITY = 0.5
LINE = 2
"""Width of outlines, in pixels of the picture."""

DARK, BRIGHT = 128, 235
"""An image whose brightest pixels are below DARK is shown brighter, so that they reach BRIGHT."""


def image_picture(image: np.ndarray) -> Image.Image:
    """The image; a dark one is brightened."""
    brightest = np.percentile(image, 99.7)
    if brightest < DARK:
        image = np.minimum(255, image * (BRIGHT / max(1.0, brightest))).astype(np.uint8)
    picture = Image.fromarray(image)
    return picture.resize(_size(image), Image.Resampling.LANCZOS)


def objects_picture(image: np.ndarray, label_map: np.ndarray) -> Image.Image:
    """The image in grey, with every object of the label map outlined and in a colour unlike its neighbours'."""
    ids, label_map = np.unique(label_map, return_inverse=True)
    if ids[0] != 0:
        label_map = label_map + 1
    return _painted(image, label_map, colors_of(label_map))


def colors_of(label_map: np.ndarray) -> np.ndarray:
    """(N, 3) uint8: the colours of objects 1 to N of a label map."""
    boxes = np.array([region.bbox for region in regionprops(label_map)], np.float32).reshape(-1, 4)
    return object_colors(boxes[:, [1, 0, 3, 2]])


def boxes_picture(image: np.ndarray, boxes: np.ndarray, colors: np.ndarray) -> Image.Image:
    """The image, paled, under boxes (P, 4) in colours (P, 3), the first in front."""
    picture = Image.blend(image_picture(image), Image.new("RGB", _size(image), BACKGROUND), 0.25)
    draw = ImageDraw.Draw(picture)
    for box, color in reversed(list(zip((ENLARGED * boxes).tolist(), colors.tolist(), strict=True))):
        draw.rectangle(box, outline=tuple(color), width=LINE)
    return picture


def region_picture(image: np.ndarray, box: np.ndarray) -> Image.Image:
    """The part of the image inside a box (4,), stretched to a square, as RoIAlign samples it."""
    picture, (x1, y1, x2, y2) = image_picture(image), (ENLARGED * box).tolist()
    return picture.resize(picture.size, Image.Resampling.BICUBIC, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def mask_picture(image: np.ndarray, mask: np.ndarray, color: np.ndarray) -> Image.Image:
    """Mask probabilities (m, m) as the network gives them: dark for 0, the colour for 1."""
    probability = mask[..., None]
    cells = np.rint(np.array(FOREGROUND) * (1 - probability) + color * probability).astype(np.uint8)
    return Image.fromarray(cells).resize(_size(image), Image.Resampling.NEAREST)


def object_picture(image: np.ndarray, bitmask: np.ndarray, color: np.ndarray) -> Image.Image:
    """The image with one object, whose pixels (H, W) bool have the colour (3,)."""
    return _painted(image, bitmask.astype(int), color[None])


def _painted(image: np.ndarray, label_map: np.ndarray, colors: np.ndarray) -> Image.Image:
    """The image in grey under a map (H, W) of objects 1 to N in colours (N, 3)."""
    numbers = np.asarray(label_map, np.int64).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    of_id = np.concatenate([np.zeros((1, 3), np.uint8), colors.astype(np.uint8)])
    light = (of_id * 0.35 + 255 * 0.65).astype(np.uint8)
    picture = (
        image_picture(image).convert("L").convert("RGB")
    )  # the colors of a stained image would hide those of masks
    painted = blend(picture, Image.fromarray(of_id[numbers]), OPACITY)
    painted.paste(Image.fromarray(light[numbers]), mask=Image.fromarray(borders(numbers, LINE) * np.uint8(230)))
    return Image.composite(painted, picture, Image.fromarray((numbers > 0) * np.uint8(255)))


def _size(image: np.ndarray) -> tuple[int, int]:
    return ENLARGED * image.shape[1], ENLARGED * image.shape[0]
