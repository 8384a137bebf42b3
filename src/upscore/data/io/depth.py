"""Whatever a user has as the depth of an image -> metres, or HHA.

D channels, H W pixels.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from upscore.data.io.decoding import MAX_PIXELS, is_tiff, load, open_image, orientation, read_tiff, reading, upright
from upscore.errors import UserError

Depth = str | Path | np.ndarray | Tensor

SUFFIXES = (".png", ".tif", ".tiff", ".npy")


def as_depth(depth: Depth, channels: int, size: tuple[int, int]) -> Tensor:
    """A path or an array, (H, W), (D, H, W) or (H, W, D) -> (D, H, W) float32, NaN where unknown.

    A file is a PNG, a TIFF or a .npy. One channel is metres or, in whole numbers, millimetres, as depth cameras write
    them; the unknown is NaN or infinite, or 0 millimetres.

    Args:
        channels: D, as many as the model sees.
        size: (height, width) of the image.

    Raises:
        UserError: the file can't be read, or it is not of this shape.
    """
    name = f"{depth}" if isinstance(depth, str | Path) else "the depth"
    values = _read(Path(depth)) if isinstance(depth, str | Path) else np.asarray(depth)
    shape = values.shape
    if values.ndim == 2:
        values = values[None]
    if values.shape[1:] != size and values.shape[:2] == size:
        values = np.moveaxis(values, -1, 0)
    if values.shape != (channels, *size):
        raise UserError(
            f"{name}: is of shape {shape}, but the model sees depth of {channels} channels, and the image has "
            f"{size[0]} rows and {size[1]} columns"
        )
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UserError(f"{name}: depth is numbers, but this is of type {values.dtype}")
    whole = np.issubdtype(values.dtype, np.integer)
    known = values != 0 if whole and channels == 1 else np.isfinite(values)
    metres = values / 1000 if whole and channels == 1 else values
    return torch.from_numpy(np.where(known, metres, np.nan).astype(np.float32))


def find_depth(folder: Path, name: str) -> Path:
    """The file with the depth of the image of this name.

    Raises:
        UserError: there is none.
    """
    for suffix in SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise UserError(f"{folder / name}: no depth of this name, which ends in {', '.join(SUFFIXES)}")


def _read(path: Path) -> np.ndarray:
    with reading(path):
        if path.suffix.lower() == ".npy":
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            if prod(values.shape) > 4 * MAX_PIXELS:
                raise UserError(f"{path}: holds {prod(values.shape):,} numbers, too many to be the depth of an image")
            return values
        try:
            with open_image(path) as image:
                load(image)
                if image.mode == "P":
                    raise UserError(f"{path}: is a picture with a palette; depth is stored as numbers, in 16 bits")
                return upright(np.array(image), orientation(image))
        except UnidentifiedImageError:
            if not is_tiff(path):
                raise
            return read_tiff(path, channels=3)
