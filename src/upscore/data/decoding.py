"""Image files opened within bounds and turned upright.

H W pixels. Everything a broken or hostile file can do ends in one sentence with its name.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from upscore.errors import UserError

MAX_PIXELS = 500_000_000
LARGE = 64_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm"})

# Pillow's other readers (some start Ghostscript) stay out of reach of a file that only claims to be a photo.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
# TIFF's numbers of the tags that are looked at.
NEW_SUBFILE_TYPE, BITS, COMPRESSION, ORIENTATION, PLANAR = 254, 258, 259, 274, 284
PAGES = "holds several pages; save each one that you want to use as a file of its own."

_pillow_limit = threading.Lock()


def read_tiff(path: Path, channels: int) -> np.ndarray:
    """(H, W) or (H, W, `channels`) of what Pillow has no mode for: deep colour, many channels, unusual numbers."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _require_size(page.imagewidth, page.imagelength, path)
        if page.samplesperpixel > 1 and page.samplesperpixel < channels:
            raise UserError(f"{path}: has {page.samplesperpixel} channels; save the photo as grey or as RGB.")
        if page.samplesperpixel > channels and page.photometric != tifffile.PHOTOMETRIC.RGB:
            raise UserError(
                f"{path}: has {page.samplesperpixel} channels and does not say which are red, green and blue; "
                "save the three as RGB."
            )
        if page.samplesperpixel * page.imagewidth * page.imagelength > 4 * MAX_PIXELS:
            raise UserError(f"{path}: has {page.samplesperpixel} channels, too many to read; save the three as RGB.")
        if len(file.pages) > 1 and not file.pages[1].aspage().is_reduced:
            raise UserError(f"{path}: {PAGES}")
        pixels = page.asarray()
        if page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        turn = page.tags.valueof(ORIENTATION, 1)
    return upright(pixels[..., :channels] if pixels.ndim == 3 else pixels, turn)


def is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
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


def _require_size(width: int, height: int, path: Path) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS:,} that are read; cut it up.")


def _require_tiff_for_pillow(image: ImageFile, path: Path) -> None:
    """Further pages may be the same photo made smaller, but not other slices of a stack."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if max(tags.get(BITS, (1,))) > 8 and tags.get(PLANAR) == 2 and tags.get(COMPRESSION) == 1:
        raise UnidentifiedImageError  # Pillow takes these for planes of bytes
    if getattr(image, "n_frames", 1) > 1:
        image.seek(1)
        reduced = image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 1  # type: ignore[attr-defined]
        image.seek(0)
        if not reduced:
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
def reading(path: Path) -> Iterator[None]:
    """Tell every fault of a file with its name, and keep Pillow's warnings to ourselves."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnidentifiedImageError as error:
        reason = "is empty" if path.stat().st_size == 0 else "is not an image that can be read, or its head is damaged"
        raise UserError(f"{path}: {reason}; photos may be JPEG, PNG, TIFF, BMP, WebP, GIF or PPM.") from error
    except Exception as error:  # decoders raise anything at all on broken bytes
        raise UserError(f"{path}: cannot be decoded; it is damaged, cut short or of a rare kind ({error}).") from error


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which belongs to the whole process, for as long as ours stands in for it."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
