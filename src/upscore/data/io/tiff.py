"""TIFF files: windows of large images, and the meaning of their samples (colours, alpha, inverted grey).

H W pixels of the image, h w of a window, S samples per pixel. Source: TIFF 6.0, and GDAL's names of bands.
"""

from __future__ import annotations

import math
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, TIFF, TiffFile, TiffPage
from torch import Tensor

from upscore.data.io.bit_depth import SAMPLE, sample_windows, to_bytes, warn_if_dark
from upscore.data.io.decoding import ORIENTATION, ImageFilePath, pages_of, reading
from upscore.errors import UserError

KINDS = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)
JPEGS = (COMPRESSION.JPEG, COMPRESSION.OJPEG)
"""Their decoder turns YCbCr into RGB."""

# TIFF's numbers of the tags that are looked at.
BITS, COLOURS, SAMPLES, COLOUR_MAP, EXTRA, FORMAT = 258, 262, 277, 320, 338, 339
LARGEST_VALUES = 281, 341
GDAL = 42112
PREMULTIPLIED, ALPHA = 1, 2
SIGNED = 2
ROLE = re.compile(r'<Item\b[^>]*\bsample="(\d{1,5})"[^>]*\brole="colorinterp"[^>]*>\s*(\w+)')


class TiffColours:
    """Of the first page of a TIFF, by its tags alone.

    `bands` are the samples that are grey, or red, green and blue: those that GDAL's metadata names so, else the first
    ones where the file says RGB, else the only one or the only three that are not alpha. `bits` are those of a sample,
    or fewer where a tag has 2^B - 1 as the largest value: any other largest value is a statistic, not a scale.

    Args:
        tag: the value of a tag by its number, or the default given beside it.
        path: of the file, for errors.
        pages: over how many pages the channels are spread.

    Raises:
        UserError: it does not say which samples are the colours.
    """

    def __init__(self, tag: Callable[[int, Any], Any], path: ImageFilePath, pages: int = 1) -> None:
        self.path = path
        self.kind = _numbers(tag(COLOURS, PHOTOMETRIC.MINISBLACK))[0]
        self.samples = pages if pages > 1 else _numbers(tag(SAMPLES, 1))[0]
        extra = _numbers(tag(EXTRA, ()))[: self.samples]
        first = self.samples - len(extra)
        roles = {role.lower(): int(sample) for sample, role in ROLE.findall(str(tag(GDAL, "")))}
        alphas = {first + index for index, meaning in enumerate(extra) if meaning in (PREMULTIPLIED, ALPHA)}
        self.bands = self._bands(roles, alphas & set(range(first, self.samples)))
        multiplied = first + extra.index(PREMULTIPLIED) if PREMULTIPLIED in extra else None
        self.premultiplied = None if multiplied in self.bands else multiplied
        self.bits = _bits_of(tag)
        self._map = tag(COLOUR_MAP, ())

    def rgb(self, pixels: np.ndarray) -> np.ndarray:
        """Samples (H, W, S) as stored -> (H, W, 3) uint8, or (H, W, 1) where they are grey.

        Raises:
            UserError: as `upscore.data.io.bit_depth.to_bytes`.
        """
        if self.kind == PHOTOMETRIC.PALETTE:
            colours = np.asarray(self._map, np.uint16).reshape(3, -1) >> 8
            return colours.astype(np.uint8).T[pixels[..., 0].astype(np.intp)]
        values = self._colours(pixels)
        if self.premultiplied is not None:
            values = _divided(values, pixels[..., self.premultiplied, None], self.bits)
        values = to_bytes(values, self.path, self.bits)
        return 255 - values if self.kind == PHOTOMETRIC.MINISWHITE else values

    def warn_if_dark(self, pixels: np.ndarray, where: str = "") -> None:
        """As `upscore.data.io.bit_depth.warn_if_dark` of samples (H, W, S)."""
        if self.kind != PHOTOMETRIC.PALETTE:
            warn_if_dark(self._colours(pixels), self.path, self.bits, where=where)

    def as_pillow_shows(self) -> bool:
        """Whether what Pillow makes of 8-bit colours, or of the upper bytes of 16-bit ones, is `rgb`."""
        return self.bands in ((0,), (0, 1, 2)) and self.bits in (1, 2, 4, 8, 16)

    def _colours(self, pixels: np.ndarray) -> np.ndarray:
        if self.bands == tuple(range(len(self.bands))):
            return pixels[..., : len(self.bands)]  # a view, where a list of bands would be a copy
        return pixels[..., list(self.bands)]

    def _bands(self, roles: dict[str, int], alphas: set[int]) -> tuple[int, ...]:
        grey = self.kind in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
        named = tuple(roles[name] for name in ("red", "green", "blue") if roles.get(name, self.samples) < self.samples)
        if self.kind == PHOTOMETRIC.PALETTE or self.samples == 1:
            return (0,)
        if len(named) == 3:
            return named
        if not grey and self.samples >= 3:
            return 0, 1, 2
        if grey and self.samples - len(alphas) in (1, 3):
            return tuple(sample for sample in range(self.samples) if sample not in alphas)
        if self.samples == 2:
            raise UserError(f"{self.path}: has 2 channels and does not say that one is alpha; save the grey one alone.")
        raise UserError(
            f"{self.path}: has {self.samples} channels and does not say which are red, green and blue; name them in "
            "the file, as by `gdal_edit.py -colorinterp_1 red -colorinterp_2 green -colorinterp_3 blue FILE`, or save "
            "the three as RGB."
        )


