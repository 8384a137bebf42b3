"""Prediction over a Ray cluster: workers read the images, predict them and write the files."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from upscore.data.io.depth import find_depth
from upscore.distributed.ray.cluster import connected, plan_workers
from upscore.distributed.ray.images import list_photos, refuse_photos_output
from upscore.distributed.ray.manifests import run_manifest
from upscore.distributed.ray.model_files import load_files, read_model
from upscore.distributed.ray.task_runner import Row, run
from upscore.distributed.storage import Place, delivered, fetched, list_files, place
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.select import resolve_engine
from upscore.inference.folder import (
    display_threshold,
    folder_settings,
    require_fitting,
    result_ids,
    warmup_sizes,
    write_found,
)
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.outputs import write_prediction
from upscore.inference.run_manifest import Fingerprint, Record, RunManifest, fingerprint, sizes_below, unchanged
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult


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
    before: int
    """Predicted by an earlier run."""
    score_threshold: float
    """Of the objects that are written."""
    display_threshold: float
    """Of the objects that overlays show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What each worker has to know beside the model."""

    output: Place
    staging: Path
    """For files that are not complete, where the output is not in a store."""
    engine: EngineName
    precision: Precision
    depth: Path | None
    scores: bool
    overlays: bool
    score_threshold: float | None
    category_ids: list[int] | None
    """By class index, in `instances.json`; None: class index + 1."""
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
    score_threshold: float | None = None,
    resume: bool = False,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    progress: ProgressCallback | None = None,
) -> Outcome:
    """Write the same files as `upscore predict`, by the workers of a cluster, whichever of them die on the way.

    Photos and output are on a file system that all machines share, or in a store (see `upscore.distributed.storage`).
    The model is brought to the workers.

    Args:
        model, depth, scores, overlays, score_threshold, resume, engine, precision: as `upscore predict` has them.
        paths: photos, and folders of photos.
        output: the folder to write to.
        address: of the cluster; by default RAY_ADDRESS, or else this machine alone.
        workers, cpus: how many processes, and how many processors each may use; by default what there is.
        progress: told after each photo.

    Raises:
        UserError: there are no photos, no model or no cluster, an option is for the other task, an output would take
            the place of a photo or can't be written, the workers can't load the model, another run is writing to the
            output, or `resume` and it is of another model or other options.
    """
    target = place(output)
    photos, stored = list_photos(paths, target)
    resolved = resolve_engine(engine, precision)
    predictor = load(model, engine="torch", precision="float32")
    refuse_photos_output(photos, target, predictor.task, geometric=bool(predictor.geometric_classes))
    require_fitting(predictor, depth=depth, scores=scores, score_threshold=score_threshold)
    depth = None if depth is None else depth.absolute()
    ids = result_ids(predictor, {name: photo.local or Path(photo.path) for name, photo in photos.items()})
    settings = folder_settings(
        predictor,
        depth=depth,
        scores=scores,
        overlays=overlays,
        score_threshold=score_threshold,
        engine=resolved,
        precision=precision,
        category_ids=ids.setting,
    )
    finds_objects, source = predictor.task == "instances", str(predictor.folder or model)
    with ExitStack() as stack:
        manifest = stack.enter_context(
            run_manifest(target, settings, source=source, resume=resume, exclusive=finds_objects)
        )
        options = Options(
            output=target,
            staging=manifest.staging.absolute(),
            engine=engine,
            precision=precision,
            depth=depth,
            scores=scores,
            overlays=overlays,
            score_threshold=score_threshold,
            category_ids=ids.categories,
            sizes=tuple(warmup_sizes([photo.local for photo in photos.values() if photo.local is not None])),
        )
        if finds_objects:  # those before an interruption, too
            stack.callback(_write_results, manifest, ids.images, target)
        before = _find_earlier(manifest, photos, stored, depth, target) if resume else {}
        objects = sum(before.values())
        rest = {name: photo for name, photo in photos.items() if name not in before}
        failures: dict[int, str] = {}
        rows = stack.enter_context(closing(_rows(model, _items(rest, ids.images), options, address, workers, cpus)))
        for done, row in enumerate(rows, start=len(before) + 1):
            if row["fault"]:
                raise UserError(row["fault"])
            if row["failure"]:
                failures[row["number"]] = row["failure"]
            if row["record"]:
                record = Record(**json.loads(row["record"]))
                if photos[record.name] in stored:
                    record.inputs.insert(0, stored[photos[record.name]])
                manifest.add(record)
                objects += len(record.results)
            if progress:
                progress(done, len(photos))
    return Outcome(
        photos=len(photos),
        objects=objects if finds_objects else None,
        classes=predictor.classes,
        failures=[failures[number] for number in sorted(failures)],
        before=len(before),
        score_threshold=predictor.score_threshold if score_threshold is None else score_threshold,
        display_threshold=display_threshold(predictor, score_threshold),
    )


def _rows(
    model: str, items: list[Row], options: Options, address: str | None, workers: int | None, cpus: int | None
) -> Generator[Row, None, None]:
    """The rows of images, as `run` has them; without any, no cluster is needed."""
    if not items:
        return
    with connected(address) as ray:
        arguments = {"files": ray.put(read_model(model)), "options": options}
        plan = plan_workers(ray, workers, cpus)
        with closing(run(ray, items, PhotoWorker, arguments, plan)) as rows:
            yield from rows


def _find_earlier(
    manifest: RunManifest,
    photos: Mapping[str, Place],
    stored: Mapping[Place, Fingerprint],
    depth: Path | None,
    output: Place,
) -> dict[str, int]:
    """The images that an earlier run has predicted, by name, and the numbers of objects in them."""
    size = None
    if output.local is None:
        files = list_files(output)
        size = {name: file.bytes for name, file in files.items()}.get

    def same(photo: Place, name: str, before: Sequence[Fingerprint]) -> bool:
        try:
            beside = [] if depth is None else [find_depth(depth, name)]
        except UserError:  # the worker says so
            return False
        if photo.local is not None:
            return unchanged(before, [photo.local, *beside])
        return before[:1] == [stored[photo]] and unchanged(before[1:], beside)

    records = {name: manifest.find(name, partial(same, photo, name), size) for name, photo in photos.items()}
    return {name: len(record.results) for name, record in records.items() if record is not None}


def _items(photos: Mapping[str, Place], image_ids: Mapping[str, int]) -> list[Row]:
    return [
        {"name": name, "store": photo.store, "path": photo.path, "image_id": image_ids[name]}
        for name, photo in photos.items()
    ]


def _write_results(manifest: RunManifest, image_ids: Mapping[str, int], output: Place) -> None:
    with delivered(output, manifest.staging) as folder:
        write_found(manifest, image_ids, folder)


class PhotoWorker:
    """Holds the network; reads and predicts photos, and writes what it finds."""

    def __init__(self, files: Any, options: Options) -> None:
        import ray

        self.options, self.fault, self.predictor = options, "", None
        try:
            self.predictor = load_files(ray.get(files), options.engine, options.precision)
            self.predictor.warmup(*options.sizes)
        except UserError as error:
            self.fault = str(error)

    def do(self, item: Row) -> Row:
        """The photo's row; its files are written by then."""
        photo = Place(item["store"], item["path"])
        if self.predictor is None:
            return _row(fault=self.fault)
        try:
            return _row(record=self._predict(self.predictor, photo, item["name"], item["image_id"]))
        except UserError as error:
            return _row(failure=str(error))
        except Exception as error:  # one photo of a million does not stop the others
            return _row(failure=f"{photo}: can't be predicted: {type(error).__name__}: {error}")

    def lost(self, item: Row) -> Row:
        """The row of a photo at which processes died."""
        photo = Place(item["store"], item["path"])
        return _row(failure=f"{photo}: each process that had it died; is it too large for the memory of a machine?")

    def _predict(self, predictor: Model, photo: Place, name: str, image_id: int) -> Record:
        options = self.options
        beside = None if options.depth is None else find_depth(options.depth, name)
        inputs = [fingerprint(path) for path in (photo.local, beside) if path is not None]
        with fetched(photo) as path:
            try:
                prediction = predictor.predict(
                    path, depth=beside, scores=options.scores, score_threshold=options.score_threshold
                )
            except UserError as error:
                raise UserError(str(error).replace(str(path), str(photo))) from error
        with delivered(options.output, options.staging) as folder:
            written = write_prediction(
                prediction,
                folder / name,
                overlays=options.overlays,
                display_threshold=display_threshold(predictor, options.score_threshold),
            )
            files = sizes_below(written, folder)
        if not isinstance(prediction, InstanceResult):
            return Record(name, inputs, files)
        file_name = (PurePosixPath(name).parent / PurePosixPath(photo.path).name).as_posix()
        results = prediction.to_coco(image_id=image_id, category_ids=options.category_ids, file_name=file_name)
        return Record(name, inputs, files, results)


def _row(record: Record | None = None, failure: str = "", fault: str = "") -> Row:
    """What was made of an image, as JSON; what is wrong with it; what is wrong with all of them."""
    return {"record": "" if record is None else json.dumps(asdict(record)), "failure": failure, "fault": fault}
