"""Pictures of a scene, its regions and its objects, and of the steps that lead to one object.

N objects, P boxes; H W pixels of the scene. All are enlarged; boxes (x1, y1, x2, y2) are in the scene's own pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from upscore.colormaps import class_colors
from upscore.lettering import INK, PAPER, font
from upscore.rendering import overlay
from upscore.report.touching import regions
from upscore.results import InstanceResult

ENLARGED = 4
"""Times a scene is enlarged in the page, so that its pixels stay sharp."""

OPACITY = 0.75

SPECK = 20
"""Regions of fewer pixels have no name written on them."""

LETTERS = 18
"""Size of names, in pixels of the picture."""


class Name(NamedTuple):
    """What is written on a picture, and the pixel of the scene that it is centred on."""

    text: str
    x: float
    y: float


def scene_picture(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 -> the scene."""
    photo = Image.fromarray(image.permute(1, 2, 0).numpy())
    return photo.resize((ENLARGED * photo.width, ENLARGED * photo.height), Image.Resampling.LANCZOS)


def classes_picture(image: Tensor, class_map: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """The scene under its class map (H, W), whose class 0 is the background; each region has its class's name."""
    numbers = regions(class_map)
    named = np.flatnonzero(np.bincount(numbers[numbers > 0], minlength=1) >= SPECK).tolist()
    names = [Name(classes[int(class_map[numbers == number][0])], *_middle(numbers == number)) for number in named]
    return _named(_tinted(image, class_map, len(classes) - 1), names)


def objects_picture(image: Tensor, instances: InstanceResult, classes: Sequence[str]) -> Image.Image:
    """The scene with each object in a colour of its own, under its name and number."""
    label_map = instances.label_map()
    names = [
        Name(text, *_middle(label_map == number))
        for number, text in enumerate(object_names(instances, classes), start=1)
        if (label_map == number).any()
    ]
    return _named(_tinted(image, label_map, len(instances)), names)


def object_names(instances: InstanceResult, classes: Sequence[str]) -> list[str]:
    """ "disk #1", "disk #2", "star #1", in the order of the objects."""
    counts: Counter[int] = Counter()
    names = []
    for label in instances.labels.tolist():
        counts[label] += 1
        names.append(f"{classes[label]} #{counts[label]}")
    return names


def boxes_picture(image: Tensor, boxes: np.ndarray, colors: np.ndarray) -> Image.Image:
    """The scene, paled, under boxes (P, 4) in colours (P, 3), the first on top."""
    picture = Image.blend(scene_picture(image), Image.new("RGB", _size(image), PAPER), 0.35)
    draw = ImageDraw.Draw(picture)
    for box, color in reversed(list(zip(boxes.tolist(), colors.tolist(), strict=True))):
        draw.rectangle([ENLARGED * side for side in box], outline=tuple(color), width=3)
    return picture


def region_picture(image: Tensor, box: np.ndarray) -> Image.Image:
    """The scene's part inside a box (4,), stretched to a square as the network sees it."""
    photo, (x1, y1, x2, y2) = scene_picture(image), (ENLARGED * box).tolist()
    return photo.resize(photo.size, Image.Resampling.BICUBIC, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def mask_picture(image: Tensor, mask: np.ndarray, color: np.ndarray) -> Image.Image:
    """A mask in RoI form (m, m), 0 to 1, from night to a colour."""
    probability = mask[..., None]
    cells = np.rint(np.array(INK) * (1 - probability) + color * probability).astype(np.uint8)
    return Image.fromarray(cells).resize(_size(image), Image.Resampling.NEAREST)


def object_picture(image: Tensor, instances: InstanceResult, position: int) -> Image.Image:
    """The scene with one of its objects, in its colour."""
    alone = instances[position].bitmask * (position + 1)
    return _tinted(image, alone, len(instances))


def object_colors(count: int) -> np.ndarray:
    """(N, 3) uint8, as `objects_picture` has them."""
    return class_colors(count + 1)[1:]


def _tinted(image: Tensor, numbers: np.ndarray, count: int) -> Image.Image:
    """The scene under a map (H, W) of numbers from 1 to `count`, 0 for none."""
    enlarged = numbers.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    names = ["background", *map(str, range(1, count + 1))]
    return overlay(np.asarray(scene_picture(image)), enlarged, names, opacity=OPACITY, legend=False)


def _named(picture: Image.Image, names: Sequence[Name]) -> Image.Image:
    """The picture with names on it, each on a small plate that stays inside."""
    draw, face, high = ImageDraw.Draw(picture), font(LETTERS, ""), 1.35 * LETTERS
    for text, x, y in names:
        wide = face.getlength(text) + 0.7 * LETTERS
        left = min(max(0, ENLARGED * x - wide / 2), picture.width - wide)
        top = min(max(0, ENLARGED * y - high / 2), picture.height - high)
        draw.rounded_rectangle((left, top, left + wide, top + high), 4, fill=INK)
        draw.text((left + wide / 2, top + high / 2), text, PAPER, face, anchor="mm")
    return picture


def _middle(region: np.ndarray) -> tuple[float, float]:
    """(x, y) of the region's pixel that is nearest to the mean of all."""
    y, x = region.nonzero()
    nearest = np.hypot(y - y.mean(), x - x.mean()).argmin()
    return float(x[nearest]), float(y[nearest])


def _size(image: Tensor) -> tuple[int, int]:
    return ENLARGED * image.shape[-1], ENLARGED * image.shape[-2]
