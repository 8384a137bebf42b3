"""Detect the objects of an image file of any size and write them to files, one tile in memory at a time.

N objects, H W image height and width, F reduction factor of the overview.
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
from upscore.inference.run_manifest import Setting, raster_settings
from upscore.inference.tiled.detection import TileDetector, Tiling, detect_objects, require_detector, tile_detector
from upscore.inference.tiled.output import check_output, overlay_path, write_map
from upscore.inference.tiled.tile_store import TileCheckpoint, locked, partial_folder, reduction
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult
from upscore.results.rle import MAX_PIXELS
from upscore.results.writers.coco import require_results, write_results
from upscore.results.writers.pictures import save_overlay
from upscore.viz.colormaps import class_colors

BLOCK = 512
"""Side in pixels of the blocks in which the id map is written."""

COLORS, OPACITY = 12, 0.55
"""Number of colours of objects in the overview, and their opacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTask:
    """Settings of tiled object detection in one image, and the folder of its finished tiles."""

    tiling: Tiling
    factor: float
    score_threshold: float
    identity: dict[str, Setting]
    """Settings that identify the image and the model."""
    output: Path

    @property
    def folder(self) -> Path:
        """Folder of the finished tiles."""
        return partial_folder(self.output)

    @property
    def settings(self) -> dict[str, Setting]:
        """All settings that the result depends on."""
        return self.identity | asdict(self.tiling) | {"factor": self.factor, "score_threshold": self.score_threshold}

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Paths of the label maps; a tuple, as in `SemanticTask`."""
        return (self.output,)

    def tile_detector(self, predictor: Model) -> TileDetector:
        """Return a function that detects the objects of a tile."""
        return tile_detector(predictor, factor=self.factor, score_threshold=self.score_threshold)

    def checkpoint(self) -> TileCheckpoint:
        """Open the folder of finished tiles; create it if necessary.

        Raises:
            UserError: the folder was created with other settings, or cannot be written.
        """
        return TileCheckpoint(self.folder, self.settings)


def predict_objects(
    predictor: Model,
    source: str | Path,
    output: str | Path,
    *,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    factor: float = 1.0,
    score_threshold: float | None = None,
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """Detect the objects of an image of any size; write their id map, an overlay and a COCO results file.

    Finished tiles are kept in `.NAME.partial` beside the output until the image is complete; the same call resumes an
    interrupted run.

    Args:
        predictor: a Mask R-CNN model.
        source: image file, see `upscore.data.io.rasters.open_raster`.
        output: .tif or .zarr file with the object number of each pixel (0: background). `NAME_overlay.jpg` and, for
            images of less than 2 ** 32 pixels, `NAME_instances.json` (COCO results) are written beside it.
        pyramid_level: level of an image pyramid; 0 is the finest.
        tile_size: side of a tile in pixels of the image; None uses the network's usual input size.
        factor: pixels of the network's input per pixel of the image, see `upscore.inference.tiled.detection`.
        score_threshold: lowest score of a returned object, see `Model.predict`.
        progress: called after each tile with the number of finished tiles and of all tiles.

    Returns:
        The objects by descending score; the object at index k has the number k + 1 in the id map.

    Raises:
        UserError: the image cannot be read, the output cannot be written, the model does not detect objects, or the
            folder holds tiles of a run with other settings.
    """
    source, output = Path(source), Path(output)
    raster = open_raster(source, pyramid_level=pyramid_level)
    task = plan_instances(
        predictor,
        source,
        output,
        pyramid_level=pyramid_level,
        tile_size=tile_size,
        factor=factor,
        score_threshold=score_threshold,
    )
    with locked(task.folder):
        detect, checkpoint = task.tile_detector(predictor), task.checkpoint()
        objects = detect_objects(raster, detect, task.tiling, checkpoint=checkpoint, progress=progress)
        if raster.height * raster.width < MAX_PIXELS:
            write_results(_entries(objects, source), instances_path(output))
        save_overlay(Image.fromarray(_overview(raster, objects)), overlay_path(output))
        _write_ids(objects, task, read_georeference(source, pyramid_level=pyramid_level))
        shutil.rmtree(task.folder)
    return objects


def instances_path(output: Path) -> Path:
    """Return the path of the COCO results file beside an id map."""
    return output.with_name(f"{output.stem}_instances.json")


def plan_instances(
    predictor: Model,
    source: Path,
    output: Path,
    *,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    factor: float = 1.0,
    score_threshold: float | None = None,
) -> InstanceTask:
    """Check the arguments of `predict_objects` and return the task that they describe.

    Raises:
        UserError: see `predict_objects`.
    """
    open_raster(source, pyramid_level=pyramid_level)  # raises UserError for an invalid image
    resizing = require_detector(predictor, factor)
    check_output(output, source)
    require_results(instances_path(output))
    tiling = Tiling.for_min_side(resizing.min_side, factor)
    if tile_size is not None:
        tiling = Tiling(tile_size=tile_size, overlap=min(tiling.overlap, tile_size // 2))
    return InstanceTask(
        tiling=tiling,
        factor=factor,
        score_threshold=predictor.score_threshold if score_threshold is None else score_threshold,
        output=output,
        identity=raster_settings(predictor, source, pyramid_level),
    )


def _write_ids(objects: InstanceResult, task: InstanceTask, georeference: Georeference | None) -> None:
    """Write the id map in the file format of its suffix."""
    height, width = objects.size
    blocks = (np.pad(ids, [(0, BLOCK - side) for side in ids.shape]) for _, ids in _blocks(objects))
    write_map(
        task.output,
        (zlib.compress(ids.tobytes()) for ids in blocks),
        size=objects.size,
        block=BLOCK,
        dtype=np.uint16 if len(objects) < 1 << 16 else np.uint32,
        attributes={},
        folder=task.folder,
        bigtiff=height * width > 1 << 31,
        georeference=georeference,
    )


def _entries(objects: InstanceResult, source: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in COCO's results format, one at a time to limit the memory."""
    ids = find_ids([source])
    (image_id,), category_ids = ids.number([source]), ids.match_classes(objects.classes, objects.category_ids)
    for position in range(len(objects)):
        yield from objects[position : position + 1].to_coco(
            image_id=image_id, category_ids=category_ids, file_name=source.name
        )


def _blocks(objects: InstanceResult) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield blocks of the id map in row-major order; those at the border may be smaller."""
    height, width = objects.size
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            window = Window(top, left, min(BLOCK, height - top), min(BLOCK, width - left))
            yield window, objects.label_map(window)


def _overview(raster: Raster, objects: InstanceResult) -> np.ndarray:
    """Return the reduced image (H / F, W / F, 3) with the objects drawn in colour."""
    factor = reduction(raster.height, raster.width)
    colors = class_colors(COLORS).astype(np.float32)
    picture = np.zeros((-(-raster.height // factor), -(-raster.width // factor), 3), np.uint8)
    for window, ids in _blocks(objects):
        image = raster.read(*window)[:, ::factor, ::factor].permute(1, 2, 0).numpy().astype(np.float32)
        ids = ids[::factor, ::factor]
        tinted = np.where((ids > 0)[..., None], (1 - OPACITY) * image + OPACITY * colors[ids % COLORS], image)
        top, left = window.top // factor, window.left // factor
        picture[top : top + len(ids), left : left + ids.shape[1]] = tinted.round()
    return picture
