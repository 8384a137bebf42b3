"""Pictures written beside predictions: label maps as PNG, overlays as JPEG.

Each is marked as written by upscore, so that a later run replaces its own files and no others.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from upscore.files import atomic_path, not_own

SOFTWARE = "upscore"
"""The mark: `Software` in a PNG and a TIFF, the comment of a JPEG."""

SOFTWARE_TAG = 305
"""Of a TIFF."""

QUALITY = 90
"""Of JPEG. As PNG an overlay takes about 6 times as many bytes, more than all other files of an image together."""

LARGEST_JPEG = 65_500
"""Pixels along a side that JPEG allows; larger overlays are reduced."""


def save_labels(picture: Image.Image, path: Path) -> None:
    """Write a label map or an id map as PNG, atomically.

    Raises:
        WriteError: it can't be written.
    """
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=mark, compress_level=1, compress_type=zlib.Z_RLE)


def save_overlay(picture: Image.Image, path: Path) -> None:
    """Write an overlay as JPEG, atomically.

    Raises:
        WriteError: it can't be written.
    """
    if max(picture.size) > LARGEST_JPEG:
        picture = picture.copy()
        picture.thumbnail((LARGEST_JPEG, LARGEST_JPEG))
    with atomic_path(path) as temporary:
        picture.save(temporary, "JPEG", quality=QUALITY, comment=SOFTWARE)


def is_own_picture(path: Path) -> bool:
    """Whether a file is a picture that upscore wrote."""
    try:
        with Image.open(path) as picture:
            if isinstance(picture, TiffImageFile):
                return picture.tag_v2.get(SOFTWARE_TAG) == SOFTWARE
            return picture.info.get("Software") == SOFTWARE or picture.info.get("comment") == SOFTWARE.encode()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def require_own_picture(path: Path) -> None:
    """Check that a picture may be written to a path.

    Raises:
        UserError: something else is there.
    """
    if path.exists() and not is_own_picture(path):
        raise not_own(path)
