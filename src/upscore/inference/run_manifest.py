"""Run manifest: the model, the options and the inputs of predictions in an output folder, for resuming.

An output folder contains a hidden folder `.upscore` with a journal `RUN.jsonl` for each run. The first line of a
journal has the settings of the run: the version of upscore, a digest of the model, and all options that change the
result. Each further line is the record of a finished input: the fingerprint of its file, the written files and the
detected objects. A line is written after the files are complete, so the journal is correct even if the process is
killed. An active run holds a lock on `RUN.lock` and keeps its incomplete files in the folder `RUN`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import uuid4

import torch
from filelock import FileLock, Timeout

from upscore.checkpoints.model_folder import QUANTIZED, WEIGHTS
from upscore.errors import UserError
from upscore.files import file_digest, writing

if TYPE_CHECKING:
    from upscore.inference.model import Model

FOLDER = ".upscore"
JOURNAL, LOCK = ".jsonl", ".lock"
MAX_AGE = 24 * 3600
"""Age in seconds at which incomplete files of a run on another machine are deleted, whose locks may not be visible."""

MAX_HASHED, BLOCK, BLOCKS = 256 * 2**20, 2**20, 64
"""For files larger than `MAX_HASHED` bytes, only `BLOCKS` evenly spaced blocks of `BLOCK` bytes are hashed."""

Setting = str | int | float | bool | None
Settings = Mapping[str, Setting]
Fingerprint = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Record:
    """Record of a finished input."""

    name: str
    """Name of the output files, without endings."""
    inputs: list[Fingerprint]
    """Fingerprints of the image and, if present, of its depth map."""
    files: dict[str, int]
    """Written files, relative to the output folder, with their sizes in bytes."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """Detected objects in the COCO results format."""


def run_settings(predictor: Model, **options: Setting) -> dict[str, Setting]:
    """Return all settings that predictions depend on besides the input: model, version of upscore and options."""
    return {
        "model": model_digest(predictor, options.get("precision")),
        "version": version("upscore"),
        "engine": predictor.engine,
        "precision": predictor.precision,
        **options,
    }


def model_digest(predictor: Model, precision: Setting = None) -> str:
    """Return the digest of a model: its weights, training metadata and `Model.result_settings`.

    Args:
        predictor: the model.
        precision: precision in which it runs; None is that of `predictor`. int8 weights are separate files.
    """
    precision = precision or predictor.precision
    description = [predictor.training, predictor.result_settings]
    digest = hashlib.sha256(json.dumps(description, default=str, sort_keys=True).encode())
    if predictor.folder is not None:  # hash the files, since the weights may not be in memory
        quantized = sorted((predictor.folder / QUANTIZED).glob("*")) if precision == "int8" else []
        for file in (predictor.folder / WEIGHTS, *quantized):
            digest.update(file_digest(file).encode())
        return digest.hexdigest()
    for name, value in predictor.module.state_dict().items():
        digest.update(name.encode())
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)  # numpy has no bfloat16
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def require_same(
    folder: Path, before: Settings, now: Settings, remedy: str, sources: tuple[str, str] = ("", "")
) -> None:
    """Check that two runs have equal settings.

    Args:
        folder: folder that was written with the settings `before`.
        before, now: settings of both runs.
        remedy: advice for the user if they differ.
        sources: sources of the models of both runs.

    Raises:
        UserError: a setting differs; the message has its name and both values.
    """
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            values = [before.get(name), now.get(name)]
            if name == "model":
                digests = [str(value)[:12] for value in values]
                values = [f"{source} ({digest})".strip() for source, digest in zip(sources, digests, strict=True)]
            label = {"version": "upscore version"}.get(name, name)
            raise UserError(
                f"{folder} belongs to a run with {label} {values[0]}, but this run has {values[1]}: {remedy}"
            )


def fingerprint(path: Path) -> Fingerprint:
    """Return the name, size, times and digest of a file, or of the files of a folder.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return {**_stat(path), "sha256": _digest(path)}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def unchanged(before: Sequence[Fingerprint], paths: Sequence[Path]) -> bool:
    """Return whether files match earlier fingerprints.

    If size and times are equal, the file is not read; otherwise the digest decides, so that copied and moved files
    match and replaced files do not.
    """
    return len(before) == len(paths) and all(map(_is_same, before, paths))


