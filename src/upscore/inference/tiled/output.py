"""The class map of a huge image as a file, and a picture to look at.

H W pixels of the image.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from tifffile import TiffFile, TiffWriter

from upscore.data.io.georeference import Georeference
from upscore.data.io.zarr_rasters import import_zarr
from upscore.errors import UserError
from upscore.files import not_own, writing
from upscore.inference.tiled.tile_store import BLOCK, TileStore
from upscore.labels import VOID
from upscore.results.writers.pictures import SOFTWARE, require_own_picture, save_overlay
from upscore.viz.colormaps import palette
from upscore.viz.overlays import overlay

CLASSIC_LIMIT = 2**32 - 2**25
"""Bytes of squares above which a TIFF has to be a BigTIFF; its tags have room below 4 GiB."""


def write_class_map(
    store: TileStore, index: int, path: Path, classes: Sequence[str], georeference: Georeference | None = None
) -> None:
    """Join the tiles' class maps in the file format of the suffix, whole or not at all, a row of tiles at a time.

    A TIFF shows its class indices in the colours of VOC's palette, and has their names as JSON in its description.

    Raises:
        UserError: it can't be written.
    """
    colors = palette(256).T.astype(np.uint16) * 257
    colors[:, len(classes) : VOID] = 0
    write_map(
        path,
        store.blocks(index),
        size=(store.plan.height, store.plan.width),
        block=BLOCK,
        dtype=np.uint8,
        facts={"classes": list(classes)},
        folder=store.folder,
        bigtiff=store.size(index) > CLASSIC_LIMIT,
        colormap=colors,
        georeference=georeference,
    )


def write_overview(photo: np.ndarray, class_map: np.ndarray, path: Path, classes: Sequence[str]) -> None:
    """Write an overlay of the reduced image (h, w, 3) and its class map (h, w).

    Raises:
        WriteError: it can't be written.
    """
    save_overlay(overlay(photo, class_map, classes), path)


SUFFIXES = (".tif", ".tiff", ".zarr")


def overlay_of(path: Path) -> Path:
    """The picture to look at, beside a map."""
    return path.with_name(f"{path.stem}_overlay.jpg")


def check_output(path: Path, source: Path) -> None:
    """Make sure, before an hour of work, that a map can be written there.

    Raises:
        UserError: the suffix names no format, Zarr is not installed, or something would be overwritten that is no
            earlier output.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: what is found in a huge image is a TIFF or Zarr: end it in {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".zarr":
        import_zarr()
    if path.resolve() == source.resolve():
        raise UserError(f"{path} is the image and would be overwritten: choose another output")
    if path.exists() and not _is_own(path):
        raise not_own(path)
    require_own_picture(overlay_of(path))


def _is_own(path: Path) -> bool:
    """Whether upscore wrote a map."""
    try:
        if path.suffix.lower() == ".zarr":
            about = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
            return about["node_type"] == "array" and about["attributes"].get("software") == SOFTWARE
        with TiffFile(path) as file:
            return file.pages.first.software == SOFTWARE
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_map(
    path: Path,
    squares: Iterable[bytes],
    *,
    size: tuple[int, int],
    block: int,
    dtype: DTypeLike,
    facts: Mapping[str, Any],
    folder: Path,
    bigtiff: bool = False,
    colormap: np.ndarray | None = None,
    georeference: Georeference | None = None,
) -> None:
    """Write a map in the file format of the suffix, whole or not at all.

    Args:
        path: where to.
        squares: of (block, block) pixels, row after row, compressed by zlib; those at the border are filled up.
        size: of the map (H, W).
        block: side of a square.
        dtype: of a pixel.
        facts: written beside the map as JSON, with upscore's mark.
        folder: for what is not whole yet, on the same disk.
        bigtiff: squares may be more than 4 GiB together.
        colormap: (3, 256) uint16, the colours in which a TIFF shows its values.
        georeference: of the image; TIFFs keep it.

    Raises:
        UserError: it can't be written.
    """
    temporary = folder / f"joined{path.suffix}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".zarr":
            shutil.rmtree(temporary, ignore_errors=True)
            _write_zarr(temporary, squares, size, block, np.dtype(dtype), facts)
            shutil.rmtree(path, ignore_errors=True)
        else:
            with TiffWriter(temporary, bigtiff=bigtiff) as file:
                file.write(
                    iter(squares),
                    shape=size,
                    dtype=dtype,
                    tile=(block, block),
                    compression="zlib",
                    photometric="minisblack" if colormap is None else "palette",
                    colormap=colormap,
                    description=json.dumps(dict(facts)),
                    metadata=None,
                    software=SOFTWARE,
                    extratags=[] if georeference is None else georeference.extratags(),
                )
        temporary.replace(path)


def _write_zarr(
    path: Path, squares: Iterable[bytes], size: tuple[int, int], block: int, dtype: np.dtype, facts: Mapping[str, Any]
) -> None:
    marks = {"software": SOFTWARE, **facts}
    array = import_zarr().create_array(str(path), shape=size, chunks=(block, block), dtype=dtype.name, attributes=marks)
    height, width = size
    across = -(-width // block)
    for number, square in enumerate(squares):
        top, left = number // across * block, number % across * block
        values = np.frombuffer(zlib.decompress(square), dtype).reshape(block, block)
        array[top : top + block, left : left + block] = values[: height - top, : width - left]
