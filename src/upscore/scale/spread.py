"""The tiles of one image over a cluster, whatever is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from upscore.data.rasters import Raster, Window, open_raster
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.model import Model
from upscore.progress import ProgressCallback
from upscore.scale.cluster import connected, plan_workers
from upscore.scale.model_files import load_files, read_model
from upscore.scale.storage import place
from upscore.scale.work import Row, run

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
    def level(self) -> int:
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
        address, workers, cpus: see `upscore.scale.cluster`.

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
            self.keep = job.begin(predictor, open_raster(job.source, level=job.level))
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
