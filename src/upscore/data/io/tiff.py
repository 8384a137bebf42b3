"""Read windows of TIFF files, and convert their samples (colours, alpha, palettes, inverted grey) to RGB.

H W pixels of the image, h w pixels of a window, S samples per pixel. Sources: TIFF 6.0; GDAL's metadata of bands.
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

COLOUR_SPACES = (
    PHOTOMETRIC.MINISBLACK,
    PHOTOMETRIC.MINISWHITE,
    PHOTOMETRIC.RGB,
    PHOTOMETRIC.PALETTE,
    PHOTOMETRIC.YCBCR,
)
"""Colour spaces that can be read."""

JPEGS = (COMPRESSION.JPEG, COMPRESSION.OJPEG)
"""Compressions whose decoder converts YCbCr to RGB."""

BITS, COLOURS, SAMPLES, COLOUR_MAP, EXTRA, FORMAT = 258, 262, 277, 320, 338, 339
"""Numbers of TIFF tags: bits per sample, colour space, number, palette, meaning and type of the samples."""

LARGEST_VALUES = 281, 341
"""Numbers of the TIFF tags MaxSampleValue and SMaxSampleValue."""

GDAL = 42112
"""Number of the TIFF tag with GDAL's metadata."""

PREMULTIPLIED, ALPHA = 1, 2
"""Values of the tag `EXTRA`: alpha that the colours are multiplied by, and alpha that they are not."""

SIGNED = 2
"""Value of the tag `FORMAT`: signed integers."""

ROLE = re.compile(r'<Item\b[^>]*\bsample="(\d{1,5})"[^>]*\brole="colorinterp"[^>]*>\s*(\w+)')
"""The number and the colour of a band in GDAL's metadata."""

MAX_SEGMENT_BYTES = 2**28
"""Largest decoded size of a strip or tile."""

CACHE_BYTES = 160 * 2**20
"""Size of the cache of decoded segments: adjacent windows need the same strips."""

STRIP_BYTES = 2**24
"""Size of the strips in which an uncompressed image is read, independent of the strips in the file."""


class TiffColours:
    """Conversion of the samples of a TIFF page to RGB, according to its tags.

    `bands` are the indices of the grey sample, or of red, green and blue: those named in GDAL's metadata, else the
    first three if the colour space is RGB, else the only one or the only three samples that are not alpha. `bits` is B
    of the samples, or less if a tag gives 2^B - 1 as the largest value; other largest values are statistics of the
    image and are ignored.

    Args:
        tag: returns the value of a tag by its number, or a default.
        path: the file, for error messages.
        pages: the number of pages that the channels are in.

    Raises:
        UserError: the tags do not name the colour channels.
    """

    def __init__(self, tag: Callable[[int, Any], Any], path: ImageFilePath, pages: int = 1) -> None:
        self.path = path
        self.colour_space = _numbers(tag(COLOURS, PHOTOMETRIC.MINISBLACK))[0]
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
        """Convert stored samples (H, W, S) to (H, W, 3) uint8, or to (H, W, 1) if they are grey.

        Raises:
            UserError: as `upscore.data.io.bit_depth.to_bytes`.
        """
        if self.colour_space == PHOTOMETRIC.PALETTE:
            colours = np.asarray(self._map, np.uint16).reshape(3, -1) >> 8
            return colours.astype(np.uint8).T[pixels[..., 0].astype(np.intp)]
        values = self._colours(pixels)
        if self.premultiplied is not None:
            values = _divided(values, pixels[..., self.premultiplied, None], self.bits)
        values = to_bytes(values, self.path, self.bits)
        return 255 - values if self.colour_space == PHOTOMETRIC.MINISWHITE else values

    def warn_if_dark(self, pixels: np.ndarray, where: str = "") -> None:
        """Warn if stored samples (H, W, S) are dark; see `upscore.data.io.bit_depth.warn_if_dark`."""
        if self.colour_space != PHOTOMETRIC.PALETTE:
            warn_if_dark(self._colours(pixels), self.path, self.bits, where=where)

    def as_pillow_shows(self) -> bool:
        """Return whether Pillow converts 8-bit colours, or the upper bytes of 16-bit colours, as `rgb` does."""
        return self.bands in ((0,), (0, 1, 2)) and self.bits in (1, 2, 4, 8, 16)

    def _colours(self, pixels: np.ndarray) -> np.ndarray:
        if self.bands == tuple(range(len(self.bands))):
            return pixels[..., : len(self.bands)]  # a view; indexing with a list would copy
        return pixels[..., list(self.bands)]

    def _bands(self, roles: dict[str, int], alphas: set[int]) -> tuple[int, ...]:
        grey = self.colour_space in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
        named = tuple(roles[name] for name in ("red", "green", "blue") if roles.get(name, self.samples) < self.samples)
        if self.colour_space == PHOTOMETRIC.PALETTE or self.samples == 1:
            return (0,)
        if len(named) == 3:
            return named
        if not grey and self.samples >= 3:
            return 0, 1, 2
        if grey and self.samples - len(alphas) in (1, 3):
            return tuple(sample for sample in range(self.samples) if sample not in alphas)
        if self.samples == 2:
            raise UserError(f"{self.path}: has 2 channels, none of them named alpha; save only the grey one.")
        raise UserError(
            f"{self.path}: has {self.samples} channels and does not name red, green and blue; name them in the file, "
            "for example with `gdal_edit.py -colorinterp_1 red -colorinterp_2 green -colorinterp_3 blue FILE`, or save "
            "the three channels as RGB."
        )


