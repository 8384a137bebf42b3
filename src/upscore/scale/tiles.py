"""The class map of one image of any size, its tiles over a cluster.

The plan of the tiles, the folder of the finished ones and the file made of them are those of one process
(`upscore.inference.huge`): so are the classes, and either goes on with what the other has begun.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscore.data.rasters import open_raster
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.huge import (
    MEMORY,
    Progress,
    class_maps_of,
    exact_plan,
    predict_raster,
    require_pixels,
    tile_settings,
)
from upscore.inference.load import load
from upscore.inference.pieces import Pieces, Setting
from upscore.inference.raster_output import check_output
from upscore.inference.tiles import TilePlan
from upscore.scale.cluster import connected, plan_workers
from upscore.scale.model_files import load_files, read_model
from upscore.scale.storage import place
from upscore.scale.work import Row, run

THREADS = 2
"""Tiles at a time in a worker: one in the network, one that is read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What each worker has to know beside the model."""

    source: Path
    level: int
    engine: str
    precision: str
    folder: Path
    plan: TilePlan
    settings: dict[str, Setting]
    maps: int

    def pieces(self) -> Pieces:
        """The folder of finished tiles."""
        return Pieces(self.folder, self.plan, self.settings, self.maps)


def predict_raster_on_ray(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    level: int = 0,
    core: int | None = None,
    memory: int = MEMORY,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> list[Path]:
    """Write what `upscore.inference.huge.predict_raster` writes, by the workers of a cluster.

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
    image, target = (_shared(path) for path in (source, output))
    predictor = load(model, engine=engine, precision=precision, cache=False)  # whose layers tell its geometry
    net = require_pixels(predictor)
    check_output(target, image)
    raster = open_raster(image, level=level)
    plan = exact_plan(net, raster.height, raster.width, core=core, memory=memory)
    job = Job(
        source=image,
        level=level,
        engine=predictor.engine.name,
        precision=predictor.engine.precision,
        folder=target.with_name(f".{target.name}.partial"),
        plan=plan,
        settings=tile_settings(predictor, image, level, plan),
        maps=1 + bool(predictor.geometric_classes),
    )
    done = job.pieces().done()
    items: list[Row] = [
        {"row": tile.row, "column": tile.column} for tile in plan if (tile.row, tile.column) not in done
    ]
    with connected(address) as ray:
        arguments = {"files": ray.put(read_model(model)), "job": job}
        found = plan_workers(ray, workers, cpus)
        with closing(run(ray, items, TileWorker, arguments, found, threads=THREADS)) as rows:
            for number, row in enumerate(rows, start=len(done) + 1):
                if row["fault"]:
                    raise UserError(row["fault"])
                if progress:
                    progress(number, len(plan))
    return predict_raster(predictor, image, target, level=level, core=plan.core)


def _shared(path: str | Path) -> Path:
    local = place(path).local
    if local is None:
        raise UserError(f"{path}: tiles are read and kept on a file system that all machines share: mount it")
    return local


class TileWorker:
    """Holds the network and the image; predicts tiles and keeps them."""

    def __init__(self, files: Any, job: Job) -> None:
        import ray

        self.job, self.fault = job, ""
        try:
            self.predictor = load_files(ray.get(files), job.engine, job.precision)  # pyright: ignore[reportArgumentType]
            self.predictor.max_side = 0
            self.raster, self.pieces = open_raster(job.source, level=job.level), job.pieces()
        except UserError as error:
            self.fault = str(error)

    def do(self, item: Row) -> Row:
        """Whether the tile is kept; what is wrong if it is not."""
        if self.fault:
            return {"fault": self.fault}
        tile = self.job.plan.tile(item["row"], item["column"])
        try:
            pixels = self.raster.read(*tile.seen)
            maps = [class_map[tile.inside] for class_map in class_maps_of(self.predictor, pixels)]
            self.pieces.write(tile, maps, pixels[:, *tile.inside])
        except UserError as error:
            return {"fault": str(error)}
        return {"fault": ""}

    def lost(self, item: Row) -> Row:
        """The row of a tile at which processes died."""
        tile = self.job.plan.tile(item["row"], item["column"])
        place = f"x={tile.core.left}, y={tile.core.top}"
        return {"fault": f"{self.job.source}: each process that had the tile at {place} died; give it less memory"}
