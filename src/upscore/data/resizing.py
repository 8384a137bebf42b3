"""Crop and resize samples: image, labels, depth and objects together.

L layers of objects, D channels of depth, H W pixels. Labels are resized by nearest neighbour, so no new label
values appear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.labels import VOID


def resize_longest(sample: Sample, max_side: int) -> Sample:
    """Reduce a sample whose longer side exceeds `max_side` pixels; with 0, return it unchanged.

    Raises:
        UserError: a negative `max_side`.
    """
    if max_side < 0:
        raise UserError(f"max_side={max_side}: give the longest side in pixels, or 0 to leave images as they are.")
    height, width = sample.image.shape[-2:]
    return resize_to(sample, longest_size(height, width, max_side))


def longest_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Return the (height, width) that `resize_longest` gives an image."""
    longest = max(height, width)
    if max_side == 0 or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def resize_to(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize a sample to (height, width), the image with antialiasing.

    Raises:
        UserError: a side of less than 1 pixel.
    """
    if min(size) < 1:
        raise UserError(f"size={size}: give a height and a width of at least 1 pixel.")
    height, width = sample.image.shape[-2:]
    if (height, width) == size:
        return sample
    rows, columns = AxisCrop(start=0, length=height, size=size[0]), AxisCrop(start=0, length=width, size=size[1])
    return replace(crop_labels(sample, rows, columns), image=crop_image(sample.image, rows, columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisCrop:
    """Crop and resize along one axis: `length` pixels from `start` on become `size` pixels."""

    start: int
    length: int
    size: int

    def nearest(self) -> Tensor:
        """Return the index of the old pixel nearest to each new pixel, (size,) int64, in exact integer arithmetic."""
        return self.start + (2 * torch.arange(self.size) + 1) * self.length // (2 * self.size)


def axis_crop(side: int, factor: float, crop: int | None, place: float) -> AxisCrop:
    """Return the crop and the resizing of an axis for a random crop of an image that is scaled by `factor`.

    Args:
        side: length of the axis in pixels.
        factor: scale.
        crop: length of the result in pixels; None: the whole axis. A shorter axis is not cropped.
        place: relative position of the crop, in [0, 1).
    """
    if crop is None:
        return AxisCrop(start=0, length=side, size=max(1, round(side * factor)))
    length = max(1, round(crop / factor))
    if length > side:
        return AxisCrop(start=0, length=side, size=min(crop, max(1, round(side * factor))))
    return AxisCrop(start=int(place * (side - length + 1)), length=length, size=crop)


def crop_image(image: Tensor, rows: AxisCrop, columns: AxisCrop) -> Tensor:
    """Crop and resize an image: uint8 with antialiasing, float without.

    Images are float if the resize rule of the network is torchvision's; see `upscore.models.mask_rcnn.resizing`.

    Pixel centres are at +0.5, also for labels. (torch's mode "nearest", and so the resizing of a `Mask` in
    torchvision.transforms.v2, shifts labels by up to half a pixel against the image.)
    """
    image = image.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    if image.shape[-2:] == (rows.size, columns.size):
        return image
    if image.is_floating_point():
        return interpolate(image[None], size=(rows.size, columns.size), mode="bilinear", align_corners=False)[0]
    if columns.size > 1:
        return interpolate(image[None], size=(rows.size, columns.size), mode="bilinear", antialias=True)[0]
    # torch's antialiasing fails or returns wrong pixels for a result of a single column; Pillow's is correct
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((1, rows.size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def crop_labels(
    sample: Sample, rows: AxisCrop, columns: AxisCrop, *, mirror: bool = False, canvas: tuple[int, int] | None = None
) -> Sample:
    """Crop, resize, mirror and pad the labels and the depth of a sample; the image stays the same.

    The objects are transformed in one step, because their boxes and areas are measured again after each step.

    Args:
        sample: the sample.
        rows: crop and resizing of the vertical axis.
        columns: crop and resizing of the horizontal axis.
        mirror: whether to flip horizontally, after resizing.
        canvas: (height, width) to pad to, at the bottom and the right; None: no padding.
    """
    down, across = rows.nearest(), columns.nearest()
    index = down[:, None], (across.flip(0) if mirror else across)[None, :]

    def move(labels: Tensor, fill: int) -> Tensor:
        labels = labels[..., *index]
        return labels if canvas is None else pad_labels(labels, canvas, fill)

    depth = None if sample.depth is None else _crop_depth(sample.depth, rows, columns)
    if depth is not None:
        depth = depth.flip(-1) if mirror else depth
        depth = depth if canvas is None else pad_labels(depth, canvas, torch.nan)
    return replace(
        sample,
        class_map=None if sample.class_map is None else move(sample.class_map, VOID),
        geometric_map=None if sample.geometric_map is None else move(sample.geometric_map, VOID),
        depth=depth,
        objects=None if sample.objects is None else sample.objects.transformed(partial(move, fill=0)),
    )


def _crop_depth(depth: Tensor, rows: AxisCrop, columns: AxisCrop) -> Tensor:
    """Crop and resize depth, ignoring unknown pixels; a new pixel is unknown if most of its weight is unknown."""
    depth = depth.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    size = rows.size, columns.size
    if depth.shape[-2:] == size:
        return depth
    antialias = columns.size > 1  # torch's antialiasing fails for a single column
    known = depth.isfinite()
    both = torch.stack([depth.where(known, 0), known.to(depth.dtype)])
    values, weights = interpolate(both, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return torch.where(weights > 0.5, values / weights, torch.nan)


def pad_labels(labels: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Pad labels (..., H, W) with `fill` at the bottom and the right to a (height, width) that is not smaller."""
    height, width = labels.shape[-2:]
    return pad(labels, (0, size[1] - width, 0, size[0] - height), value=fill)
