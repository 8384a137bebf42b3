"""Writers of label maps (PNG) and overlays (JPEG).

Each file is marked as written by upscore, so that a later run overwrites only files of upscore.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from upscore.files import atomic_path, not_own

SOFTWARE = "upscore"
"""Mark of the files: the field `Software` in PNG and TIFF, the comment in JPEG."""

SOFTWARE_TAG = 305
"""Number of the `Software` tag in TIFF."""

JPEG_QUALITY = 90
"""JPEG quality of overlays. As PNG, an overlay takes about 6 times as many bytes."""

MAX_JPEG_SIDE = 65_500
"""Longest side of a JPEG in pixels; larger overlays are downscaled."""


def save_labels(picture: Image.Image, path: Path) -> None:
    """Write a label map as PNG, atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=mark, compress_level=1, compress_type=zlib.Z_RLE)


def save_overlay(picture: Image.Image, path: Path) -> None:
    """Write an overlay as JPEG, atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    if max(picture.size) > MAX_JPEG_SIDE:
        picture = picture.copy()
        picture.thumbnail((MAX_JPEG_SIDE, MAX_JPEG_SIDE))
    with atomic_path(path) as temporary:
        picture.save(temporary, "JPEG", quality=JPEG_QUALITY, comment=SOFTWARE)


def is_own_picture(path: Path) -> bool:
    """Return whether a file is a picture that upscore wrote."""
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
        UserError: the path exists and is not a picture that upscore wrote.
    """
    if path.exists() and not is_own_picture(path):
        raise not_own(path)
