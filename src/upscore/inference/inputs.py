"""Conversion of images in any supported form to uint8 RGB tensors.

C channels, H W image height and width.
"""

from __future__ import annotations

from io import BufferedIOBase, RawIOBase
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from upscore.data.io.bit_depth import to_bytes, warn_if_dark
from upscore.data.io.decoding import MemoryFile
from upscore.data.io.images import read_image
from upscore.errors import UserError

ImageInput = str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray | Tensor
"""Types of an image that `Model.predict` accepts."""

FORMS = "a path, the bytes of an image file, a binary file object, a PIL image, an array or a tensor"
DTYPES = "bool, uint8, uint16, or floats from 0 to 1"


def as_image(image: ImageInput) -> Tensor:
    """Convert an image to (3, H, W) uint8 RGB. The result shares no memory with the input.

    - A path, the bytes of an image file or a binary file object, which is read from its current position, is decoded
      by `upscore.data.io.images.read_image`.
    - A PIL image is rotated according to its EXIF orientation; alpha is dropped.
    - An array has the shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), in RGB order; alpha is dropped. A tensor has the
      shape (H, W), (1, H, W) or (3, H, W), on any device.
    - Values are converted as in files: uint8 is unchanged, uint16 keeps the upper 8 bits, floats from 0 to 1 are
      multiplied by 255 and rounded, and True is white.

    Raises:
        UserError: the file cannot be read, or the image has an unsupported type, shape, data type or value range.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(MemoryFile(bytes(image), "the image in bytes"))
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, image.shape)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, RawIOBase | BufferedIOBase) or callable(getattr(image, "read", None)):
        return _from_file(image)
    raise UserError(f"{_described(image)} is not an image: give {FORMS}")


def _from_file(file: IO[bytes]) -> Tensor:
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "the image in a file object"
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # a closed file raises ValueError
        raise UserError(f"{name} cannot be read ({error}): give an open file") from error
    if not isinstance(data, bytes):
        raise UserError(f'{name} returns {type(data).__name__} instead of bytes: open it with mode "rb"')
    return read_image(MemoryFile(data, name))


def _from_pillow(image: Image.Image) -> Tensor:
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            pixels = np.array(image)
            return _from_array(pixels.astype(np.uint16) if _is_16_bit(pixels) else pixels, pixels.shape)
        return _from_array(np.array(image.convert("RGB")), (image.height, image.width, 3))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes images lazily
        if isinstance(error, UserError):
            raise
        raise UserError(f"the PIL image cannot be decoded ({error}): give another file") from error


def _is_16_bit(pixels: np.ndarray) -> bool:
    """Return whether 32-bit integers, which Pillow uses for 16-bit PNG files, fit into 16 bits."""
    return pixels.dtype.kind in "iu" and pixels.size > 0 and pixels.min() >= 0 and pixels.max() <= np.iinfo("u2").max


def _from_tensor(image: Tensor) -> Tensor:
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UserError(
            f"a tensor of shape {tuple(image.shape)} is not an image: give (3, height, width), (1, height, width) or "
            "(height, width)"
        )
    if image.dtype == torch.bfloat16:
        image = image.float()
    try:
        array = image.detach().cpu().permute(1, 2, 0).numpy()
    except (RuntimeError, TypeError) as error:  # sparse or quantized
        raise UserError(f"a tensor of {image.layout} and type {image.dtype} is not an image: give {DTYPES}") from error
    return _from_array(array, tuple(image.shape))


def _from_array(pixels: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Convert an array (H, W) or (H, W, C); `shape` is the shape of the user's array or tensor, for messages."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        hint = ", since channels come last in arrays" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise UserError(
            f"an array of shape {shape} is not an image{hint}: give (height, width), (height, width, 1), "
            "(height, width, 3) or (height, width, 4)"
        )
    if pixels.dtype not in (np.bool_, np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise UserError(f"pixels of type {pixels.dtype} have no known value range: give {DTYPES}")
    source = MemoryFile(b"", "the image")
    pixels = pixels[..., :3]
    warn_if_dark(pixels, source)
    pixels = to_bytes(pixels, source)
    return torch.from_numpy(np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).transpose(2, 0, 1), order="C"))


def _described(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__}: {str(value)[:40]!r}"
