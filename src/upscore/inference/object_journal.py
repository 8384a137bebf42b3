"""What was found in the tiles of an image so far, on disk.

N objects of a tile, m the side of a mask in RoI form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from upscore.errors import UserError
from upscore.files import atomic_path, write_text
from upscore.inference.roi_objects import RoIObjects

SETTINGS = "tiles.json"


class Journal:
    """A folder with a file for each tile that is done.

    Args:
        folder: is made, if it is not there.
        settings: what the objects depend on: the image and its size, the tiling, the model, the factor, the score.

    Raises:
        UserError: the folder is of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str | int | float | None]) -> None:
        self.folder = folder
        path = folder / SETTINGS
        if not path.exists():
            write_text(path, json.dumps(dict(settings), indent=1) + "\n")
        known = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted({*known, *settings}):
            if known.get(name) != settings.get(name):
                raise UserError(
                    f"{folder} has tiles that were made with {name}={known.get(name)}, not {settings.get(name)}: "
                    "remove it, or choose another output"
                )

    def write(self, tile: int, objects: RoIObjects) -> None:
        """Keep the objects of a tile, whole or not at all."""
        with atomic_path(self._path(tile)) as temporary:
            np.savez_compressed(
                temporary,
                boxes=objects.boxes,
                scores=objects.scores,
                labels=objects.labels,
                masks=np.array(objects.masks, np.float16),
                pasting=np.array(objects.pasting),
            )

    def read(self, tile: int, size: tuple[int, int]) -> RoIObjects | None:
        """The objects of a tile in an image of size (H, W), if it is done."""
        path = self._path(tile)
        if not path.exists():
            return None
        with np.load(path) as saved:
            return RoIObjects(
                boxes=saved["boxes"],
                scores=saved["scores"],
                labels=saved["labels"],
                masks=list(saved["masks"]),
                size=size,
                pasting=saved["pasting"].item(),
            )

    def _path(self, tile: int) -> Path:
        return self.folder / f"{tile:06d}.npz"
