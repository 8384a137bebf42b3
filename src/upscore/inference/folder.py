"""Prediction of folders of images, with background threads for reading and writing.

The network runs in the caller's thread. Pillow and zlib release the GIL, so threads suffice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from upscore.data.formats.coco.ids import CocoIds, find_ids
from upscore.data.io.depth import as_depth, find_depth
from upscore.data.io.images import image_size, read_image
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.files import require_writable
from upscore.inference.model import Model
from upscore.inference.outputs import write_prediction
from upscore.inference.run_manifest import (
    Fingerprint,
    Record,
    RunManifest,
    Setting,
    fingerprint,
    run_settings,
    sizes_below,
    unchanged,
)
from upscore.inference.threading import in_threads, one_torch_thread
from upscore.results import InstanceResult, Result
from upscore.results.writers.coco import RESULTS, write_results

SAMPLE = 64
"""Approximate number of images whose sizes are read."""

COMMON_SHARE = 1 / 4
"""Smallest fraction of the images that makes a size a common one."""


class Outcome(NamedTuple):
    """Result of one image."""

    name: str
    objects: int = 0
    """Number of detected objects; 0 for semantic segmentation."""
    error: UserError | None = None
    """Reason why the image could not be predicted."""
    before: bool = False
    """Whether an earlier run has predicted the image."""


class Entry(NamedTuple):
    """Image of a folder."""

    name: str
    """Name of the output files, without endings."""
    path: Path
    image_id: int
    """Id in the COCO data set that contains the image, or its position among all images, counted from 1."""

    @property
    def file_name(self) -> str:
        """Path relative to the folder."""
        return (Path(self.name).parent / self.path.name).as_posix()


def predict_folder(
    predictor: Model,
    images: Mapping[str, Path],
    output: Path,
    *,
    depth: Path | None = None,
    scores: bool = False,
    overlays: bool = True,
    score_threshold: float | None = None,
    resume: bool = False,
) -> Generator[Outcome, None, None]:
    """Predict images and write their results, see `write_prediction`; for detection also write `instances.json`.

    Images are yielded in order, each after its files are complete; an image that fails does not stop the others. To
    stop early, close the generator or interrupt it: files are written atomically, and `instances.json` has the objects
    of the images yielded so far.

    Args:
        predictor: the model.
        images: paths of the images by the names of their outputs.
        output: output folder.
        depth: folder with a depth map for each image, for a model with depth.
        scores: also write class probabilities.
        overlays: also write overlays, the slowest step after the network.
        score_threshold: lowest score of an object, see `Model.predict`.
        resume: skip images that an earlier run into the same folder, with the same model and options, has predicted,
            unless the image or an output has changed since.

    Raises:
        UserError: the output cannot be written, another run is writing to it, or `resume` is set and the output belongs
            to another model or other options.
    """
    require_writable(output, "choose another output")
    ids = result_ids(predictor, images)
    job = _Job(predictor, output, depth, scores, overlays, score_threshold, ids.categories)
    entries = [Entry(name, path, ids.images[name]) for name, path in images.items()]
    with ExitStack() as stack:
        settings = folder_settings(
            predictor,
            depth=depth,
            scores=scores,
            overlays=overlays,
            score_threshold=score_threshold,
            category_ids=ids.setting,
        )
        source = str(predictor.folder or "")
        manifest = RunManifest(output, settings, source=source, resume=resume, exclusive=job.detects_objects)
        stack.enter_context(manifest)
        if job.detects_objects:
            stack.callback(write_objects, manifest, {entry.name: entry.image_id for entry in entries}, output)
        if predictor.task == "semantic" and predictor.engine == "openvino":
            # torch's waiting threads would take CPU time from the threads of the engine and those that read and write
            stack.enter_context(one_torch_thread())
        remaining: list[Entry] = []
        for entry in entries:
            record = manifest.find(entry.name, partial(_same_inputs, entry, depth)) if resume else None
            if record is None:
                remaining.append(entry)
            else:
                yield Outcome(entry.name, len(record.results), before=True)
        predictor.warmup(*warmup_sizes(list(images.values())))
        predictions = stack.enter_context(closing(job.predictions(remaining)))
        for (entry, _, _), written in stack.enter_context(closing(in_threads(predictions, job.write))):
            if isinstance(written, UserError):
                yield Outcome(entry.name, error=written)
                continue
            manifest.add(written)
            yield Outcome(entry.name, len(written.results))


def folder_settings(
    predictor: Model,
    *,
    depth: Path | None,
    scores: bool,
    overlays: bool,
    score_threshold: float | None,
    **others: Setting,
) -> dict[str, Setting]:
    """Return the settings of a run over images, for its `RunManifest`."""
    if predictor.task == "instances" and score_threshold is None:
        score_threshold = predictor.score_threshold
    options: dict[str, Setting] = {"depth": depth is not None, "scores": scores, "overlays": overlays}
    return run_settings(predictor, score_threshold=score_threshold, **options, **others)


@dataclass(frozen=True, slots=True)
class ResultIds:
    """Image and category ids of `instances.json`."""

    images: dict[str, int]
    """Image ids by the names of the outputs."""
    categories: list[int] | None
    """Category ids by class index; None: class index + 1."""

    @property
    def setting(self) -> Setting:
        """Category ids as a setting of a `RunManifest`."""
        return None if self.categories is None else ", ".join(map(str, self.categories))


def result_ids(predictor: Model, images: Mapping[str, Path]) -> ResultIds:
    """Return the ids of the COCO data set that contains the images.

    Without a data set, images are numbered from 1, and the category ids are those of the model.
    """
    ids = find_ids(images.values()) if predictor.task == "instances" else CocoIds()
    numbers = ids.number(list(images.values()))
    category_ids = ids.match_classes(predictor.classes, predictor.category_ids)
    return ResultIds(dict(zip(images, numbers, strict=True)), category_ids)


def write_objects(manifest: RunManifest, image_ids: Mapping[str, int], output: Path) -> None:
    """Write `instances.json` with the objects of a run.

    Args:
        manifest: manifest of the run.
        image_ids: image ids by the names of the outputs, in the order of the file.
        output: output folder.

    Raises:
        UserError: the file cannot be written.
    """
    write_results(manifest.results(image_ids), output / RESULTS)


def _same_inputs(entry: Entry, depth: Path | None, before: Sequence[Fingerprint]) -> bool:
    try:
        return unchanged(before, _inputs(entry, depth))
    except UserError:  # reported when the depth is read
        return False


def _inputs(entry: Entry, depth: Path | None) -> list[Path]:
    """Return the files that a prediction depends on."""
    return [entry.path, *([] if depth is None else [find_depth(depth, entry.name)])]


def require_fitting(predictor: Model, *, depth: Path | None, scores: bool, score_threshold: float | None) -> None:
    """Check, before the first prediction, that options of `upscore predict` apply to the model.

    Raises:
        UserError: an option belongs to the other task, or is out of range.
    """
    if predictor.task == "instances" and scores:
        raise UserError("--scores applies to semantic segmentation, but this model detects objects: leave it out")
    require_score_threshold(predictor, score_threshold)
    if (depth is None) != (not predictor.depth_channels):
        reason = "requires depth: give --depth FOLDER" if depth is None else "has no depth input: leave --depth out"
        raise UserError(f"this model {reason}")
    if depth is not None and not depth.is_dir():
        raise UserError(f"--depth {depth} is not a folder: give a folder with depth maps")


def display_threshold(model: Model, score_threshold: float | None) -> float:
    """Return the score threshold of objects in overlays: the user's choice, or the model's default."""
    return model.display_threshold if score_threshold is None else score_threshold


def require_score_threshold(predictor: Model, score_threshold: float | None) -> None:
    """Check that --score-threshold applies to the model.

    Raises:
        UserError: the model does not detect objects, or the threshold is out of range.
    """
    if score_threshold is not None and predictor.task != "instances":
        raise UserError(
            "--score-threshold applies to object detection, but this model does semantic segmentation: leave it out"
        )
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise UserError(f"--score-threshold {score_threshold} is invalid: use a number from 0 to 1")


def warmup_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Return the common sizes of images, from the headers of a sample."""
    sizes = []
    for path in paths[:: max(1, len(paths) // SAMPLE)]:
        with suppress(UserError):  # reported when the image is read
            sizes.append(image_size(path))
    return common_sizes(sizes)


def common_sizes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the at most two most common sizes (H, W), for `Model.warmup`."""
    return [size for size, count in Counter(sizes).most_common(2) if count >= COMMON_SHARE * len(sizes)]


@dataclass(frozen=True)
class _Job:
    """Stages of the prediction of an image; a `UserError` takes the place of its result."""

    predictor: Model
    output: Path
    depth: Path | None
    scores: bool
    overlays: bool
    score_threshold: float | None
    category_ids: list[int] | None

    @property
    def detects_objects(self) -> bool:
        return self.predictor.task == "instances"

    def read(self, entry: Entry) -> tuple[Sample | UserError, list[Fingerprint]]:
        try:
            inputs = [fingerprint(path) for path in _inputs(entry, self.depth)]
            sample = Sample(name=entry.name, image=read_image(entry.path), path=entry.path)
            if self.depth is not None:
                size = sample.image.shape[-2], sample.image.shape[-1]
                sample.depth = as_depth(find_depth(self.depth, entry.name), self.predictor.depth_channels, size)
        except UserError as error:
            return error, []
        return sample, inputs

    def predictions(
        self, entries: Sequence[Entry]
    ) -> Generator[tuple[Entry, Result | UserError, list[Fingerprint]], None, None]:
        with closing(in_threads(entries, self.read)) as samples:
            for entry, (sample, inputs) in samples:
                yield entry, sample if isinstance(sample, UserError) else self._predict(sample), inputs

    def _predict(self, sample: Sample) -> Result | UserError:
        try:
            return self.predictor.predict(
                sample.image, depth=sample.depth, scores=self.scores, score_threshold=self.score_threshold
            )
        except UserError as error:
            return error

    def write(self, predicted: tuple[Entry, Result | UserError, list[Fingerprint]]) -> Record | UserError:
        """Write the files of an image and return its record."""
        entry, prediction, inputs = predicted
        if isinstance(prediction, UserError):
            return prediction
        try:
            files = write_prediction(
                prediction,
                self.output / entry.name,
                overlays=self.overlays,
                display_threshold=display_threshold(self.predictor, self.score_threshold),
            )
        except UserError as error:
            return error
        results = []
        if isinstance(prediction, InstanceResult):
            results = prediction.to_coco(
                image_id=entry.image_id, category_ids=self.category_ids, file_name=entry.file_name
            )
        return Record(entry.name, inputs, sizes_below(files, self.output), results)
