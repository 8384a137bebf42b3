"""Pictures as PNG files, fast rather than small.

H W pixels. Encoders choose a filter for each row by trying all, which takes longer than everything else of an overlay.
With one filter, and runs of bytes as the only matches, a photo's file stays as large as by Pillow's level 1.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from upscore.errors import UserError

SOFTWARE = "upscore"
"""The mark of files that may be overwritten, for upscore wrote them."""

UP = 2
"""The filter: each byte less the one above it (PNG, section 9.2)."""

EIGHT_BIT_RGB = (8, 2, 0, 0, 0)
BLOCK = 1 << 20
"""Bytes of pixels that are filtered at the same time."""


def save_marked(picture: Image.Image, path: Path, **options: int) -> None:
    """Write a picture of any kind, with upscore's mark; options are those of Pillow's PNG."""
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    picture.save(path, "PNG", pnginfo=mark, **options)


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8, RGB, with upscore's mark."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    step = max(1, BLOCK // rows.shape[1])
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *EIGHT_BIT_RGB)))
        file.write(_chunk(b"tEXt", b"Software\0" + SOFTWARE.encode()))
        for top in range(0, height, step):
            file.write(_chunk(b"IDAT", deflate.compress(_filtered(rows, top, top + step).data)))
        file.write(_chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b""))


def _filtered(rows: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """Some of the rows, less those above them, each behind its filter's number."""
    block = rows[top:bottom]
    filtered = np.empty((len(block), 1 + block.shape[1]), np.uint8)
    filtered[:, 0] = UP
    np.subtract(block[1:], block[:-1], out=filtered[1:, 1:])
    np.subtract(block[0], rows[top - 1] if top else 0, out=filtered[0, 1:])
    return filtered


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def is_own_picture(path: Path) -> bool:
    """Whether a file is a picture that upscore wrote."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def require_own_picture(path: Path) -> None:
    """Make sure that a picture may be written there.

    Raises:
        UserError: something else is there.
    """
    if path.exists() and not is_own_picture(path):
        raise UserError(f"{path} is there, was not written by upscore and would be overwritten: choose another output")
