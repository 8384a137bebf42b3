"""Image files opened within bounds and turned upright.

H W pixels. Everything a broken or hostile file can do ends in one sentence with its name.
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
LARGE = 64_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm"})

# Pillow's other readers (some start Ghostscript) stay out of reach of a file that only claims to be an image.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
# TIFF's numbers of the tags that are looked at.
NEW_SUBFILE_TYPE, BITS, COMPRESSION, ORIENTATION, PLANAR = 254, 258, 259, 274, 284
SAME_IMAGE = 1 | 4
"""Bits of NEW_SUBFILE_TYPE: the image made smaller, or its mask."""
PAGES = "holds several pages; save each one that you want to use as a file of its own."

LARGE_REMEDY = "save it as a tiled TIFF or Zarr, which --tiled reads in parts, or reduce it"

_pillow_limit = threading.Lock()


class MemoryFile:
    """The bytes of an image file in memory, in place of its path."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        self.parent = Path(f"<{name}>")
        """What warnings that are given once for each folder take for its folder."""

    def __str__(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    def open(self, mode: str) -> io.BytesIO:
        """A file object that reads the bytes."""
        assert mode == "rb", "it is read only"
        return io.BytesIO(self._data)


ImageFilePath = Path | MemoryFile


@contextmanager
def open_tiff(path: ImageFilePath) -> Iterator[list[tifffile.TiffPage]]:
    """The page of a TIFF that holds one image, or the pages of its colours; `stored_pixels` decodes them."""
    with path.open("rb") as opened, tifffile.TiffFile(opened) as file:
        page = file.pages.first
        _require_size(page.imagewidth, page.imagelength, path)
        pages = pages_of(file.series[0], path)
        if page.samplesperpixel * page.imagewidth * page.imagelength > 4 * MAX_PIXELS:
            raise UserError(f"{path}: has {page.samplesperpixel} channels, too many to read; save the three as RGB.")
        if len(file.pages) > len(pages) and not file.pages[len(pages)].aspage().subfiletype & SAME_IMAGE:
            raise UserError(f"{path}: {PAGES}")
        yield pages


def pages_of(series: tifffile.TiffPageSeries, path: ImageFilePath) -> list[tifffile.TiffPage]:
    """The one page of an image, or one for each of its colours, as OME-TIFF has them."""
    pages = [page.aspage() for page in series.pages[:5] if page is not None]
    first = pages[0]
    apart = len(series.pages) in (3, 4) and first.samplesperpixel == 1 and "C" in series.axes
    held = math.prod(series.shape) // (first.imagelength * first.imagewidth)  # ImageJ's stacks have one page
    if held != first.samplesperpixel * (len(series.pages) if apart else 1) or first.imagedepth > 1:
        raise UserError(f"{path}: {PAGES}")
    return pages if apart else pages[:1]


def stored_pixels(pages: list[tifffile.TiffPage]) -> np.ndarray:
    """(H, W, S) of S samples a pixel, as they lie in the file."""
    page = pages[0]
    for each in pages:  # of which tifffile takes the missing ones for blank
        held = min(len(each.dataoffsets), len(each.databytecounts))
        if held < (1 if each.is_contiguous else math.prod(each.chunked)):
            raise ValueError(f"it holds {held} of {math.prod(each.chunked)} strips or tiles")
    pixels = np.stack([page.asarray() for page in pages], axis=-1) if len(pages) > 1 else page.asarray()
    if len(pages) == 1 and page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels.reshape(page.imagelength, page.imagewidth, -1)


def read_tiff(path: ImageFilePath, channels: int) -> np.ndarray:
    """(H, W) or (H, W, `channels`) numbers of what Pillow has no mode for: deep, of many channels, or of rare types."""
    with open_tiff(path) as pages:
        page, samples = pages[0], len(pages) * pages[0].samplesperpixel
        if 1 < samples < channels:
            raise UserError(f"{path}: has {samples} channels; save the image as grey or as RGB.")
        if samples > channels and page.photometric != tifffile.PHOTOMETRIC.RGB:
            raise UserError(
                f"{path}: has {samples} channels and does not say which are red, green and blue; save the three as RGB."
            )
        pixels = upright(stored_pixels(pages), page.tags.valueof(ORIENTATION, 1))
    return pixels[..., :channels] if samples > 1 else pixels[..., 0]


def is_tiff(path: ImageFilePath) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@contextmanager
def open_image(path: ImageFilePath) -> Iterator[ImageFile]:
    """Open an image by its head; `load` decodes it."""
    # Given a name, Pillow would map uncompressed files into memory, and turns mapped TIFFs wrongly.
    with path.open("rb") as file:
        with _no_pillow_limit():
            image = Image.open(file, formats=FORMATS)
        with image:
            _require_size(image.width, image.height, path)
            if image.format == "TIFF":
                _require_tiff_for_pillow(image, path)
            yield image


def load(image: ImageFile) -> None:
    """Decode an image; large ones one at a time."""
    with _no_pillow_limit() if image.width * image.height > LARGE else nullcontext():
        image.load()


def _require_size(width: int, height: int, path: ImageFilePath) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS:,} that are read; cut it up.")


def _require_tiff_for_pillow(image: ImageFile, path: ImageFilePath) -> None:
    """Further pages may be the same image made smaller or its mask, but not other slices of a stack."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if max(tags.get(BITS, (1,))) > 8 and tags.get(PLANAR) == 2 and tags.get(COMPRESSION) == 1:
        raise UnidentifiedImageError  # Pillow takes these for planes of bytes
    if getattr(image, "n_frames", 1) > 1:
        image.seek(1)
        same = image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & SAME_IMAGE  # type: ignore[attr-defined]
        image.seek(0)
        if not same:
            raise UserError(f"{path}: {PAGES}")


def orientation(image: ImageFile) -> int:
    """1 to 8 as in EXIF; to be asked for once the image is loaded, as its readers may have turned it by then."""
    return image.getexif().get(ORIENTATION, 1)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


@contextmanager
def reading(path: ImageFilePath) -> Iterator[None]:
    """Tell every fault of a file with its name, and keep Pillow's warnings to ourselves."""
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
        reason = "is empty" if _is_empty(path) else "is not an image that can be read, or its head is damaged"
        raise UserError(f"{path}: {reason}; images may be JPEG, PNG, TIFF, BMP, WebP, GIF or PPM.") from error
    except Exception as error:  # decoders raise anything at all on broken bytes
        raise UserError(f"{path}: cannot be decoded; it is damaged, cut short or of a rare kind ({error}).") from error


def _is_empty(path: ImageFilePath) -> bool:
    return (path.size if isinstance(path, MemoryFile) else path.stat().st_size) == 0


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which belongs to the whole process, for as long as ours stands in for it."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
