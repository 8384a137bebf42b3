"""The objects of an image of any size, from file to file, with a tile of pixels in memory at a time.

N objects, H W pixels of the image, F pixels of it along a side of one of the overview.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tifffile import TiffWriter

from upscore.colormaps import class_colors
from upscore.data.georeference import Georeference, read_georeference
from upscore.data.rasters import Raster, Window, open_raster
from upscore.data.zarr_rasters import import_zarr
from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.inference.huge import raster_facts
from upscore.inference.object_journal import Journal
from upscore.inference.object_tiles import Find, Tiling, find_objects, finder, require_objects
from upscore.inference.pieces import Setting, reduction
from upscore.inference.predictor import Predictor
from upscore.inference.raster_output import SOFTWARE, check_output
from upscore.inference.roi_objects import RoIObjects, write_ids

BLOCK = 512
"""Side of the squares that the id map is written in."""

COLORS, OPACITY = 12, 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the objects of an image are found, and where those of its finished tiles are kept."""

    tiling: Tiling
    factor: float
    min_score: float
    folder: Path
    facts: dict[str, Setting]
    """The image and the network."""

    def finder(self, predictor: Predictor) -> Find:
        """What finds the objects of a tile."""
        return finder(predictor, factor=self.factor, min_score=self.min_score)

    def journal(self) -> Journal:
        """The folder, made where it is not there.

        Raises:
            UserError: it was begun with other settings, or can't be written.
        """
        settings = self.facts | asdict(self.tiling) | {"factor": self.factor, "min_score": self.min_score}
        return Journal(self.folder, settings)


def predict_objects(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    *,
    level: int = 0,
    tile: int | None = None,
    factor: float = 1.0,
    min_score: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RoIObjects:
    """Find the objects of an image of any size, and write their id map and a picture to look at.

    Finished tiles are kept in `.NAME.partial` beside the output until all are there: the same call goes on with them.

    Args:
        predictor: of a network that finds objects.
        source: see `upscore.data.rasters.open_raster`.
        output: a .tif or .zarr with the number of an object per pixel, 0 for none; `NAME_overlay.png` is beside it.
        level: of a pyramid; 0 is the finest.
        tile: side of a tile in pixels of the image; by default the size at which the network sees photos.
        factor: pixels of the network's input per pixel of the image, see `upscore.inference.object_tiles`.
        min_score: as in `Predictor.predict`.
        progress: told after each tile.

    Returns:
        The objects, the best first; the k-th is number k + 1 of the id map.

    Raises:
        UserError: the image can't be read or the output not written, the network finds no objects, or tiles of a run
            with other settings are there.
    """
    source, output = Path(source), Path(output)
    raster = open_raster(source, level=level)
    search = plan_search(predictor, source, output, level=level, tile=tile, factor=factor, min_score=min_score)
    find, journal = search.finder(predictor), search.journal()
    objects = find_objects(raster, find, search.tiling, journal=journal, progress=progress)
    try:
        _write(objects, output, read_georeference(source, level=level))
        with atomic_path(output.with_name(f"{output.stem}_overlay.png")) as temporary:
            Image.fromarray(_overview(raster, objects)).save(temporary)
    except OSError as error:
        raise UserError(f"{output}: can't be written ({error.strerror or error})") from error
    shutil.rmtree(search.folder)
    return objects


def plan_search(
    predictor: Predictor,
    source: Path,
    output: Path,
    *,
    level: int,
    tile: int | None,
    factor: float,
    min_score: float | None,
) -> Search:
    """What `predict_objects` does by these arguments, of an image that can be read.

    Raises:
        UserError: the output can't be written, the network finds no objects, or there is no such tile or factor.
    """
    net = require_objects(predictor, factor)
    check_output(output, source)
    tiling = Tiling.of(predictor, factor)
    if tile is not None:
        tiling = Tiling(tile=tile, overlap=min(tiling.overlap, tile // 2))
    return Search(
        tiling=tiling,
        factor=factor,
        min_score=net.min_score if min_score is None else min_score,
        folder=output.with_name(f".{output.name}.partial"),
        facts=raster_facts(predictor, source, level),
    )


def _write(objects: RoIObjects, path: Path, georeference: Georeference | None) -> None:
    """The id map in the file format of the suffix, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint16 if len(objects) < 1 << 16 else np.uint32
    height, width = objects.size
    if path.suffix.lower() == ".zarr":
        temporary = path.with_name(f".{path.name}.partial") / "joined.zarr"
        shutil.rmtree(temporary, ignore_errors=True)
        marks = {"software": SOFTWARE}
        array = import_zarr().create_array(
            str(temporary), shape=objects.size, chunks=(BLOCK, BLOCK), dtype=kind, attributes=marks
        )
        for window, ids in _squares(objects):
            array[window.top : window.bottom, window.left : window.right] = ids
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        return

    def blocks() -> Iterator[bytes]:
        for _, ids in _squares(objects):
            yield zlib.compress(np.pad(ids, [(0, BLOCK - side) for side in ids.shape]).tobytes())

    with atomic_path(path) as temporary, TiffWriter(temporary, bigtiff=height * width > 1 << 31) as file:
        file.write(
            blocks(),
            shape=objects.size,
            dtype=kind,
            tile=(BLOCK, BLOCK),
            compression="zlib",
            photometric="minisblack",
            metadata=None,
            software=SOFTWARE,
            extratags=[] if georeference is None else georeference.extratags(),
        )


def _squares(objects: RoIObjects) -> Iterator[tuple[Window, np.ndarray]]:
    """The id map in squares, row after row; those at the border may be smaller."""
    height, width = objects.size
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            window = Window(top, left, min(BLOCK, height - top), min(BLOCK, width - left))
            found: list[np.ndarray] = []
            write_ids(objects, [window], lambda _, ids, found=found: found.append(ids))
            yield window, found[0]


def _overview(raster: Raster, objects: RoIObjects) -> np.ndarray:
    """The reduced photo (H / F, W / F, 3) under its objects' colours."""
    factor = reduction(raster.height, raster.width)
    colors = class_colors(COLORS).astype(np.float32)
    picture = np.zeros((-(-raster.height // factor), -(-raster.width // factor), 3), np.uint8)
    for window, ids in _squares(objects):
        photo = raster.read(*window)[:, ::factor, ::factor].permute(1, 2, 0).numpy().astype(np.float32)
        ids = ids[::factor, ::factor]
        tinted = np.where((ids > 0)[..., None], (1 - OPACITY) * photo + OPACITY * colors[ids % COLORS], photo)
        top, left = window.top // factor, window.left // factor
        picture[top : top + len(ids), left : left + ids.shape[1]] = tinted.round()
    return picture