def unreadable(page: TiffPage) -> str | None:
    """Return why a page can't be converted to RGB, as the end of a sentence; None if it can be."""
    if page.photometric not in COLOUR_SPACES or (page.photometric == PHOTOMETRIC.YCBCR) > (page.compression in JPEGS):
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


class UnstreamableError(UserError):
    """A TIFF can't be read in windows; it may still be readable as a whole.

    Args:
        message: the error message.
        pixels: the number of pixels of the image.
    """

    def __init__(self, message: str, pixels: int) -> None:
        super().__init__(message)
        self.pixels = pixels


class TiffRaster:
    """A `upscore.data.io.rasters.Raster` of a pyramid level of the first image in a TIFF; keeps the file open.

    Segments are the strips or tiles of the file.

    Raises:
        UnstreamableError: the image is rotated, a segment is too large, or the colour space or the compression is not
            supported.
        UserError: there is no such level, the file is not a TIFF or is a stack, or its colour channels are not named.
    """

    def __init__(self, path: Path, pyramid_level: int = 0) -> None:
        self.path = path
        with reading(path):
            self._file = TiffFile(path)
            weakref.finalize(self, self._file.close)
            series = self._file.series[0]
            if not 0 <= pyramid_level < len(series.levels):
                raise UserError(
                    f"{path}: has no pyramid level {pyramid_level}; its levels are 0 to {len(series.levels) - 1}."
                )
            self._pages = pages_of(series.levels[pyramid_level], path)
            self._page = page = self._pages[0]
            finest = pages_of(series.levels[0], path)[0]  # other levels may lack its tags
            self._colours = TiffColours(finest.tags.valueof, path, len(self._pages))
            self.height, self.width = page.imagelength, page.imagewidth
            self._contiguous = page.is_final and page.bitspersample % 8 == 0
            self._segment = _segment_size(page, self._contiguous)
            self._require_readable()
            self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
            self._lock = threading.Lock()
            if self._colours.bits > 8:
                parts = [self._stored(*window) for window in sample_windows(self.height, self.width)]
                self._colours.warn_if_dark(np.stack(parts), SAMPLE)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Read a window; see `Raster.read`."""
        with reading(self.path), self._lock:
            pixels = self._colours.rgb(self._stored(top, left, height, width)).transpose(2, 0, 1)
            return torch.from_numpy(np.array(np.broadcast_to(pixels, (3, height, width)), order="C"))

    def _stored(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return the stored samples of a window, (h, w, S)."""
        if self._planes == 1:
            return self._plane(0, top, left, height, width)
        planes = [self._plane(plane, top, left, height, width)[..., 0] for plane in range(self._planes)]
        return np.stack(planes, axis=-1)

    @property
    def _planes(self) -> int:
        """The number of channels that have segments of their own; 1 if samples are interleaved."""
        if len(self._pages) > 1:
            return len(self._pages)
        return self._page.samplesperpixel if self._page.planarconfig == PLANARCONFIG.SEPARATE else 1

    def _require_readable(self) -> None:
        page, issue = self._page, unreadable(self._page)
        size = math.prod(self._segment) * page.bitspersample // 8
        if issue is None and page.tags.valueof(ORIENTATION, 1) != 1:
            issue = "it is rotated or mirrored by its orientation tag; save it upright"
        elif issue is None and size * (page.samplesperpixel if self._planes == 1 else 1) > MAX_SEGMENT_BYTES:
            issue = f"its strips or tiles have {self._segment[1]}x{self._segment[0]} pixels; save it in smaller tiles"
        if issue:
            raise UnstreamableError(f"{self.path}: can't be read in windows: {issue}.", self.height * self.width)

    def _plane(self, plane: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return the stored samples of a window of one plane, (h, w, S); S is 1 if there are several planes."""
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
        """Return a decoded segment, (h, w, S), from the cache or the file."""
        rows, columns = self._segment
        index = row * -(-self.width // columns) + column
        if (plane, index) in self._cache:
            self._cache.move_to_end((plane, index))
            return self._cache[plane, index]
        page = self._pages[plane] if len(self._pages) > 1 else self._page
        if len(self._pages) == 1:
            index += plane * -(-self.height // rows) * -(-self.width // columns)
        segment = self._read_rows(page, plane, row) if self._contiguous else _decode(page, index)
        self._cache[plane, index] = segment
        while sum(cached.nbytes for cached in self._cache.values()) > CACHE_BYTES and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return segment

    def _read_rows(self, page: TiffPage, plane: int, row: int) -> np.ndarray:
        """Read a strip of an uncompressed image, (h, W, S)."""
        samples = 1 if self._planes > 1 else page.samplesperpixel
        dtype = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        rows = self._segment[0]
        top, rows_before = row * rows, plane * self.height if len(self._pages) == 1 else 0
        count = min(rows, self.height - top) * self.width * samples
        file = self._file.filehandle
        file.seek(page.dataoffsets[0] + (rows_before + top) * self.width * samples * dtype.itemsize)
        data = file.read(count * dtype.itemsize)
        return np.frombuffer(data, dtype, count).reshape(-1, self.width, samples)


def _segment_size(page: TiffPage, contiguous: bool) -> tuple[int, int]:
    """Return the (rows, columns) of a segment; those of an uncompressed image are chosen by `STRIP_BYTES`."""
    if contiguous:
        row_bytes = page.imagewidth * page.samplesperpixel * page.bitspersample // 8
        return max(1, min(STRIP_BYTES // row_bytes, page.imagelength)), page.imagewidth
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _decode(page: TiffPage, index: int) -> np.ndarray:
    """Decode a strip or a tile, (h, w, S); segments missing in a sparse file are filled with its nodata value."""
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    file, data = page.parent.filehandle, None
    if offset and count:
        file.seek(offset)
        data = file.read(count)
    segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    return np.full(shape[1:], page.nodata, page.dtype) if segment is None else segment[0]


def _bits_of(tag: Callable[[int, Any], Any]) -> int:
    """Return B of integer samples, at most 16."""
    bits = min(16, max(_numbers(tag(BITS, 1))) - (_numbers(tag(FORMAT, 1))[0] == SIGNED))
    for number in LARGEST_VALUES:
        largest = max(_numbers(tag(number, 0)))
        if isinstance(largest, int) and 8 <= largest.bit_length() < bits and largest & (largest + 1) == 0:
            return largest.bit_length()
    return bits


def _divided(values: np.ndarray, alpha: np.ndarray, bits: int) -> np.ndarray:
    """Divide premultiplied colours by alpha; 0 where alpha is 0."""
    if values.dtype.kind == "f":
        return np.divide(values, alpha, out=np.zeros_like(values), where=alpha > 0).clip(max=1)
    white = 2**bits - 1
    divided = np.minimum(values.astype(np.int64) * white // np.maximum(alpha, 1), white)
    return np.where(alpha > 0, divided, 0).astype(values.dtype)


def _numbers(value: Any) -> tuple[Any, ...]:
    """Return the values of a tag as a tuple; readers return a single value without one."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _name(number: int) -> str:
    """Return the name of a compression, colour space or predictor."""
    return getattr(number, "name", str(number))
