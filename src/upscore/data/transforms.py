"""Data augmentation and batching of samples; image and labels are transformed together.

N images, L layers of objects, D channels of depth, H W pixels. Labels are resized by nearest neighbour, so no new label
values appear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from upscore.annotations import ObjectAnnotations
from upscore.data.resizing import AxisCrop, axis_crop, crop_image, crop_labels, pad_labels
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.labels import VOID

FILL = (124, 116, 104)
"""RGB of padding: the mean of ImageNet, which becomes about zero after normalization."""

MAX_SCALE = 4.0
"""Largest scale factor."""

CELL = 32
"""Side of a cell of `keep_patches` in pixels, the output stride of FCN-32s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random scale, crop, horizontal flip and colour jitter, in this order, then padding; each is off by default.

    Raises:
        UserError: a value is out of its range.
    """

    scale: tuple[float, float] | None = None
    """Smallest and largest scale factor, above 0 and up to 4; the factor is log-uniform between them."""
    crop: tuple[int, int] | None = None
    """Height and width of the random crop; a smaller image is padded at the bottom and the right."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    colour: float = 0.0
    """Strength of the colour jitter, 0 to 1: brightness, contrast and saturation change by up to this share, hue by up
    to this share of an eighth of the colour circle."""
    min_visible: float = 0.0
    """Objects with a smaller share of their pixels inside the crop, 0 to 1, are removed from the objects."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= MAX_SCALE:
            raise UserError(
                f"scale={self.scale}: give two factors in ascending order, above 0 and up to {MAX_SCALE:g}."
            )
        if self.crop is not None and min(self.crop) < 1:
            raise UserError(f"crop={self.crop}: give a height and a width of at least 1 pixel.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip={self.flip}: give a probability from 0 to 1.")
        if not 0 <= self.colour <= 1:
            raise UserError(f"colour={self.colour}: give a strength from 0 to 1.")
        if not 0 <= self.min_visible <= 1:
            raise UserError(f"min_visible={self.min_visible}: give a share from 0 to 1.")

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Return the augmented sample; the result depends only on the sample, the options and `seed`.

        All random numbers are drawn even if an option is off, so that an option does not change the draws of the
        others. If nothing changes, the image of the result may be the tensor of the sample.
        """
        generator = torch.Generator().manual_seed(seed)
        zoom, top, left, mirror, *jitter = torch.rand(8, dtype=torch.float64, generator=generator).tolist()
        factor = 1.0 if self.scale is None else self.scale[0] * (self.scale[1] / self.scale[0]) ** zoom
        height, width = self.crop or (None, None)
        rows = axis_crop(sample.image.shape[-2], factor, height, top)
        columns = axis_crop(sample.image.shape[-1], factor, width, left)
        image = crop_image(sample.image, rows, columns)
        if mirror < self.flip:
            image = image.flip(-1)
        if self.colour > 0:
            image = _jitter_colours(image, self.colour, jitter)
        moved = crop_labels(sample, rows, columns, mirror=mirror < self.flip, canvas=self.crop)
        if self.min_visible > 0 and sample.objects is not None and moved.objects is not None:
            shares = _visible_shares(sample.objects, rows, columns)
            moved.objects = moved.objects[shares[moved.objects.ids] >= self.min_visible]
        moved.image = image if self.crop is None else _pad(image, self.crop)
        return moved


