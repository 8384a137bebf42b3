"""Detect objects in overlapping tiles of an image of any size.

N objects, H W image height and width, h w height and width of a tile, m side of a RoI mask.

Tiles along one axis; the core of a tile ends in the middle of the strip that it shares with a neighbour:

    tile 0  |--------- core ---------|..strip..|
    tile 1                      |..strip..|--------- core ---------|

An object smaller than the strip is complete in the tile whose core contains its centre, and only that tile's detection
is kept: it lies far from tile borders, where the network lacks context. A larger object that a border cuts has the
centre of its visible part in the core only if it spans the strip, so that the neighbour does not contain it completely
either. Such partial detections are merged with the neighbour's by `upscore.inference.tiled.merge`.

Scale: `Resizing` scales an image to the side lengths of the training images. It does not apply to tiles, whose size
depends on memory, nor to a whole slide, which it would reduce too far. All tiles are instead scaled by one `factor`
(pixels of the network's input per pixel of the image). It is 1 unless the training images were enlarged (images of
256 px with `min_side` 512: factor 2) or were taken at another magnification.
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
from upscore.inference.tiled.tile_store import TileCheckpoint
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult

if TYPE_CHECKING:
    from upscore.inference.model import Model

TileDetector = Callable[[Tensor], InstanceResult]
"""Function that maps a tile (3, h, w) uint8 RGB to its objects, in pixel coordinates of the tile."""

ALIGN = 64
"""Tile steps are multiples of this many input pixels: the stride of the coarsest FPN level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Overlapping square tiles of an image.

    The steps from tile to tile should be multiples of the network's coarsest stride (64 for an FPN), so that anchors
    lie where they would in the whole image. The network detects at most `MaskRCNN.max_detections` objects per tile, so
    tiles should not be much larger than the training images.

    Raises:
        UserError: `tile_size` is below 2, or `overlap` is not between 1 and half of `tile_size`.
    """

    tile_size: int
    """Side of a tile, in pixels of the image."""
    overlap: int
    """Width of the strip that neighbours share, in pixels; ideally twice the size of most objects. Larger objects are
    merged from partial detections."""

    def __post_init__(self) -> None:
        if self.tile_size < 2:
            raise UserError(f"tile_size={self.tile_size} is too small: use at least 2 pixels")
        if not 0 < 2 * self.overlap <= self.tile_size:
            raise UserError(
                f"overlap={self.overlap} does not fit tile_size={self.tile_size}: use an overlap between 1 and "
                f"{self.tile_size // 2}"
            )

    @classmethod
    def for_min_side(cls, min_side: int, factor: float = 1.0) -> Tiling:
        """Return tiles of about the network's usual input size, with steps that are multiples of 64 input pixels.

        Neighbours share an eighth of a tile for a `min_side` of 257 pixels or more, and 64 input pixels otherwise.

        Args:
            min_side: see `Resizing`.
            factor: pixels of the network's input per pixel of the image.
        """
        eighth = round(min_side / 8 / ALIGN) * ALIGN
        tile_size, overlap = 8 * eighth, eighth
        if not eighth:
            tile_size, overlap = ALIGN * max(1, round(min_side / ALIGN)) + ALIGN, ALIGN
        return cls(tile_size=max(2, round(tile_size / factor)), overlap=max(1, round(overlap / factor)))

    @property
    def tolerance(self) -> float:
        """Distance in pixels from a tile border up to which a box counts as cut by it."""
        return self.overlap / 16

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """Return the tiles of an image (H, W) in row-major order; the last ones are cropped at the image's border."""
        (height, width), step = size, self.tile_size - self.overlap
        return [
            Window(top, left, min(self.tile_size, height - top), min(self.tile_size, width - left))
            for top in range(0, max(1, height - self.overlap), step)
            for left in range(0, max(1, width - self.overlap), step)
        ]

    def in_core(self, boxes: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Return (N,) bool: whether boxes (N, 4), in pixels of the image, have their centres in the core of a tile."""
        borders, inner = _borders(window, size)
        margins = inner * (self.overlap / 2 - self.tolerance)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.all((centres >= (borders + margins)[:2]) & (centres <= (borders - margins)[2:]), axis=1)

    def is_cut(self, boxes: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Return (N,) bool: whether boxes (N, 4) touch a tile border that lies inside the image."""
        borders, inner = _borders(window, size)
        return np.any((np.abs(boxes - borders) <= self.tolerance) & inner, axis=1)


def _borders(window: Window, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the borders (x1, y1, x2, y2) of a tile, and which of them lie inside the image."""
    right, bottom = window.left + window.width, window.top + window.height
    inner = [window.left > 0, window.top > 0, right < size[1], bottom < size[0]]
    return np.array([window.left, window.top, right, bottom]), np.array(inner)


def require_detector(model: Model, factor: float) -> Resizing:
    """Return the `Resizing` of a detection model.

    Raises:
        UserError: the model does not detect objects, or `factor` is not positive.
    """
    if model.resizing is None:
        raise UserError("this model performs semantic segmentation: use a Mask R-CNN model to detect objects")
    if not factor > 0:
        raise UserError(f"factor={factor} is invalid: use a number above 0")
    return model.resizing


def tile_detector(model: Model, *, factor: float = 1.0, score_threshold: float | None = None) -> TileDetector:
    """Return a function that detects the objects of a tile at a fixed scale.

    Args:
        factor: pixels of the network's input per pixel of the tile.
        score_threshold: lowest score of a returned object, see `Model.predict`.

    Raises:
        UserError: see `require_detector`.
    """
    require_detector(model, factor)
    return partial(model.detect_at_factor, factor=factor, score_threshold=score_threshold)


def detect_in_tile(raster: Raster, window: Window, detect: TileDetector, tiling: Tiling) -> InstanceResult:
    """Return the objects whose centres lie in the core of a tile, in pixel coordinates of the whole image."""
    size = raster.height, raster.width
    found = detect(raster.read(*window))
    boxes = found.boxes + np.array([window.left, window.top] * 2)
    kept = tiling.in_core(boxes, window, size)
    objects = found[kept]
    return replace(
        objects,
        boxes=boxes[kept].astype(np.float32),
        masks=[mask.astype(np.float16) for mask in objects.masks],
        size=size,
        image=None,
    )


def collect_detections(found: Sequence[InstanceResult], tiling: Tiling) -> TileDetections:
    """Concatenate the detections of all tiles, which are given in the order of `Tiling.windows`."""
    size = found[0].size
    windows = tiling.windows(size)
    cut = [tiling.is_cut(objects.boxes, window, size) for objects, window in zip(found, windows, strict=True)]
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


def detect_objects(
    raster: Raster,
    detect: TileDetector,
    tiling: Tiling,
    *,
    checkpoint: TileCheckpoint | None = None,
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """Detect the objects of an image tile by tile, sorted by descending score.

    Only one tile of pixels is in memory at a time.

    Args:
        raster: the image.
        detect: detects the objects of a tile.
        tiling: the tiles.
        checkpoint: stores the objects of each tile, so that an interrupted run continues after its last tile.
        progress: called after each tile with the number of finished tiles and of all tiles.

    Raises:
        UserError: the raster cannot be read, or the checkpoint belongs to another run.
    """
    size = raster.height, raster.width
    windows = tiling.windows(size)
    found: list[InstanceResult] = []
    for number, window in enumerate(windows):
        objects = None if checkpoint is None else checkpoint.read(number, size)
        if objects is None:
            objects = detect_in_tile(raster, window, detect, tiling)
            if checkpoint is not None:
                checkpoint.write(number, objects)
        found.append(objects)
        if progress is not None:
            progress(number + 1, len(windows))
    return merge(collect_detections(found, tiling))
