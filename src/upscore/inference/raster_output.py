"""The class map of a huge image as a file, and a picture to look at.

H W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from upscore.colormaps import palette
from upscore.data.georeference import Georeference
from upscore.inference.map_files import write_map
from upscore.inference.pictures import save_overlay
from upscore.inference.pieces import BLOCK, Pieces
from upscore.labels import VOID
from upscore.rendering import overlay

CLASSIC_LIMIT = 2**32 - 2**25
"""Bytes of squares above which a TIFF has to be a BigTIFF; its tags have room below 4 GiB."""


def write_class_map(
    pieces: Pieces, index: int, path: Path, classes: Sequence[str], georeference: Georeference | None = None
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
        pieces.blocks(index),
        size=(pieces.plan.height, pieces.plan.width),
        block=BLOCK,
        dtype=np.uint8,
        facts={"classes": list(classes)},
        folder=pieces.folder,
        bigtiff=pieces.size(index) > CLASSIC_LIMIT,
        colormap=colors,
        georeference=georeference,
    )


def write_overview(photo: np.ndarray, class_map: np.ndarray, path: Path, classes: Sequence[str]) -> None:
    """Write an overlay of the reduced image (h, w, 3) and its class map (h, w).

    Raises:
        WriteError: it can't be written.
    """
    save_overlay(overlay(photo, class_map, classes), path)
