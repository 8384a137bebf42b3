"""`upscore predict` over a cluster: workers read the photos, predict them and write the files; rows tell of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from upscore.errors import UserError
from upscore.inference.depths import find_depth
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.choice import resolve_engine
from upscore.inference.folder import require_fitting, sizes_to_expect
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.outputs import write_prediction
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult
from upscore.results.writers.coco import ResultsFile
from upscore.scale.cluster import connected, plan_workers
from upscore.scale.model_files import load_files, read_model
from upscore.scale.photos import list_photos, refuse_photos_output
from upscore.scale.spool import Spool
from upscore.scale.storage import Place, clean, delivered, fetched, place
from upscore.scale.work import Row, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the photos."""

    photos: int
    """Given."""
    objects: int | None
    """Found in all of them; None from a network that classifies pixels."""
    classes: list[str]
    failures: list[str]
    """A sentence for each photo that could not be predicted, in the order of the photos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What each worker has to know beside the model."""

    output: Place
    engine: EngineName
    precision: Precision
    depth: Path | None
    scores: bool
    overlays: bool
    min_score: float | None
    sizes: tuple[tuple[int, int], ...]
    """Of most photos, where that is known before they are read."""


def predict_on_ray(
    model: str,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    depth: Path | None = None,
    scores: bool = False,
    overlays: bool = True,
    min_score: float | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> Outcome:
    """Write the same files as `upscore predict`, by the workers of a cluster, whichever of them die on the way.

    Photos and output are on a file system that all machines share, or in a store (see `upscore.scale.storage`). The
    model is brought to the workers.

    Args:
        model, depth, scores, overlays, min_score, engine, precision: as `upscore predict` has them.
        paths: photos, and folders of photos.
        output: the folder to write to.
        address: of the cluster; by default RAY_ADDRESS, or else this machine alone.
        workers, cpus: how many processes, and how many processors each may use; by default what there is.
        progress: told after each photo.

    Raises:
        UserError: there are no photos, no model or no cluster, an option is for the other task, an output would take
            the place of a photo or can't be written, or the workers can't load the model.
    """
    target = place(output)
    photos = list_photos(paths, target)
    resolve_engine(engine, precision)
    predictor = load(model, engine="torch", precision="float32")
    refuse_photos_output(photos, target, predictor.task, geometric=bool(predictor.geometric_classes))
    require_fitting(predictor, depth=depth, scores=scores, min_score=min_score)
    options = Options(
        output=target,
        engine=engine,
        precision=precision,
        depth=None if depth is None else depth.absolute(),
        scores=scores,
        overlays=overlays,
        min_score=min_score,
        sizes=tuple(sizes_to_expect([photo.local for photo in photos.values() if photo.local is not None])),
    )
    found, objects = Spool(len(photos)), 0
    failures: dict[int, str] = {}
    with connected(address) as ray:
        arguments = {"files": ray.put(read_model(model)), "options": options}
        plan = plan_workers(ray, workers, cpus)
        try:
            with closing(run(ray, _items(photos), PhotoWorker, arguments, plan)) as rows:
                for done, row in enumerate(rows, start=1):
                    if row["fault"]:
                        raise UserError(row["fault"])
                    if row["failure"]:
                        failures[row["number"]] = row["failure"]
                    found.add(row["number"], row["found"])
                    objects += row["objects"]
                    if progress:
                        progress(done, len(photos))
        finally:  # what was done before an interruption is kept
            if predictor.task == "instances":
                _write_results(found, target)
            clean(target)
    return Outcome(
        photos=len(photos),
        objects=objects if predictor.task == "instances" else None,
        classes=predictor.classes,
        failures=[failures[number] for number in sorted(failures)],
    )


def _items(photos: Mapping[str, Place]) -> list[Row]:
    return [{"name": name, "store": photo.store, "path": photo.path} for name, photo in photos.items()]


def _write_results(found: Spool, output: Place) -> None:
    with delivered(output) as folder, ResultsFile(folder) as file:
        for text in found:
            file.add(json.loads(text))


class PhotoWorker:
    """Holds the network; reads and predicts photos, and writes what it finds."""

    def __init__(self, files: Any, options: Options) -> None:
        import ray

        self.options, self.fault, self.predictor = options, "", None
        try:
            self.predictor = load_files(ray.get(files), options.engine, options.precision)
            self.predictor.expect(*options.sizes)
        except UserError as error:
            self.fault = str(error)

    def do(self, item: Row) -> Row:
        """The photo's row; its files are written by then."""
        photo = Place(item["store"], item["path"])
        if self.predictor is None:
            return _row(fault=self.fault)
        try:
            return _row(found=self._predict(self.predictor, photo, item["name"], item["number"] + 1))
        except UserError as error:
            return _row(failure=str(error))
        except Exception as error:  # one photo of a million does not stop the others
            return _row(failure=f"{photo}: can't be predicted: {type(error).__name__}: {error}")

    def lost(self, item: Row) -> Row:
        """The row of a photo at which processes died."""
        photo = Place(item["store"], item["path"])
        return _row(failure=f"{photo}: each process that had it died; is it too large for the memory of a machine?")

    def _predict(self, predictor: Model, photo: Place, name: str, image_id: int) -> list[dict[str, Any]]:
        """The objects in it, as in `instances.json`."""
        options = self.options
        beside = None if options.depth is None else find_depth(options.depth, name)
        with fetched(photo) as path:
            try:
                prediction = predictor.predict(path, depth=beside, scores=options.scores, min_score=options.min_score)
            except UserError as error:
                raise UserError(str(error).replace(str(path), str(photo))) from error
        with delivered(options.output) as folder:
            write_prediction(prediction, folder / name, overlays=options.overlays)
        if not isinstance(prediction, InstanceResult):
            return []
        file_name = (PurePosixPath(name).parent / PurePosixPath(photo.path).name).as_posix()
        return prediction.to_coco(image_id=image_id, file_name=file_name)


def _row(found: Sequence[dict[str, Any]] = (), failure: str = "", fault: str = "") -> Row:
    """Objects; what is wrong with the photo; what is wrong with all of them."""
    text = json.dumps(found) if found else ""
    return {"found": text, "objects": len(found), "failure": failure, "fault": fault}
