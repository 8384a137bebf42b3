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
from upscore.distributed.ray.images import list_images, require_distinct_outputs
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
    """Result of a distributed prediction."""

    images: int
    """Number of input images."""
    objects: int | None
    """Number of detected objects; None for semantic segmentation."""
    classes: list[str]
    failures: list[str]
    """Error message of each image that could not be predicted, in the order of the images."""
    before: int
    """Number of images predicted by an earlier run."""
    score_threshold: float
    """Lowest score of written objects."""
    display_threshold: float
    """Lowest score of objects shown in overlays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that are sent to each worker."""

    output: Place
    staging: Path
    """Folder for incomplete files, if the output is not in an object store."""
    engine: EngineName
    precision: Precision
    depth: Path | None
    scores: bool
    overlays: bool
    score_threshold: float | None
    category_ids: list[int] | None
    """By class index, in `instances.json`; None: class index + 1."""
    sizes: tuple[tuple[int, int], ...]
    """Common image sizes (H, W), known before the images are read."""


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
    """Run `upscore predict` on a Ray cluster; the work of dead processes is repeated.

    Images and output must be on a file system that all machines share, or in an object store (see
    `upscore.distributed.storage`). The model is sent to the workers.

    Args:
        model, engine, precision: see `upscore.inference.load.load`.
        depth, scores, overlays, score_threshold, resume: see `upscore.inference.folder.predict_folder`.
        paths: images, and folders of images.
        output: output folder.
        address: address of the cluster; None uses RAY_ADDRESS, or else this machine.
        workers: number of processes; None uses the capacity of the cluster.
        cpus: number of CPUs of each process.
        progress: called after each image.

    Raises:
        UserError: there are no images, no model or no cluster, an option belongs to the other task, an output would
            overwrite an image or cannot be written, the workers cannot load the model, another run is writing to the
            output, or `resume` is set and the output belongs to another model or other options.
    """
    target = place(output)
    images, stored = list_images(paths, target)
    resolved = resolve_engine(engine, precision)
    predictor = load(model, engine="torch", precision="float32")
    require_distinct_outputs(images, target, predictor.task, geometric=bool(predictor.geometric_classes))
    require_fitting(predictor, depth=depth, scores=scores, score_threshold=score_threshold)
    depth = None if depth is None else depth.absolute()
    ids = result_ids(predictor, {name: image.local or Path(image.path) for name, image in images.items()})
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
            sizes=tuple(warmup_sizes([image.local for image in images.values() if image.local is not None])),
        )
        if finds_objects:  # also after an interruption
            stack.callback(_write_results, manifest, ids.images, target)
        before = _find_earlier(manifest, images, stored, depth, target) if resume else {}
        objects = sum(before.values())
        rest = {name: image for name, image in images.items() if name not in before}
        failures: dict[int, str] = {}
        rows = stack.enter_context(closing(_rows(model, _items(rest, ids.images), options, address, workers, cpus)))
        for done, row in enumerate(rows, start=len(before) + 1):
            if row["error"]:
                raise UserError(row["error"])
            if row["failure"]:
                failures[row["number"]] = row["failure"]
            if row["record"]:
                record = Record(**json.loads(row["record"]))
                if images[record.name] in stored:
                    record.inputs.insert(0, stored[images[record.name]])
                manifest.add(record)
                objects += len(record.results)
            if progress:
                progress(done, len(images))
    return Outcome(
        images=len(images),
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
    """Yield the rows of all images, see `run`; connects to the cluster only if there are items."""
    if not items:
        return
    with connected(address) as ray:
        arguments = {"files": ray.put(read_model(model)), "options": options}
        plan = plan_workers(ray, workers, cpus)
        with closing(run(ray, items, ImageWorker, arguments, plan)) as rows:
            yield from rows


def _find_earlier(
    manifest: RunManifest,
    images: Mapping[str, Place],
    stored: Mapping[Place, Fingerprint],
    depth: Path | None,
    output: Place,
) -> dict[str, int]:
    """Return the images that an earlier run has predicted, by name, with their numbers of objects."""
    size = None
    if output.local is None:
        files = list_files(output)
        size = {name: file.bytes for name, file in files.items()}.get

    def same(image: Place, name: str, before: Sequence[Fingerprint]) -> bool:
        try:
            beside = [] if depth is None else [find_depth(depth, name)]
        except UserError:  # reported by the worker
            return False
        if image.local is not None:
            return unchanged(before, [image.local, *beside])
        return before[:1] == [stored[image]] and unchanged(before[1:], beside)

    records = {name: manifest.find(name, partial(same, image, name), size) for name, image in images.items()}
    return {name: len(record.results) for name, record in records.items() if record is not None}


def _items(images: Mapping[str, Place], image_ids: Mapping[str, int]) -> list[Row]:
    return [
        {"name": name, "store": image.store, "path": image.path, "image_id": image_ids[name]}
        for name, image in images.items()
    ]


def _write_results(manifest: RunManifest, image_ids: Mapping[str, int], output: Place) -> None:
    with delivered(output, manifest.staging) as folder:
        write_found(manifest, image_ids, folder)


class ImageWorker:
    """Actor that holds the network, reads and predicts images and writes the results."""

    def __init__(self, files: Any, options: Options) -> None:
        import ray

        self.options, self.error, self.predictor = options, "", None
        try:
            self.predictor = load_files(ray.get(files), options.engine, options.precision)
            self.predictor.warmup(*options.sizes)
        except UserError as error:
            self.error = str(error)

    def do(self, item: Row) -> Row:
        """Predict an image, write its files and return its row."""
        image = Place(item["store"], item["path"])
        if self.predictor is None:
            return _row(error=self.error)
        try:
            return _row(record=self._predict(self.predictor, image, item["name"], item["image_id"]))
        except UserError as error:
            return _row(failure=str(error))
        except Exception as error:  # an unexpected error in one image must not stop the others
            return _row(failure=f"{image}: prediction failed with {type(error).__name__}: {error}")

    def lost(self, item: Row) -> Row:
        """Return the row of an image on which processes died."""
        image = Place(item["store"], item["path"])
        return _row(
            failure=f"{image}: every process that predicted it died: it may need more memory than a machine has"
        )

    def _predict(self, predictor: Model, image: Place, name: str, image_id: int) -> Record:
        options = self.options
        depth = None if options.depth is None else find_depth(options.depth, name)
        inputs = [fingerprint(path) for path in (image.local, depth) if path is not None]
        with fetched(image) as path:
            try:
                prediction = predictor.predict(
                    path, depth=depth, scores=options.scores, score_threshold=options.score_threshold
                )
            except UserError as error:
                raise UserError(str(error).replace(str(path), str(image))) from error
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
        file_name = (PurePosixPath(name).parent / PurePosixPath(image.path).name).as_posix()
        results = prediction.to_coco(image_id=image_id, category_ids=options.category_ids, file_name=file_name)
        return Record(name, inputs, files, results)


def _row(record: Record | None = None, failure: str = "", error: str = "") -> Row:
    """Return a row with the record of an image as JSON, its failure, or an error that concerns all images."""
    return {"record": "" if record is None else json.dumps(asdict(record)), "failure": failure, "error": error}