PAPER = Augmentation()
"""No augmentation: flips and jitter gave no noticeable improvement in the paper (FCN section 4.3)."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """A batch of samples, padded at the bottom and the right to a common size."""

    images: Tensor
    """(N, 3, H, W) uint8, RGB; or float32, 0 to 255, see `upscore.models.mask_rcnn.resizing.Resizing.pixels`."""
    class_maps: Tensor | None
    """(N, H, W) uint8, class indices or `VOID`; None if no sample has a class map."""
    geometric_maps: Tensor | None = None
    """(N, H, W) uint8, class indices of the second set of classes, or `VOID`; None if no sample has them."""
    depth: Tensor | None = None
    """(N, D, H, W) float32, NaN where unknown; None if no sample has depth."""
    objects: list[ObjectAnnotations] | None = None
    """The objects of each image, at its size before padding; None if no sample has objects."""
    names: list[str]
    """The names of the N samples."""
    sizes: list[tuple[int, int]]
    """(height, width) of each image before padding."""


def collate(samples: list[Sample]) -> Batch:
    """Stack one or more samples into a batch.

    Label maps are padded with void and depth with NaN. If only some samples have labels, those of the others are void.
    """
    sizes = [(sample.image.shape[-2], sample.image.shape[-1]) for sample in samples]
    common = max(height for height, _ in sizes), max(width for _, width in sizes)
    objects = [
        ObjectAnnotations.from_id_map(torch.zeros(size, dtype=torch.int32))
        if sample.objects is None
        else sample.objects
        for sample, size in zip(samples, sizes, strict=True)
    ]
    return Batch(
        images=torch.stack([_pad(sample.image, common) for sample in samples]),
        class_maps=_stack([sample.class_map for sample in samples], common, VOID),
        geometric_maps=_stack([sample.geometric_map for sample in samples], common, VOID),
        depth=_stack([sample.depth for sample in samples], common, torch.nan),
        objects=objects if any(sample.objects is not None for sample in samples) else None,
        names=[sample.name for sample in samples],
        sizes=sizes,
    )


def extend(batch: Batch, size: tuple[int, int]) -> Batch:
    """Pad a batch, as `collate` does, to a (height, width) that is not smaller."""
    if tuple(batch.images.shape[-2:]) == size:
        return batch
    maps = {name: getattr(batch, name) for name in ("class_maps", "geometric_maps")}
    return replace(
        batch,
        images=_pad(batch.images, size),
        depth=None if batch.depth is None else pad_labels(batch.depth, size, torch.nan),
        **{name: None if values is None else pad_labels(values, size, VOID) for name, values in maps.items()},
    )


def _stack(maps: list[Tensor | None], size: tuple[int, int], fill: float) -> Tensor | None:
    """Pad maps (..., H, W) with `fill` and stack them as (N, ..., H, W); a missing map is filled; None without maps."""
    known = next((values for values in maps if values is not None), None)
    if known is None:
        return None
    empty = known.new_full((*known.shape[:-2], *size), fill)
    return torch.stack([empty if values is None else pad_labels(values, size, fill) for values in maps])


def _visible_shares(objects: ObjectAnnotations, rows: AxisCrop, columns: AxisCrop) -> Tensor:
    """Return the share of the pixels of each object inside the rows and columns, by object number."""
    cut = objects.id_map.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    whole = torch.bincount(objects.id_map.flatten())
    return torch.bincount(cut.flatten(), minlength=len(whole)) / whole


def _pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad an image at the bottom and the right to a (height, width) that is not smaller."""
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    return F.pad(image, [0, 0, size[1] - width, size[0] - height], fill=list(FILL))


def _jitter_colours(image: Tensor, strength: float, jitter: list[float]) -> Tensor:
    """Change brightness, contrast about the mean grey, saturation and hue by four random numbers in [0, 1)."""
    brightness, contrast, saturation, hue = (strength * (2 * draw - 1) for draw in jitter)
    # torchvision's contrast sums floats in an order that depends on the number of threads; an integer sum is exact.
    grey = F.rgb_to_grayscale(image.round().to(torch.uint8) if image.is_floating_point() else image)
    mean = grey.sum().item() / grey.numel()
    pixels = (image - mean) * ((1 + contrast) * (1 + brightness)) + mean * (1 + brightness)
    if image.is_floating_point():  # torchvision expects floats from 0 to 1
        shifted = F.adjust_hue(F.adjust_saturation(pixels.clamp(0, 255) / 255, 1 + saturation), hue / 8)
        return shifted * 255
    image = pixels.round().clamp(0, 255).to(torch.uint8)
    return F.adjust_hue(F.adjust_saturation(image, 1 + saturation), hue / 8)


def keep_patches(sample: Sample, share: float, seed: int) -> Sample:
    """Set the labels of randomly chosen cells to void.

    Args:
        sample: the sample; without a class map it is returned unchanged.
        share: probability with which a cell of `CELL` x `CELL` pixels keeps its labels, 0 to 1.
        seed: seed of the choice.
    """
    if share == 1 or sample.class_map is None:
        return sample
    height, width = sample.class_map.shape
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(-(-height // CELL), -(-width // CELL), generator=generator) < share
    pixels = kept.repeat_interleave(CELL, 0)[:height].repeat_interleave(CELL, 1)[:, :width]
    geometric_map = sample.geometric_map
    return replace(
        sample,
        class_map=sample.class_map.masked_fill(~pixels, VOID),
        geometric_map=None if geometric_map is None else geometric_map.masked_fill(~pixels, VOID),
    )
