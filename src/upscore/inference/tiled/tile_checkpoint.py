"""What was found in the tiles of an image so far, on disk.

N objects of a tile, m the side of a mask in RoI form.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from upscore.files import atomic_path
from upscore.inference.run_manifest import Settings, begin
from upscore.results import InstanceResult


class TileCheckpoint:
    """A folder with a file for each tile that is done, by whichever process.

    Args:
        folder: is made, if it is not there.
        settings: what the objects depend on: the image and its size, the tiling, the model, the factor, the score.

    Raises:
        UserError: the folder is of other settings, or can't be written.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        begin(folder, settings)

    def done(self, tile: int) -> bool:
        """Whether a tile is there; a file that was cut short by a failing machine is not."""
        return zipfile.is_zipfile(self._path(tile))

    def write(self, tile: int, objects: InstanceResult) -> None:
        """Keep the objects of a tile, whole or not at all.

        Raises:
            UserError: the disk is full, or can't be written.
        """
        with atomic_path(self._path(tile)) as temporary:
            np.savez_compressed(
                temporary,
                boxes=objects.boxes,
                scores=objects.scores,
                labels=objects.labels,
                masks=np.array(objects.masks, np.float16),
                mask_paste=np.array(objects.mask_paste),
                classes=np.array(objects.classes),
                category_ids=np.array(objects.category_ids or [], np.int64),
            )

    def read(self, tile: int, size: tuple[int, int]) -> InstanceResult | None:
        """The objects of a tile in an image of size (H, W), if it is done."""
        if not self.done(tile):
            return None
        with np.load(self._path(tile)) as saved:
            return InstanceResult(
                boxes=saved["boxes"],
                scores=saved["scores"],
                labels=saved["labels"],
                masks=list(saved["masks"]),
                size=size,
                classes=saved["classes"].tolist(),
                category_ids=saved["category_ids"].tolist() or None,
                mask_paste=saved["mask_paste"].item(),
            )

    def _path(self, tile: int) -> Path:
        return self.folder / f"{tile:06d}.npz"
