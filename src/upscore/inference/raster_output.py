"""The class map of a huge image as a file: a tiled, compressed TIFF or a Zarr array, and a picture to look at.

H W pixels of the image.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffWriter

from upscore.colormaps import palette
from upscore.data.georeference import Georeference
from upscore.data.zarr_rasters import import_zarr
from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.inference.pieces import BLOCK, Pieces
from upscore.labels import VOID
from upscore.rendering import overlay

SOFTWARE = "upscore"
"""The mark of what may be overwritten."""

SUFFIXES = (".tif", ".tiff", ".zarr")

CLASSIC_LIMIT = 2**32 - 2**25
"""Bytes of squares above which a TIFF has to be a BigTIFF; its tags have room below 4 GiB."""


def check_output(path: Path, source: Path) -> None:
    """Make sure, before an hour of work, that a class map can be written there.

    Raises:
        UserError: the suffix names no format, Zarr is not installed, or something would be overwritten that is no
            earlier output.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: the class map of a huge image is a TIFF or Zarr: end it in {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".zarr":
        import_zarr()
    if path.resolve() == source.resolve():
        raise UserError(f"{path} is the image and would be overwritten: choose another output")
    if path.exists() and not _is_output(path):
        raise UserError(f"{path} is there, was not written by upscore and would be overwritten: choose another output")


def _is_output(path: Path) -> bool:
    """Whether a file or folder is what upscore wrote."""
    try:
        if path.suffix.lower() == ".zarr":
            facts = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
            return facts["node_type"] == "array" and facts["attributes"].get("software") == SOFTWARE
        with TiffFile(path) as file:
            return file.pages.first.software == SOFTWARE
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_class_map(
    pieces: Pieces, index: int, path: Path, classes: Sequence[str], georeference: Georeference | None = None
) -> None:
    """Join the tiles' class maps in the file format of the suffix, whole or not at all, a row of tiles at a time.

    A TIFF shows its class indices in the colours of VOC's palette, and has their names as JSON in its description.

    Raises:
        UserError: it can't be written.
    """
    temporary = pieces.folder / f"joined{index}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".zarr":
            shutil.rmtree(temporary, ignore_errors=True)
            _write_zarr(pieces, index, temporary, classes)
            shutil.rmtree(path, ignore_errors=True)
        else:
            _write_tiff(pieces, index, temporary, classes, georeference)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from error


def _write_tiff(
    pieces: Pieces, index: int, path: Path, classes: Sequence[str], georeference: Georeference | None
) -> None:
    colors = palette(256).T.astype(np.uint16) * 257
    colors[:, len(classes) : VOID] = 0
    with TiffWriter(path, bigtiff=pieces.size(index) > CLASSIC_LIMIT) as file:
        file.write(
            pieces.blocks(index),
            shape=(pieces.plan.height, pieces.plan.width),
            dtype=np.uint8,
            tile=(BLOCK, BLOCK),
            compression="zlib",
            photometric="palette",
            colormap=colors,
            description=json.dumps({"classes": list(classes)}),
            metadata=None,
            software=SOFTWARE,
            extratags=[] if georeference is None else georeference.extratags(),
        )


def _write_zarr(pieces: Pieces, index: int, path: Path, classes: Sequence[str]) -> None:
    height, width = pieces.plan.height, pieces.plan.width
    marks = {"software": SOFTWARE, "classes": list(classes)}
    array = import_zarr().create_array(
        str(path), shape=(height, width), chunks=(BLOCK, BLOCK), dtype="uint8", attributes=marks
    )
    across = -(-width // BLOCK)
    for number, block in enumerate(pieces.blocks(index)):
        top, left = number // across * BLOCK, number % across * BLOCK
        square = np.frombuffer(zlib.decompress(block), np.uint8).reshape(BLOCK, BLOCK)
        array[top : top + BLOCK, left : left + BLOCK] = square[: height - top, : width - left]


def write_overview(photo: np.ndarray, class_map: np.ndarray, path: Path, classes: Sequence[str]) -> None:
    """A picture of the reduced photo (h, w, 3) under its class map (h, w).

    Raises:
        UserError: it can't be written.
    """
    try:
        with atomic_path(path) as temporary:
            overlay(photo, class_map, classes).save(temporary)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from error
