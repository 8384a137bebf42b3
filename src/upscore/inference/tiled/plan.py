"""Class maps of images that are too large for a network to see at once: exactly those of the whole image, in tiles.

A tile is a core, whose class map is kept, and a halo around it, so wide that all that the core's pixels depend on is
seen. Tiles begin on the grid on which the network repeats itself, and end where the image does, for its border to be
treated as the whole image's is. H W pixels of the image, h w of a tile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from upscore.data.io.rasters import Raster, Window
from upscore.errors import UserError
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.inference_parts import heads
from upscore.models.fcn.upsampling import Upsample
from upscore.models.receptive_field import evaluation

OVERHEAD = 1.35
"""What engines need beside the largest layer's input and output, as a factor (1.0 torch, 1.34 OpenVINO)."""

PIXEL_BYTES = 64
"""Of a tile's pixel besides: the photo as bytes, as numbers and normalised, and its class."""

LARGEST_CORE = 4096

Run = Callable[[Tensor], Sequence[np.ndarray]]
"""Pixels (3, h, w) uint8 -> class maps (h, w) uint8, one for each head of a network."""


class Tile(NamedTuple):
    """One of a plan's tiles."""

    row: int
    column: int
    tile_size: Window
    seen: Window
    """The core and its halo, cut at the image's border."""

    @property
    def inside(self) -> tuple[slice, slice]:
        """The core's rows and columns of what is seen."""
        top, left = self.tile_size.top - self.seen.top, self.tile_size.left - self.seen.left
        return slice(top, top + self.tile_size.height), slice(left, left + self.tile_size.width)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How an image of H x W pixels is cut: cores side by side, row after row."""

    height: int
    width: int
    tile_size: int
    halo: int

    @property
    def rows(self) -> int:
        """Tiles below one another."""
        return -(-self.height // self.tile_size)

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.tile_size)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __iter__(self) -> Iterator[Tile]:
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.tile(row, column)

    def tile(self, row: int, column: int) -> Tile:
        """The tile at this place among the tiles."""
        top, left = row * self.tile_size, column * self.tile_size
        bottom, right = min(top + self.tile_size, self.height), min(left + self.tile_size, self.width)
        first, start = max(top - self.halo, 0), max(left - self.halo, 0)
        last, stop = min(bottom + self.halo, self.height), min(right + self.halo, self.width)
        tile_size = Window(top, left, bottom - top, right - left)
        return Tile(row, column, tile_size, Window(first, start, last - first, stop - start))


def tile_plan(height: int, width: int, *, tile_size: int, halo: int, grid: int) -> TilePlan:
    """Cut an image up.

    Args:
        height, width: of the image.
        core: side of the part of a tile that is kept, a multiple of `grid`.
        halo: seen around it, a multiple of `grid`; `Geometry.halo` is the least that is exact.
        grid: pixels by which the network's maps repeat themselves, `Geometry.grid`.

    Raises:
        UserError: a size is not positive, or not a multiple.
    """
    if height < 1 or width < 1:
        raise UserError(f"an image of {width}x{height} pixels has none")
    for name, value, least in (("core", tile_size, grid), ("halo", halo, 0)):
        if value < least or value % grid:
            raise UserError(f"{name}={value}: tiles lie on a grid of {grid} pixels; give a multiple of it")
    return TilePlan(height, width, tile_size, halo)


class Classified(NamedTuple):
    """What became of a tile."""

    tile: Tile
    class_maps: list[np.ndarray]
    """(h, w) uint8 of the core, one for each head."""
    pixels: Tensor
    """(3, h, w) uint8 of the core."""


def class_map_tiles(
    run: Run, raster: Raster, plan: TilePlan, done: Container[tuple[int, int]] = ()
) -> Iterator[Classified]:
    """The class maps of all tiles but those whose (row, column) is in `done`; the next is read meanwhile.

    Raises:
        UserError: pixels can't be read.
    """
    left = (tile for tile in plan if (tile.row, tile.column) not in done)
    with ThreadPoolExecutor(1) as reader:
        following = next(left, None)
        coming = None if following is None else reader.submit(raster.read, *following.seen)
        while following is not None and coming is not None:
            tile, pixels = following, coming.result()
            following = next(left, None)
            coming = None if following is None else reader.submit(raster.read, *following.seen)
            class_maps = [class_map[tile.inside] for class_map in run(pixels)]
            yield Classified(tile, class_maps, pixels[:, *tile.inside])


def core_size(net: FCN, halo: int, multiple: int, memory: int) -> int:
    """The side of a core whose tile needs at most about `memory` bytes: the larger, the less is seen twice.

    It is a multiple of `multiple`, at least that even where it needs more memory, and at most `LARGEST_CORE`.
    """
    cores = range(multiple, LARGEST_CORE + 1, multiple)
    return cores[max(0, bisect_right(cores, memory, key=lambda tile_size: tile_bytes(net, tile_size + 2 * halo)) - 1)]


@torch.no_grad()
def tile_bytes(net: FCN, side: int) -> int:
    """About what a network needs for a tile in float32: its largest layer's input and output, its maps, and scores.

    Nothing is computed: the backbone runs on tensors that have sizes alone.
    """
    depth = net.backbone.depth_preprocessing
    image = torch.empty(1, 3 + (0 if depth is None else len(depth.mean)), side, side, device="meta")
    tensors = [*net.backbone.named_parameters(), *net.backbone.named_buffers()]
    sizes_alone = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    most = 0

    def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal most
        apart = {id(value): value.numel() for value in (*inputs, output) if isinstance(value, Tensor)}
        most = max(most, sum(apart.values()))  # what is done in place counts once

    layers = [layer for layer in net.backbone.modules() if not any(layer.children()) or [*layer.parameters(False)]]
    handles = [layer.register_forward_hook(measure) for layer in layers]
    try:
        with evaluation(net.backbone):
            maps = functional_call(net.backbone, sizes_alone, (image,))
    finally:
        for handle in handles:
            handle.remove()
    kept = sum(cells.numel() for cells in maps.values())
    return int(4 * OVERHEAD * (most + kept) + side**2 * (PIXEL_BYTES + sum(_score_bytes(net))))


def _score_bytes(net: FCN) -> Iterator[float]:
    """Of a pixel's scores: upsampled along one axis only, but where the upsampling is learned."""
    for head in heads(net):
        upsample = head.upscore["1"]
        assert isinstance(upsample, Upsample)
        whole = upsample.deconvolution is not None
        yield 8 * net.num_classes if whole else 4 * net.num_classes / upsample.stride
