"""What happens to a sample between its reader and the network; image and labels always move together.

N images, H W pixels. Labels are nearest neighbours throughout, so no label appears that was not there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from upscore.errors import UserError
from upscore.labels import VOID
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
        sample = _resample(sample, rows, columns)
        if mirror < self.flip:
            sample = _mirrored(sample)
        if self.colour > 0:
            sample = replace(sample, image=_recoloured(sample.image, self.colour, jitter))
        return sample if self.crop is None else _padded(sample, self.crop)


PAPER = Augmentation()
"""Nothing at all: mirroring and jitter gave no noticeable improvement (FCN section 4.3)."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Samples of one size, or padded to it at the bottom and the right."""

    images: Tensor
    """(N, 3, H, W) uint8, RGB."""
    class_maps: Tensor | None
    """(N, H, W) uint8, a class index or `VOID`; None if no sample is labelled."""
    names: list[str]
    """The N samples' names."""
    sizes: list[tuple[int, int]]
    """(height, width) of each image before padding."""


def collate(samples: list[Sample]) -> Batch:
    """Stack at least one sample; padding, and a sample without labels among labelled ones, is void."""
    sizes = [(sample.image.shape[-2], sample.image.shape[-1]) for sample in samples]
    common = max(height for height, _ in sizes), max(width for _, width in sizes)
    padded = [_padded(sample, common) for sample in samples]
    void = torch.full(common, VOID, dtype=torch.uint8)
    class_maps = [void if sample.class_map is None else sample.class_map for sample in padded]
    return Batch(
        images=torch.stack([sample.image for sample in padded]),
        class_maps=torch.stack(class_maps) if any(sample.class_map is not None for sample in samples) else None,
        names=[sample.name for sample in samples],
        sizes=sizes,
    )


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
    rows = _Piece(start=0, length=height, size=max(1, round(height * max_side / longest)))
    columns = _Piece(start=0, length=width, size=max(1, round(width * max_side / longest)))
    return _resample(sample, rows, columns)


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


def _resample(sample: Sample, rows: _Piece, columns: _Piece) -> Sample:
    """Cut out the rows and columns and resize them, the image with antialiasing.

    Both take pixels as squares with their centres at +0.5 (torch's mode "nearest", and so v2's resizing of a `Mask`,
    does not: its labels lie up to half a pixel off the image).
    """
    image = sample.image.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)
    if image.shape[-2:] != (rows.size, columns.size):
        image = _resized(image, rows.size, columns.size)
    index = rows.nearest()[:, None], columns.nearest()[None, :]
    return replace(
        sample,
        image=image,
        class_map=None if sample.class_map is None else sample.class_map[index],
        instance_map=None if sample.instance_map is None else sample.instance_map[index],
    )


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    if width > 1:
        return F.resize(image, [height, width], antialias=True)
    # torch's antialiasing fails, or returns wrong pixels, where the result is a single column; Pillow's does not.
    return F.pil_to_tensor(F.resize(F.to_pil_image(image), [height, width]))


def _padded(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample in the top left corner of a canvas of at least its size."""
    height, width = sample.image.shape[-2:]
    if (height, width) == size:
        return sample
    margins = [0, 0, size[1] - width, size[0] - height]
    return replace(
        sample,
        image=F.pad(sample.image, margins, fill=list(FILL)),
        class_map=None if sample.class_map is None else F.pad(sample.class_map[None], margins, fill=VOID)[0],
        instance_map=None if sample.instance_map is None else F.pad(sample.instance_map[None], margins, fill=0)[0],
    )


def _mirrored(sample: Sample) -> Sample:
    return replace(
        sample,
        image=sample.image.flip(-1),
        class_map=None if sample.class_map is None else sample.class_map.flip(-1),
        instance_map=None if sample.instance_map is None else sample.instance_map.flip(-1),
    )


def _recoloured(image: Tensor, strength: float, jitter: list[float]) -> Tensor:
    """Brightness, contrast about the mean grey, saturation and hue by four draws from [0, 1)."""
    brightness, contrast, saturation, hue = (strength * (2 * draw - 1) for draw in jitter)
    # v2's contrast sums in float32, in an order that depends on the number of threads; integers have no such order.
    grey = F.rgb_to_grayscale(image)
    mean = grey.sum().item() / grey.numel()
    pixels = (image - mean) * ((1 + contrast) * (1 + brightness)) + mean * (1 + brightness)
    image = pixels.round().clamp(0, 255).to(torch.uint8)
    return F.adjust_hue(F.adjust_saturation(image, 1 + saturation), hue / 8)
