"""Read images, label maps and id maps from files as tensors.

H W pixels, after the EXIF orientation of the file is applied. From an animation the first frame is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from upscore.data.io.bit_depth import to_bytes, warn_if_dark
from upscore.data.io.decoding import (
    ORIENTATION,
    ImageFilePath,
    MemoryFile,
    apply_orientation,
    is_tiff,
    load,
    open_image,
    open_tiff,
    orientation,
    read_tiff,
    reading,
    stored_pixels,
)
from upscore.data.io.tiff import TiffColours, unreadable
from upscore.errors import UserError
from upscore.labels import VOID

STRIP_ROWS = 1024
"""Rows of a decoded image that are converted together."""

MAX_ID = 65535
"""Largest object number that is kept; larger numbers are replaced, to bound tables that are indexed by number."""


class LabelError(UserError):
    """A file can be read, but is not a valid label map or id map."""


def read_image(path: str | ImageFilePath) -> Tensor:
    """Read an image as (3, H, W) uint8 RGB.

    16-bit channels are reduced to their upper 8 bits; if a TIFF states fewer significant bits, to the upper 8 of these.
    Floats in 0..1 are multiplied by 255 and rounded. Alpha is dropped without blending, and premultiplied colours are
    divided by alpha. From the channels of a TIFF, those that are named red, green and blue are read; one or three
    channels that are not alpha need no names.

    Warns:
        DarkImageWarning: an image with more than 8 bits uses only a small part of the range.

    Raises:
        UserError: the file is missing, damaged, not an image, larger than `MAX_PIXELS`, or has ambiguous channels.
    """
    path = path if isinstance(path, MemoryFile) else Path(path)
    with reading(path):
        pixels = _read_tiff_image(path) if is_tiff(path) else _read_with_pillow(path)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def read_label(path: str | Path) -> Tensor:
    """Read a label map as (H, W) uint8: a class index per pixel, 255 = void.

    The class index is the palette index, the grey value, or 0 and 1 of a 1-bit file; RGB is accepted if all channels
    are equal.

    Raises:
        LabelError: the file contains colours or values above 255, or is a JPEG, which changes values.
        UserError: as `read_image`.
    """
    path = Path(path)
    with reading(path):
        values = _read_values(path)
        if values.dtype != np.uint8:
            _require_bytes(values, path)
        return torch.from_numpy(np.ascontiguousarray(values.astype(np.uint8)))


def read_ids(path: str | Path) -> Tensor:
    """Read an id map as (H, W) int32: an object number per pixel, 0 = no object.

    Numbers are those of the file (8, 16 or 32 bits); if one is above 65535, objects are renumbered from 1 in the same
    order.

    Raises:
        LabelError: the file contains colours, fractions or numbers below 0, or is a JPEG, which changes values.
        UserError: as `read_image`.
    """
    path = Path(path)
    with reading(path):
        values = _read_values(path)
        if values.dtype != np.bool_ and not np.issubdtype(values.dtype, np.integer):
            raise LabelError(f"{path}: an id map holds integers, but this file has the type {values.dtype}.")
        smallest, largest = int(values.min()), int(values.max())
        if smallest < 0:
            raise LabelError(f"{path}: contains the number {smallest}; objects are numbered from 1, and 0 = no object.")
        if largest > MAX_ID:
            numbers, indices = np.unique(values, return_inverse=True)
            values = indices.reshape(values.shape) + (numbers[0] != 0)  # numpy < 2.1 flattens them
        return torch.from_numpy(np.ascontiguousarray(values.astype(np.int32)))


def is_deep(path: str | Path) -> bool:
    """Return whether an image is grey with more than 8 bits, according to its header."""
    path = Path(path)
    with reading(path), open_image(path) as image:
        return image.mode.startswith("I")


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the (H, W) of the result of `read_image`, according to the header of the file.

    Raises:
        UserError: the file is missing, or is not an image that Pillow can read.
    """
    path = Path(path)
    with reading(path), open_image(path) as image:
        turned = orientation(image) >= 5  # by 90 degrees
        return (image.width, image.height) if turned else (image.height, image.width)


