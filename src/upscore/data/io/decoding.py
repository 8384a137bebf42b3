"""Open and decode image files within limits of size and memory.

H W pixels, S samples per pixel. A damaged or hostile file raises a `UserError` that names the file.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from upscore.errors import UserError
from upscore.warning_filters import ignored_warnings

MAX_PIXELS = 500_000_000
"""Largest number of pixels of an image that is decoded as a whole."""

LARGE = 64_000_000
"""Images with more pixels are decoded one at a time."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm"})

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""Formats that Pillow may decode; its other readers, some of which start Ghostscript, are disabled."""

NEW_SUBFILE_TYPE, BITS, COMPRESSION, ORIENTATION, PLANAR = 254, 258, 259, 274, 284
"""Numbers of TIFF tags."""

SAME_IMAGE = 1 | 4
"""Bits of NEW_SUBFILE_TYPE: a reduced version of the image, or its mask."""

PAGES = "has several pages; save each page that you want to use as a file of its own."

LARGE_REMEDY = "save it as a tiled TIFF or Zarr, which --tiled reads in parts, or reduce it"

_pillow_limit = threading.Lock()


class MemoryFile:
    """The bytes of an image file in memory, used like a path."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        self.parent = Path(f"<{name}>")
        """Placeholder for the folder, for warnings that are issued once per folder."""

    def __str__(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self._data)

    def open(self, mode: str) -> io.BytesIO:
        """Return a file object that reads the bytes."""
        assert mode == "rb", "the file is read-only"
        return io.BytesIO(self._data)


ImageFilePath = Path | MemoryFile


@contextmanager
def open_tiff(path: ImageFilePath) -> Iterator[list[tifffile.TiffPage]]:
    """Yield the page of a TIFF with one image, or one page per colour channel; `stored_pixels` decodes them.

    Raises:
        UserError: the image is too large, or the file has several images.
    """
    with path.open("rb") as opened, tifffile.TiffFile(opened) as file:
        page = file.pages.first
        _require_size(page.imagewidth, page.imagelength, path)
        pages = pages_of(file.series[0], path)
        if page.samplesperpixel * page.imagewidth * page.imagelength > 4 * MAX_PIXELS:
            raise UserError(f"{path}: has too many channels ({page.samplesperpixel}); save three of them as RGB.")
        if len(file.pages) > len(pages) and not file.pages[len(pages)].aspage().subfiletype & SAME_IMAGE:
            raise UserError(f"{path}: {PAGES}")
        yield pages


def pages_of(series: tifffile.TiffPageSeries, path: ImageFilePath) -> list[tifffile.TiffPage]:
    """Return the page of an image, or one page per colour channel as in OME-TIFF.

    Raises:
        UserError: the series is a stack of images.
    """
    pages = [page.aspage() for page in series.pages[:5] if page is not None]
    first = pages[0]
    page_per_channel = len(series.pages) in (3, 4) and first.samplesperpixel == 1 and "C" in series.axes
    planes = math.prod(series.shape) // (first.imagelength * first.imagewidth)  # a stack of ImageJ has one page
    if planes != first.samplesperpixel * (len(series.pages) if page_per_channel else 1) or first.imagedepth > 1:
        raise UserError(f"{path}: {PAGES}")
    return pages if page_per_channel else pages[:1]


def stored_pixels(pages: list[tifffile.TiffPage]) -> np.ndarray:
    """Decode pages as (H, W, S), with the samples and the orientation of the file."""
    page = pages[0]
    for each in pages:  # tifffile would read missing strips and tiles as blank
        present = min(len(each.dataoffsets), len(each.databytecounts))
        if present < (1 if each.is_contiguous else math.prod(each.chunked)):
            raise ValueError(f"it has {present} of {math.prod(each.chunked)} strips or tiles")
    pixels = np.stack([page.asarray() for page in pages], axis=-1) if len(pages) > 1 else page.asarray()
    if len(pages) == 1 and page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels.reshape(page.imagelength, page.imagewidth, -1)


