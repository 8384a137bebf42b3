"""On-disk checkpoint of the objects detected in the finished tiles of an image."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from upscore.files import atomic_path
from upscore.inference.run_manifest import Settings, begin
from upscore.results import InstanceResult


class TileCheckpoint:
    """Folder with one file for each finished tile; several processes may write to it.

    Args:
        folder: created if it does not exist.
        settings: settings that the objects depend on: image, tiling, model, factor and score threshold.

    Raises:
        UserError: the folder was created with other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        begin(folder, settings)

    def done(self, tile: int) -> bool:
        """Return whether a tile is finished; truncated files do not count."""
        return zipfile.is_zipfile(self._path(tile))

    def write(self, tile: int, objects: InstanceResult) -> None:
        """Write the objects of a tile atomically.

        Raises:
            UserError: the file cannot be written.
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
        """Return the objects of a tile of an image (H, W), or None if the tile is not finished."""
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
