"""Semantic segmentation of image files of any size, tile by tile in constant memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from upscore.data.io.georeference import read_georeference
from upscore.data.io.rasters import open_raster
from upscore.errors import UserError
from upscore.inference.model import Model
from upscore.inference.run_manifest import Setting, raster_settings
from upscore.inference.tiled.in_memory import MEMORY, exact_plan
from upscore.inference.tiled.output import check_output, overlay_path, write_class_map, write_overview
from upscore.inference.tiled.plan import TilePlan, class_map_tiles
from upscore.inference.tiled.tile_store import TileStore, locked, partial_folder
from upscore.models.fcn.fcn import FCN
from upscore.progress import ProgressCallback


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
    """Predict the class map of an image of any size; write it and an overlay.

    Tiles are predicted at full resolution, regardless of the model's `max_side`. Finished tiles are kept in
    `.NAME.partial` beside the output until the image is complete; the same call resumes an interrupted run.

    Args:
        predictor: a semantic segmentation model for RGB images.
        source: image file, see `upscore.data.io.rasters.open_raster`.
        output: .tif or .zarr file. `NAME_overlay.jpg` is written beside it, and `NAME_geometric` for a second head.
        pyramid_level: level of an image pyramid; 0 is the finest.
        tile_size: side of a tile without its halo, in pixels, a multiple of 256; None uses the largest that fits into
            `memory`.
        memory: memory limit of a tile in the network, in bytes.
        progress: called after each tile with the number of finished tiles and of all tiles.

    Returns:
        The paths of the written files.

    Raises:
        UserError: the image cannot be read, the output cannot be written, the model detects objects or has an
            unlimited receptive field, or the folder holds tiles of a run with other settings.
    """
    source, output = Path(source), Path(output)
    task = plan_semantic(predictor, source, output, pyramid_level=pyramid_level, tile_size=tile_size, memory=memory)
    raster = open_raster(source, pyramid_level=pyramid_level)
    georeference = read_georeference(source, pyramid_level=pyramid_level)
    with locked(task.folder):
        store = task.store()
        done = store.done()
        tiles = class_map_tiles(predictor.class_maps, raster, task.plan, done)
        for number, (tile, class_maps, pixels) in enumerate(tiles, start=len(done) + 1):
            store.write(tile, class_maps, pixels)
            if progress is not None:
                progress(number, len(task.plan))
        image, overviews = store.overview()
        names = [predictor.classes, predictor.geometric_classes]
        for index, path in enumerate(task.outputs):
            write_class_map(store, index, path, names[index], georeference)
            write_overview(image, overviews[index], overlay_path(path), names[index])
        store.remove()
    return [file for path in task.outputs for file in (path, overlay_path(path))]


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticTask:
    """Settings of tiled semantic segmentation of one image, and the folder of its finished tiles."""

    outputs: tuple[Path, ...]
    """Path of the class map of each head of the network."""
    plan: TilePlan
    settings: dict[str, Setting]
    """All settings that the result depends on."""

    def store(self) -> TileStore:
        """Open the folder of finished tiles; create it if necessary.

        Raises:
            UserError: the folder was created with other settings, or cannot be written.
        """
        return TileStore(self.folder, self.plan, self.settings, len(self.outputs))

    @property
    def folder(self) -> Path:
        """Folder of the finished tiles."""
        return partial_folder(self.outputs[0])


def plan_semantic(
    predictor: Model,
    source: Path,
    output: Path,
    *,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    memory: int = MEMORY,
) -> SemanticTask:
    """Check the arguments of `predict_raster` and return the task that they describe.

    Raises:
        UserError: see `predict_raster`.
    """
    net = require_semantic(predictor)
    outputs = [output]
    if predictor.geometric_classes:
        outputs.append(output.with_name(f"{output.stem}_geometric{output.suffix}"))
    for path in outputs:
        check_output(path, source)
    raster = open_raster(source, pyramid_level=pyramid_level)
    plan = exact_plan(net, raster.height, raster.width, tile_size=tile_size, memory=memory)
    settings = raster_settings(predictor, source, pyramid_level) | asdict(plan)
    return SemanticTask(outputs=tuple(outputs), plan=plan, settings=settings)


def require_semantic(predictor: Model) -> FCN:
    """Return the network of a semantic segmentation model for RGB images.

    Raises:
        UserError: the model detects objects, or requires depth.
    """
    if predictor.task != "semantic":
        raise UserError("this model detects objects and has no class map: use `predict_objects`")
    if predictor.depth_channels:
        raise UserError("this model requires depth, which is not supported for huge images: use a model for RGB images")
    assert isinstance(predictor.module, FCN)
    return predictor.module
