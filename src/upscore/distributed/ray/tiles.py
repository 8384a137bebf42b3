"""Tiled prediction of one image on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from upscore.data.io.rasters import Raster, Window, open_raster
from upscore.distributed.ray.cluster import ModelFiles, load_files
from upscore.distributed.ray.task_runner import Row, run_on_cluster
from upscore.distributed.storage import parse_location
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.tiled.detection import detect_in_tile
from upscore.inference.tiled.in_memory import MEMORY
from upscore.inference.tiled.instances import InstanceTask, plan_instances, predict_objects
from upscore.inference.tiled.semantic import SemanticTask, plan_semantic, predict_raster
from upscore.inference.tiled.tile_store import locked
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult

THREADS = 2
"""Tiles that a worker processes at a time: one in the network, another is read or written."""

ProcessTile = Callable[[int], None]
"""Predicts the tile with a given index and stores the result on shared storage; called from several threads."""


class Job(Protocol):
    """Description of the work that is sent to each worker, in addition to the model."""

    @property
    def source(self) -> Path:
        """Path of the image."""
        ...

    @property
    def pyramid_level(self) -> int:
        """Level of the image pyramid."""
        ...

    def begin(self, predictor: Model, raster: Raster) -> ProcessTile:
        """Return the function that processes a tile; called once in each process.

        Raises:
            UserError: the folder of finished tiles belongs to another run.
        """
        ...


def run_tiles(
    model: str,
    predictor: Model,
    job: Job,
    todo: Mapping[int, Window],
    total: int,
    *,
    address: str | None,
    workers: int | None,
    cpus: int | None,
    progress: ProgressCallback | None,
) -> None:
    """Process tiles on the workers of a cluster, with the engine and precision of the predictor.

    Args:
        model: model source, sent to the workers.
        predictor: the loaded model.
        job: description of the work.
        todo: windows of the unfinished tiles by their indices.
        total: number of all tiles.
        address, workers, cpus: see `run_on_cluster`.
        progress: called after each tile with the number of finished tiles and of all tiles.

    Raises:
        UserError: there is no cluster, or a tile cannot be read or written, or workers die on a tile.
    """
    items: list[Row] = [{"tile": number, "left": part.left, "top": part.top} for number, part in todo.items()]
    arguments = {"job": job, "engine": predictor.engine, "precision": predictor.precision}
    rows = run_on_cluster(
        model, items, TileWorker, arguments, address=address, workers=workers, cpus=cpus, threads=THREADS
    )
    with closing(rows):
        for done, _ in enumerate(rows, start=total - len(items) + 1):
            if progress:
                progress(done, total)


def shared_path(path: str | Path) -> Path:
    """Return the absolute path of a file on a shared file system.

    Raises:
        UserError: the path is in an object store.
    """
    local = parse_location(path).local
    if local is None:
        raise UserError(f"{path} is in an object store: tiles need a file system that all machines share")
    return local


class TileWorker:
    """Actor that holds the network and the image."""

    def __init__(self, files: ModelFiles, job: Job, engine: EngineName, precision: Precision) -> None:
        self.source, self.error = job.source, ""
        try:
            predictor = load_files(files, engine, precision)
            self.process = job.begin(predictor, open_raster(job.source, pyramid_level=job.pyramid_level))
        except UserError as error:
            self.error = str(error)

    def do(self, item: Row) -> Row:
        """Process a tile and return its row, with an empty error on success."""
        if self.error:
            return {"error": self.error}
        try:
            self.process(item["tile"])
        except UserError as error:
            return {"error": str(error)}
        return {"error": ""}

    def lost(self, item: Row) -> Row:
        """Return the row of a tile on which workers died."""
        position = f"x={item['left']}, y={item['top']}"
        return {"error": f"{self.source}: all workers that ran the tile at {position} died: use a smaller --tile-size"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticJob:
    """`Job` for semantic segmentation."""

    source: Path
    pyramid_level: int
    task: SemanticTask

    def begin(self, predictor: Model, raster: Raster) -> ProcessTile:
        """See `Job.begin`."""
        plan, store = self.task.plan, self.task.store()

        def process(number: int) -> None:
            tile = plan.tile(*divmod(number, plan.columns))
            pixels = raster.read(*tile.window)
            maps = [class_map[tile.core_slices] for class_map in predictor.class_maps(pixels)]
            store.write(tile, maps, pixels[:, *tile.core_slices])

        return process


def predict_raster_on_ray(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    memory: int = MEMORY,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Run `upscore.inference.tiled.semantic.predict_raster` on a Ray cluster.

    The image and the output must be on a file system that all machines share. The model is sent to the workers, which
    all use the engine and precision chosen by this process.

    Args:
        model, engine, precision: see `upscore.inference.load.load`.
        source, output, pyramid_level, tile_size, progress: see `predict_raster`.
        memory: memory limit of a tile in each worker, in bytes.
        address: address of the cluster; None uses RAY_ADDRESS, or else this machine.
        workers: number of processes; None uses the capacity of the cluster.
        cpus: number of CPUs of each process.

    Returns:
        The paths of the written files.

    Raises:
        UserError: see `predict_raster`; or there is no cluster, or workers die on a tile.
    """
    image, target = shared_path(source), shared_path(output)
    predictor = load(model, engine=engine, precision=precision)
    task = plan_semantic(predictor, image, target, pyramid_level=pyramid_level, tile_size=tile_size, memory=memory)
    plan = task.plan
    job = SemanticJob(source=image, pyramid_level=pyramid_level, task=task)
    with locked(task.folder):
        done = task.store().done()
        todo = {number: tile.core for number, tile in enumerate(plan) if (tile.row, tile.column) not in done}
        run_tiles(
            model, predictor, job, todo, len(plan), address=address, workers=workers, cpus=cpus, progress=progress
        )
        return predict_raster(predictor, image, target, pyramid_level=pyramid_level, tile_size=plan.tile_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceJob:
    """`Job` for object detection."""

    source: Path
    pyramid_level: int
    task: InstanceTask

    def begin(self, predictor: Model, raster: Raster) -> ProcessTile:
        """See `Job.begin`."""
        tiling, detect, checkpoint = self.task.tiling, self.task.tile_detector(predictor), self.task.checkpoint()
        windows = tiling.windows((raster.height, raster.width))
        return lambda number: checkpoint.write(number, detect_in_tile(raster, windows[number], detect, tiling))


def predict_objects_on_ray(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    pyramid_level: int = 0,
    tile_size: int | None = None,
    factor: float = 1.0,
    score_threshold: float | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """Run `upscore.inference.tiled.instances.predict_objects` on a Ray cluster.

    The image and the output must be on a file system that all machines share. The workers detect the objects of the
    tiles; this process merges the objects that tile borders cut, and writes the files.

    Args:
        model, engine, precision: see `upscore.inference.load.load`.
        source, output, pyramid_level, tile_size, factor, score_threshold, progress: see `predict_objects`.
        address: address of the cluster; None uses RAY_ADDRESS, or else this machine.
        workers: number of processes; None uses the capacity of the cluster.
        cpus: number of CPUs of each process.

    Returns:
        The objects by descending score; the object at index k has the number k + 1 in the id map.

    Raises:
        UserError: see `predict_objects`; or there is no cluster, or workers die on a tile.
    """
    image, target = shared_path(source), shared_path(output)
    predictor = load(model, engine=engine, precision=precision)
    raster = open_raster(image, pyramid_level=pyramid_level)
    task = plan_instances(
        predictor,
        image,
        target,
        pyramid_level=pyramid_level,
        tile_size=tile_size,
        factor=factor,
        score_threshold=score_threshold,
    )
    windows = task.tiling.windows((raster.height, raster.width))
    job, total = InstanceJob(source=image, pyramid_level=pyramid_level, task=task), len(windows)
    with locked(task.folder):
        checkpoint = task.checkpoint()
        todo = {number: window for number, window in enumerate(windows) if not checkpoint.done(number)}
        run_tiles(model, predictor, job, todo, total, address=address, workers=workers, cpus=cpus, progress=progress)
        return predict_objects(
            predictor,
            image,
            target,
            pyramid_level=pyramid_level,
            tile_size=tile_size,
            factor=factor,
            score_threshold=score_threshold,
        )
