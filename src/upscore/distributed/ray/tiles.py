"""The tiles of one image over a cluster, whatever is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from upscore.data.io.rasters import Raster, Window, open_raster
from upscore.distributed.ray.cluster import connected, plan_workers
from upscore.distributed.ray.model_files import load_files, read_model
from upscore.distributed.ray.task_runner import Row, run
from upscore.distributed.storage import place
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.run_manifest import locked
from upscore.inference.tiled.detection import find_in_tile
from upscore.inference.tiled.in_memory import MEMORY
from upscore.inference.tiled.instances import Search, plan_search, predict_objects
from upscore.inference.tiled.semantic import Classification, plan_classes, predict_raster
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult

THREADS = 2
"""Tiles at a time in a worker: one in the network, one that is read or written."""

Keep = Callable[[int], None]
"""Does the tile of a number, and keeps what comes of it where all machines find it; called from several threads."""


class Job(Protocol):
    """What each worker has to know beside the model."""

    @property
    def source(self) -> Path:
        """The image."""
        ...

    @property
    def pyramid_level(self) -> int:
        """Of a pyramid."""
        ...

    def begin(self, predictor: Model, raster: Raster) -> Keep:
        """Called once in each process.

        Raises:
            UserError: what was kept can't be gone on with.
        """
        ...


def spread(
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
    """Have tiles done by the workers of a cluster, all by the engine and in the precision of the predictor.

    Args:
        model: is brought to the workers.
        todo: the tiles by their numbers, without those that were done before.
        total: how many there are with them.
        address, workers, cpus: see `upscore.distributed.ray.cluster`.

    Raises:
        UserError: there is no cluster, or processes die of a tile, or it can't be read or kept.
    """
    items: list[Row] = [{"tile": number, "left": part.left, "top": part.top} for number, part in todo.items()]
    with connected(address) as ray:
        arguments = {"files": ray.put(read_model(model)), "job": job}
        arguments |= {"engine": predictor.engine, "precision": predictor.precision}
        plan = plan_workers(ray, workers, cpus)
        with closing(run(ray, items, TileWorker, arguments, plan, threads=THREADS)) as rows:
            for done, row in enumerate(rows, start=total - len(items) + 1):
                if row["fault"]:
                    raise UserError(row["fault"])
                if progress:
                    progress(done, total)


def shared(path: str | Path) -> Path:
    """The absolute path.

    Raises:
        UserError: it is in a store.
    """
    local = place(path).local
    if local is None:
        raise UserError(f"{path}: tiles are read and kept on a file system that all machines share: mount it")
    return local


class TileWorker:
    """Holds the network and the image."""

    def __init__(self, files: Any, job: Job, engine: EngineName, precision: Precision) -> None:
        import ray

        self.source, self.fault = job.source, ""
        try:
            predictor = load_files(ray.get(files), engine, precision)
            self.keep = job.begin(predictor, open_raster(job.source, pyramid_level=job.pyramid_level))
        except UserError as error:
            self.fault = str(error)

    def do(self, item: Row) -> Row:
        """Whether the tile is kept; what is wrong if it is not."""
        if self.fault:
            return {"fault": self.fault}
        try:
            self.keep(item["tile"])
        except UserError as error:
            return {"fault": str(error)}
        return {"fault": ""}

    def lost(self, item: Row) -> Row:
        """The row of a tile at which processes died."""
        at = f"x={item['left']}, y={item['top']}"
        return {"fault": f"{self.source}: each process that had the tile at {at} died; choose smaller tiles"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassJob:
    """See `upscore.distributed.ray.tiles.Job`."""

    source: Path
    pyramid_level: int
    classification: Classification

    def begin(self, predictor: Model, raster: Raster) -> Keep:
        """What predicts the tile of a number."""
        plan, store = self.classification.plan, self.classification.store()

        def keep(number: int) -> None:
            tile = plan.tile(*divmod(number, plan.columns))
            pixels = raster.read(*tile.seen)
            maps = [class_map[tile.inside] for class_map in predictor.class_maps(pixels)]
            store.write(tile, maps, pixels[:, *tile.inside])

        return keep


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
    """Write what `upscore.inference.tiled.semantic.predict_raster` writes, by the workers of a cluster.

    The image and the output are on a file system that all machines share. The model is brought to the workers, which
    all run it by the engine and in the precision that are chosen here.

    Args:
        model, engine, precision: as `upscore predict` has them.
        source, output, level, core, memory, progress: as `predict_raster` has them; `memory` is of each worker.
        address: of the cluster; by default RAY_ADDRESS, or else this machine alone.
        workers, cpus: how many processes, and how many processors each may use; by default what there is.

    Returns:
        The files that were written.

    Raises:
        UserError: as `predict_raster`, or there is no cluster, or processes die of a tile.
    """
    image, target = shared(source), shared(output)
    predictor = load(model, engine=engine, precision=precision)
    classification = plan_classes(
        predictor, image, target, pyramid_level=pyramid_level, tile_size=tile_size, memory=memory
    )
    plan = classification.plan
    job = ClassJob(source=image, pyramid_level=pyramid_level, classification=classification)
    with locked(classification.folder):
        done = classification.store().done()
        todo = {number: tile.tile_size for number, tile in enumerate(plan) if (tile.row, tile.column) not in done}
        spread(model, predictor, job, todo, len(plan), address=address, workers=workers, cpus=cpus, progress=progress)
        return predict_raster(predictor, image, target, pyramid_level=pyramid_level, tile_size=plan.tile_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectJob:
    """See `upscore.distributed.ray.tiles.Job`."""

    source: Path
    pyramid_level: int
    search: Search

    def begin(self, predictor: Model, raster: Raster) -> Keep:
        """What finds the objects of the tile of a number."""
        tiling, find, checkpoint = self.search.tiling, self.search.finder(predictor), self.search.checkpoint()
        windows = tiling.windows((raster.height, raster.width))
        return lambda number: checkpoint.write(number, find_in_tile(raster, windows[number], find, tiling))


def predict_objects_on_ray(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    pyramid_level: int = 0,
    tile: int | None = None,
    factor: float = 1.0,
    score_threshold: float | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """Write what `upscore.inference.tiled.instances.predict_objects` writes, by the workers of a cluster.

    The image and the output are on a file system that all machines share. The workers find the objects of the tiles;
    this process puts those together that borders cut, and writes.

    Args:
        model, engine, precision: as `upscore predict` has them.
        source, output, level, tile, factor, score_threshold, progress: as `predict_objects` has them.
        address: of the cluster; by default RAY_ADDRESS, or else this machine alone.
        workers, cpus: how many processes, and how many processors each may use; by default what there is.

    Returns:
        The objects, the best first; the k-th is number k + 1 of the id map.

    Raises:
        UserError: as `predict_objects`, or there is no cluster, or processes die of a tile.
    """
    image, target = shared(source), shared(output)
    predictor = load(model, engine=engine, precision=precision)
    raster = open_raster(image, pyramid_level=pyramid_level)
    search = plan_search(
        predictor, image, target, pyramid_level=pyramid_level, tile=tile, factor=factor, score_threshold=score_threshold
    )
    windows = search.tiling.windows((raster.height, raster.width))
    job, total = ObjectJob(source=image, pyramid_level=pyramid_level, search=search), len(windows)
    with locked(search.folder):
        checkpoint = search.checkpoint()
        todo = {number: window for number, window in enumerate(windows) if not checkpoint.done(number)}
        spread(model, predictor, job, todo, total, address=address, workers=workers, cpus=cpus, progress=progress)
        return predict_objects(
            predictor,
            image,
            target,
            pyramid_level=pyramid_level,
            tile=tile,
            factor=factor,
            score_threshold=score_threshold,
        )
