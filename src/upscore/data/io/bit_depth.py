"""Convert pixels of any type to 8 bits, and warn of images that become nearly black.

B bits per sample: values are 0 (black) to 2^B - 1 (white).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from upscore.data.io.decoding import ImageFilePath
from upscore.errors import UserError

DARK = 8
"""An image is dark if its largest value is below white / DARK."""

GRID, SIDE = 3, 256
"""A large image is sampled in GRID x GRID windows of SIDE x SIDE pixels."""

SAMPLE = f" in {GRID**2} sampled windows"

_warned: set[Path] = set()


class DarkImageWarning(UserWarning):
    """An image is nearly black in 8 bits, most likely because its values do not use the range of their type."""


def bits_of(dtype: np.dtype) -> int:
    """Return B of a bool or integer type: the number of bits for values from 0, at most 16."""
    return 1 if dtype == np.bool_ else min(16, 8 * dtype.itemsize - (dtype.kind == "i"))


def to_bytes(pixels: np.ndarray, path: ImageFilePath, bits: int | None = None) -> np.ndarray:
    """Convert pixels to uint8.

    With B > 8, the upper 8 bits are kept (16 bits: 65535 becomes 255, 256 becomes 1). With B < 8, values are scaled to
    0..255 (2 bits: 1 becomes 85). Floats are multiplied by 255 and rounded.

    Args:
        pixels: array of any shape: bool, integers from 0 to 2^B - 1, or floats from 0 to 1.
        path: the file, for error messages.
        bits: B if the file states it; None: that of the type, which is 15 for int16.

    Returns:
        uint8 array of the same shape.

    Raises:
        UserError: a value is outside the range, or the type is not supported.
    """
    if pixels.dtype == np.uint8 and bits in (None, 8):
        return pixels
    if pixels.dtype.kind not in "biuf":
        raise UserError(f"{path}: pixels must be integers or floats, but have the type {pixels.dtype}.")
    # With a NaN pixel, the minimum and the maximum are NaN, and each comparison is false.
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
    """Warn once per folder if pixels of more than 8 bits are all below white / `DARK`; all zeros are ignored.

    Args:
        pixels: as in `to_bytes`, all pixels of an image or a sample of them.
        path: the file.
        bits: as in `to_bytes`.
        where: the sampled part of the image, for the message.

    Warns:
        DarkImageWarning: the pixels are dark.
    """
    if pixels.dtype.kind not in "iu" or (bits := bits or bits_of(pixels.dtype)) <= 8:
        return
    largest, white = int(pixels.max()), 2**bits - 1
    if largest > 0 and largest * DARK < white and path.parent not in _warned:
        _warned.add(path.parent)
        used = 2 ** largest.bit_length() - 1
        message = (
            f"{path}: the largest value{where} is {largest}, but white is {white}, so the image is nearly black in 8 "
            f"bits; unless it is meant to be dark, save it with 8 bits, for example with `gdal_translate -ot Byte "
            f"-scale 0 {used} 0 255` (only the first dark image of a folder is reported)."
        )
        warnings.warn(message, DarkImageWarning, stacklevel=2)


def sample_windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return (top, left, height, width) of windows on a regular grid over an image; they may overlap."""
    down, across = min(SIDE, height), min(SIDE, width)
    last = GRID - 1
    cells = [(row, column) for row in range(GRID) for column in range(GRID)]
    return [((height - down) * row // last, (width - across) * column // last, down, across) for row, column in cells]
