"""Rasters: large images that are read in windows, from TIFF, Zarr and other formats.

H W pixels of the image, h w of a window.
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

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""One of them is in the folder of each array or group."""

RGB = ("FF0000", "00FF00", "0000FF")
"""As OME writes the colours of channels."""

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

    Axes of length 1 don't count, wherever they are. Channels are red, green and blue as OME's colours have it, else in
    this order; a fourth is alpha in (H, W, 4), while the bands of (4, H, W) need colours. See
    `upscore.data.io.rasters.Raster`.

    Raises:
        UserError: it is no such array, has no such level, chunks that are too large, bands without colours, or can't be
            read.
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
            raise UserError(f"{path}: has 4 channels and does not say which are red, green and blue; save these alone.")
        if (size := math.prod(array.chunks) * array.dtype.itemsize) > MOST_CHUNK:
            raise UserError(f"{path}: has chunks of {size:,} bytes; save it in chunks of at most {MOST_CHUNK:,}.")
        if array.dtype.itemsize > 1 and array.dtype.kind in "iu":
            parts = [self._stored(*window) for window in sample_windows(self.height, self.width)]
            warn_if_dark(np.stack(parts), path, where=SAMPLE)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See `Raster`."""
        pixels = np.broadcast_to(to_bytes(self._stored(top, left, height, width), self.path), (3, height, width))
        return torch.from_numpy(np.array(pixels, order="C"))

    def _stored(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """(h, w) or (3, h, w), as they lie in the array."""
        window = [slice(top, top + height), slice(left, left + width)]
        window.insert(2 if self._channels_last else 0, slice(min(self._bands), max(self._bands) + 1))
        axes = iter(window if self._coloured else window[1:])
        try:
            pixels = np.asarray(self._array[tuple(next(axes) if side > 1 else 0 for side in self._array.shape)])
        except Exception as error:  # decoders raise anything at all on broken bytes
            raise UserError(f"{self.path}: can't be decoded ({error}).") from error
        pixels = np.moveaxis(pixels, -1, 0) if self._channels_last else pixels
        return pixels[[band - min(self._bands) for band in self._bands]] if self._coloured else pixels


def _open(path: Path, pyramid_level: int) -> tuple[Any, list[str]]:
    """An array, and the colours that OME gives its channels, as RRGGBB."""
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
                raise UserError(f"{path}: is a group without OME's multiscales; give one of its arrays: {names}.")
            levels = [node[dataset["path"]] for dataset in scales[0]["datasets"]]
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign folder makes of it
        raise UserError(f"{path}: can't be read as Zarr ({error}).") from error
    if not 0 <= pyramid_level < len(levels):
        raise UserError(f"{path}: level={pyramid_level}, but its levels are 0 to {len(levels) - 1}.")
    return levels[pyramid_level], colours


class Window(NamedTuple):
    """A part of an image, in pixels."""

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
    """An image that is read in parts."""

    height: int
    width: int

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The pixels (3, h, w) uint8 RGB of a window that lies inside the image.

        Raises:
            UserError: they can't be decoded.
        """
        ...


class InMemoryRaster:
    """An image that is in memory, (3, H, W) uint8 RGB."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.height, self.width = image.shape[-2:]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See `Raster`."""
        return self.image[:, top : top + height, left : left + width]


def open_raster(path: str | Path, *, pyramid_level: int = 0) -> Raster:
    """An image by its path; a TIFF or a Zarr array is read as its windows are.

    Grey is shown as RGB and alpha dropped, deep colour becomes bytes, and bands are colours by their names, as
    `read_image` does it. What can't be read in parts (JPEG, PNG; TIFFs that are turned, or compressed in one piece) is
    read at once, up to its limits.

    Args:
        path: an image, a TIFF (BigTIFF, OME-TIFF, GeoTIFF, pyramids), a Zarr array or an OME-Zarr group.
        level: of a pyramid; 0 is the finest.

    Warns:
        DarkImageWarning: of more than 8 bits hardly any is used, in a sample of the image.

    Raises:
        UserError: there is no such image or level, or it is of a kind that can't be read.
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
        raise UserError(f"{path}: level={pyramid_level}, but an image has one level; pyramids are in TIFF or Zarr.")
    return InMemoryRaster(read_image(path))
