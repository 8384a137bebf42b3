"""TIFF files in parts: of their strips and tiles, those alone are decoded that a window touches.

H W pixels of the image, h w of a window or a segment (a strip or a tile), S samples a pixel.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, TIFF, TiffFile, TiffPage, TiffPageSeries
from torch import Tensor

from upscore.data.decoding import ORIENTATION, PAGES, reading
from upscore.data.images import _to_bytes as to_bytes
from upscore.errors import UserError

MOST_SEGMENT = 2**28
"""Bytes of a strip or tile once decoded: more are refused."""

KEPT = 160 * 2**20
"""Bytes of decoded segments that are kept: a band of strips is met again by each tile beside the last."""

PART = 2**24
"""Bytes of the strips that an uncompressed image is read in, however its own are."""

COLOURS = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)
JPEGS = (COMPRESSION.JPEG, COMPRESSION.OJPEG)
"""Their decoder turns YCbCr into RGB."""


class UnstreamableError(UserError):
    """A TIFF that can't be read in parts, of so many pixels; it may be possible at once."""

    def __init__(self, message: str, pixels: int) -> None:
        super().__init__(message)
        self.pixels = pixels


class TiffRaster:
    """One level of the first image in a TIFF file; see `upscore.data.rasters.Raster`. It keeps the file open.

    Raises:
        UnstreamableError: its pixels are turned, its segments too large, or its colours or compression not known here.
        UserError: it has no such level, is no TIFF, or holds a stack.
    """

    def __init__(self, path: Path, level: int = 0) -> None:
        self.path = path
        with reading(path):
            self._file = TiffFile(path)
            series = self._file.series[0]
            if not 0 <= level < len(series.levels):
                raise UserError(f"{path}: level={level}, but its levels are 0 to {len(series.levels) - 1}.")
            self._pages = _pages(series.levels[level], path)
            self._page = page = self._pages[0]
            self.height, self.width = page.imagelength, page.imagewidth
            self._contiguous = page.is_final and page.bitspersample % 8 == 0
            self._segment = _segment_size(page, self._contiguous)
            self._require_readable()
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See `Raster`."""
        with reading(self.path), self._lock:
            pixels = np.stack([self._plane(plane, top, left, height, width) for plane in range(self._planes)], axis=-1)
            return torch.from_numpy(self._rgb(pixels.reshape(height, width, -1)))

    @property
    def _planes(self) -> int:
        """How many channels lie apart, each in segments of its own."""
        if len(self._pages) > 1:
            return len(self._pages)
        return self._page.samplesperpixel if self._page.planarconfig == PLANARCONFIG.SEPARATE else 1

    def _require_readable(self) -> None:
        page, fault = self._page, None
        samples, size = page.samplesperpixel, math.prod(self._segment) * page.bitspersample // 8
        if page.photometric not in COLOURS or (page.photometric == PHOTOMETRIC.YCBCR) > (page.compression in JPEGS):
            fault = f"its colours are {_name(page.photometric)}; save it as RGB or grey"
        elif samples > 1 + len(page.extrasamples) and page.photometric not in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
            fault = f"it has {samples} channels and does not say which are red, green and blue; save the three as RGB"
        elif page.tags.valueof(ORIENTATION, 1) != 1:
            fault = "its rows don't run from the top to the bottom; save it upright"
        elif size * (samples if self._planes == 1 else 1) > MOST_SEGMENT:
            fault = f"it is stored in pieces of {self._segment[1]}x{self._segment[0]} pixels; save it in tiles"
        elif page.compression not in TIFF.DECOMPRESSORS:
            fault = f"it is compressed by {_name(page.compression)}, for which `pip install imagecodecs` is needed"
        if fault:
            raise UnstreamableError(f"{self.path}: can't be read in parts: {fault}.", self.height * self.width)

    def _plane(self, plane: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """(h, w, S) as stored; S is 1 where channels lie apart."""
        samples = 1 if self._planes > 1 else self._page.samplesperpixel
        window = np.empty((height, width, samples), self._page.dtype)
        rows, columns = self._segment
        for row in range(top // rows, -(-(top + height) // rows)):
            for column in range(left // columns, -(-(left + width) // columns)):
                down, across = row * rows, column * columns
                segment = self._decoded(plane, row, column)
                first, last = max(top, down), min(top + height, down + rows)
                start, stop = max(left, across), min(left + width, across + columns)
                part = segment[first - down : last - down, start - across : stop - across]
                window[first - top : last - top, start - left : stop - left] = part
        return window

    def _decoded(self, plane: int, row: int, column: int) -> np.ndarray:
        """(h, w, S), of the segments kept or out of the file."""
        rows, columns = self._segment
        index = row * -(-self.width // columns) + column
        if (plane, index) in self._kept:
            self._kept.move_to_end((plane, index))
            return self._kept[plane, index]
        page = self._pages[plane] if len(self._pages) > 1 else self._page
        if len(self._pages) == 1:
            index += plane * -(-self.height // rows) * -(-self.width // columns)
        segment = self._rows_of(page, plane, row) if self._contiguous else _decode(page, index)
        self._kept[plane, index] = segment
        while sum(kept.nbytes for kept in self._kept.values()) > KEPT and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return segment

    def _rows_of(self, page: TiffPage, plane: int, row: int) -> np.ndarray:
        """(h, W, S) of pixels that lie in the file as they are."""
        samples = 1 if self._planes > 1 else page.samplesperpixel
        dtype = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        rows = self._segment[0]
        top, stacked = row * rows, plane * self.height if len(self._pages) == 1 else 0
        count = min(rows, self.height - top) * self.width * samples
        file = self._file.filehandle
        file.seek(page.dataoffsets[0] + (stacked + top) * self.width * samples * dtype.itemsize)
        data = file.read(count * dtype.itemsize)
        return np.frombuffer(data, dtype, count).reshape(-1, self.width, samples)

    def _rgb(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, S) as stored -> (3, h, w) bytes."""
        page, bits = self._page, self._page.bitspersample
        if page.photometric == PHOTOMETRIC.PALETTE:
            assert page.colormap is not None
            return (page.colormap[:, pixels[..., 0]] >> 8).astype(np.uint8, order="C")
        if page.photometric == PHOTOMETRIC.MINISWHITE and pixels.dtype != np.bool_:
            pixels = 2**bits - 1 - pixels
        pixels = to_bytes(pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1], self.path)
        if page.photometric == PHOTOMETRIC.MINISWHITE and page.dtype == np.bool_:
            pixels = 255 - pixels
        if 1 < bits < 8:
            pixels = pixels * np.uint8(255 // (2**bits - 1))
        return np.array(np.broadcast_to(pixels.transpose(2, 0, 1), (3, *pixels.shape[:2])), order="C")


def _pages(series: TiffPageSeries, path: Path) -> list[TiffPage]:
    """The one page of an image, or one for each of its colours, as OME-TIFF has them."""
    pages = [page.aspage() for page in series.pages[:5] if page is not None]
    first = pages[0]
    apart = len(series.pages) in (3, 4) and first.samplesperpixel == 1 and "C" in series.axes
    held = math.prod(series.shape) // (first.imagelength * first.imagewidth)  # ImageJ's stacks have one page
    if held != first.samplesperpixel * (len(series.pages) if apart else 1) or first.imagedepth > 1:
        raise UserError(f"{path}: {PAGES}")
    return pages if apart else pages[:1]


def _segment_size(page: TiffPage, contiguous: bool) -> tuple[int, int]:
    """Rows and columns of a strip or a tile; where pixels lie in the file as they are, a strip is any rows."""
    if contiguous:
        row_bytes = page.imagewidth * page.samplesperpixel * page.bitspersample // 8
        return max(1, min(PART // row_bytes, page.imagelength)), page.imagewidth
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _decode(page: TiffPage, index: int) -> np.ndarray:
    """(h, w, S) of a strip or a tile; those that the file leaves out are filled with its value for no data."""
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    file, data = page.parent.filehandle, None
    if offset and count:
        file.seek(offset)
        data = file.read(count)
    segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    return np.full(shape[1:], page.nodata, page.dtype) if segment is None else segment[0]


def _name(number: int) -> str:
    """Of a compression or of a kind of colours."""
    return getattr(number, "name", str(number))
