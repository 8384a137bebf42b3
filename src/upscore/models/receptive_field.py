"""Receptive fields: the pixels that the cells of feature maps and the classes of pixels depend on.

Along each axis, cell i of a map with stride s depends on `size` pixels, the first of which is s * i + start. The fields
of a sequence of layers are computed from their kernels. Those of other backbones are measured by running them on images
with NaN: a cell that depends on a NaN is NaN itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.models.backbones.base import SequentialBackbone
from upscore.models.coordinate_maps import layer_window
from upscore.models.fcn.fcn import FCN, FCNHead
from upscore.models.fcn.inference_parts import heads
from upscore.models.fcn.upsampling import Upsample
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

Maps = Callable[[Tensor], Mapping[int, Tensor]]
"""Images -> {stride: map}."""

MIN_PROBE, MAX_PROBE = 512, 8192
"""Minimum and maximum side of the probe image in pixels; larger fields are reported as covering the whole image."""

TOLERANCE = 1e-3
"""Maximum change of cells under a shift of the image by the grid, relative to the largest absolute value."""


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Receptive field of the cells of a map along one axis."""

    stride: int
    """Distance of neighbouring cells in pixels."""
    start: int
    """First pixel of the field of cell 0; negative if the field includes padding."""
    size: int
    """Size of the field in pixels."""

    @property
    def stop(self) -> int:
        """The pixel after the field of cell 0."""
        return self.start + self.size


def sequential_fields(backbone: SequentialBackbone) -> dict[int, ReceptiveField]:
    """Compute the fields of the maps of a `SequentialBackbone` from kernels, strides and paddings of its layers."""
    strides = {tap: stride for stride, tap in backbone.taps.items()}
    fields, jump, start, size = {}, 1, 0, 1
    for name, layer in backbone.named_children():
        kernel, stride, padding = layer_window(layer)
        start -= padding * jump
        size += (kernel - 1) * jump
        jump *= stride
        if name in strides:
            fields[strides[name]] = ReceptiveField(jump, start, size)
    return fields


def probed_fields(run: Maps, channels: int, multiple: int) -> dict[int, tuple[ReceptiveField, ReceptiveField]]:
    """Measure the fields of the maps of any backbone along rows and columns.

    Args:
        run: the backbone in evaluation mode, images (N, channels, H, W) -> {stride: map}.
        channels: number of input channels.
        multiple: number that divides the sides of input images.

    Raises:
        UserError: cells depend on the whole image (squeeze-and-excitation, attention), or the network is not invariant
            to shifts of the image.
    """

    def transposed(images: Tensor) -> dict[int, Tensor]:
        return {stride: cells.transpose(2, 3) for stride, cells in run(images.transpose(2, 3)).items()}

    rows, columns = (_probed_axis(axis, channels, multiple) for axis in (run, transposed))
    return {stride: (rows[stride], columns[stride]) for stride in rows}


@torch.inference_mode()
def _probed_axis(run: Maps, channels: int, multiple: int) -> dict[int, ReceptiveField]:
    """Measure the fields along rows with images that are NaN above and below a clean part.

    A cell is finite if its field lies within the clean part. While the clean part is shifted down by up to a stride,
    the first and the last finite cell each change once; the shifts at which they do give the ends of the field.
    """
    noise = torch.randn(1, channels, MAX_PROBE, multiple, generator=torch.Generator().manual_seed(0))
    length = MIN_PROBE
    while not (clean := _clean_cells(run, noise[:, :, :length], slice(multiple, length - 2 * multiple))):
        length *= 2
        if length > MAX_PROBE:
            raise UserError(
                "tiles can't give the result of the whole image, on all of which the network's feature maps depend "
                f"(squeeze-and-excitation, attention, or a field of more than {MAX_PROBE} pixels): use a backbone of "
                "convolutions such as efficientnet_lite0"
            )
    image, grid = noise[:, :, :length], math.lcm(multiple, *clean)
    top, bottom = grid, length - 2 * grid
    clean_cells = cache(lambda shift: _clean_cells(run, image, slice(top + shift, bottom + shift)))

    def changing_shift(stride: int, end: int) -> int:
        """Return the shift at which the first (`end` 0) or the last (`end` 1) clean cell changes."""

        def changed(shift: int) -> bool:
            return clean_cells(shift)[stride][end] > clean_cells(0)[stride][end]

        return 1 + bisect_left(range(1, stride), True, key=changed)

    fields = {}
    for stride, (first, last) in clean_cells(0).items():
        start = top + changing_shift(stride, 0) - 1 - stride * first
        stop = bottom + changing_shift(stride, 1) - stride * (last + 1)
        fields[stride] = ReceptiveField(stride, start, stop - start)
    _require_shift_invariance(run, image, fields, grid)
    return fields


def _clean_cells(run: Maps, noise: Tensor, rows: slice) -> dict[int, tuple[int, int]]:
    """Return stride -> first and last cell around the middle that depend on these rows only; {} if a map has none."""
    image = torch.full_like(noise, math.nan)
    image[:, :, rows] = noise[:, :, rows]
    clean = {}
    for stride, cells in run(image).items():
        dirty = cells.isnan().flatten(0, 1).any(0).any(1).nonzero()[:, 0]
        middle = cells.shape[2] // 2
        before, after = dirty[dirty <= middle], dirty[dirty >= middle]
        if not len(before) or not len(after) or before[-1] == middle:
            return {}
        clean[stride] = int(before[-1]) + 1, int(after[0]) - 1
    return clean


