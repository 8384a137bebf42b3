"""Read the depth of an image from a file or an array, in metres or as HHA.

D channels of depth (1: metres, 3: HHA), H W pixels.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from upscore.data.io.decoding import (
    MAX_PIXELS,
    apply_orientation,
    is_tiff,
    load,
    open_image,
    orientation,
    read_tiff,
    reading,
)
from upscore.errors import UserError

Depth = str | Path | np.ndarray | Tensor

SUFFIXES = (".png", ".tif", ".tiff", ".npy")


def as_depth(depth: Depth, channels: int, size: tuple[int, int]) -> Tensor:
    """Return depth as (D, H, W) float32, NaN where unknown.

    With one channel, floats are metres and integers are millimetres, as depth cameras write them. Unknown values are
    NaN, infinite, or 0 millimetres.

    Args:
        depth: the path of a PNG, TIFF or .npy file, or an array (H, W), (D, H, W) or (H, W, D).
        channels: D, the number of depth channels of the model.
        size: (height, width) of the image.

    Raises:
        UserError: the file can't be read, or the shape or the type is wrong.
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
            f"{name}: has the shape {shape}, but the model needs {channels} channels of depth, and the image has "
            f"{size[0]} rows and {size[1]} columns"
        )
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UserError(f"{name}: depth must be numbers, but the type is {values.dtype}")
    whole = np.issubdtype(values.dtype, np.integer)
    known = values != 0 if whole and channels == 1 else np.isfinite(values)
    metres = values / 1000 if whole and channels == 1 else values
    return torch.from_numpy(np.where(known, metres, np.nan).astype(np.float32))


def find_depth(folder: Path, name: str) -> Path:
    """Return the depth file in a folder for the image name (without suffix).

    Raises:
        UserError: there is no such file.
    """
    for suffix in SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise UserError(f"{folder / name}: there is no depth file of this name with the suffix {', '.join(SUFFIXES)}")


def _read(path: Path) -> np.ndarray:
    with reading(path):
        if path.suffix.lower() == ".npy":
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            if prod(values.shape) > 4 * MAX_PIXELS:
                raise UserError(f"{path}: has {prod(values.shape):,} values, too many for the depth of an image")
            return values
        try:
            with open_image(path) as image:
                load(image)
                if image.mode == "P":
                    raise UserError(f"{path}: has a palette; save depth as 16-bit grey")
                return apply_orientation(np.array(image), orientation(image))
        except UnidentifiedImageError:
            if not is_tiff(path):
                raise
            return read_tiff(path, channels=3)
