"""What happens to a sample between its reader and the network; image and labels always move together.

N images, L layers of objects, D channels of depth, H W pixels. Labels are nearest neighbours throughout, so no label
appears that was not there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.transforms.v2 import functional as F

from upscore.errors import UserError
from upscore.labels import VOID
from upscore.objects import Objects
from upscore.structures import Sample

FILL = (124, 116, 104)
"""RGB of padding: the mean of ImageNet, which preprocessing takes to about zero."""

MAX_SCALE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random scale, crop, mirror and colour, in this order, then padding; each is off by default.

    Raises:
        UserError: a value out of its range.
    """

    scale: tuple[float, float] | None = None
    """Smallest and largest factor of size; log-uniform between them, up to 4."""
    crop: tuple[int, int] | None = None
    """Height and width of a piece cut at a random place; a smaller image is padded at the bottom and the right."""
    flip: float = 0.0
    """The probability of a horizontal mirror."""
    colour: float = 0.0
    """Strength, 0 to 1: brightness, contrast and saturation change by up to this share, hue by an eighth of the circle
    times this."""
    min_visible: float = 0.0
    """Objects of whose pixels the crop leaves less than this share, 0 to 1, are no longer among the objects."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= MAX_SCALE:
            raise UserError(
                f"scale={self.scale}: give two factors in ascending order, above 0 and up to {MAX_SCALE:g}."
            )
        if self.crop is not None and min(self.crop) < 1:
            raise UserError(f"crop={self.crop}: give a height and a width of at least 1 pixel.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip={self.flip}: a probability is from 0 to 1.")
        if not 0 <= self.colour <= 1:
            raise UserError(f"colour={self.colour}: the strength of colour jitter is from 0 to 1.")
        if not 0 <= self.min_visible <= 1:
            raise UserError(f"min_visible={self.min_visible}: a share is from 0 to 1.")

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample as `seed` would have it: the same pixels in any process, with no other source of chance.

        All draws are made whatever is switched on, so that one option leaves the others' choices alone. The image of
        the result may be the sample's own tensor where nothing changed.
        """
        generator = torch.Generator().manual_seed(seed)
        zoom, top, left, mirror, *jitter = torch.rand(8, dtype=torch.float64, generator=generator).tolist()
        factor = 1.0 if self.scale is None else self.scale[0] * (self.scale[1] / self.scale[0]) ** zoom
        height, width = self.crop or (None, None)
        rows = _piece(sample.image.shape[-2], factor, height, top)
        columns = _piece(sample.image.shape[-1], factor, width, left)
        image = _resized(sample.image, rows, columns)
        if mirror < self.flip:
            image = image.flip(-1)
        if self.colour > 0:
            image = _recoloured(image, self.colour, jitter)
        moved = _relabelled(sample, rows, columns, mirror=mirror < self.flip, canvas=self.crop)
        if self.min_visible > 0 and sample.objects is not None and moved.objects is not None:
            shares = _visible_shares(sample.objects, rows, columns)
            moved.objects = moved.objects[shares[moved.objects.numbers] >= self.min_visible]
        moved.image = image if self.crop is None else _padded(image, self.crop)
        return moved


PAPER = Augmentation()
"""Nothing at all: mirroring and jitter gave no noticeable improvement (FCN section 4.3)."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Samples of one size, or padded to it at the bottom and the right."""

    images: Tensor
    """(N, 3, H, W) uint8, RGB."""
    class_maps: Tensor | None
    """(N, H, W) uint8, a class index or `VOID`; None if no sample is labelled."""
    geometric_maps: Tensor | None = None
    """(N, H, W) uint8, as `class_maps`, of the second set of classes."""
    depth: Tensor | None = None
    """(N, D, H, W) float32, NaN where unknown; None if no sample has any."""
    objects: list[Objects] | None = None
    """Of each image, at its size before padding; None if no sample has any labelled."""
    names: list[str]
    """The N samples' names."""
    sizes: list[tuple[int, int]]
    """(height, width) of each image before padding."""


def collate(samples: list[Sample]) -> Batch:
    """Stack at least one sample; padding, and a sample without labels among labelled ones, is void."""
    sizes = [(sample.image.shape[-2], sample.image.shape[-1]) for sample in samples]
    common = max(height for height, _ in sizes), max(width for _, width in sizes)
    objects = [
        Objects.from_id_map(torch.zeros(size, dtype=torch.int32)) if sample.objects is None else sample.objects
        for sample, size in zip(samples, sizes, strict=True)
    ]
    return Batch(
        images=torch.stack([_padded(sample.image, common) for sample in samples]),
        class_maps=_stacked([sample.class_map for sample in samples], common, VOID),
        geometric_maps=_stacked([sample.geometric_map for sample in samples], common, VOID),
        depth=_stacked([sample.depth for sample in samples], common, torch.nan),
        objects=objects if any(sample.objects is not None for sample in samples) else None,
        names=[sample.name for sample in samples],
        sizes=sizes,
    )


def _stacked(maps: list[Tensor | None], size: tuple[int, int], fill: float) -> Tensor | None:
    """Maps (..., H, W) as one tensor (N, ..., H, W); what is missing is `fill`, and so is a map; None without any."""
    known = next((values for values in maps if values is not None), None)
    if known is None:
        return None
    empty = known.new_full((*known.shape[:-2], *size), fill)
    return torch.stack([empty if values is None else _extended(values, size, fill) for values in maps])


def resize_longest(sample: Sample, max_side: int) -> Sample:
    """Reduce a sample whose longer side exceeds `max_side` pixels; 0 leaves every sample alone.

    Raises:
        UserError: a negative `max_side`.
    """
    if max_side < 0:
        raise UserError(f"max_side={max_side}: give the longest side in pixels, or 0 to leave images as they are.")
    height, width = sample.image.shape[-2:]
    longest = max(height, width)
    if max_side == 0 or longest <= max_side:
        return sample
    return resize_to(sample, (max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))))