def _require_shift_invariance(run: Maps, image: Tensor, fields: Mapping[int, ReceptiveField], grid: int) -> None:
    """Raise `UserError` unless maps shift with the image; those of window attention or position embeddings do not."""
    whole, shifted = run(image), run(image[:, :, grid:])
    for stride, field in fields.items():
        first = -(field.start // stride)
        last = (image.shape[2] - grid - field.stop) // stride
        expected = whole[stride][:, :, first + grid // stride : last + 1 + grid // stride]
        actual = shifted[stride][:, :, first : last + 1]
        if (expected - actual).abs().max() > TOLERANCE * expected.abs().max():
            raise UserError(
                "tiles can't give the result of the whole image, because the feature maps change if the image "
                f"is shifted by {grid} pixels (window attention or position embeddings): use a convolutional backbone "
                "such as efficientnet_lite0"
            )


@dataclass(frozen=True, slots=True)
class Extent:
    """Extent of the receptive field of a pixel's class along one axis."""

    before: int
    """Maximum distance of a pixel of the field before the pixel."""
    after: int
    """Maximum distance of a pixel of the field after the pixel."""
    halo: int
    """Width of the halo that a tile on the grid needs, a multiple of the grid, in pixels."""

    @property
    def size(self) -> int:
        """Maximum size of the field in pixels."""
        return self.before + 1 + self.after


@dataclass(frozen=True, slots=True)
class ReceptiveFields:
    """Receptive fields of a network's feature maps and of the classes of pixels."""

    grid: int
    """Feature maps are invariant to shifts of the image by multiples of this number of pixels."""
    maps: dict[int, tuple[ReceptiveField, ReceptiveField]]
    """Stride -> fields of the map's cells along rows (downwards) and along columns (to the right)."""
    rows: Extent | None
    """Extent of the field of a pixel's class along rows (downwards); None for instance segmentation."""
    columns: Extent | None
    """As `rows`, along columns (to the right)."""

    @property
    def halo(self) -> int:
        """Halo for both axes, in pixels; 0 for instance segmentation."""
        return max((extent.halo for extent in (self.rows, self.columns) if extent is not None), default=0)


def receptive_field(net: FCN | MaskRCNN) -> ReceptiveFields:
    """Return the receptive fields of a network's feature maps and, for an FCN, of the classes of pixels.

    For a Mask R-CNN the fields are those of the backbone's maps, without the feature pyramid.

    Raises:
        UserError: feature maps depend on the whole image (squeeze-and-excitation, attention), or are not invariant to
            shifts of the image.
    """
    if isinstance(net, FCN) and isinstance(net.backbone, SequentialBackbone):
        return _pixel_fields(net, {stride: (field, field) for stride, field in sequential_fields(net.backbone).items()})
    depth = net.backbone.depth_preprocessing
    channels = 3 + (0 if depth is None else len(depth.mean))
    with evaluation_mode(net):
        maps = probed_fields(net.backbone, channels, net.backbone.multiple)
    if isinstance(net, FCN):
        return _pixel_fields(net, maps)
    return ReceptiveFields(math.lcm(net.backbone.multiple, *maps), maps, None, None)


def _pixel_fields(net: FCN, maps: dict[int, tuple[ReceptiveField, ReceptiveField]]) -> ReceptiveFields:
    """Return the fields of an FCN, given those of its backbone's maps."""
    grid = math.lcm(net.backbone.multiple, *maps)
    rows, columns = ({stride: fields[axis] for stride, fields in maps.items()} for axis in (0, 1))
    return ReceptiveFields(grid, maps, _extent(heads(net), rows, grid), _extent(heads(net), columns, grid))


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode, and restore the mode of each of its modules afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _extent(fcn_heads: list[FCNHead], fields: Mapping[int, ReceptiveField], grid: int) -> Extent:
    """Return the maximum extent over one period of pixels, of an image without borders."""
    before, after, outside = 0, 0, 0
    for pixel in range(grid):
        spans = [pixel_span(head, fields, pixel) for head in fcn_heads]
        first, last = min(first for first, _ in spans), max(last for _, last in spans)
        before, after = max(before, pixel - first), max(after, last - pixel)
        outside = max(outside, -first, last - (grid - 1))
    return Extent(before, after, -(-outside // grid) * grid)


def pixel_span(head: FCNHead, fields: Mapping[int, ReceptiveField], pixel: int) -> tuple[int, int]:
    """Return the first and the last pixel that the scores of a pixel depend on, in an image without borders."""
    cells = _coarse_span(head, 1, (pixel, pixel))
    firsts, lasts = [], []
    for stride in reversed(head.strides):
        crop = max(0, head.offsets.get(stride, 0))
        field = fields[stride]
        firsts.append(stride * (cells[0] + crop) + field.start)
        lasts.append(stride * (cells[1] + crop) + field.stop - 1)
        if stride != head.strides[0]:
            cells = _coarse_span(head, stride, cells)
    return min(firsts), max(lasts)


def _coarse_span(head: FCNHead, stride: int, span: tuple[int, int]) -> tuple[int, int]:
    """Return the first and the last coarse cell from which a span of finer cells or pixels is upsampled."""
    layer = head.upscore[str(stride)]
    assert isinstance(layer, Upsample)
    first, last = (position + max(0, -head.offsets[stride]) for position in span)
    return -((layer.kernel_size - 1 - first) // layer.stride) - layer.border, last // layer.stride - layer.border
