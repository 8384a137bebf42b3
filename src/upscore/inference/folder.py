"""Photos in, files out: reading and writing beside the network.

The network runs in the caller's thread. Pillow and zlib work without the interpreter's lock, so threads are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from upscore.data.images import photo_size, read_image
from upscore.errors import UserError
from upscore.files import require_writable
from upscore.inference.depths import as_depth, find_depth
from upscore.inference.outputs import is_written, write_prediction
from upscore.inference.predictor import Predictor
from upscore.inference.results import ResultsFile, coco_results
from upscore.inference.threads import in_threads
from upscore.structures import Prediction, Sample

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
    """Its place among the photos, from 1."""

    @property
    def file_name(self) -> str:
        """Its place below the folder."""
        return (Path(self.name).parent / self.path.name).as_posix()


def predict_folder(
    predictor: Predictor,
    photos: Mapping[str, Path],
    output: Path,
    *,
    depth: Path | None = None,
    scores: bool = False,
    overlays: bool = True,
    min_score: float | None = None,
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
        min_score: as in `Predictor.predict`.
        resume: leave out photos that an earlier run into the same folder, with the same model and options, has done.
            Those in which it found no objects are looked at again.

    Raises:
        UserError: the output can't be written.
    """
    require_writable(output, "choose another output")
    job = _Job(predictor, output, depth, scores, overlays, min_score)
    entries = [Entry(name, path, number) for number, (name, path) in enumerate(photos.items(), start=1)]
    before = [entry for entry in entries if job.is_written(entry)] if resume else []
    with ExitStack() as stack:
        stack.enter_context(_few_threads(predictor))
        results = None
        if job.finds_objects:
            keep = {entry.file_name: entry.image_id for entry in before} if resume else None
            results = stack.enter_context(ResultsFile(output, keep=keep))
            before = [entry for entry in before if entry.file_name in results.kept]
        for entry in before:
            yield Outcome(entry.name, 0 if results is None else results.kept[entry.file_name], before=True)
        done = {entry.image_id for entry in before}
        rest = [entry for entry in entries if entry.image_id not in done]
        predictor.expect(*sizes_to_expect(list(photos.values())))
        predictions = stack.enter_context(closing(job.predictions(rest)))
        for (entry, _), found in stack.enter_context(closing(in_threads(predictions, job.write))):
            if isinstance(found, UserError):
                yield Outcome(entry.name, error=found)
                continue
            if results is not None:
                results.add(found)
            yield Outcome(entry.name, len(found))


def require_fitting(predictor: Predictor, *, depth: Path | None, scores: bool, min_score: float | None) -> None:
    """Make sure, before the first photo, that options of `upscore predict` are for this network.

    Raises:
        UserError: one is not, or out of range.
    """
    if predictor.task == "instances" and scores:
        raise UserError("--scores writes class probabilities of pixels, but this model finds objects: leave it out")
    require_min_score(predictor, min_score)
    if (depth is None) != (not predictor.depth_channels):
        have = "sees depth: give --depth FOLDER" if depth is None else "sees photos alone: leave --depth out"
        raise UserError(f"this model {have}")
    if depth is not None and not depth.is_dir():
        raise UserError(f"{depth}: there is no such folder of depth")


def require_min_score(predictor: Predictor, min_score: float | None) -> None:
    """Make sure that --min-score is for this network.

    Raises:
        UserError: it is not, or is out of range.
    """
    if min_score is not None and predictor.task != "instances":
        raise UserError("--min-score is for models that find objects, but this one classifies pixels: leave it out")
    if min_score is not None and not 0 <= min_score <= 1:
        raise UserError(f"--min-score {min_score}: scores are from 0 to 1")


@contextmanager
def _few_threads(predictor: Predictor) -> Iterator[None]:
    """Torch on one thread, where it does but little beside the engine's own threads: its others would wait for one
    another, with all their might, while photos are read and written."""
    threads = torch.get_num_threads()
    few = predictor.task == "semantic" and predictor.engine.name == "openvino"
    torch.set_num_threads(1 if few else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def sizes_to_expect(photos: Sequence[Path]) -> list[tuple[int, int]]:
    """The common sizes of photos, by the headers of a sample of them."""
    sizes = []
    for photo in photos[:: max(1, len(photos) // SAMPLE)]:
        with suppress(UserError):  # whoever reads the photo says so
            sizes.append(photo_size(photo))
    return common_sizes(sizes)


def common_sizes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes (H, W) that many photos have, two at most, for `Predictor.expect`."""
    return [size for size, count in Counter(sizes).most_common(2) if SHARE * count >= len(sizes)]


@dataclass(frozen=True)
class _Job:
    """The stages that a photo goes through; a user's error is handed on in its place."""

    predictor: Predictor
    output: Path
    depth: Path | None
    scores: bool
    overlays: bool
    min_score: float | None

    @property
    def finds_objects(self) -> bool:
        return self.predictor.task == "instances"

    def is_written(self, entry: Entry) -> bool:
        return is_written(
            self.output / entry.name,
            self.predictor.task,
            geometric=bool(self.predictor.geometric_classes),
            scores=self.scores,
            overlays=self.overlays,
        )

    def read(self, entry: Entry) -> Sample | UserError:
        try:
            sample = Sample(name=entry.name, image=read_image(entry.path), path=entry.path)
            if self.depth is not None:
                size = sample.image.shape[-2], sample.image.shape[-1]
                sample.depth = as_depth(find_depth(self.depth, entry.name), self.predictor.depth_channels, size)
        except UserError as error:
            return error
        return sample

    def predictions(self, entries: Sequence[Entry]) -> Generator[tuple[Entry, Prediction | UserError], None, None]:
        with closing(in_threads(entries, self.read)) as samples:
            for entry, sample in samples:
                yield entry, sample if isinstance(sample, UserError) else self._predict(sample)

    def _predict(self, sample: Sample) -> Prediction | UserError:
        try:
            return self.predictor.predict(
                sample.image, depth=sample.depth, scores=self.scores, min_score=self.min_score
            )
        except UserError as error:
            return error

    def write(self, predicted: tuple[Entry, Prediction | UserError]) -> list[dict[str, Any]] | UserError:
        """The objects, as in `instances.json`."""
        entry, prediction = predicted
        if isinstance(prediction, UserError):
            return prediction
        try:
            write_prediction(prediction, self.output / entry.name, overlays=self.overlays)
        except UserError as error:
            return error
        return coco_results(prediction, entry.image_id, entry.file_name) if self.finds_objects else []
