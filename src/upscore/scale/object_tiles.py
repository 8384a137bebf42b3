"""The objects of one image of any size, its tiles over a cluster.

The tiles, the journal of the finished ones and the files made of it are those of one process
(`upscore.inference.huge_objects`): so are the objects, and either goes on with what the other has begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upscore.data.rasters import Raster, open_raster
from upscore.inference.engines import EngineName, Precision
from upscore.inference.huge_objects import Search, plan_search, predict_objects
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.object_tiles import find_in_tile
from upscore.inference.run_manifest import locked
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult
from upscore.scale.spread import Keep, shared, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectJob:
    """See `upscore.scale.spread.Job`."""

    source: Path
    level: int
    search: Search

    def begin(self, predictor: Model, raster: Raster) -> Keep:
        """What finds the objects of the tile of a number."""
        tiling, find, journal = self.search.tiling, self.search.finder(predictor), self.search.journal()
        windows = tiling.windows((raster.height, raster.width))
        return lambda number: journal.write(number, find_in_tile(raster, windows[number], find, tiling))


def predict_objects_on_ray(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    level: int = 0,
    tile: int | None = None,
    factor: float = 1.0,
    min_score: float | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> InstanceResult:
    """Write what `upscore.inference.huge_objects.predict_objects` writes, by the workers of a cluster.

    The image and the output are on a file system that all machines share. The workers find the objects of the tiles;
    this process puts those together that borders cut, and writes.

    Args:
        model, engine, precision: as `upscore predict` has them.
        source, output, level, tile, factor, min_score, progress: as `predict_objects` has them.
        address: of the cluster; by default RAY_ADDRESS, or else this machine alone.
        workers, cpus: how many processes, and how many processors each may use; by default what there is.

    Returns:
        The objects, the best first; the k-th is number k + 1 of the id map.

    Raises:
        UserError: as `predict_objects`, or there is no cluster, or processes die of a tile.
    """
    image, target = shared(source), shared(output)
    predictor = load(model, engine=engine, precision=precision)
    raster = open_raster(image, level=level)
    search = plan_search(predictor, image, target, level=level, tile=tile, factor=factor, min_score=min_score)
    windows = search.tiling.windows((raster.height, raster.width))
    job, total = ObjectJob(source=image, level=level, search=search), len(windows)
    with locked(search.folder):
        journal = search.journal()
        todo = {number: window for number, window in enumerate(windows) if not journal.done(number)}
        spread(model, predictor, job, todo, total, address=address, workers=workers, cpus=cpus, progress=progress)
        return predict_objects(predictor, image, target, level=level, tile=tile, factor=factor, min_score=min_score)
