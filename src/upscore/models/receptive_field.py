"""The receptive fields of a backbone's maps: the pixels that each cell of a map depends on.

Cell i of a map with stride s sees the pixels from s * i + start on, `size` of them. Everything is for each axis by
itself. Chains of layers are added up; of any other backbone it is found by running it: a cell that has seen a NaN is
one.
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
from upscore.models.fcn.fcn import FCN, FCNHead
from upscore.models.fcn.inference_parts import heads
from upscore.models.fcn.upsampling import Upsample
from upscore.models.geometry import layer_window
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

Maps = Callable[[Tensor], Mapping[int, Tensor]]
"""Images -> {stride: map}."""

SHORTEST, LONGEST = 512, 8192
"""Sides of a probe along the axis; a cell that sees more than the longest one is said to see everything."""

TOLERANCE = 1e-3
"""How much cells may change, of the largest one, when the image is moved by a step of the grid."""


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Along one axis, what the cells of a map see."""

    stride: int
    """Pixels from a cell to the next."""
    start: int
    """The first pixel that cell 0 sees; below 0 where that is padding."""
    size: int
    """Pixels that a cell sees, the receptive field."""

    @property
    def stop(self) -> int:
        """The pixel after the last one that cell 0 sees."""
        return self.start + self.size


def sequential_fields(backbone: SequentialBackbone) -> dict[int, ReceptiveField]:
    """Of the maps of a plain chain, by adding up its layers' kernels, strides and paddings."""
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
    """Of the maps that `run` makes of images (N, `channels`, H, W), in evaluation mode: along rows and columns.

    Raises:
        UserError: cells see the whole image, whatever its size (squeeze-and-excitation, attention), or depend on where
            in it they are.
    """

    def turned(images: Tensor) -> dict[int, Tensor]:
        return {stride: cells.transpose(2, 3) for stride, cells in run(images.transpose(2, 3)).items()}

    rows, columns = (_probed_axis(axis, channels, multiple) for axis in (run, turned))
    return {stride: (rows[stride], columns[stride]) for stride in rows}


@torch.inference_mode()
def _probed_axis(run: Maps, channels: int, multiple: int) -> dict[int, ReceptiveField]:
    """Cells stay numbers where all they see lies in the clean part of an image that is NaN above and below it.

    As the clean part moves down by a stride, the first such cell once gives way to the next, and so does the last.
    """
    noise = torch.randn(1, channels, LONGEST, multiple, generator=torch.Generator().manual_seed(0))
    length = SHORTEST
    while not (clean := _clean_cells(run, noise[:, :, :length], slice(multiple, length - 2 * multiple))):
        length *= 2
        if length > LONGEST:
            raise UserError(
                "this network's cells see the whole image (squeeze-and-excitation, attention or a very wide field), so "
                "that no tile makes what the whole image would: use a backbone of convolutions, as efficientnet_lite0"
            )
    image, grid = noise[:, :, :length], math.lcm(multiple, *clean)
    top, bottom = grid, length - 2 * grid
    at = cache(lambda phase: _clean_cells(run, image, slice(top + phase, bottom + phase)))

    def next_cell(stride: int, end: int) -> int:
        """The phase at which the first (`end` 0) or the last (1) clean cell gives way to the next."""
        return 1 + bisect_left(range(1, stride), True, key=lambda phase: at(phase)[stride][end] > at(0)[stride][end])

    fields = {}
    for stride, (first, last) in at(0).items():
        start = top + next_cell(stride, 0) - 1 - stride * first
        stop = bottom + next_cell(stride, 1) - stride * (last + 1)
        fields[stride] = ReceptiveField(stride, start, stop - start)
    _require_repetition(run, image, fields, grid)
    return fields


def _clean_cells(run: Maps, noise: Tensor, rows: slice) -> dict[int, tuple[int, int]]:
    """Stride -> the first and the last of the cells around the middle that see these rows alone; {} if one has none."""
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


