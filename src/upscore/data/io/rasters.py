"""Rasters: images that are read in windows, from TIFF, Zarr and other formats.

H W pixels of the image, h w pixels of a window.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from upscore.data.io.bit_depth import SAMPLE, sample_windows, to_bytes, warn_if_dark
from upscore.data.io.decoding import LARGE, is_tiff, reading
from upscore.data.io.images import read_image
from upscore.data.io.tiff import TiffRaster, UnstreamableError
from upscore.errors import UserError

ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
"""The folder of a Zarr array or group contains one of these files."""

RGB = ("FF0000", "00FF00", "0000FF")
"""Red, green and blue as OME writes the colours of channels."""

MAX_CHUNK_BYTES = 2**28
"""Largest decoded size of a chunk."""


class Window(NamedTuple):
    """A rectangular part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width


class Raster(Protocol):
    """An image that is read in windows."""

    height: int
    width: int

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Read a window inside the image as (3, h, w) uint8 RGB.

        Raises:
            UserError: the window can't be decoded.
        """
        ...


class InMemoryRaster:
    """A `Raster` of an image in memory, (3, H, W) uint8 RGB."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.height, self.width = image.shape[-2:]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Read a window; see `Raster.read`."""
        return self.image[:, top : top + height, left : left + width]


def open_raster(path: str | Path, *, pyramid_level: int = 0) -> Raster:
    """Open an image as a raster; TIFF and Zarr are decoded window by window.

    Grey, alpha, bit depth and channels are handled as by `read_image`. Images that can't be read in windows (JPEG, PNG;
    TIFFs that are rotated, or compressed in one piece) are decoded as a whole, within the limits of `read_image`.

    Args:
        path: an image, a TIFF (BigTIFF, OME-TIFF, GeoTIFF, pyramid), a Zarr array or an OME-Zarr group.
        pyramid_level: the level of a pyramid; 0 has the full resolution.

    Warns:
        DarkImageWarning: sampled windows with more than 8 bits use only a small part of the range.

    Raises:
        UserError: there is no such image or level, or it can't be read.
    """
    path = Path(path)
    if is_zarr(path):
        return ZarrRaster(path, pyramid_level)
    with reading(path):
        tiff = is_tiff(path)
    if tiff:
        try:
            return TiffRaster(path, pyramid_level)
        except UnstreamableError as error:
            if pyramid_level or error.pixels > LARGE:
                raise
    elif pyramid_level:
        raise UserError(f"{path}: has no pyramid level {pyramid_level}; only TIFF and Zarr have pyramids.")
    return InMemoryRaster(read_image(path))


def is_zarr(path: Path) -> bool:
    """Return whether a path is the folder of a Zarr array or group."""
    return any((path / name).is_file() for name in ZARR_FILES)


def import_zarr() -> ModuleType:
    """Import the optional package zarr.

    Raises:
        UserError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise UserError("Zarr needs the package zarr: pip install 'upscore[zarr]'.") from error
    return zarr


class ZarrRaster:
    """A `Raster` of a Zarr array (H, W), (H, W, 3 or 4) or (3 or 4, H, W), or of a level of an OME-Zarr pyramid.

    Axes of length 1 are ignored. The channels that OME's metadata colours red, green and blue are read; without
    metadata, channels are in this order. The fourth channel of (H, W, 4) is alpha; (4, H, W) needs metadata.

    Raises:
        UserError: the shape is another, there is no such level, the chunks are too large, the colours are ambiguous, or
            the array can't be read.
    """

    def __init__(self, path: Path, pyramid_level: int = 0) -> None:
        self.path = path
        array, colours = _open(path, pyramid_level)
        self._array = array
        sides = [side for side in array.shape if side > 1]
        self._channels_last = len(sides) == 3 and sides[2] in (3, 4)
        if not (len(sides) == 2 or self._channels_last or (len(sides) == 3 and sides[0] in (3, 4))):
            raise UserError(f"{path}: has the shape {array.shape}; give an array (H, W), (H, W, 3) or (3, H, W).")
        self.height, self.width = sides[:2] if self._channels_last else sides[-2:]
        self._coloured = len(sides) == 3
        self._bands = [0, 1, 2]
        if set(RGB) <= set(colours) and self._coloured and len(colours) == sides[2 if self._channels_last else 0]:
            self._bands = [colours.index(colour) for colour in RGB]
        elif self._coloured and not self._channels_last and sides[0] > 3:
            raise UserError(f"{path}: has 4 channels and does not name red, green and blue; save only these three.")
        if (size := math.prod(array.chunks) * array.dtype.itemsize) > MAX_CHUNK_BYTES:
            raise UserError(f"{path}: has chunks of {size:,} bytes; the largest supported size is {MAX_CHUNK_BYTES:,}.")
        if array.dtype.itemsize > 1 and array.dtype.kind in "iu":
            parts = [self._stored(*window) for window in sample_windows(self.height, self.width)]
            warn_if_dark(np.stack(parts), path, where=SAMPLE)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Read a window; see `Raster.read`."""
        pixels = np.broadcast_to(to_bytes(self._stored(top, left, height, width), self.path), (3, height, width))
        return torch.from_numpy(np.array(pixels, order="C"))

    def _stored(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return the stored values of a window, (h, w) or (3, h, w)."""
        window = [slice(top, top + height), slice(left, left + width)]
        window.insert(2 if self._channels_last else 0, slice(min(self._bands), max(self._bands) + 1))
        axes = iter(window if self._coloured else window[1:])
        try:
            pixels = np.asarray(self._array[tuple(next(axes) if side > 1 else 0 for side in self._array.shape)])
        except Exception as error:  # decoders raise exceptions of any type for damaged chunks
            raise UserError(f"{self.path}: can't be decoded ({error}).") from error
        pixels = np.moveaxis(pixels, -1, 0) if self._channels_last else pixels
        return pixels[[band - min(self._bands) for band in self._bands]] if self._coloured else pixels


def _open(path: Path, pyramid_level: int) -> tuple[Any, list[str]]:
    """Open an array or a level of a group; return it and the colours of its channels (RRGGBB, from OME's metadata)."""
    zarr = import_zarr()
    try:
        node = zarr.open(store=str(path), mode="r")
        if isinstance(node, zarr.Array):
            levels, colours = [node], []
        else:
            attributes = dict(node.attrs)
            attributes = attributes.get("ome", attributes)
            channels = (attributes.get("omero") or {}).get("channels", [])
            colours = [str(channel.get("color")).upper() for channel in channels]
            scales = attributes.get("multiscales")
            if not scales:
                names = ", ".join(node.array_keys()) or "none"
                raise UserError(
                    f"{path}: is a group without OME's multiscales; give the path of one of its arrays: {names}."
                )
            levels = [node[dataset["path"]] for dataset in scales[0]["datasets"]]
    except UserError:
        raise
    except Exception as error:  # damaged metadata raise exceptions of many types
        raise UserError(f"{path}: can't be read as Zarr ({error}).") from error
    if not 0 <= pyramid_level < len(levels):
        raise UserError(f"{path}: has no pyramid level {pyramid_level}; its levels are 0 to {len(levels) - 1}.")
    return levels[pyramid_level], colours
