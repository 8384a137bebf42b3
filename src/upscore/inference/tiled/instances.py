"""The objects of an image of any size, from file to file, with a tile of pixels in memory at a time.

N objects, H W pixels of the image, F pixels of it along a side of one of the overview.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upscore.data.formats.coco.ids import find_ids
from upscore.data.io.georeference import Georeference, read_georeference
from upscore.data.io.rasters import Raster, Window, open_raster
from upscore.inference.model import Model
from upscore.inference.run_manifest import Setting, locked
from upscore.inference.tiled.detection import Find, Tiling, find_objects, finder, require_objects
from upscore.inference.tiled.output import check_output, overlay_of, write_map
from upscore.inference.tiled.semantic import partial_of, raster_facts
from upscore.inference.tiled.tile_checkpoint import TileCheckpoint
from upscore.inference.tiled.tile_store import reduction
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult
from upscore.results.rle import MAX_PIXELS
from upscore.results.writers.coco import require_results, write_results
from upscore.results.writers.pictures import save_overlay
from upscore.viz.colormaps import class_colors

BLOCK = 512
"""Side of the squares that the id map is written in."""

COLORS, OPACITY = 12, 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the objects of an image are found, and where those of its finished tiles are kept."""

    tiling: Tiling
    factor: float
    score_threshold: float
    facts: dict[str, Setting]
    """The image and the network."""
    output: Path

    @property
    def folder(self) -> Path:
        """Of the finished tiles."""
        return partial_of(self.output)

    @property
    def settings(self) -> dict[str, Setting]:
        """All that the result depends on."""
        return self.facts | asdict(self.tiling) | {"factor": self.factor, "score_threshold": self.score_threshold}

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The maps, as of `huge.Classification`."""
        return (self.output,)

    def finder(self, predictor: Model) -> Find:
        """What finds the objects of a tile."""
        return finder(predictor, factor=self.factor, score_threshold=self.score_threshold)

    def checkpoint(self) -> TileCheckpoint:
        """The folder, made where it is not there.

        Raises:
            UserError: it was begun with other settings, or can't be written.
        """
        return TileCheckpoint(self.folder, self.settings)


def predict_objects(
    predictor: Model,
    source: str | Path,
    output: str | Path,
    *,
    pyramid_level: int = 0,
    tile: int | None = None,
    factor: float = 1.0,
    score_threshold: float | None = None,
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """Find the objects of an image of any size, and write them, their id map and a picture to look at.

    Finished tiles are kept in `.NAME.partial` beside the output until all are there: the same call goes on with them.

    Args:
        predictor: of a network that finds objects.
        source: see `upscore.data.io.rasters.open_raster`.
        output: a .tif or .zarr with the number of an object per pixel, 0 for none; beside it are `NAME_overlay.jpg`
            and, of an image of less than 2 ** 32 pixels, `NAME_instances.json` in the form of COCO's results.
        level: of a pyramid; 0 is the finest.
        tile: side of a tile in pixels of the image; by default the size at which the network sees photos.
        factor: pixels of the network's input per pixel of the image, see `upscore.inference.tiled.detection`.
        score_threshold: as in `Model.predict`.
        progress: told after each tile.

    Returns:
        The objects, the best first; the k-th is number k + 1 of the id map.

    Raises:
        UserError: the image can't be read or the output not written, the network finds no objects, or tiles of a run
            with other settings are there.
    """
    source, output = Path(source), Path(output)
    raster = open_raster(source, pyramid_level=pyramid_level)
    search = plan_search(
        predictor,
        source,
        output,
        pyramid_level=pyramid_level,
        tile=tile,
        factor=factor,
        score_threshold=score_threshold,
    )
    with locked(search.folder):
        find, checkpoint = search.finder(predictor), search.checkpoint()
        objects = find_objects(raster, find, search.tiling, checkpoint=checkpoint, progress=progress)
        if raster.height * raster.width < MAX_PIXELS:
            write_results(_entries(objects, source), entries_of(output))
        save_overlay(Image.fromarray(_overview(raster, objects)), overlay_of(output))
        _write_ids(objects, search, read_georeference(source, pyramid_level=pyramid_level))
        shutil.rmtree(search.folder)
    return objects


def entries_of(output: Path) -> Path:
    """The file of objects beside their id map."""
    return output.with_name(f"{output.stem}_instances.json")


def plan_search(
    predictor: Model,
    source: Path,
    output: Path,
    *,
    pyramid_level: int = 0,
    tile: int | None = None,
    factor: float = 1.0,
    score_threshold: float | None = None,
) -> Search:
    """What `predict_objects` does by these arguments.

    Raises:
        UserError: as `predict_objects`, before the work.
    """
    open_raster(source, pyramid_level=pyramid_level)  # which tells what is wrong with it
    resizing = require_objects(predictor, factor)
    check_output(output, source)
    require_results(entries_of(output))
    tiling = Tiling.of(resizing.min_side, factor)
    if tile is not None:
        tiling = Tiling(tile=tile, overlap=min(tiling.overlap, tile // 2))
    return Search(
        tiling=tiling,
        factor=factor,
        score_threshold=predictor.score_threshold if score_threshold is None else score_threshold,
        output=output,
        facts=raster_facts(predictor, source, pyramid_level),
    )


def _write_ids(objects: InstanceResult, search: Search, georeference: Georeference | None) -> None:
    """The id map in the file format of the suffix."""
    height, width = objects.size
    padded = (np.pad(ids, [(0, BLOCK - side) for side in ids.shape]) for _, ids in _squares(objects))
    write_map(
        search.output,
        (zlib.compress(ids.tobytes()) for ids in padded),
        size=objects.size,
        block=BLOCK,
        dtype=np.uint16 if len(objects) < 1 << 16 else np.uint32,
        facts={},
        folder=search.folder,
        bigtiff=height * width > 1 << 31,
        georeference=georeference,
    )


def _entries(objects: InstanceResult, source: Path) -> Iterator[dict[str, Any]]:
    """The objects in COCO's results format; one after the other, for there may be very many."""
    ids = find_ids([source])
    (image_id,), category_ids = ids.number([source]), ids.of_classes(objects.classes, objects.category_ids)
    for position in range(len(objects)):
        yield from objects[position : position + 1].to_coco(
            image_id=image_id, category_ids=category_ids, file_name=source.name
        )


def _squares(objects: InstanceResult) -> Iterator[tuple[Window, np.ndarray]]:
    """The id map in squares, row after row; those at the border may be smaller."""
    height, width = objects.size
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            window = Window(top, left, min(BLOCK, height - top), min(BLOCK, width - left))
            yield window, objects.label_map(window)


def _overview(raster: Raster, objects: InstanceResult) -> np.ndarray:
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
