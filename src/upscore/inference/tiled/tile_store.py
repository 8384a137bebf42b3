"""Folders of finished tiles, which make a tiled prediction resumable: class maps and objects of each tile.

H W image height and width, h w height and width of a tile, F reduction factor of the overview.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.files import atomic_path, write_text, writing
from upscore.inference.run_manifest import Settings, require_same
from upscore.inference.tiled.plan import Tile, TilePlan
from upscore.results import InstanceResult

BLOCK = 256
"""Side in pixels of the blocks in which class maps are compressed; tile sizes are multiples of it."""

OVERVIEW = 2048
"""Largest side of the overview in pixels, for images with sides of up to half a million pixels."""

SETTINGS = "settings.json"
"""File with the settings of the run."""

MAX_NAME = 255
"""Longest file name, in bytes, on common file systems."""


def partial_folder(output: Path) -> Path:
    """Return the folder of finished tiles of an output: `.NAME.partial`, with a digest for a very long name."""
    name = f".{output.name}.partial"
    if len(name.encode()) > MAX_NAME:
        name = f".{hashlib.sha256(output.name.encode()).hexdigest()}.partial"
    return output.with_name(name)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder of finished tiles; the lock ends with the process, even after a crash.

    Raises:
        UserError: another process holds the lock.
    """
    path = folder / "lock"
    with writing(folder):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, blocking=False, is_singleton=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise UserError(
                    f"{folder} is in use by another process: wait for it, or choose another --output"
                ) from error
            if path.exists():
                break
            lock.release()  # the other process has just finished and deleted the folder
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, settings: Settings) -> None:
    """Create the folder of finished tiles of a run, or check that it belongs to a run with the same settings.

    Raises:
        UserError: the folder belongs to a run with other settings, or cannot be written.
    """
    settings_file = folder / SETTINGS
    if settings_file.is_file():
        try:
            before = dict(json.loads(settings_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{settings_file} cannot be read ({error}): delete {folder} to start again") from error
        require_same(folder, before, settings, "use the same settings to resume, or delete the folder to start again")
    elif any(folder.glob("*.npz")):
        raise UserError(f"{folder} has tiles of an unknown run: delete it to start again")
    else:
        write_text(settings_file, json.dumps(dict(settings), indent=2) + "\n")


class TileStore:
    """Folder with the class maps of each finished tile of an image; several processes may write to it.

    Args:
        folder: created if it does not exist.
        plan: the tiles.
        settings: all settings that the result depends on.
        maps: number of class maps of each tile.

    Raises:
        UserError: the folder was created with other settings, or cannot be written.
    """

    def __init__(self, folder: Path, plan: TilePlan, settings: Settings, maps: int = 1) -> None:
        assert plan.tile_size % BLOCK == 0, f"tile_size={plan.tile_size} is not a multiple of {BLOCK}"
        self.folder, self.plan, self.maps = folder, plan, maps
        self.factor = reduction(plan.height, plan.width)
        _open(folder, settings)

    def done(self) -> set[tuple[int, int]]:
        """Return (row, column) of the finished tiles; truncated files do not count."""
        positions = ((tile.row, tile.column) for tile in self.plan)
        return {position for position in positions if zipfile.is_zipfile(self._file(*position))}

    def write(self, tile: Tile, class_maps: list[np.ndarray], pixels: Tensor) -> None:
        """Write the class maps (h, w) uint8 of a tile, and reduced copies of them and of its pixels (3, h, w).

        Raises:
            UserError: the file cannot be written.
        """
        arrays: dict[str, Any] = {"image": _reduced(pixels, self.factor)}
        for index, class_map in enumerate(class_maps):
            blocks = [zlib.compress(block.tobytes(), 6) for block in _blocks(class_map)]
            arrays[f"blocks{index}"] = np.frombuffer(b"".join(blocks), np.uint8)
            arrays[f"lengths{index}"] = np.array([len(block) for block in blocks])
            arrays[f"classes{index}"] = _sampled(class_map, self.factor)
        with atomic_path(self._file(tile.row, tile.column)) as temporary:
            np.savez(temporary, **arrays)

    def blocks(self, index: int) -> Iterator[bytes]:
        """Yield the compressed (BLOCK, BLOCK) blocks of a class map in row-major order, zero-padded at the border.

        One row of compressed tiles is in memory at a time.
        """
        for row in range(self.plan.rows):
            tiles = [self._row_of_blocks(row, column, index) for column in range(self.plan.columns)]
            for block_row in zip(*tiles, strict=True):
                for blocks in block_row:
                    yield from blocks

    def size(self, index: int) -> int:
        """Return the size in bytes of all compressed blocks of a class map."""
        return sum(int(self._read(tile.row, tile.column, f"lengths{index}").sum()) for tile in self.plan)

    def overview(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the reduced image (H / F, W / F, 3) and each reduced class map (H / F, W / F), sizes rounded up."""
        return self._joined("image"), [self._joined(f"classes{index}") for index in range(self.maps)]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _joined(self, name: str) -> np.ndarray:
        rows, columns = range(self.plan.rows), range(self.plan.columns)
        return np.concatenate([np.concatenate([self._read(row, k, name) for k in columns], axis=1) for row in rows])

    def _row_of_blocks(self, row: int, column: int, index: int) -> list[list[bytes]]:
        """Return the compressed blocks of a tile, grouped by rows."""
        data = self._read(row, column, f"blocks{index}").tobytes()
        lengths = self._read(row, column, f"lengths{index}")
        ends = np.cumsum(lengths)
        blocks = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        across = -(-self.plan.tile(row, column).core.width // BLOCK)
        return [blocks[start : start + across] for start in range(0, len(blocks), across)]

    def _read(self, row: int, column: int, name: str) -> np.ndarray:
        path = self._file(row, column)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[name]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run the command again") from error

    def _file(self, row: int, column: int) -> Path:
        return self.folder / f"{row}_{column}.npz"


class TileCheckpoint:
    """Folder with the objects of each finished tile; several processes may write to it.

    Args:
        folder: created if it does not exist.
        settings: settings that the objects depend on: image, tiling, model, factor and score threshold.

    Raises:
        UserError: the folder was created with other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        _open(folder, settings)

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
        with np.load(self._path(tile), allow_pickle=False) as saved:
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


def reduction(height: int, width: int) -> int:
    """Return the reduction factor F of the overview: a power of 2 that divides `BLOCK`."""
    factor = 1
    while factor < BLOCK and max(height, width) > OVERVIEW * factor:
        factor *= 2
    return factor


def _reduced(pixels: Tensor, factor: int) -> np.ndarray:
    """Reduce pixels (3, h, w) to block means (h / F, w / F, 3); blocks at the border may be smaller."""
    means = F.avg_pool2d(pixels.float(), factor, ceil_mode=True, count_include_pad=False)
    return means.round().byte().permute(1, 2, 0).numpy()


def _sampled(class_map: np.ndarray, factor: int) -> np.ndarray:
    """Reduce a class map (h, w) to the class at the centre of each block."""
    rows, columns = (np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in class_map.shape)
    return class_map[np.ix_(rows, columns)]


def _blocks(class_map: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the blocks of a class map (h, w) in row-major order, zero-padded at the border."""
    height, width = class_map.shape
    padded = np.pad(class_map, ((0, -height % BLOCK), (0, -width % BLOCK)))
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            yield padded[top : top + BLOCK, left : left + BLOCK]
