"""Pixels of any type as bytes, and what value is white in them.

B bits: the values of a pixel are 0 to 2^B - 1, which is white.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from upscore.data.io.decoding import ImageFilePath
from upscore.errors import UserError

DARK = 8
"""Pixels of more than 8 bits that don't reach this part of white are warned of."""

PLACES, SIDE = 3, 256
"""Down and across, how many windows of what side are a sample of an image that is too large to look at."""

SAMPLE = f", in {PLACES**2} places looked at,"

_told: set[Path] = set()


class DarkImageWarning(UserWarning):
    """Hardly anything of an image is left in 8 bits, most likely as its values don't use the range of their type."""


def bits_of(dtype: np.dtype) -> int:
    """B of whole numbers: those that a type has for values from 0 on, 16 at most."""
    return 1 if dtype == np.bool_ else min(16, 8 * dtype.itemsize - (dtype.kind == "i"))


def to_bytes(pixels: np.ndarray, path: ImageFilePath, bits: int | None = None) -> np.ndarray:
    """Pixels of any shape and type as uint8 of that shape.

    Of B > 8 bits the upper 8 are kept (of 65535 255, of 256 1), fewer are spread (of 2 bits 1 becomes 85), bytes are as
    they are, and floats are multiplied by 255 and rounded.

    Args:
        pixels: bool, whole numbers from 0 to 2^B - 1, or floats from 0 to 1.
        path: of the file, for errors.
        bits: B where the file states it; else the type's, which is 15 for int16.

    Raises:
        UserError: there are values outside that range, or the type is another.
    """
    if pixels.dtype == np.uint8 and bits in (None, 8):
        return pixels
    if pixels.dtype.kind not in "biuf":
        raise UserError(f"{path}: pixels must be whole numbers or floats, but are of type {pixels.dtype}.")
    # The extremes of floats are NaN where any pixel is, and NaN fails every comparison.
    smallest, largest = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not (smallest >= 0 and largest <= 1):
            raise UserError(f"{path}: floating-point pixels must be from 0 to 1, but are from {smallest} to {largest}.")
        return np.rint(pixels * 255).astype(np.uint8)
    bits = bits or bits_of(pixels.dtype)
    white = 2**bits - 1
    if smallest < 0 or largest > white:
        raise UserError(
            f"{path}: pixels of {bits} bits must be from 0 to {white}, but are from {smallest} to {largest} "
            f"({pixels.dtype}); save the image with 8 bits per channel."
        )
    if bits > 8:
        return (pixels >> (bits - 8)).astype(np.uint8)
    return (pixels.astype(np.uint16) * 255 // white).astype(np.uint8)


def warn_if_dark(pixels: np.ndarray, path: ImageFilePath, bits: int | None = None, *, where: str = "") -> None:
    """Warn, once for each folder, of pixels of more than 8 bits that are not all 0 and below an eighth of white.

    Args:
        pixels: as of `to_bytes`, all that an image has or a sample.
        path: of the file.
        bits: as of `to_bytes`.
        where: in what part of the image they lie, to be told.
    """
    if pixels.dtype.kind not in "iu" or (bits := bits or bits_of(pixels.dtype)) <= 8:
        return
    largest, white = int(pixels.max()), 2**bits - 1
    if largest > 0 and largest * DARK < white and path.parent not in _told:
        _told.add(path.parent)
        used = 2 ** largest.bit_length() - 1
        message = (
            f"{path}: its values{where} are at most {largest}, where {white} is white, so that hardly anything is left "
            f"of it in 8 bits; unless it is meant to be dark, save it with 8 bits, as by `gdal_translate -ot Byte "
            f"-scale 0 {used} 0 255` (told for the first such image of a folder alone)."
        )
        warnings.warn(message, DarkImageWarning, stacklevel=2)


def sample_windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of windows all over an image, which may overlap."""
    down, across = min(SIDE, height), min(SIDE, width)
    last = PLACES - 1
    places = [(row, column) for row in range(PLACES) for column in range(PLACES)]
    return [((height - down) * row // last, (width - across) * column // last, down, across) for row, column in places]
