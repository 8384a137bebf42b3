"""Tiles of an image that is in memory, where the network cannot see it as a whole.

C classes, N objects; H W pixels of the image, h w of what the network sees of it.
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
from upscore.data.resizing import Piece
from upscore.data.sample import Sample
from upscore.errors import UserError
from upscore.inference.memory import free_memory, megabytes
from upscore.inference.semantic import PixelScores
from upscore.inference.tiled.detection import Find, Tiling, find_objects
from upscore.inference.tiled.plan import TilePlan, core_size, tile_bytes, tile_plan
from upscore.inference.tiled.tile_store import BLOCK
from upscore.models.fcn.fcn import FCN
from upscore.models.receptive_field import Geometry, receptive_field
from upscore.results import InstanceResult

MEMORY = 768 * 2**20
"""Bytes that a tile may need in the network, by default."""

SHARE = 0.7
"""The share of the free memory that the network may need for a whole image."""

TILE_SHARE = 0.25
"""The share of the free memory that a tile may need: an engine keeps several sizes of tiles compiled."""

MEASURED_SIDE = 1024
"""Pixels along a side of the image by which the memory per pixel is estimated."""

MAX_REDUCTION = 2
"""A network that sees small images enlarged and others as they are gets an image in tiles that it would see reduced by
this factor or more."""

MIN_TILES = 4
"""Fewer tiles than this would see about as many objects each as the whole image."""


class LargeImageWarning(UserWarning):
    """An image is predicted in tiles, since the network cannot see it as a whole."""


class ObjectLimitWarning(UserWarning):
    """An image or a tile holds as many objects as the network finds at once; there may be more."""


class ReducedImageWarning(UserWarning):
    """The network sees an image much smaller than it is."""


def bytes_per_pixel(net: FCN) -> float:
    """About how much memory the network needs for each pixel of a large image, in float32."""
    return tile_bytes(net, MEASURED_SIDE) / MEASURED_SIDE**2


def tile_budget(needed: int, device: torch.device) -> int | None:
    """The bytes that a tile may need, or None where the memory that is free takes the whole image.

    Args:
        needed: bytes that the network needs for the whole image.
        device: where the network runs.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if needed <= SHARE * free:
        return None
    return min(MEMORY, int(TILE_SHARE * free))


def exact_plan(
    net: FCN, height: int, width: int, *, tile_size: int | None = None, halo: int | None = None, memory: int = MEMORY
) -> TilePlan:
    """Tiles that together have the class map of the whole image.

    Args:
        net: the complete network.
        height, width: of the image.
        core: side of a tile without its halo, in pixels; by default what `memory` has room for.
        halo: pixels around it that a tile sees too; by default as many as the network needs.
        memory: bytes that a tile may need in the network.

    Raises:
        UserError: the network sees the whole image, or the core is not a multiple of 256.
    """
    geometry = _geometry(net)
    halo = geometry.halo if halo is None else halo
    unit = int(np.lcm(BLOCK, geometry.grid))
    if tile_size is not None and (tile_size < unit or tile_size % unit):
        raise UserError(f"core={tile_size}: the side of a tile's core is a multiple of {unit} pixels")
    chosen = core_size(net, halo, unit, memory) if tile_size is None else tile_size
    return tile_plan(height, width, tile_size=chosen, halo=halo, grid=geometry.grid)


_geometries: WeakKeyDictionary[FCN, Geometry] = WeakKeyDictionary()


def _geometry(net: FCN) -> Geometry:
    """Found by running the network, which takes a second; once for each network."""
    if net not in _geometries:
        _geometries[net] = receptive_field(net)
    return _geometries[net]


Classify = Callable[[Sample, tuple[int, int]], PixelScores]
"""A sample of (h, w) pixels, and the size of the class maps to make of it -> these."""


