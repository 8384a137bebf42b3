"""TIFF files in parts: of their strips and tiles, those alone are decoded that a window touches.

H W pixels of the image, h w of a window or a segment (a strip or a tile), S samples a pixel.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from tifffile import PLANARCONFIG, TiffFile, TiffPage
from torch import Tensor

from upscore.data.io.bit_depth import SAMPLE, sample_windows
from upscore.data.io.decoding import ORIENTATION, pages_of, reading
from upscore.data.io.tiff_colors import TiffColours, unreadable
from upscore.errors import UserError

MOST_SEGMENT = 2**28
"""Bytes of a strip or tile once decoded: more are refused."""

KEPT = 160 * 2**20
"""Bytes of decoded segments that are kept: a band of strips is met again by each tile beside the last."""

PART = 2**24
"""Bytes of the strips that an uncompressed image is read in, however its own are."""


class UnstreamableError(UserError):
    """A TIFF that can't be read in parts, of so many pixels; it may be possible at once."""

    def __init__(self, message: str, pixels: int) -> None:
        super().__init__(message)
        self.pixels = pixels


class TiffRaster:
    """One level of the first image in a TIFF file; see `upscore.data.io.rasters.Raster`. It keeps the file open.

    Raises:
        UnstreamableError: its pixels are turned, its segments too large, or its colours or compression not known here.
        UserError: it has no such level, is no TIFF, holds a stack, or does not say which channels are the colours.
    """

    def __init__(self, path: Path, pyramid_level: int = 0) -> None:
        self.path = path
        with reading(path):
            self._file = TiffFile(path)
            weakref.finalize(self, self._file.close)
            series = self._file.series[0]
            if not 0 <= pyramid_level < len(series.levels):
                raise UserError(f"{path}: level={pyramid_level}, but its levels are 0 to {len(series.levels) - 1}.")
            self._pages = pages_of(series.levels[pyramid_level], path)
            self._page = page = self._pages[0]
            finest = pages_of(series.levels[0], path)[0]  # whose tags the other levels need not repeat
            self._colours = TiffColours(finest.tags.valueof, path, len(self._pages))
            self.height, self.width = page.imagelength, page.imagewidth
            self._contiguous = page.is_final and page.bitspersample % 8 == 0
            self._segment = _segment_size(page, self._contiguous)
            self._require_readable()
            self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
            self._lock = threading.Lock()
            if self._colours.bits > 8:
                parts = [self._stored(*window) for window in sample_windows(self.height, self.width)]
                self._colours.warn_if_dark(np.stack(parts), SAMPLE)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See `Raster`."""
        with reading(self.path), self._lock:
            pixels = self._colours.rgb(self._stored(top, left, height, width)).transpose(2, 0, 1)
            return torch.from_numpy(np.array(np.broadcast_to(pixels, (3, height, width)), order="C"))

    def _stored(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """(h, w, S) as they lie in the file."""
        if self._planes == 1:
            return self._plane(0, top, left, height, width)
        planes = [self._plane(plane, top, left, height, width)[..., 0] for plane in range(self._planes)]
        return np.stack(planes, axis=-1)

    @property
    def _planes(self) -> int:
        """How many channels lie apart, each in segments of its own."""
        if len(self._pages) > 1:
            return len(self._pages)
        return self._page.samplesperpixel if self._page.planarconfig == PLANARCONFIG.SEPARATE else 1

    def _require_readable(self) -> None:
        page, issue = self._page, unreadable(self._page)
        size = math.prod(self._segment) * page.bitspersample // 8
        if issue is None and page.tags.valueof(ORIENTATION, 1) != 1:
            issue = "its rows don't run from the top to the bottom; save it upright"
        elif issue is None and size * (page.samplesperpixel if self._planes == 1 else 1) > MOST_SEGMENT:
            issue = f"it is stored in pieces of {self._segment[1]}x{self._segment[0]} pixels; save it in tiles"
        if issue:
            raise UnstreamableError(f"{self.path}: can't be read in parts: {issue}.", self.height * self.width)

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
