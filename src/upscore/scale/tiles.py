"""The class map of one image of any size, its tiles over a cluster.

The plan of the tiles, the folder of the finished ones and the file made of them are those of one process
(`upscore.inference.huge`): so are the classes, and either goes on with what the other has begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upscore.data.rasters import Raster
from upscore.inference.engines import EngineName, Precision
from upscore.inference.huge import Classification, plan_classes, predict_raster
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.run_manifest import locked
from upscore.inference.tiled.in_memory import MEMORY
from upscore.progress import ProgressCallback
from upscore.scale.spread import Keep, shared, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassJob:
    """See `upscore.scale.spread.Job`."""

    source: Path
    level: int
    classification: Classification

    def begin(self, predictor: Model, raster: Raster) -> Keep:
        """What predicts the tile of a number."""
        plan, pieces = self.classification.plan, self.classification.pieces()

        def keep(number: int) -> None:
            tile = plan.tile(*divmod(number, plan.columns))
            pixels = raster.read(*tile.seen)
            maps = [class_map[tile.inside] for class_map in predictor.class_maps(pixels)]
            pieces.write(tile, maps, pixels[:, *tile.inside])

        return keep


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
    progress: ProgressCallback | None = None,
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
    image, target = shared(source), shared(output)
    predictor = load(model, engine=engine, precision=precision)
    classification = plan_classes(predictor, image, target, level=level, core=core, memory=memory)
    plan = classification.plan
    job = ClassJob(source=image, level=level, classification=classification)
    with locked(classification.folder):
        done = classification.pieces().done()
        todo = {number: tile.core for number, tile in enumerate(plan) if (tile.row, tile.column) not in done}
        spread(model, predictor, job, todo, len(plan), address=address, workers=workers, cpus=cpus, progress=progress)
        return predict_raster(predictor, image, target, level=level, core=plan.core)
