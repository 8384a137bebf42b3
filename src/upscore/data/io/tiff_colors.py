"""What the samples of a TIFF stand for: which are red, green and blue, and which value is white.

H W pixels, S samples a pixel. TIFF 6.0, and GDAL's names for bands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, TIFF, TiffPage

from upscore.data.io.bit_depth import to_bytes, warn_if_dark
from upscore.data.io.decoding import ImageFilePath
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
