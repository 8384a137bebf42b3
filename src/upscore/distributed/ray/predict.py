"""Prediction of images in folders and object stores on a Ray cluster."""

from __future__ import annotations

import json
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from upscore.data.io.decoding import SUFFIXES
from upscore.data.io.depth import find_depth
from upscore.distributed.ray.cluster import ModelFiles, load_files
from upscore.distributed.ray.task_runner import Row, run_on_cluster
from upscore.distributed.storage import Location, delete_file, delivered, fetched, list_files, parse_location, upload
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.session import resolve_engine
from upscore.inference.folder import (
    display_threshold,
    folder_settings,
    require_fitting,
    result_ids,
    warmup_sizes,
    write_objects,
)
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.inference.outputs import ENDINGS, GEOMETRIC, by_name, find_images, refuse_overwriting, write_prediction
from upscore.inference.run_manifest import (
    FOLDER,
    Fingerprint,
    Record,
    RunManifest,
    Settings,
    fingerprint,
    sizes_below,
    unchanged,
)
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult
from upscore.results.writers.coco import RESULTS


def list_images(
    sources: Sequence[str | Path], output: Location
) -> tuple[dict[str, Location], dict[Location, Fingerprint]]:
    """Find images in local folders and object stores, like `upscore.inference.outputs.find_images`.

    Files below `output` are excluded.

    Returns:
        The images by the names of their outputs, and the fingerprints of those in stores.

    Raises:
        UserError: there are no images, or two images have the same output files.
    """
    locations = [parse_location(source) for source in sources]
    images: dict[str, Location] = {}
    if local := [location.local for location in locations if location.local is not None]:
        images = {name: parse_location(path) for name, path in find_images(local, output=output.local).items()}
    stored: dict[Location, Fingerprint] = {}
    for location in dict.fromkeys(locations):
        if location.local is None:
            for name, image in _list_store(location, output, stored).items():
                if images.setdefault(name, image) != image:
                    raise UserError(
                        f"{image} and {images[name]} would be written to the same files: use separate --output folders"
                    )
    return images, stored


