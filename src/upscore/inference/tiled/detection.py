"""Objects in an image without limit in size, found in overlapping tiles.

N objects, H W pixels of the image, h w those of a tile, m the side of a mask in RoI form.

An axis is cut up like this; a tile's core ends in the middle of each strip that it shares with a neighbour:

    tile 0  |--------- core ---------|..strip..|
    tile 1                      |..strip..|--------- core ---------|

An object that is smaller than the strip is whole in the tile that has its centre in the core, and it counts there
alone: far from borders, near which a network sees less than it would in the whole image. Of a larger one that a border
cuts, the rest has its centre in the core just if it reaches across the strip, so that the neighbour does not have it
whole. Then it is a part, which `upscore.inference.tiled.merge` unites with the neighbour's.

Scale. `Resizing` brings a photo to the sides that the network was trained on. That says nothing about tiles, whose size
is chosen for the memory's sake, nor about an image of a slide as a whole, which it would reduce to a stamp. So tiles
are seen at a factor that the caller knows, pixels of the network's input per pixel of the image, the same for all: 1,
unless the photos that the network was trained on were enlarged (of 256 px, to a `min_side` of 512: 2) or were taken at
another magnification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from upscore.data.io.rasters import Raster, Window
from upscore.errors import UserError
from upscore.inference.tiled.merge import TileDetections, merge
from upscore.inference.tiled.tile_checkpoint import TileCheckpoint
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult

if TYPE_CHECKING:
    from upscore.inference.model import Model

Find = Callable[[Tensor], InstanceResult]
"""A tile (3, h, w) uint8, RGB -> its objects, in its own pixels."""

ALIGN = 64
"""Steps are multiples of so many pixels of the network's input: the stride of an FPN's coarsest map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How an image is cut up.

    The steps from tile to tile should be multiples of the network's coarsest stride (64 for an FPN): then its anchors
    lie where they would in the whole image. A network finds just so many objects in an image (`MaskRCNN.detections`,
    of a few times as many proposals), so tiles should not be much larger than the photos that it was trained on.

    Raises:
        UserError: a tile has one pixel or none; neighbours share none, or over half a tile.
    """

    tile: int
    """Pixels of the image along a side."""
    overlap: int
    """Pixels that neighbours share: best twice the size of most objects. Larger ones are put together from parts."""

    def __post_init__(self) -> None:
        if self.tile < 2:
            raise UserError(f"tiles of {self.tile} px: choose at least 2")
        if not 0 < 2 * self.overlap <= self.tile:
            raise UserError(
                f"tiles of {self.tile} px that overlap by {self.overlap}: choose an overlap from 1 to half a tile"
            )

    @classmethod
    def of(cls, min_side: int, factor: float = 1.0) -> Tiling:
        """Tiles of about the size in which the network sees images, at a factor, with steps that are multiples of 64.

        From a `min_side` of 257 px on they share an eighth; of smaller ones the 64 px that a step needs at least.

        Args:
            min_side: see `Resizing`.
            factor: pixels of the network's input per pixel of the image.
        """
        eighth = round(min_side / 8 / ALIGN) * ALIGN
        tile, overlap = 8 * eighth, eighth
        if not eighth:
            tile, overlap = ALIGN * max(1, round(min_side / ALIGN)) + ALIGN, ALIGN
        return cls(tile=max(2, round(tile / factor)), overlap=max(1, round(overlap / factor)))

    @property
    def tolerance(self) -> float:
        """By how many pixels a network may misjudge where a border cuts an object."""
        return self.overlap / 16

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The tiles of an image (H, W), row by row; those at its bottom and right end with it."""
        (height, width), step = size, self.tile - self.overlap
        return [
            Window(top, left, min(self.tile, height - top), min(self.tile, width - left))
            for top in range(0, max(1, height - self.overlap), step)
            for left in range(0, max(1, width - self.overlap), step)
        ]

    def trusted(self, boxes: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
        """(n,) bool, whether boxes (n, 4) in the image's pixels have their centres in a tile's core."""
        borders, inner = _borders(window, size)
        margins = inner * (self.overlap / 2 - self.tolerance)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.all((centres >= (borders + margins)[:2]) & (centres <= (borders - margins)[2:]), axis=1)

    def cut(self, boxes: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
        """(n,) bool, whether a border that is not the image's cuts the objects with these boxes (n, 4)."""
        borders, inner = _borders(window, size)
        return np.any((np.abs(boxes - borders) <= self.tolerance) & inner, axis=1)


def _borders(window: Window, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A tile's borders (x1, y1, x2, y2), and which of them lie inside the image."""
    right, bottom = window.left + window.width, window.top + window.height
    inner = [window.left > 0, window.top > 0, right < size[1], bottom < size[0]]
    return np.array([window.left, window.top, right, bottom]), np.array(inner)


def require_objects(model: Model, factor: float) -> Resizing:
    """The size at which a network that sees tiles at a factor sees whole images.

    Raises:
        UserError: it finds no objects, or the factor is not above 0.
    """
    if model.resizing is None:
        raise UserError("this model classifies pixels: objects are found by Mask R-CNN")
    if not factor > 0:
        raise UserError(f"factor={factor}: tiles are seen at a factor above 0")
    return model.resizing


def finder(model: Model, *, factor: float = 1.0, score_threshold: float | None = None) -> Find:
    """What finds the objects of a tile, seen at a factor whatever its size.

    Args:
        factor: pixels of the network's input per pixel of the tile.
        score_threshold: as in `Model.predict`.

    Raises:
        UserError: as `require_objects`.
    """
    require_objects(model, factor)
    return partial(model.find_scaled, factor=factor, score_threshold=score_threshold)


def find_in_tile(raster: Raster, window: Window, find: Find, tiling: Tiling) -> InstanceResult:
    """The objects that count of those in a tile, in the pixels of the whole image."""
    size = raster.height, raster.width
    found = find(raster.read(*window))
    boxes = found.boxes + np.array([window.left, window.top] * 2)
    counts = tiling.trusted(boxes, window, size)
    here = found[counts]
    return replace(
        here,
        boxes=boxes[counts].astype(np.float32),
        masks=[mask.astype(np.float16) for mask in here.masks],
        size=size,
        image=None,
    )


def gather(found: Sequence[InstanceResult], tiling: Tiling) -> TileDetections:
    """What was found in all tiles, in the order of `Tiling.windows`."""
    size = found[0].size
    windows = tiling.windows(size)
    cut = [tiling.cut(objects.boxes, window, size) for objects, window in zip(found, windows, strict=True)]
    return TileDetections(
        objects=replace(
            found[0],
            boxes=np.concatenate([objects.boxes for objects in found]),
            scores=np.concatenate([objects.scores for objects in found]),
            labels=np.concatenate([objects.labels for objects in found]),
            masks=[mask for objects in found for mask in objects.masks],
        ),
        tiles=np.repeat(np.arange(len(found)), [len(objects) for objects in found]),
        cut=np.concatenate(cut),
        windows=windows,
    )


def find_objects(
    raster: Raster,
    find: Find,
    tiling: Tiling,
    *,
    checkpoint: TileCheckpoint | None = None,
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """The objects of an image, the best first; of its pixels, a tile is in memory at a time.

    Args:
        journal: where each tile's objects are kept, so that a run that was stopped goes on behind its last tile.
        progress: is told how many tiles of how many are done.

    Raises:
        UserError: the raster can't be read, or the journal is of something else.
    """
    size = raster.height, raster.width
    windows = tiling.windows(size)
    found: list[InstanceResult] = []
    for number, window in enumerate(windows):
        objects = None if checkpoint is None else checkpoint.read(number, size)
        if objects is None:
            objects = find_in_tile(raster, window, find, tiling)
            if checkpoint is not None:
                checkpoint.write(number, objects)
        found.append(objects)
        if progress is not None:
            progress(number + 1, len(windows))
    return merge(gather(found, tiling))
