"""The class map of an image of any size, from file to file, in the same memory."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from upscore.data.io.georeference import read_georeference
from upscore.data.io.rasters import open_raster
from upscore.errors import UserError
from upscore.inference.model import Model
from upscore.inference.run_manifest import Setting, image_settings, locked, run_settings
from upscore.inference.tiled.in_memory import MEMORY, exact_plan
from upscore.inference.tiled.output import check_output, overlay_of, write_class_map, write_overview
from upscore.inference.tiled.plan import TilePlan, class_map_tiles
from upscore.inference.tiled.tile_store import TileStore
from upscore.models.fcn.fcn import FCN
from upscore.progress import ProgressCallback

LONGEST_NAME = 255
"""Bytes that file systems allow."""


def predict_raster(
    predictor: Model,
    source: str | Path,
    output: str | Path,
    *,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    memory: int = MEMORY,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Write the class of each pixel of an image of any size, and a picture to look at.

    Tiles are seen at full resolution, whatever the longest side of the photos that the model was trained on. Finished
    ones are kept in `.NAME.partial` beside the output until all are there: the same call goes on with them.

    Args:
        predictor: of a network that classifies pixels of photos.
        source: see `upscore.data.io.rasters.open_raster`.
        output: a .tif or .zarr; `NAME_overlay.jpg` is written beside it, and with a second head `NAME_geometric` too.
        level: of a pyramid; 0 is the finest.
        core: side of a tile without its halo, in pixels, a multiple of 256; by default what `memory` has room for.
        memory: bytes that a tile may need in the network.
        progress: told after each tile.

    Returns:
        The files that were written.

    Raises:
        UserError: the image can't be read or the output not written, the network sees the whole image or finds
            objects, or tiles of a run with other settings are there.
    """
    source, output = Path(source), Path(output)
    job = plan_classes(predictor, source, output, pyramid_level=pyramid_level, tile_size=tile_size, memory=memory)
    raster, georeference = (
        open_raster(source, pyramid_level=pyramid_level),
        read_georeference(source, pyramid_level=pyramid_level),
    )
    with locked(job.folder):
        store = job.store()
        done = store.done()
        tiles = class_map_tiles(predictor.class_maps, raster, job.plan, done)
        for number, (tile, class_maps, pixels) in enumerate(tiles, start=len(done) + 1):
            store.write(tile, class_maps, pixels)
            if progress is not None:
                progress(number, len(job.plan))
        photo, overviews = store.overview()
        names = [predictor.classes, predictor.geometric_classes]
        for index, path in enumerate(job.outputs):
            write_class_map(store, index, path, names[index], georeference)
            write_overview(photo, overviews[index], overlay_of(path), names[index])
        store.remove()
    return [file for path in job.outputs for file in (path, overlay_of(path))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """How the class map of an image is made, and where its finished tiles are kept."""

    outputs: tuple[Path, ...]
    """A map for each head of the network."""
    plan: TilePlan
    settings: dict[str, Setting]
    """All that the result depends on."""

    def store(self) -> TileStore:
        """The folder of finished tiles, made where it is not there.

        Raises:
            UserError: it was begun with other settings, or can't be written.
        """
        return TileStore(self.folder, self.plan, self.settings, len(self.outputs))

    @property
    def folder(self) -> Path:
        """The folder of finished tiles."""
        return partial_of(self.outputs[0])


def plan_classes(
    predictor: Model,
    source: Path,
    output: Path,
    *,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    memory: int = MEMORY,
) -> Classification:
    """What `predict_raster` does by these arguments.

    Raises:
        UserError: as `predict_raster`, before the work.
    """
    net = require_pixels(predictor)
    outputs = [output]
    if predictor.geometric_classes:
        outputs.append(output.with_name(f"{output.stem}_geometric{output.suffix}"))
    for path in outputs:
        check_output(path, source)
    raster = open_raster(source, pyramid_level=pyramid_level)
    plan = exact_plan(net, raster.height, raster.width, tile_size=tile_size, memory=memory)
    settings = raster_facts(predictor, source, pyramid_level) | asdict(plan)
    return Classification(outputs=tuple(outputs), plan=plan, settings=settings)


def partial_of(output: Path) -> Path:
    """The folder of an output's finished tiles: `.NAME.partial`, with a digest in place of a very long name."""
    name = f".{output.name}.partial"
    if len(name.encode()) > LONGEST_NAME:
        name = f".{hashlib.sha256(output.name.encode()).hexdigest()}.partial"
    return output.with_name(name)


def require_pixels(predictor: Model) -> FCN:
    """The network, where it classifies pixels of photos.

    Raises:
        UserError: it finds objects, or sees depth.
    """
    if predictor.task != "semantic":
        raise UserError("this model finds objects: their tiles are joined in another way than the classes of pixels")
    if predictor.depth_channels:
        raise UserError("this model sees depth beside the photo, which huge images don't have: use one for photos")
    assert isinstance(predictor.module, FCN)
    return predictor.module


def raster_facts(predictor: Model, source: Path, pyramid_level: int) -> dict[str, Setting]:
    """The image and the model, as settings of a run over this image."""
    return {**image_settings(source), "pyramid_level": pyramid_level, **run_settings(predictor)}