def _require_repetition(run: Maps, image: Tensor, fields: Mapping[int, ReceptiveField], grid: int) -> None:
    """Windows that attention is cut into, or embeddings of positions, need not move with the image."""
    whole, moved = run(image), run(image[:, :, grid:])
    for stride, field in fields.items():
        first = -(field.start // stride)
        last = (image.shape[2] - grid - field.stop) // stride
        one = whole[stride][:, :, first + grid // stride : last + 1 + grid // stride]
        other = moved[stride][:, :, first : last + 1]
        if (one - other).abs().max() > TOLERANCE * one.abs().max():
            raise UserError(
                f"this network's maps change where the image is moved by {grid} pixels (windows of attention, or "
                "embeddings of positions), so that no tile makes what the whole image would"
            )


@dataclass(frozen=True, slots=True)
class Extent:
    """Along one axis, how far away from a pixel lies what its class depends on."""

    before: int
    """Pixels towards 0, at most."""
    after: int
    """Pixels away from 0, at most."""
    halo: int
    """Pixels, in whole steps of the grid, that a tile on the grid has to see at each side of its core."""

    @property
    def size(self) -> int:
        """Pixels that the class of one depends on, at most."""
        return self.before + 1 + self.after


@dataclass(frozen=True, slots=True)
class ReceptiveFields:
    """What a network sees, and the grid on which it repeats itself.

    Where all of an image is moved by a multiple of `grid` pixels, so are the maps; moved by less they change.
    """

    grid: int
    maps: dict[int, tuple[ReceptiveField, ReceptiveField]]
    """Stride -> what the map's cells see along rows (downwards) and along columns (to the right)."""
    rows: Extent | None
    """Of the class of a pixel, downwards; None of a network that finds objects."""
    columns: Extent | None

    @property
    def halo(self) -> int:
        """Of both axes; 0 of a network that finds objects."""
        return max((reach.halo for reach in (self.rows, self.columns) if reach is not None), default=0)


def receptive_field(net: FCN | MaskRCNN) -> ReceptiveFields:
    """What each map's cells depend on, and in the end each pixel's class.

    Of a network that finds objects it is the backbone's maps; a pyramid over them adds the coarser ones to the finer.

    Raises:
        UserError: cells see the whole image, whatever its size (squeeze-and-excitation, attention), or depend on where
            in it they are.
    """
    if isinstance(net, FCN) and isinstance(net.backbone, SequentialBackbone):
        return _of_pixels(net, {stride: (field, field) for stride, field in sequential_fields(net.backbone).items()})
    depth = net.backbone.depth_preprocessing
    channels = 3 + (0 if depth is None else len(depth.mean))
    with evaluation(net):
        maps = probed_fields(net.backbone, channels, net.backbone.multiple)
    if isinstance(net, FCN):
        return _of_pixels(net, maps)
    return ReceptiveFields(math.lcm(net.backbone.multiple, *maps), maps, None, None)


def _of_pixels(net: FCN, maps: dict[int, tuple[ReceptiveField, ReceptiveField]]) -> ReceptiveFields:
    grid = math.lcm(net.backbone.multiple, *maps)
    rows, columns = ({stride: fields[axis] for stride, fields in maps.items()} for axis in (0, 1))
    return ReceptiveFields(grid, maps, _reach(heads(net), rows, grid), _reach(heads(net), columns, grid))


@contextmanager
def evaluation(net: nn.Module) -> Iterator[None]:
    """A network in evaluation mode for a while; each of its modules goes back to its own."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _reach(of_heads: list[FCNHead], fields: Mapping[int, ReceptiveField], grid: int) -> Extent:
    """Over one period of pixels, which may lie anywhere: as if there were no border."""
    before, after, outside = 0, 0, 0
    for pixel in range(grid):
        spans = [pixel_span(head, fields, pixel) for head in of_heads]
        first, last = min(first for first, _ in spans), max(last for _, last in spans)
        before, after = max(before, pixel - first), max(after, last - pixel)
        outside = max(outside, -first, last - (grid - 1))
    return Extent(before, after, -(-outside // grid) * grid)


def pixel_span(head: FCNHead, fields: Mapping[int, ReceptiveField], pixel: int) -> tuple[int, int]:
    """The first and the last pixel that the scores of a pixel depend on, as if there were no border."""
    cells = _taps(head, 1, (pixel, pixel))
    firsts, lasts = [], []
    for stride in reversed(head.strides):
        skipped = max(0, head.offsets.get(stride, 0))
        field = fields[stride]
        firsts.append(stride * (cells[0] + skipped) + field.start)
        lasts.append(stride * (cells[1] + skipped) + field.stop - 1)
        if stride != head.strides[0]:
            cells = _taps(head, stride, cells)
    return min(firsts), max(lasts)


def _taps(head: FCNHead, stride: int, reached: tuple[int, int]) -> tuple[int, int]:
    """The first and the last coarse cell that upsampling makes these cells or pixels of."""
    layer = head.upscore[str(stride)]
    assert isinstance(layer, Upsample)
    first, last = (position + max(0, -head.offsets[stride]) for position in reached)
    return -((layer.kernel_size - 1 - first) // layer.stride) - layer.border, last // layer.stride - layer.border