def resize_to(sample: Sample, size: tuple[int, int]) -> Sample:
    """Bring a sample to a (height, width), the image with antialiasing; of that size already, it is left alone.

    Raises:
        UserError: a side of less than 1 pixel.
    """
    if min(size) < 1:
        raise UserError(f"size={size}: give a height and a width of at least 1 pixel.")
    height, width = sample.image.shape[-2:]
    if (height, width) == size:
        return sample
    rows, columns = _Piece(start=0, length=height, size=size[0]), _Piece(start=0, length=width, size=size[1])
    resized = _relabelled(sample, rows, columns)
    resized.image = _resized(sample.image, rows, columns)
    return resized


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Of one axis: `length` pixels from `start` on become `size` pixels."""

    start: int
    length: int
    size: int

    def nearest(self) -> Tensor:
        """(size,) the pixel whose centre is nearest to each new pixel's; in integers, so without rounding."""
        return self.start + (2 * torch.arange(self.size) + 1) * self.length // (2 * self.size)


def _piece(side: int, factor: float, crop: int | None, place: float) -> _Piece:
    """What of a side's pixels to take so that they become a crop of the side scaled by `factor`; place is in [0, 1)."""
    if crop is None:
        return _Piece(start=0, length=side, size=max(1, round(side * factor)))
    length = max(1, round(crop / factor))
    if length > side:
        return _Piece(start=0, length=side, size=min(crop, max(1, round(side * factor))))
    return _Piece(start=int(place * (side - length + 1)), length=length, size=crop)


def _resized(image: Tensor, rows: _Piece, columns: _Piece) -> Tensor:
    """Cut out the rows and columns and resize them with antialiasing.

    Pixels are squares with their centres at +0.5, for labels too (torch's mode "nearest", and so v2's resizing of a
    `Mask`, has them elsewhere: its labels lie up to half a pixel off the image).
    """
    image = image.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    if image.shape[-2:] == (rows.size, columns.size):
        return image
    if columns.size > 1:
        return F.resize(image, [rows.size, columns.size], antialias=True)
    # torch's antialiasing fails, or returns wrong pixels, where the result is a single column; Pillow's does not.
    return F.pil_to_tensor(F.resize(F.to_pil_image(image), [rows.size, columns.size]))


def _relabelled(
    sample: Sample, rows: _Piece, columns: _Piece, *, mirror: bool = False, canvas: tuple[int, int] | None = None
) -> Sample:
    """The sample with the labels and depth of what was cut out, resized, mirrored and padded; its image is the old one.

    All is done to the objects in one move, as each measures them anew.
    """
    down, across = rows.nearest(), columns.nearest()
    index = down[:, None], (across.flip(0) if mirror else across)[None, :]

    def move(labels: Tensor, fill: int) -> Tensor:
        labels = labels[..., *index]
        return labels if canvas is None else _extended(labels, canvas, fill)

    depth = None if sample.depth is None else _resized_depth(sample.depth, rows, columns)
    if depth is not None:
        depth = depth.flip(-1) if mirror else depth
        depth = depth if canvas is None else _extended(depth, canvas, torch.nan)
    return replace(
        sample,
        class_map=None if sample.class_map is None else move(sample.class_map, VOID),
        geometric_map=None if sample.geometric_map is None else move(sample.geometric_map, VOID),
        depth=depth,
        objects=None if sample.objects is None else sample.objects.moved(partial(move, fill=0)),
    )


def _resized_depth(depth: Tensor, rows: _Piece, columns: _Piece) -> Tensor:
    """As `_resized`, of what is known; a new pixel that is unknown for the most part stays so."""
    depth = depth.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    size = rows.size, columns.size
    if depth.shape[-2:] == size:
        return depth
    antialias = columns.size > 1  # which torch can't for a single column
    known = depth.isfinite()
    both = torch.stack([depth.where(known, 0), known.to(depth.dtype)])
    values, weights = interpolate(both, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return torch.where(weights > 0.5, values / weights, torch.nan)


def _visible_shares(objects: Objects, rows: _Piece, columns: _Piece) -> Tensor:
    """By number: the share of an object's pixels that lies in the rows and columns."""
    cut = objects.id_map.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    whole = torch.bincount(objects.id_map.flatten())
    return torch.bincount(cut.flatten(), minlength=len(whole)) / whole


def _extended(labels: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Labels (..., H, W) in the top left corner of a canvas of at least their size."""
    height, width = labels.shape[-2:]
    return pad(labels, (0, size[1] - width, 0, size[0] - height), value=fill)


def _padded(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image in the top left corner of a canvas of at least its size."""
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    return F.pad(image, [0, 0, size[1] - width, size[0] - height], fill=list(FILL))


def _recoloured(image: Tensor, strength: float, jitter: list[float]) -> Tensor:
    """Brightness, contrast about the mean grey, saturation and hue by four draws from [0, 1)."""
    brightness, contrast, saturation, hue = (strength * (2 * draw - 1) for draw in jitter)
    # v2's contrast sums in float32, in an order that depends on the number of threads; integers have no such order.
    grey = F.rgb_to_grayscale(image)
    mean = grey.sum().item() / grey.numel()
    pixels = (image - mean) * ((1 + contrast) * (1 + brightness)) + mean * (1 + brightness)
    image = pixels.round().clamp(0, 255).to(torch.uint8)
    return F.adjust_hue(F.adjust_saturation(image, 1 + saturation), hue / 8)