def read_tiff(path: ImageFilePath, channels: int) -> np.ndarray:
    """Read a TIFF for which Pillow has no mode (bit depth, number of channels, type) as (H, W) or (H, W, `channels`).

    Raises:
        UserError: the file has too few channels, or does not name its colour channels.
    """
    with open_tiff(path) as pages:
        page, samples = pages[0], len(pages) * pages[0].samplesperpixel
        if 1 < samples < channels:
            raise UserError(f"{path}: has {samples} channels; save the image as grey or as RGB.")
        if samples > channels and page.photometric != tifffile.PHOTOMETRIC.RGB:
            raise UserError(
                f"{path}: has {samples} channels and does not name red, green and blue; save the three as RGB."
            )
        pixels = apply_orientation(stored_pixels(pages), page.tags.valueof(ORIENTATION, 1))
    return pixels[..., :channels] if samples > 1 else pixels[..., 0]


def is_tiff(path: ImageFilePath) -> bool:
    """Return whether a file begins with the signature of TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@contextmanager
def open_image(path: ImageFilePath) -> Iterator[ImageFile]:
    """Open an image with Pillow and read its header; `load` decodes it.

    Raises:
        UserError: the image has more than `MAX_PIXELS` pixels or several pages.
        UnidentifiedImageError: Pillow cannot read the image.
    """
    # Pillow maps uncompressed files into memory if it gets a path, and rotates mapped TIFFs wrongly.
    with path.open("rb") as file:
        with _no_pillow_limit():
            image = Image.open(file, formats=FORMATS)
        with image:
            _require_size(image.width, image.height, path)
            if image.format == "TIFF":
                _require_tiff_for_pillow(image, path)
            yield image


def load(image: ImageFile) -> None:
    """Decode an image; images of more than `LARGE` pixels are decoded one at a time."""
    with _no_pillow_limit() if image.width * image.height > LARGE else nullcontext():
        image.load()


def _require_size(width: int, height: int, path: ImageFilePath) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: has {width}x{height} pixels; at most {MAX_PIXELS:,} are read; split it into parts.")


def _require_tiff_for_pillow(image: ImageFile, path: ImageFilePath) -> None:
    """Raise an error for a TIFF that Pillow decodes wrongly, or that has pages other than reduced versions or masks."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if max(tags.get(BITS, (1,))) > 8 and tags.get(PLANAR) == 2 and tags.get(COMPRESSION) == 1:
        raise UnidentifiedImageError  # Pillow decodes the planes as 8-bit
    if getattr(image, "n_frames", 1) > 1:
        image.seek(1)
        same = image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & SAME_IMAGE  # type: ignore[attr-defined]
        image.seek(0)
        if not same:
            raise UserError(f"{path}: {PAGES}")


def orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, of a loaded image (loading may rotate it and reset the orientation)."""
    return image.getexif().get(ORIENTATION, 1)


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of pixels (H, W, ...) with the EXIF orientation applied."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


@contextmanager
def reading(path: ImageFilePath) -> Iterator[None]:
    """Convert all errors of reading a file to `UserError` with its path, and ignore Pillow's warnings."""
    try:
        with ignored_warnings(module=r"PIL\."):
            yield
    except (UserError, UserWarning):
        raise
    except MemoryError as error:
        raise UserError(f"{path}: too large for the memory that is free; {LARGE_REMEDY}.") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnidentifiedImageError as error:
        reason = "is empty" if _is_empty(path) else "is not a supported image, or its header is damaged"
        raise UserError(f"{path}: {reason}; images may be JPEG, PNG, TIFF, BMP, WebP, GIF or PPM.") from error
    except Exception as error:  # decoders raise exceptions of any type for damaged files
        raise UserError(f"{path}: cannot be decoded; it is damaged, truncated or not supported ({error}).") from error


def _is_empty(path: ImageFilePath) -> bool:
    return (path.size if isinstance(path, MemoryFile) else path.stat().st_size) == 0


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Disable Pillow's limit of pixels, which is global to the process; `MAX_PIXELS` replaces it."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