def unreadable(page: TiffPage) -> str | None:
    """Why tifffile and `TiffColours` can't make RGB of a page, as the end of a sentence."""
    if page.photometric not in KINDS or (page.photometric == PHOTOMETRIC.YCBCR) > (page.compression in JPEGS):
        return f"its colours are {_name(page.photometric)}; save it as RGB or grey"
    if page.samplesperpixel > 1 and page.planarconfig not in tuple(PLANARCONFIG):
        return f"its tag PlanarConfiguration is damaged ({page.planarconfig})"
    if page.compression not in TIFF.DECOMPRESSORS:
        return f"it is compressed by {_name(page.compression)}, for which `pip install imagecodecs` is needed"
    if page.predictor not in TIFF.UNPREDICTORS:
        return f"its predictor is {_name(page.predictor)}, for which `pip install imagecodecs` is needed"
    if page.bitspersample not in (1, 8, 16, 32, 64) and find_spec("imagecodecs") is None:
        return f"it has {page.bitspersample} bits a sample, for which `pip install imagecodecs` is needed"
    return None


def _bits_of(tag: Callable[[int, Any], Any]) -> int:
    """B of whole numbers, 16 at most."""
    bits = min(16, max(_numbers(tag(BITS, 1))) - (_numbers(tag(FORMAT, 1))[0] == SIGNED))
    for number in LARGEST_VALUES:
        largest = max(_numbers(tag(number, 0)))
        if isinstance(largest, int) and 8 <= largest.bit_length() < bits and largest & (largest + 1) == 0:
            return largest.bit_length()
    return bits


def _divided(values: np.ndarray, alpha: np.ndarray, bits: int) -> np.ndarray:
    """Colours that were multiplied by alpha, as they were before; 0 where alpha is 0."""
    if values.dtype.kind == "f":
        return np.divide(values, alpha, out=np.zeros_like(values), where=alpha > 0).clip(max=1)
    white = 2**bits - 1
    divided = np.minimum(values.astype(np.int64) * white // np.maximum(alpha, 1), white)
    return np.where(alpha > 0, divided, 0).astype(values.dtype)


def _numbers(value: Any) -> tuple[Any, ...]:
    """Of a tag, which readers give bare where there is one."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _name(number: int) -> str:
    """Of a compression, of a kind of colours or of a predictor."""
    return getattr(number, "name", str(number))


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
