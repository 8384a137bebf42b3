"""What a network sees: the pixels that the class of a pixel depends on, by way of the cells of its trunk's maps.

Everything is for each axis by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from upscore.models.fcn import FCN, Skips
from upscore.models.fcn_parts import heads
from upscore.models.map_fields import Field, chain_fields, probed_fields
from upscore.models.mask_rcnn import MaskRCNN
from upscore.models.trunks import ChainTrunk
from upscore.models.upsampling import Upsample


@dataclass(frozen=True, slots=True)
class Reach:
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
class Geometry:
    """What a network sees, and the grid on which it repeats itself.

    Where all of an image is moved by a multiple of `grid` pixels, so are the maps; moved by less they change.
    """

    grid: int
    maps: dict[int, tuple[Field, Field]]
    """Stride -> what the map's cells see along rows (downwards) and along columns (to the right)."""
    rows: Reach | None
    """Of the class of a pixel, downwards; None of a network that finds objects."""
    columns: Reach | None

    @property
    def halo(self) -> int:
        """Of both axes; 0 of a network that finds objects."""
        return max((reach.halo for reach in (self.rows, self.columns) if reach is not None), default=0)


def receptive_field(net: FCN | MaskRCNN) -> Geometry:
    """What each map's cells depend on, and in the end each pixel's class.

    Of a network that finds objects it is the trunk's maps; a pyramid over them adds the coarser ones to the finer.

    Raises:
        UserError: cells see the whole image, whatever its size (squeeze-and-excitation, attention), or depend on where
            in it they are.
    """
    if isinstance(net, FCN) and isinstance(net.trunk, ChainTrunk):
        return _of_pixels(net, {stride: (field, field) for stride, field in chain_fields(net.trunk).items()})
    depth = net.trunk.depth_preprocessing
    channels = 3 + (0 if depth is None else len(depth.mean))
    with evaluation(net):
        maps = probed_fields(net.trunk, channels, net.trunk.multiple)
    if isinstance(net, FCN):
        return _of_pixels(net, maps)
    return Geometry(math.lcm(net.trunk.multiple, *maps), maps, None, None)


def _of_pixels(net: FCN, maps: dict[int, tuple[Field, Field]]) -> Geometry:
    grid = math.lcm(net.trunk.multiple, *maps)
    rows, columns = ({stride: fields[axis] for stride, fields in maps.items()} for axis in (0, 1))
    return Geometry(grid, maps, _reach(heads(net), rows, grid), _reach(heads(net), columns, grid))


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


def _reach(of_heads: list[Skips], fields: Mapping[int, Field], grid: int) -> Reach:
    """Over one period of pixels, which may lie anywhere: as if there were no border."""
    before, after, outside = 0, 0, 0
    for pixel in range(grid):
        spans = [pixel_span(head, fields, pixel) for head in of_heads]
        first, last = min(first for first, _ in spans), max(last for _, last in spans)
        before, after = max(before, pixel - first), max(after, last - pixel)
        outside = max(outside, -first, last - (grid - 1))
    return Reach(before, after, -(-outside // grid) * grid)


def pixel_span(head: Skips, fields: Mapping[int, Field], pixel: int) -> tuple[int, int]:
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


def _taps(head: Skips, stride: int, reached: tuple[int, int]) -> tuple[int, int]:
    """The first and the last coarse cell that upsampling makes these cells or pixels of."""
    layer = head.upscore[str(stride)]
    assert isinstance(layer, Upsample)
    first, last = (position + max(0, -head.offsets[stride]) for position in reached)
    return -((layer.kernel_size - 1 - first) // layer.stride) - layer.border, last // layer.stride - layer.border
