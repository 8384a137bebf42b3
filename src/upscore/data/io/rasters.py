"""Images of any size, of which windows are read: TIFF, Zarr, and images that memory holds whole.

H W pixels of the image, h w of a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from upscore.data.io.decoding import LARGE, is_tiff, reading
from upscore.data.io.images import read_image
from upscore.data.io.tiff_rasters import TiffRaster, UnstreamableError
from upscore.data.io.zarr_rasters import ZarrRaster, is_zarr
from upscore.errors import UserError


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
