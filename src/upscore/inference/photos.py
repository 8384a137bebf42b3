"""Whatever a user has as a photo -> RGB bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from upscore.data.images import read_image
from upscore.errors import UserError

Photo = str | Path | Image.Image | np.ndarray | Tensor


def as_photo(photo: Photo) -> Tensor:
    """A path, a PIL image, an (H, W, 3) or (H, W) uint8 array, or a (3, H, W) uint8 tensor -> (3, H, W) uint8, RGB.

    Raises:
        UserError: the file can't be read, or the array is of another shape or type.
    """
    if isinstance(photo, str | Path):
        return read_image(photo)
    if isinstance(photo, Image.Image):
        if photo.mode.startswith(("I", "F")):
            raise UserError(f"an image of mode {photo.mode} is ambiguous: convert it to RGB, or give its path")
        photo = np.array(ImageOps.exif_transpose(photo).convert("RGB"))
    if isinstance(photo, np.ndarray):
        if photo.ndim == 2:
            photo = np.stack([photo] * 3, axis=-1)
        if photo.ndim != 3 or photo.shape[2] != 3:
            raise UserError(f"an array of shape {photo.shape} is no photo: give (height, width, 3) or (height, width)")
        photo = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))
    if photo.ndim != 3 or photo.shape[0] != 3 or 0 in photo.shape:
        raise UserError(f"a tensor of shape {tuple(photo.shape)} is no photo: give (3, height, width)")
    if photo.dtype != torch.uint8:
        raise UserError(f"pixels of type {photo.dtype} are ambiguous: give uint8, 0 to 255, in the order R, G, B")
    return photo