def _list_store(location: Location, output: Location, stored: dict[Location, Fingerprint]) -> dict[str, Location]:
    """Find images in an object store, by the names of their outputs, and add their fingerprints to `stored`."""
    found: list[tuple[str, str, Location]] = []
    for name, file in list_files(location).items():
        image = location.below(name) if name else location
        path = PurePosixPath(name or image.path.rpartition("/")[2])
        is_output = _is_below(image, output) and location != output
        hidden = any(part.startswith(".") for part in path.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and not is_output:
            found.append((unicodedata.normalize("NFC", str(path.with_suffix(""))), path.suffix, image))
            stored[image] = {"file": path.name, "bytes": file.bytes, "modified": file.modified}
    if not found:
        raise UserError(f"{location} contains no images: supported suffixes are {', '.join(sorted(SUFFIXES))}")
    return by_name(found)


def _is_below(image: Location, folder: Location) -> bool:
    return image.store == folder.store and image.path.startswith(f"{folder.path}/")


def require_distinct_outputs(images: dict[str, Location], output: Location, task: str, *, geometric: bool) -> None:
    """Check, before the first prediction, that no output overwrites an image or another output.

    Raises:
        UserError: an output would overwrite a file.
    """
    if output.local is not None:
        own = {name: image.local for name, image in images.items() if image.local is not None}
        refuse_overwriting(own, output.local, task, geometric=geometric)
    sources, written = set(images.values()), {output.below(RESULTS)}
    for name in images:
        for ending in (*ENDINGS[task], *(GEOMETRIC if geometric else ())):
            target = output.below(name + ending)
            if target in sources:
                raise UserError(f"{target} is an input image and would be overwritten: choose another --output")
            if target in written:
                raise UserError(f"two images would both be written to {target}: use separate --output folders")
            written.add(target)


UPLOAD_INTERVAL = 60.0
"""Seconds between uploads of the journal to an object store; a killed driver loses at most this much work."""


@contextmanager
def run_manifest(
    output: Location, settings: Settings, *, source: str, resume: bool, exclusive: bool
) -> Iterator[RunManifest]:
    """Open the manifest of a run, see `RunManifest`; an output in an object store is not locked.

    Raises:
        UserError: see `RunManifest`; or the object store cannot be reached.
    """
    if output.local is not None:
        with RunManifest(output.local, settings, source=source, resume=resume, exclusive=exclusive) as manifest:
            yield manifest
        return
    with tempfile.TemporaryDirectory(prefix="upscore-") as folder:
        (Path(folder) / FOLDER).mkdir()
        for name in list_files(output.below(FOLDER)):
            with fetched(output.below(f"{FOLDER}/{name}")) as copy:
                copy.rename(Path(folder) / FOLDER / name)
        with _StoreManifest(output, Path(folder), settings, source=source, resume=resume) as manifest:
            yield manifest


class _StoreManifest(RunManifest):
    """Manifest in a temporary folder whose journals are uploaded to an object store."""

    def __init__(self, store: Location, folder: Path, settings: Settings, *, source: str, resume: bool) -> None:
        super().__init__(folder, settings, source=source, resume=resume)
        self.store = store.below(FOLDER)
        self._uploaded_at = time.monotonic()

    def add(self, record: Record) -> None:
        """Append the record of a finished input."""
        super().add(record)
        if time.monotonic() - self._uploaded_at > UPLOAD_INTERVAL:
            self._upload(self.rotate())
            self._uploaded_at = time.monotonic()

    def close(self) -> None:
        """Upload the last journal and delete journals that this run has replaced."""
        earlier = set(self.folder.iterdir())
        super().close()
        if self.path.exists():
            self._upload(self.path)
        for journal in earlier:
            if not journal.exists() and journal in self.earlier:
                delete_file(self.store.below(journal.name))

    def _upload(self, journal: Path) -> None:
        upload(journal, self.store.below(journal.name))


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
class WorkerOptions:
    """Options that are sent to each worker."""

    output: Location
    staging: Path
    """Folder for incomplete files, if the output is not in an object store."""
    engine: EngineName
    precision: Precision
    depth: Path | None
    scores: bool
    overlays: bool
    score_threshold: float | None
    category_ids: list[int] | None
    """Category ids by class index, for `instances.json`; None means class index + 1."""
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
    """Run `upscore predict` on a Ray cluster; the work of workers that die is repeated.

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
    target = parse_location(output)
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
    detects_objects, source = predictor.task == "instances", str(predictor.folder or model)
    with ExitStack() as stack:
        manifest = stack.enter_context(
            run_manifest(target, settings, source=source, resume=resume, exclusive=detects_objects)
        )
        options = WorkerOptions(
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
        if detects_objects:  # also after an interruption
            stack.callback(_write_results, manifest, ids.images, target)
        before = _find_earlier(manifest, images, stored, depth, target) if resume else {}
        objects = sum(before.values())
        remaining = {name: image for name, image in images.items() if name not in before}
        failures: dict[int, str] = {}
        rows = run_on_cluster(
            model,
            _items(remaining, ids.images),
            ImageWorker,
            {"options": options},
            address=address,
            workers=workers,
            cpus=cpus,
        )
        stack.enter_context(closing(rows))
        for done, row in enumerate(rows, start=len(before) + 1):
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
        objects=objects if detects_objects else None,
        classes=predictor.classes,
        failures=[failures[number] for number in sorted(failures)],
        before=len(before),
        score_threshold=predictor.score_threshold if score_threshold is None else score_threshold,
        display_threshold=display_threshold(predictor, score_threshold),
    )


def _find_earlier(
    manifest: RunManifest,
    images: Mapping[str, Location],
    stored: Mapping[Location, Fingerprint],
    depth: Path | None,
    output: Location,
) -> dict[str, int]:
    """Return the images that an earlier run has predicted, by name, with their numbers of objects."""
    size = None
    if output.local is None:
        files = list_files(output)
        size = {name: file.bytes for name, file in files.items()}.get

    def same(image: Location, name: str, before: Sequence[Fingerprint]) -> bool:
        try:
            depth_maps = [] if depth is None else [find_depth(depth, name)]
        except UserError:  # reported by the worker
            return False
        if image.local is not None:
            return unchanged(before, [image.local, *depth_maps])
        return before[:1] == [stored[image]] and unchanged(before[1:], depth_maps)

    records = {name: manifest.find(name, partial(same, image, name), size) for name, image in images.items()}
    return {name: len(record.results) for name, record in records.items() if record is not None}


def _items(images: Mapping[str, Location], image_ids: Mapping[str, int]) -> list[Row]:
    return [
        {"name": name, "store": image.store, "path": image.path, "image_id": image_ids[name]}
        for name, image in images.items()
    ]


def _write_results(manifest: RunManifest, image_ids: Mapping[str, int], output: Location) -> None:
    with delivered(output, manifest.staging) as folder:
        write_objects(manifest, image_ids, folder)


class ImageWorker:
    """Actor that holds the network, reads and predicts images and writes the results."""

    def __init__(self, files: ModelFiles, options: WorkerOptions) -> None:
        self.options, self.error, self.predictor = options, "", None
        try:
            self.predictor = load_files(files, options.engine, options.precision)
            self.predictor.warmup(*options.sizes)
        except UserError as error:
            self.error = str(error)

    def do(self, item: Row) -> Row:
        """Predict an image, write its files and return its row."""
        image = Location(item["store"], item["path"])
        if self.predictor is None:
            return _row(error=self.error)
        try:
            return _row(record=self._predict(self.predictor, image, item["name"], item["image_id"]))
        except UserError as error:
            return _row(failure=str(error))
        except Exception as error:  # an unexpected error in one image must not stop the others
            return _row(failure=f"{image}: prediction failed with {type(error).__name__}: {error}")

    def lost(self, item: Row) -> Row:
        """Return the row of an image on which workers died."""
        image = Location(item["store"], item["path"])
        return _row(failure=f"{image}: all workers that predicted it died: it may need more memory than a machine has")

    def _predict(self, predictor: Model, image: Location, name: str, image_id: int) -> Record:
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
            paths = write_prediction(
                prediction,
                folder / name,
                overlays=options.overlays,
                display_threshold=display_threshold(predictor, options.score_threshold),
            )
            files = sizes_below(paths, folder)
        if not isinstance(prediction, InstanceResult):
            return Record(name, inputs, files)
        file_name = (PurePosixPath(name).parent / PurePosixPath(image.path).name).as_posix()
        results = prediction.to_coco(image_id=image_id, category_ids=options.category_ids, file_name=file_name)
        return Record(name, inputs, files, results)


def _row(record: Record | None = None, failure: str = "", error: str = "") -> Row:
    """Return a row with the record of an image as JSON, its failure, or an error that concerns all images."""
    return {"record": "" if record is None else json.dumps(asdict(record)), "failure": failure, "error": error}
