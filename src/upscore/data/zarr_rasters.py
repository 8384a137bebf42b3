"""Zarr arrays in parts.

H W pixels of the image, h w of a window.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscore.data.images import _to_bytes as to_bytes
from upscore.errors import UserError

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""One of them is in the folder of each array or group."""

MOST_CHUNK = 2**28
"""Bytes of a chunk once decoded: more are refused."""


def is_zarr(path: Path) -> bool:
    """Whether a path is the folder of a Zarr array or group."""
    return any((path / mark).is_file() for mark in MARKS)


def import_zarr() -> ModuleType:
    """The package, which is optional.

    Raises:
        UserError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise UserError("Zarr needs the package zarr: pip install 'upscore[zarr]'.") from error
    return zarr


class ZarrRaster:
    """An array (H, W), (H, W, 3 or 4) or (3 or 4, H, W), or a level of an OME-Zarr pyramid of such.

    Axes of length 1 don't count, wherever they are. See `upscore.data.rasters.Raster`.

    Raises:
        UserError: it is no such array, has no such level, chunks that are too large, or can't be read.
    """

    def __init__(self, path: Path, level: int = 0) -> None:
        self.path = path
        self._array = array = _open(path, level)
        sides = [side for side in array.shape if side > 1]
        self._channels_last = len(sides) == 3 and sides[2] in (3, 4)
        if not (len(sides) == 2 or self._channels_last or (len(sides) == 3 and sides[0] in (3, 4))):
            raise UserError(f"{path}: has the shape {array.shape}; give an array (H, W), (H, W, 3) or (3, H, W).")
        self.height, self.width = sides[:2] if self._channels_last else sides[-2:]
        self._coloured = len(sides) == 3
        if (size := math.prod(array.chunks) * array.dtype.itemsize) > MOST_CHUNK:
            raise UserError(f"{path}: has chunks of {size:,} bytes; save it in chunks of at most {MOST_CHUNK:,}.")

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See `Raster`."""
        window = [slice(top, top + height), slice(left, left + width)]
        window.insert(2 if self._channels_last else 0, slice(3))
        axes = iter(window if self._coloured else window[1:])
        try:
            pixels = np.asarray(self._array[tuple(next(axes) if side > 1 else 0 for side in self._array.shape)])
        except Exception as error:  # decoders raise anything at all on broken bytes
            raise UserError(f"{self.path}: can't be decoded ({error}).") from error
        pixels = np.moveaxis(pixels, -1, 0) if self._channels_last else pixels
        pixels = np.broadcast_to(to_bytes(pixels, self.path), (3, height, width))
        return torch.from_numpy(np.array(pixels, order="C"))


def _open(path: Path, level: int) -> Any:
    zarr = import_zarr()
    try:
        node = zarr.open(store=str(path), mode="r")
        if isinstance(node, zarr.Array):
            levels = [node]
        else:
            attributes = dict(node.attrs)
            scales = attributes.get("ome", attributes).get("multiscales")
            if not scales:
                names = ", ".join(node.array_keys()) or "none"
                raise UserError(f"{path}: is a group without OME's multiscales; give one of its arrays: {names}.")
            levels = [node[dataset["path"]] for dataset in scales[0]["datasets"]]
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign folder makes of it
        raise UserError(f"{path}: can't be read as Zarr ({error}).") from error
    if not 0 <= level < len(levels):
        raise UserError(f"{path}: level={level}, but its levels are 0 to {len(levels) - 1}.")
    return levels[level]
