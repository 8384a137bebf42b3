"""Tiled inference for images in memory that are too large for one pass of the network.

C classes, N objects, H W image height and width, h w height and width of the network's input.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from upscore.data.io.rasters import InMemoryRaster
from upscore.data.resizing import AxisCrop
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.inference.fcn_runner import PixelScores
from upscore.inference.tiled.detection import TileDetector, Tiling, detect_objects
from upscore.inference.tiled.plan import TilePlan, core_size, tile_bytes, tile_plan
from upscore.inference.tiled.tile_store import BLOCK
from upscore.memory import free_memory, megabytes
from upscore.models.fcn.fcn import FCN
from upscore.models.receptive_field import ReceptiveFields, receptive_field
from upscore.results import InstanceResult

MEMORY = 768 * 2**20
"""Default memory limit of a tile in the network, in bytes."""

IMAGE_SHARE = 0.7
"""Fraction of the free memory that the network may need for a whole image."""

TILE_SHARE = 0.25
"""Fraction of the free memory that a tile may need; an engine keeps several tile sizes compiled."""

MEASURED_SIDE = 1024
"""Side in pixels of the image for which the memory per pixel is estimated."""

MAX_REDUCTION = 2
"""Reduction factor from which on an image is tiled by models that never reduced a training image."""

MIN_TILES = 4
"""Images of fewer tiles are not tiled: each tile would hold about as many objects as the whole image."""


class LargeImageWarning(UserWarning):
    """An image is too large for one pass of the network and is predicted in tiles."""


class ObjectLimitWarning(UserWarning):
    """The number of detections in an image or a tile reached the limit `max_detections`; objects may be missing."""


class ReducedImageWarning(UserWarning):
    """An image is strongly reduced before it enters the network."""


def bytes_per_pixel(net: FCN) -> float:
    """Estimate the memory that the network needs per pixel of a large image in float32."""
    return tile_bytes(net, MEASURED_SIDE) / MEASURED_SIDE**2


def tile_budget(needed: int, device: torch.device) -> int | None:
    """Return the memory limit of a tile in bytes, or None if the whole image fits into the free memory.

    Args:
        needed: bytes that the network needs for the whole image.
        device: device on which the network runs.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if needed <= IMAGE_SHARE * free:
        return None
    return min(MEMORY, int(TILE_SHARE * free))


def exact_plan(
    net: FCN, height: int, width: int, *, tile_size: int | None = None, halo: int | None = None, memory: int = MEMORY
) -> TilePlan:
    """Plan tiles whose class maps join to exactly the class map of the whole image.

    Args:
        net: the complete network.
        height, width: size of the image in pixels.
        tile_size: side of a tile without its halo, in pixels; None uses the largest that fits into `memory`.
        halo: width in pixels of the border around a tile; None uses what the receptive field requires.
        memory: memory limit of a tile in the network, in bytes.

    Raises:
        UserError: the receptive field is unlimited, or `tile_size` is not a multiple of 256.
    """
    geometry = _geometry(net)
    halo = geometry.halo if halo is None else halo
    unit = int(np.lcm(BLOCK, geometry.grid))
    if tile_size is not None and (tile_size < unit or tile_size % unit):
        raise UserError(f"tile_size={tile_size} is invalid: use a multiple of {unit} pixels")
    chosen = core_size(net, halo, unit, memory) if tile_size is None else tile_size
    return tile_plan(height, width, tile_size=chosen, halo=halo, grid=geometry.grid)


_geometries: WeakKeyDictionary[FCN, ReceptiveFields] = WeakKeyDictionary()


def _geometry(net: FCN) -> ReceptiveFields:
    """Return the receptive field of a network; it is computed once per network, which takes about a second."""
    if net not in _geometries:
        _geometries[net] = receptive_field(net)
    return _geometries[net]


Classify = Callable[[Sample, tuple[int, int]], PixelScores]
"""Function that maps a sample of (h, w) pixels and an output size to class maps of that size."""


