"""What was made of each tile of an image, kept on disk until all of them are there.

A run that was killed finds the tiles it had finished. H W pixels of the image, F pixels of it along a side of one of
its overview.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.inference.run_manifest import Settings, begin
from upscore.inference.tiled.plan import Tile, TilePlan

BLOCK = 256
"""Side of the squares that class maps are compressed in; cores are multiples of it."""

OVERVIEW = 2048
"""The longer side of the overview at most, for images of up to half a million pixels along it."""


class TileStore:
    """The folder of one image's finished tiles.

    Args:
        folder: made where it is not there.
        plan: the tiles.
        settings: all that the result depends on.
        maps: how many class maps each tile has.

    Raises:
        UserError: the folder was begun with other settings, or can't be written.
    """

    def __init__(self, folder: Path, plan: TilePlan, settings: Settings, maps: int = 1) -> None:
        assert plan.tile_size % BLOCK == 0, f"a core of {plan.tile_size} is not made of blocks"
        self.folder, self.plan, self.maps = folder, plan, maps
        self.factor = reduction(plan.height, plan.width)
        begin(folder, settings)

    def done(self) -> set[tuple[int, int]]:
        """(row, column) of the tiles that are finished; a file that was cut short by a failing machine is not."""
        places = ((tile.row, tile.column) for tile in self.plan)
        return {place for place in places if zipfile.is_zipfile(self._file(*place))}

    def write(self, tile: Tile, class_maps: list[np.ndarray], pixels: Tensor) -> None:
        """Keep a tile's class maps (h, w) uint8, and an overview of these and of its pixels (3, h, w).

        Raises:
            UserError: the disk is full, or can't be written.
        """
        arrays: dict[str, Any] = {"photo": _reduced(pixels, self.factor)}
        for index, class_map in enumerate(class_maps):
            blocks = [zlib.compress(block.tobytes(), 6) for block in _blocks(class_map)]
            arrays[f"blocks{index}"] = np.frombuffer(b"".join(blocks), np.uint8)
            arrays[f"lengths{index}"] = np.array([len(block) for block in blocks])
            arrays[f"classes{index}"] = _sampled(class_map, self.factor)
        with atomic_path(self._file(tile.row, tile.column)) as temporary:
            np.savez(temporary, **arrays)

    def blocks(self, index: int) -> Iterator[bytes]:
        """The compressed (BLOCK, BLOCK) squares of a class map, row after row; those at the border are filled up by 0.

        A row of tiles is in memory at a time, compressed.
        """
        for row in range(self.plan.rows):
            tiles = [self._row_of_blocks(row, column, index) for column in range(self.plan.columns)]
            for squares in zip(*tiles, strict=True):
                for square in squares:
                    yield from square

    def size(self, index: int) -> int:
        """Bytes of all compressed squares of a class map."""
        return sum(int(self._read(tile.row, tile.column, f"lengths{index}").sum()) for tile in self.plan)

    def overview(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The image (H / F, W / F, 3), and each of its class maps (H / F, W / F), rounded up."""
        return self._joined("photo"), [self._joined(f"classes{index}") for index in range(self.maps)]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _joined(self, name: str) -> np.ndarray:
        rows, columns = range(self.plan.rows), range(self.plan.columns)
        return np.concatenate([np.concatenate([self._read(row, k, name) for k in columns], axis=1) for row in rows])

    def _row_of_blocks(self, row: int, column: int, index: int) -> list[list[bytes]]:
        """Of one tile: the squares of each of its rows of squares."""
        data = self._read(row, column, f"blocks{index}").tobytes()
        lengths = self._read(row, column, f"lengths{index}")
        ends = np.cumsum(lengths)
        squares = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        across = -(-self.plan.tile(row, column).tile_size.width // BLOCK)
        return [squares[at : at + across] for at in range(0, len(squares), across)]

    def _read(self, row: int, column: int, name: str) -> np.ndarray:
        path = self._file(row, column)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[name]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: is damaged ({error}); delete it and run again, the others are kept") from error

    def _file(self, row: int, column: int) -> Path:
        return self.folder / f"{row}_{column}.npz"


def reduction(height: int, width: int) -> int:
    """Pixels of an image along a side of one of its overview: a power of 2 that divides `BLOCK`."""
    factor = 1
    while factor < BLOCK and max(height, width) > OVERVIEW * factor:
        factor *= 2
    return factor


def _reduced(pixels: Tensor, factor: int) -> np.ndarray:
    """(3, h, w) -> the means of squares (h / F, w / F, 3); those at the border may be smaller."""
    means = F.avg_pool2d(pixels.float(), factor, ceil_mode=True, count_include_pad=False)
    return means.round().byte().permute(1, 2, 0).numpy()


def _sampled(class_map: np.ndarray, factor: int) -> np.ndarray:
    """(h, w) -> the class in the middle of each square."""
    rows, columns = (np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in class_map.shape)
    return class_map[np.ix_(rows, columns)]


def _blocks(class_map: np.ndarray) -> Iterator[np.ndarray]:
    """(h, w) in squares, row after row."""
    height, width = class_map.shape
    filled = np.pad(class_map, ((0, -height % BLOCK), (0, -width % BLOCK)))
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            yield filled[top : top + BLOCK, left : left + BLOCK]
