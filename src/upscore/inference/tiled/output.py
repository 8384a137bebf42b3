"""Writers for label maps (TIFF, Zarr) and overlays of huge images.

H W image height and width, h w height and width of the overview.
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
from upscore.data.io.rasters import import_zarr
from upscore.errors import UserError
from upscore.files import not_own, writing
from upscore.inference.tiled.tile_store import BLOCK, TileStore
from upscore.labels import VOID
from upscore.results.writers.pictures import SOFTWARE, require_own_picture, save_overlay
from upscore.viz.colormaps import palette
from upscore.viz.overlays import overlay

CLASSIC_LIMIT = 2**32 - 2**25
"""Size of the compressed blocks, in bytes, above which a BigTIFF is written; leaves room for tags below 4 GiB."""


def write_class_map(
    store: TileStore, index: int, path: Path, classes: Sequence[str], georeference: Georeference | None = None
) -> None:
    """Join the class maps of all tiles and write them atomically, one row of tiles at a time.

    The suffix selects the file format. A TIFF has the VOC palette as its colour map and the class names as JSON in its
    description.

    Args:
        store: the finished tiles.
        index: index of the class map in each tile.
        path: output file.
        classes: names of the classes.
        georeference: georeference of the image, kept in a TIFF.

    Raises:
        UserError: the file cannot be written.
    """
    colors = palette(256).T.astype(np.uint16) * 257
    colors[:, len(classes) : VOID] = 0
    write_map(
        path,
        store.blocks(index),
        size=(store.plan.height, store.plan.width),
        block=BLOCK,
        dtype=np.uint8,
        attributes={"classes": list(classes)},
        folder=store.folder,
        bigtiff=store.size(index) > CLASSIC_LIMIT,
        colormap=colors,
        georeference=georeference,
    )


def write_overview(image: np.ndarray, class_map: np.ndarray, path: Path, classes: Sequence[str]) -> None:
    """Write an overlay of the reduced image (h, w, 3) and its class map (h, w).

    Raises:
        WriteError: the file cannot be written.
    """
    save_overlay(overlay(image, class_map, classes), path)


SUFFIXES = (".tif", ".tiff", ".zarr")


def overlay_path(path: Path) -> Path:
    """Return the path of the overlay beside a label map."""
    return path.with_name(f"{path.stem}_overlay.jpg")


def check_output(path: Path, source: Path) -> None:
    """Check, before a long run, that a label map can be written.

    Raises:
        UserError: the suffix is not supported, Zarr is not installed, or the path holds a file that upscore did not
            write.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: the output must be a TIFF or Zarr file: use one of the suffixes {', '.join(SUFFIXES)}"
        )
    if path.suffix.lower() == ".zarr":
        import_zarr()
    if path.resolve() == source.resolve():
        raise UserError(f"{path} is the input image and would be overwritten: choose another output")
    if path.exists() and not _is_own(path):
        raise not_own(path)
    require_own_picture(overlay_path(path))


def _is_own(path: Path) -> bool:
    """Return whether upscore wrote a label map."""
    try:
        if path.suffix.lower() == ".zarr":
            metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
            return metadata["node_type"] == "array" and metadata["attributes"].get("software") == SOFTWARE
        with TiffFile(path) as file:
            return file.pages.first.software == SOFTWARE
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_map(
    path: Path,
    blocks: Iterable[bytes],
    *,
    size: tuple[int, int],
    block: int,
    dtype: DTypeLike,
    attributes: Mapping[str, Any],
    folder: Path,
    bigtiff: bool = False,
    colormap: np.ndarray | None = None,
    georeference: Georeference | None = None,
) -> None:
    """Write a label map atomically, in the file format of its suffix.

    Args:
        path: output file.
        blocks: zlib-compressed blocks of (block, block) pixels in row-major order; those at the border are padded.
        size: (H, W) of the map.
        block: side of a block in pixels.
        dtype: data type of the pixels.
        attributes: metadata, written as JSON beside the name of the software.
        folder: folder for the temporary file, on the same disk as `path`.
        bigtiff: whether the blocks may exceed 4 GiB.
        colormap: (3, 256) uint16, colour map of a TIFF.
        georeference: georeference of the image, kept in a TIFF.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = folder / f"joined{path.suffix}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".zarr":
            shutil.rmtree(temporary, ignore_errors=True)
            _write_zarr(temporary, blocks, size, block, np.dtype(dtype), attributes)
            shutil.rmtree(path, ignore_errors=True)
        else:
            with TiffWriter(temporary, bigtiff=bigtiff) as file:
                file.write(
                    iter(blocks),
                    shape=size,
                    dtype=dtype,
                    tile=(block, block),
                    compression="zlib",
                    photometric="minisblack" if colormap is None else "palette",
                    colormap=colormap,
                    description=json.dumps(dict(attributes)),
                    metadata=None,
                    software=SOFTWARE,
                    extratags=[] if georeference is None else georeference.extratags(),
                )
        temporary.replace(path)


def _write_zarr(
    path: Path,
    blocks: Iterable[bytes],
    size: tuple[int, int],
    block: int,
    dtype: np.dtype,
    attributes: Mapping[str, Any],
) -> None:
    attributes = {"software": SOFTWARE, **attributes}
    array = import_zarr().create_array(
        str(path), shape=size, chunks=(block, block), dtype=dtype.name, attributes=attributes
    )
    height, width = size
    across = -(-width // block)
    for number, data in enumerate(blocks):
        top, left = number // across * block, number % across * block
        values = np.frombuffer(zlib.decompress(data), dtype).reshape(block, block)
        array[top : top + block, left : left + block] = values[: height - top, : width - left]
