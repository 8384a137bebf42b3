"""Photos in, files out: reading and writing beside the network.

The network runs in the caller's thread. Pillow and zlib work without the interpreter's lock, so threads are enough.
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
from upscore.data.sample import Sample
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

SAMPLE, SHARE = 64, 4
"""Photos whose size is asked for, and the part of them that must share one, as 1 / SHARE, for it to be a common one."""


class Outcome(NamedTuple):
    """What became of one photo."""

    name: str
    objects: int = 0
    """How many were found, by a network that finds them."""
    error: UserError | None = None
    """Why there is nothing of it."""
    before: bool = False
    """An earlier run did it."""


class Entry(NamedTuple):
    """A photo in a folder of them."""

    name: str
    """Of its output."""
    path: Path
    image_id: int
    """Its id in the COCO data set that it belongs to, or its place among the images, from 1."""

    @property
    def file_name(self) -> str:
        """Its place below the folder."""
        return (Path(self.name).parent / self.path.name).as_posix()


def predict_folder(
    predictor: Model,
    photos: Mapping[str, Path],
    output: Path,
    *,
    depth: Path | None = None,
    scores: bool = False,
    overlays: bool = True,
    score_threshold: float | None = None,
    resume: bool = False,
) -> Generator[Outcome, None, None]:
    """Predict photos, by the names of their outputs, and write what `write_prediction` does, and `instances.json`.

    Photos are given out in order, each when all of it is written; one at fault leaves the others alone. Close the
    generator, or let an interruption pass through it, to end early: files are written whole or not at all, and
    `instances.json` has the objects of the photos that were given out.

    Args:
        depth: the folder with a file for each photo, for a network that sees depth.
        scores: keep class probabilities too.
        overlays: draw on the photos too, which takes longer than all else but the network.
        score_threshold: as in `Model.predict`.
        resume: leave out images that an earlier run into the same folder, with the same model and options, has
            predicted, unless the image or an output has changed since.

    Raises:
        UserError: the output can't be written, another run is writing to it, or `resume` and it is of another model or
            other options.
    """
    require_writable(output, "choose another output")
    ids = result_ids(predictor, photos)
    job = _Job(predictor, output, depth, scores, overlays, score_threshold, ids.categories)
    entries = [Entry(name, path, ids.images[name]) for name, path in photos.items()]
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
        manifest = RunManifest(output, settings, source=source, resume=resume, exclusive=job.finds_objects)
        stack.enter_context(manifest)
        if job.finds_objects:
            stack.callback(write_found, manifest, {entry.name: entry.image_id for entry in entries}, output)
        if predictor.task == "semantic" and predictor.engine == "openvino":
            # its other threads would spin while they wait, beside the engine's and those that read and write
            stack.enter_context(one_torch_thread())
        rest: list[Entry] = []
        for entry in entries:
            record = manifest.find(entry.name, partial(_same_inputs, entry, depth)) if resume else None
            if record is None:
                rest.append(entry)
            else:
                yield Outcome(entry.name, len(record.results), before=True)
        predictor.warmup(*warmup_sizes(list(photos.values())))
        predictions = stack.enter_context(closing(job.predictions(rest)))
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
    """The settings of a run over images, for its `RunManifest`."""
    if predictor.task == "instances" and score_threshold is None:
        score_threshold = predictor.score_threshold
    options: dict[str, Setting] = {"depth": depth is not None, "scores": scores, "overlays": overlays}
    return run_settings(predictor, score_threshold=score_threshold, **options, **others)


@dataclass(frozen=True, slots=True)
class ResultIds:
    """The ids in `instances.json`."""

    images: dict[str, int]
    """By the name of the image's output."""
    categories: list[int] | None
    """By class index; None: class index + 1."""

    @property
    def setting(self) -> Setting:
        """The category ids as a setting of a run."""
        return None if self.categories is None else ", ".join(map(str, self.categories))


def result_ids(predictor: Model, photos: Mapping[str, Path]) -> ResultIds:
    """The ids of the COCO data set that images belong to.

    Without one, images have their place among the images, from 1, and classes the ids that the model knows.
    """
    ids = find_ids(photos.values()) if predictor.task == "instances" else CocoIds()
    numbers = ids.number(list(photos.values()))
    return ResultIds(dict(zip(photos, numbers, strict=True)), ids.of_classes(predictor.classes, predictor.category_ids))


def write_found(manifest: RunManifest, image_ids: Mapping[str, int], output: Path) -> None:
    """Write `instances.json` with the objects of a run.

    Args:
        manifest: of the run.
        image_ids: by the names of the outputs, in the order of the file.
        output: the folder.

    Raises:
        UserError: it can't be written.
    """
    write_results(manifest.results(image_ids), output / RESULTS)


def _same_inputs(entry: Entry, depth: Path | None, before: Sequence[Fingerprint]) -> bool:
    try:
        return unchanged(before, _inputs(entry, depth))
    except UserError:  # whoever reads the depth says so
        return False


def _inputs(entry: Entry, depth: Path | None) -> list[Path]:
    """The files that a prediction depends on."""
    return [entry.path, *([] if depth is None else [find_depth(depth, entry.name)])]


def require_fitting(predictor: Model, *, depth: Path | None, scores: bool, score_threshold: float | None) -> None:
    """Make sure, before the first photo, that options of `upscore predict` are for this network.

    Raises:
        UserError: one is not, or out of range.
    """
    if predictor.task == "instances" and scores:
        raise UserError("--scores writes class probabilities of pixels, but this model finds objects: leave it out")
    require_score_threshold(predictor, score_threshold)
    if (depth is None) != (not predictor.depth_channels):
        have = "sees depth: give --depth FOLDER" if depth is None else "sees photos alone: leave --depth out"
        raise UserError(f"this model {have}")
    if depth is not None and not depth.is_dir():
        raise UserError(f"{depth}: there is no such folder of depth")


def display_threshold(model: Model, score_threshold: float | None) -> float:
    """Score threshold of the objects that overlays show: what the user chose, or else the model's own."""
    return model.display_threshold if score_threshold is None else score_threshold


def require_score_threshold(predictor: Model, score_threshold: float | None) -> None:
    """Make sure that --score-threshold is for this network.

    Raises:
        UserError: it is not, or is out of range.
    """
    if score_threshold is not None and predictor.task != "instances":
        raise UserError(
            "--score-threshold is for models that find objects, but this one classifies pixels: leave it out"
        )
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise UserError(f"--score-threshold {score_threshold}: scores are from 0 to 1")


def warmup_sizes(photos: Sequence[Path]) -> list[tuple[int, int]]:
    """The common sizes of photos, by the headers of a sample of them."""
    sizes = []
    for photo in photos[:: max(1, len(photos) // SAMPLE)]:
        with suppress(UserError):  # whoever reads the photo says so
            sizes.append(image_size(photo))
    return common_sizes(sizes)


def common_sizes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes (H, W) that many photos have, two at most, for `Model.warmup`."""
    return [size for size, count in Counter(sizes).most_common(2) if SHARE * count >= len(sizes)]


@dataclass(frozen=True)
class _Job:
    """The stages that a photo goes through; a user's error is handed on in its place."""

    predictor: Model
    output: Path
    depth: Path | None
    scores: bool
    overlays: bool
    score_threshold: float | None
    category_ids: list[int] | None

    @property
    def finds_objects(self) -> bool:
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
        """Write the files of an image."""
        entry, prediction, inputs = predicted
        if isinstance(prediction, UserError):
            return prediction
        try:
            written = write_prediction(
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
        return Record(entry.name, inputs, sizes_below(written, self.output), results)