def classify_in_tiles(
    classify: Classify, net: FCN, seen: Sample, size: tuple[int, int], budget: int, *, needed: int
) -> PixelScores:
    """The class maps of an image, exactly those of the whole image, from tiles that need less memory.

    An image that is seen smaller than it is gets the class of the nearest pixel that is seen.

    Args:
        classify: what the network says of a tile.
        net: the complete network.
        seen: the image as the network sees it.
        size: (H, W) of the image.
        budget: bytes that a tile may need.
        needed: bytes that the whole image would need.

    Warns:
        LargeImageWarning: the image is cut into several tiles.

    Raises:
        UserError: the network sees the whole image, whatever its size.
    """
    height, width = seen.image.shape[-2:]
    plan = exact_plan(net, height, width, memory=budget)
    if len(plan) > 1:
        warnings.warn(
            f"an image of {width}x{height} pixels would need about {megabytes(needed)} in the network, and "
            f"{megabytes(free_memory())} are free: it is predicted in {len(plan)} tiles, with the same result",
            LargeImageWarning,
            stacklevel=2,
        )
    maps: list[np.ndarray] = []
    probabilities: np.ndarray | None = None
    for tile in plan:
        rows, columns = tile.seen.top, tile.seen.left
        part = np.s_[..., rows : tile.seen.bottom, columns : tile.seen.right]
        depth = None if seen.depth is None else seen.depth[part]
        found = classify(replace(seen, image=seen.image[part], depth=depth), (tile.seen.height, tile.seen.width))
        tile_size = np.s_[..., tile.tile_size.top : tile.tile_size.bottom, tile.tile_size.left : tile.tile_size.right]
        maps = maps or [np.empty((height, width), np.uint8) for _ in found.class_maps]
        for plane, class_map in zip(maps, found.class_maps, strict=True):
            plane[tile_size] = class_map[tile.inside]
        if found.probabilities is not None:
            if probabilities is None:
                probabilities = np.empty((len(found.probabilities), height, width), np.float16)
            probabilities[tile_size] = found.probabilities[:, *tile.inside]
    if size != (height, width):
        rows, columns = (_nearest(*sides) for sides in zip((height, width), size, strict=True))
        maps = [plane[rows[:, None], columns] for plane in maps]
        probabilities = None if probabilities is None else probabilities[:, rows[:, None], columns]
    return PixelScores(maps, probabilities)


def _nearest(side: int, size: int) -> np.ndarray:
    return Piece(start=0, length=side, size=size).nearest().numpy()


def find_in_tiles(find: Find, image: Tensor, tiling: Tiling, reason: str) -> InstanceResult:
    """The objects of an image (3, H, W), found in tiles.

    Args:
        find: finds the objects of a tile.
        image: uint8, RGB.
        tiling: how it is cut up.
        reason: why, as the beginning of a sentence.

    Warns:
        LargeImageWarning: always.
    """
    count = len(tiling.windows((image.shape[-2], image.shape[-1])))
    warnings.warn(f"{reason}: it is searched in {count} tiles of {tiling.tile} px", LargeImageWarning, stacklevel=2)
    return find_objects(InMemoryRaster(image), find, tiling)


def warn_of_limit(size: tuple[int, int], most: int, *, tiles: int = 0) -> None:
    """Warn that an image (H, W), or some of its tiles, hold as many objects as the network finds at once."""
    holds = f"has {tiles} tiles that hold" if tiles else "holds"
    warnings.warn(
        f"an image of {size[1]}x{size[0]} pixels {holds} {most} objects or more, as many as the network finds at once: "
        "some may be missing; use smaller tiles (--tiled --tile-size), or train with a higher limit (--max-detections)",
        ObjectLimitWarning,
        stacklevel=2,
    )


def warn_if_reduced(size: tuple[int, int], seen: tuple[int, int]) -> None:
    """Warn that an image (H, W) is seen at (h, w)."""
    warnings.warn(
        f"an image of {size[1]}x{size[0]} pixels is reduced {max(size) / max(seen):.1f} times for the network, to "
        f"{seen[1]}x{seen[0]}: what is small may be lost; --tiled sees it at full resolution (said once for a model)",
        ReducedImageWarning,
        stacklevel=2,
    )


def is_much_reduced(size: tuple[int, int], seen: tuple[int, int]) -> bool:
    """Whether a network that sees images as they are would see this one (H, W) much smaller, at (h, w)."""
    return max(size) >= MAX_REDUCTION * max(seen)