def _is_same(before: Fingerprint, path: Path) -> bool:
    try:
        now = _stat(path)
        if any(now[key] != before.get(key) for key in ("file", "files", "bytes")):
            return False
        return now.items() <= before.items() or _digest(path) == before.get("sha256")
    except OSError:
        return False


def image_settings(path: Path) -> Fingerprint:
    """Return name, size and modification time of an image, as settings of a run over this image."""
    stat = _stat(path)
    return {"image": stat["file"], **{key: stat[key] for key in ("files", "bytes", "modified")}}


def raster_settings(predictor: Model, source: Path, pyramid_level: int) -> dict[str, Setting]:
    """Return the settings that identify the image and the model of a tiled run."""
    return {**image_settings(source), "pyramid_level": pyramid_level, **run_settings(predictor)}


def _stat(path: Path) -> Fingerprint:
    stats = [file.stat() for file in _files(path)]
    return {
        "file": path.name,
        "files": len(stats),
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max((stat.st_mtime_ns for stat in stats), default=0),
        "changed": max((stat.st_ctime_ns for stat in stats), default=0),  # also changed by a rename
    }


def _files(path: Path) -> list[Path]:
    """Return the file, or the files of an image that is a folder (Zarr)."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_dir():  # the names, sizes and times of its files
        for file in _files(path):
            stat = file.stat()
            digest.update(f"{file.relative_to(path).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    if size <= MAX_HASHED:
        return file_digest(path)
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(number * (size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


class _Position(NamedTuple):
    """Position of a record in a journal, and whether it has the settings of this run."""

    journal: Path
    offset: int
    valid: bool


class RunManifest:
    """Context manager for the journal of a run and those of earlier runs into the same output folder.

    Args:
        output: output folder.
        settings: settings of this run, see `run_settings`.
        source: source of the model, for messages.
        resume: require that the latest run has the same settings.
        exclusive: reject other active runs into the folder, whatever their settings.

    Raises:
        UserError: `resume` is set and the latest run has other settings; another run with other settings is writing to
            the folder, or any run if `exclusive`; or the folder cannot be written.
    """

    def __init__(
        self, output: Path, settings: Settings, *, source: str = "", resume: bool = False, exclusive: bool = False
    ) -> None:
        self.output, self.settings, self.source = output, dict(settings), source
        self.folder = output / FOLDER
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        self.staging = self.folder / self.run
        """Folder for incomplete files."""
        self.earlier: set[Path] = set()
        """Journals of runs that have ended."""
        self._records: dict[str, _Position] = {}
        self._own: dict[str, _Position] = {}
        self._segment = 0
        with writing(output):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / f"{self.run}{LOCK}", blocking=False, thread_local=False)
            self._lock.acquire()
            try:
                self._read_earlier(resume=resume, exclusive=exclusive)
                self._begin()
            except BaseException:
                self._lock.release()
                Path(self._lock.lock_file).unlink(missing_ok=True)
                with suppress(OSError):
                    self.folder.rmdir()
                raise

    def find(
        self,
        name: str,
        same: Callable[[Sequence[Fingerprint]], bool],
        size: Callable[[str], int | None] | None = None,
    ) -> Record | None:
        """Return the record of an input that was predicted with these settings, unless it has changed since.

        Args:
            name: name of its output.
            same: function that returns whether earlier fingerprints match the input, see `unchanged`.
            size: function from a file in the output folder to its size in bytes, None if missing; by default the size
                on disk.
        """
        position = self._records.get(name)
        if position is None or not position.valid:
            return None
        size = size or (lambda file: _size(self.output / file))
        try:
            record = _read(position)
        except (OSError, ValueError, TypeError):  # another run has just deleted the journal, or it is damaged
            return None
        if not same(record.inputs) or any(size(file) != bytes_ for file, bytes_ in record.files.items()):
            return None
        self.add(record)
        return record

    def add(self, record: Record) -> None:
        """Append the record of a finished input.

        Raises:
            WriteError: the journal cannot be written.
        """
        with writing(self.path):
            self._own[record.name] = _Position(self.path, self._file.tell(), valid=True)
            self._file.write(json.dumps(asdict(record)).encode() + b"\n")
            self._file.flush()

    def record(self, name: str) -> Record | None:
        """Return the record of an input of this run, or None."""
        position = self._own.get(name)
        return None if position is None else _read(position)

    def results(self, image_ids: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the objects in all inputs that this run has predicted or taken over, in the order of `image_ids`.

        Args:
            image_ids: image ids by the names of the outputs; they replace the ids in the records.
        """
        for name, image_id in image_ids.items():
            record = self.record(name)
            for result in [] if record is None else record.results:
                yield {**result, "image_id": image_id}

    def rotate(self) -> Path:
        """Close the journal, start another and return the closed one."""
        closed = self.path
        self._file.close()
        self._begin()
        return closed

    def close(self) -> None:
        """Delete earlier journals whose records are all replaced by this run, and release the lock."""
        self._file.close()
        own = {position.journal for position in self._own.values()}
        if self.path not in own:
            self.path.unlink(missing_ok=True)
        kept = {position.journal for name, position in self._records.items() if name not in self._own}
        for journal in self.earlier - kept:
            journal.unlink(missing_ok=True)
        shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):  # other journals are left
            self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        self._segment += 1
        self.path = self.folder / f"{self.run}-{self._segment}{JOURNAL}"
        header = {
            "settings": self.settings,
            "source": self.source,
            "started": time.time(),
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        self._file = self.path.open("wb")
        self._file.write(json.dumps(header).encode() + b"\n")
        self._file.flush()

    def _read_earlier(self, *, resume: bool, exclusive: bool) -> None:
        journals = [(header, path) for path in self.folder.glob(f"*{JOURNAL}") if (header := _header(path))]
        latest: dict[str, Any] | None = None
        for header, path in sorted(journals, key=lambda entry: entry[0]["started"]):
            same = header["settings"] == self.settings
            if self._is_alive(path, header):
                if exclusive or not same:
                    raise UserError(
                        f"{self.output}: process {header['process']} on {header['host']} is writing predictions there: "
                        "use separate --output folders, or wait until it has ended"
                    )
                continue
            self.earlier.add(path)
            for name, offset in _names(path):
                self._records[name] = _Position(path, offset, valid=same)
                latest = header
        if resume and latest is not None:
            remedy = "give the same model and options to resume, or leave --resume out to predict all again"
            sources = latest["source"], self.source
            require_same(self.output, latest["settings"], self.settings, remedy, sources)

    def _is_alive(self, journal: Path, header: Mapping[str, Any]) -> bool:
        """Return whether a run is active; delete the unfinished files of a dead run."""
        run = journal.stem.rpartition("-")[0]
        lock = self.folder / f"{run}{LOCK}"
        if not lock.exists():
            return False
        try:
            with FileLock(lock, blocking=False):
                pass
        except Timeout:
            return True
        if header["host"] == socket.gethostname() or time.time() - journal.stat().st_mtime > MAX_AGE:
            shutil.rmtree(self.folder / run, ignore_errors=True)
            lock.unlink(missing_ok=True)
        return False


def sizes_below(files: Sequence[Path], output: Path) -> dict[str, int]:
    """Return the sizes of files below an output folder, as in `Record.files`."""
    return {file.relative_to(output).as_posix(): _size(file) or 0 for file in files}


def _size(path: Path) -> int | None:
    try:
        return sum(file.stat().st_size for file in _files(path))
    except OSError:
        return None


def _header(path: Path) -> dict[str, Any] | None:
    """Return the first line of a journal, or None if it is incomplete."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
        types = {"settings": dict, "source": str, "started": float, "host": str, "process": int}
        return header if all(isinstance(header[key], type_) for key, type_ in types.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the offset of each complete record of a journal."""
    with path.open("rb") as file:
        offset = len(file.readline())
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                yield json.loads(line)["name"], offset
            offset += len(line)


def _read(position: _Position) -> Record:
    with position.journal.open("rb") as file:
        file.seek(position.offset)
        return Record(**json.loads(file.readline()))
