"""Tile plans for exact semantic segmentation of images that are too large for one pass of the network.

A tile consists of a core, whose class map is kept, and a halo that covers the receptive field of the core's pixels.
Tiles start on the grid on which the network is shift-invariant, and are cropped at the image's border so that padding
acts as in the whole image. The joined class map therefore equals that of the whole image.

H W image height and width, h w height and width of a tile.
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
from upscore.models.receptive_field import evaluation_mode

OVERHEAD = 1.35
"""Memory of an engine relative to the input and output of the largest layer (measured: 1.0 torch, 1.34 OpenVINO)."""

PIXEL_BYTES = 64
"""Additional bytes per pixel of a tile: image as uint8, as float32 and normalised, and its class."""

MAX_CORE = 4096
"""Largest side of a core in pixels."""

PredictClassMaps = Callable[[Tensor], Sequence[np.ndarray]]
"""Function that maps an image (3, h, w) uint8 to class maps (h, w) uint8, one for each head of a network."""


class Tile(NamedTuple):
    """One tile of a `TilePlan`."""

    row: int
    column: int
    core: Window
    window: Window
    """The core and its halo, cropped at the image's border."""

    @property
    def core_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the core within `window`."""
        top, left = self.core.top - self.window.top, self.core.left - self.window.left
        return slice(top, top + self.core.height), slice(left, left + self.core.width)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Division of an image into tiles with adjacent cores, in row-major order."""

    height: int
    width: int
    tile_size: int
    """Side of a core in pixels."""
    halo: int
    """Width of the halo in pixels."""

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return -(-self.height // self.tile_size)

    @property
    def columns(self) -> int:
        """Number of columns of tiles."""
        return -(-self.width // self.tile_size)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __iter__(self) -> Iterator[Tile]:
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.tile(row, column)

    def tile(self, row: int, column: int) -> Tile:
        """Return the tile at a row and column of the plan."""
        top, left = row * self.tile_size, column * self.tile_size
        bottom, right = min(top + self.tile_size, self.height), min(left + self.tile_size, self.width)
        first, start = max(top - self.halo, 0), max(left - self.halo, 0)
        last, stop = min(bottom + self.halo, self.height), min(right + self.halo, self.width)
        core = Window(top, left, bottom - top, right - left)
        return Tile(row, column, core, Window(first, start, last - first, stop - start))


def tile_plan(height: int, width: int, *, tile_size: int, halo: int, grid: int) -> TilePlan:
    """Divide an image into tiles.

    Args:
        height, width: size of the image in pixels.
        tile_size: side of a tile without its halo, a multiple of `grid`.
        halo: width of the halo, a multiple of `grid`; `ReceptiveFields.halo` is the smallest that gives exact results.
        grid: shift in pixels under which the network is invariant, see `ReceptiveFields.grid`.

    Raises:
        UserError: the image is empty, or `tile_size` or `halo` is not a multiple of `grid`.
    """
    if height < 1 or width < 1:
        raise UserError(f"the image is empty: its size is {width}x{height} pixels")
    for name, value, minimum in (("tile_size", tile_size, grid), ("halo", halo, 0)):
        if value < minimum or value % grid:
            raise UserError(f"{name}={value} is invalid: use a multiple of {grid} pixels")
    return TilePlan(height, width, tile_size, halo)


class TileClassMaps(NamedTuple):
    """The class maps of a tile."""

    tile: Tile
    class_maps: list[np.ndarray]
    """(h, w) uint8, class maps of the core, one for each head."""
    pixels: Tensor
    """(3, h, w) uint8, pixels of the core."""


def class_map_tiles(
    predict: PredictClassMaps, raster: Raster, plan: TilePlan, done: Container[tuple[int, int]] = ()
) -> Iterator[TileClassMaps]:
    """Yield the class maps of all tiles whose (row, column) is not in `done`; the next tile is read in the background.

    Raises:
        UserError: pixels of the raster cannot be read.
    """
    remaining = (tile for tile in plan if (tile.row, tile.column) not in done)
    with ThreadPoolExecutor(1) as reader:
        upcoming = next(remaining, None)
        pending = None if upcoming is None else reader.submit(raster.read, *upcoming.window)
        while upcoming is not None and pending is not None:
            tile, pixels = upcoming, pending.result()
            upcoming = next(remaining, None)
            pending = None if upcoming is None else reader.submit(raster.read, *upcoming.window)
            class_maps = [class_map[tile.core_slices] for class_map in predict(pixels)]
            yield TileClassMaps(tile, class_maps, pixels[:, *tile.core_slices])


def core_size(net: FCN, halo: int, multiple: int, memory: int) -> int:
    """Return the largest side of a core whose tile needs about `memory` bytes; large cores reduce the overlap.

    The result is a multiple of `multiple`, between `multiple` (even if that exceeds `memory`) and `MAX_CORE`.
    """
    cores = range(multiple, MAX_CORE + 1, multiple)
    return cores[max(0, bisect_right(cores, memory, key=lambda tile_size: tile_bytes(net, tile_size + 2 * halo)) - 1)]


@torch.no_grad()
def tile_bytes(net: FCN, side: int) -> int:
    """Estimate the memory that a network needs for a tile in float32, in bytes.

    It is the sum of the largest layer's input and output, the feature maps and the scores. The backbone runs on the
    `meta` device, so nothing is computed.
    """
    depth = net.backbone.depth_preprocessing
    image = torch.empty(1, 3 + (0 if depth is None else len(depth.mean)), side, side, device="meta")
    tensors = [*net.backbone.named_parameters(), *net.backbone.named_buffers()]
    meta_tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    largest = 0

    def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal largest
        distinct = {id(value): value.numel() for value in (*inputs, output) if isinstance(value, Tensor)}
        largest = max(largest, sum(distinct.values()))  # a tensor modified in place counts once

    layers = [layer for layer in net.backbone.modules() if not any(layer.children()) or [*layer.parameters(False)]]
    handles = [layer.register_forward_hook(measure) for layer in layers]
    try:
        with evaluation_mode(net.backbone):
            maps = functional_call(net.backbone, meta_tensors, (image,))
    finally:
        for handle in handles:
            handle.remove()
    kept = sum(cells.numel() for cells in maps.values())
    return int(4 * OVERHEAD * (largest + kept) + side**2 * (PIXEL_BYTES + sum(_score_bytes(net))))


def _score_bytes(net: FCN) -> Iterator[float]:
    """Yield the bytes per pixel of each head's scores; fixed upsampling holds them upsampled along one axis only."""
    for head in heads(net):
        upsample = head.upscore["1"]
        assert isinstance(upsample, Upsample)
        whole = upsample.deconvolution is not None
        yield 8 * net.num_classes if whole else 4 * net.num_classes / upsample.stride