def classify_in_tiles(
    classify: Classify, net: FCN, sample: Sample, size: tuple[int, int], budget: int, *, needed: int
) -> PixelScores:
    """Compute the class maps of an image tile by tile; they equal those of the whole image.

    If the network's input is smaller than the image, the result is enlarged by nearest-neighbour interpolation.

    Args:
        classify: predicts the class maps of a tile.
        net: the complete network.
        sample: the network's input.
        size: (H, W) of the image.
        budget: memory limit of a tile in bytes.
        needed: bytes that the whole image would need.

    Warns:
        LargeImageWarning: the image is divided into several tiles.

    Raises:
        UserError: the receptive field is unlimited.
    """
    height, width = sample.image.shape[-2:]
    plan = exact_plan(net, height, width, memory=budget)
    if len(plan) > 1:
        warnings.warn(
            f"an image of {width}x{height} pixels needs about {megabytes(needed)}, but only "
            f"{megabytes(free_memory())} are free: it is predicted in {len(plan)} tiles, with the same result",
            LargeImageWarning,
            stacklevel=2,
        )
    maps: list[np.ndarray] = []
    probabilities: np.ndarray | None = None
    for tile in plan:
        part = np.s_[..., tile.window.top : tile.window.bottom, tile.window.left : tile.window.right]
        depth = None if sample.depth is None else sample.depth[part]
        found = classify(
            replace(sample, image=sample.image[part], depth=depth), (tile.window.height, tile.window.width)
        )
        core = np.s_[..., tile.core.top : tile.core.bottom, tile.core.left : tile.core.right]
        maps = maps or [np.empty((height, width), np.uint8) for _ in found.class_maps]
        for plane, class_map in zip(maps, found.class_maps, strict=True):
            plane[core] = class_map[tile.core_slices]
        if found.probabilities is not None:
            if probabilities is None:
                probabilities = np.empty((len(found.probabilities), height, width), np.float16)
            probabilities[core] = found.probabilities[:, *tile.core_slices]
    if size != (height, width):
        rows, columns = (_nearest(*sides) for sides in zip((height, width), size, strict=True))
        maps = [plane[rows[:, None], columns] for plane in maps]
        probabilities = None if probabilities is None else probabilities[:, rows[:, None], columns]
    return PixelScores(maps, probabilities)


def _nearest(side: int, size: int) -> np.ndarray:
    return AxisCrop(start=0, length=side, size=size).nearest().numpy()


def detect_in_tiles(detect: TileDetector, image: Tensor, tiling: Tiling, reason: str) -> InstanceResult:
    """Detect the objects of an image tile by tile.

    Args:
        detect: detects the objects of a tile.
        image: (3, H, W) uint8, RGB.
        tiling: the tiles.
        reason: why the image is tiled; the beginning of the warning.

    Warns:
        LargeImageWarning: always.
    """
    count = len(tiling.windows((image.shape[-2], image.shape[-1])))
    warnings.warn(
        f"{reason}: it is predicted in {count} tiles of {tiling.tile_size} px", LargeImageWarning, stacklevel=2
    )
    return detect_objects(InMemoryRaster(image), detect, tiling)


def warn_about_limit(size: tuple[int, int], limit: int, *, tiles: int = 0) -> None:
    """Warn that the detections in an image (H, W), or in `tiles` of its tiles, reach the limit of the network."""
    holds = f"has {tiles} tiles with" if tiles else "has"
    warnings.warn(
        f"an image of {size[1]}x{size[0]} pixels {holds} {limit} detections, the limit of the network: "
        "objects may be missing; use smaller tiles (--tiled --tile-size) or train with more --max-detections",
        ObjectLimitWarning,
        stacklevel=2,
    )


def warn_if_reduced(size: tuple[int, int], input_size: tuple[int, int]) -> None:
    """Warn that an image (H, W) is reduced to (h, w) for the network."""
    warnings.warn(
        f"an image of {size[1]}x{size[0]} pixels is reduced by a factor of {max(size) / max(input_size):.1f} to "
        f"{input_size[1]}x{input_size[0]}: small objects may be lost; use --tiled for full resolution (shown once per "
        "model)",
        ReducedImageWarning,
        stacklevel=2,
    )


def is_much_reduced(size: tuple[int, int], input_size: tuple[int, int]) -> bool:
    """Return whether resizing an image (H, W) to (h, w) reduces it by `MAX_REDUCTION` or more."""
    return max(size) >= MAX_REDUCTION * max(input_size)