def _read_tiff_image(path: ImageFilePath) -> np.ndarray:
    """Return (H, W), (H, W, 1) or (H, W, 3) uint8; read by Pillow if tifffile lacks the codec or the colour space."""
    with open_tiff(path) as pages:
        issue = unreadable(pages[0])
        if issue is None:
            colours = TiffColours(pages[0].tags.valueof, path, len(pages))
            pixels = stored_pixels(pages)
            colours.warn_if_dark(pixels)
            return apply_orientation(colours.rgb(pixels), pages[0].tags.valueof(ORIENTATION, 1))
    try:
        return _read_with_pillow(path)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: can't be read: {issue}.") from error


def _read_with_pillow(path: ImageFilePath) -> np.ndarray:
    with open_image(path) as image:
        deep = bool(image.tile) and ";16" in str(image.tile[0][3])
        load(image)
        colours = TiffColours(image.tag_v2.get, path) if isinstance(image, TiffImageFile) else None
        if image.mode.startswith(("I", "F")):
            pixels = np.array(image)
            warn_if_dark(pixels, path, colours and colours.bits)
            pixels = colours.rgb(pixels[..., None]) if colours else to_bytes(pixels, path)
            return apply_orientation(pixels, orientation(image))
        if colours and not colours.as_pillow_shows():
            raise UnidentifiedImageError
        image.info.pop("transparency", None)
        pixels = _rgb_pixels(image.convert("LA") if image.mode == "La" else image)
        if deep:
            warn_if_dark(pixels.astype(np.uint16) << 8, path)  # Pillow has kept the upper 8 bits
        return apply_orientation(pixels, orientation(image))


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    """Convert a decoded image to (H, W, 3) uint8, in strips, because Pillow copies the pixels several times."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        pixels[top : top + STRIP_ROWS] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels


def _read_values(path: Path) -> np.ndarray:
    """Return the stored values of a label file, (H, W)."""
    try:
        values = _read_stored_values(path)
    except UnidentifiedImageError:
        if not is_tiff(path):
            raise
        values = read_tiff(path, channels=3)
    return _one_channel(values, path)


def _read_stored_values(path: Path) -> np.ndarray:
    with open_image(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise LabelError(f"{path}: JPEG changes the values it stores, so it cannot hold labels; save them as PNG.")
        stored = str(image.tile[0][3]) if image.tile else ""
        load(image)
        values = np.array(image)
        if image.mode in ("CMYK", "YCbCr", "LAB") or (image.mode in ("RGB", "RGBA", "LA") and ";16" in stored):
            raise LabelError(f"{path}: a label map cannot be {stored or image.mode}; save class indices as 8-bit grey.")
        # Undo Pillow's conversions: it inverts files in which 0 is white, and scales 2 and 4 bits to 0..255.
        if image.mode == "L":
            values = 255 - values if "I" in stored else values
            values //= 85 if "L;2" in stored else 17 if "L;4" in stored else 1
        return apply_orientation(values, orientation(image))


def _one_channel(values: np.ndarray, path: Path) -> np.ndarray:
    """Return (H, W) from (H, W) or (H, W, 2 to 4) with equal colour channels; alpha is dropped."""
    if values.ndim == 2:
        return values
    if values.shape[2] in (2, 4):
        values = values[..., :-1]
    coloured = (values != values[..., :1]).any(axis=2)
    if coloured.any():
        y, x = np.argwhere(coloured)[0]
        colour = ", ".join(str(value) for value in values[y, x])
        raise LabelError(
            f"{path}: a label map holds a class index or an object number per pixel, but this file has colours: "
            f"({colour}) at x={x}, y={y}; save the indices as grey or as palette indices."
        )
    return values[..., 0]


def _require_bytes(values: np.ndarray, path: Path) -> None:
    if values.dtype == np.bool_:
        return
    if not np.issubdtype(values.dtype, np.integer):
        raise LabelError(f"{path}: a label map holds integers, but this file has the type {values.dtype}.")
    smallest, largest = int(values.min()), int(values.max())
    if largest > VOID or smallest < 0:
        raise LabelError(
            f"{path}: contains the value {largest if largest > VOID else smallest}, but a class index is from 0 to "
            f"{VOID - 1} and void is {VOID}; check whether this is an id map or a depth map."
        )
