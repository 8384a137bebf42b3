"""Run manifest: the model, the options and the inputs of predictions in an output folder, for resuming.

An output folder has a hidden folder `.upscore` with a journal for each run, `RUN.jsonl`. Its first line holds the
settings of the run: the version of upscore, a digest of the model, and all options that change the result. Each further
line is one finished input: a fingerprint of its file, the files that were written, and the objects that were found. A
line is added when the files are complete, so a journal is correct after a kill at any moment. While a run is alive it
holds a lock on `RUN.lock`, and files that it has not finished are in the folder `RUN`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import uuid4

from filelock import FileLock, Timeout

from upscore.checkpoints.model_folder import QUANTIZED, WEIGHTS
from upscore.errors import UserError
from upscore.files import file_digest, write_text, writing

if TYPE_CHECKING:
    from upscore.inference.model import Model

FOLDER = ".upscore"
JOURNAL, LOCK = ".jsonl", ".lock"
SETTINGS = "settings.json"
"""In a folder of tiles."""

ABANDONED = 24 * 3600
"""Seconds after which the unfinished files of another machine's run are deleted; locks may not reach there."""

SAMPLED, SAMPLE, SAMPLES = 256 * 2**20, 2**20, 64
"""Of files of more than `SAMPLED` bytes, `SAMPLES` parts of `SAMPLE` bytes are hashed."""

Setting = str | int | float | bool | None
Settings = Mapping[str, Setting]
Fingerprint = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Record:
    """One finished input."""

    name: str
    """Of its output, without endings."""
    inputs: list[Fingerprint]
    """Of the image, and of the depth map where there is one."""
    files: dict[str, int]
    """The files that were written, relative to the output folder, and their sizes in bytes."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """The objects that were found, in COCO's results format."""


def run_settings(predictor: Model, **options: Setting) -> dict[str, Setting]:
    """Everything that predictions depend on besides the input: the model, upscore's version and the options."""
    return {
        "model": model_digest(predictor, options.get("precision")),
        "version": version("upscore"),
        "engine": predictor.engine,
        "precision": predictor.precision,
        **options,
    }


def model_digest(predictor: Model, precision: Setting = None) -> str:
    """Digest of a network's weights and of all other facts that its predictions depend on.

    Args:
        predictor: the model.
        precision: the precision that it runs in; by default its own. The weights in int8 are files of their own.
    """
    precision = precision or predictor.precision
    facts = [
        predictor.architecture,
        predictor.training,
        predictor.classes,
        str(predictor.preprocessing),
        predictor.max_side,
    ]
    digest = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode())
    if predictor.folder is not None:  # whose weights need not be in memory
        quantized = sorted((predictor.folder / QUANTIZED).glob("*")) if precision == "int8" else []
        for file in (predictor.folder / WEIGHTS, *quantized):
            digest.update(file_digest(file).encode())
        return digest.hexdigest()
    for name, value in predictor.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def require_same(
    place: Path, before: Settings, now: Settings, remedy: str, sources: tuple[str, str] = ("", "")
) -> None:
    """Check that settings agree.

    Args:
        place: what was made with the settings `before`.
        remedy: what the user should do if they differ.
        sources: where the model was loaded from, before and now.

    Raises:
        UserError: one differs; it names the setting and both values.
    """
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            values = [before.get(name), now.get(name)]
            if name == "model":
                values = [f"{sources[at]} ({str(value)[:12]})".strip() for at, value in enumerate(values)]
            label = {"version": "upscore version"}.get(name, name)
            raise UserError(f"{place} is of a run with {label} {values[0]}, but now it is {values[1]}: {remedy}")


def fingerprint(path: Path) -> Fingerprint:
    """Name, size, times and digest of a file, or of a folder's files.

    Raises:
        UserError: it can't be read.
    """
    try:
        return {**_stat(path), "sha256": _digest(path)}
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from error


def unchanged(before: Sequence[Fingerprint], paths: Sequence[Path]) -> bool:
    """Whether files are those of earlier fingerprints.

    Where size and times are the same, nothing is read; otherwise the digest decides, so that copies and files that were
    moved elsewhere and back agree, and files that were exchanged for one another don't.
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
    """Name, size and time of an image, as settings of a run over this image alone."""
    stat = _stat(path)
    return {"image": stat["file"], **{key: stat[key] for key in ("files", "bytes", "modified")}}


def _stat(path: Path) -> Fingerprint:
    stats = [file.stat() for file in _files(path)]
    return {
        "file": path.name,
        "files": len(stats),
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max((stat.st_mtime_ns for stat in stats), default=0),
        "changed": max((stat.st_ctime_ns for stat in stats), default=0),  # by a rename, too
    }


def _files(path: Path) -> list[Path]:
    """The file, or the files of an image that is a folder, as in Zarr."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_dir():  # the names, sizes and times of its files
        for file in _files(path):
            stat = file.stat()
            digest.update(f"{file.relative_to(path).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    if size <= SAMPLED:
        return file_digest(path)
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


class _Place(NamedTuple):
    """Where a record is, and whether it was made with the settings of this run."""

    journal: Path
    offset: int
    valid: bool


class RunManifest:
    """The journal of a run, and those of earlier runs into the same output folder; a context manager.

    Args:
        output: the folder.
        settings: of this run, see `run_settings`.
        source: where the model was loaded from, for messages.
        resume: accept nothing but an output of the same settings.
        exclusive: refuse another run that is writing to the folder, whatever its settings.

    Raises:
        UserError: `resume`, and the latest run had other settings; or another run is writing to the folder that has
            other settings, or is `exclusive`; or the folder can't be written.
    """

    def __init__(
        self, output: Path, settings: Settings, *, source: str = "", resume: bool = False, exclusive: bool = False
    ) -> None:
        self.output, self.settings, self.source = output, dict(settings), source
        self.folder = output / FOLDER
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        self.staging = self.folder / self.run
        """For files that are not complete."""
        self.earlier: set[Path] = set()
        """The journals of runs that have ended."""
        self._records: dict[str, _Place] = {}
        self._own: dict[str, _Place] = {}
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
        """The record of an input that was predicted with these settings, if nothing has changed since.

        Args:
            name: of its output.
            same: tells whether the input's fingerprints are those of today, see `unchanged`.
            size: bytes of a file in the output folder, None where it is missing; by default as the disk has it.
        """
        place = self._records.get(name)
        if place is None or not place.valid:
            return None
        size = size or (lambda file: _size(self.output / file))
        try:
            record = _read(place)
        except (OSError, ValueError, TypeError):  # another run has just replaced it, or the disk is damaged
            return None
        if not same(record.inputs) or any(size(file) != bytes_ for file, bytes_ in record.files.items()):
            return None
        self.add(record)
        return record

    def add(self, record: Record) -> None:
        """Append a finished input.

        Raises:
            WriteError: the journal can't be written.
        """
        with writing(self.path):
            self._own[record.name] = _Place(self.path, self._file.tell(), valid=True)
            self._file.write(json.dumps(asdict(record)).encode() + b"\n")
            self._file.flush()

    def record(self, name: str) -> Record | None:
        """The record of an input that this run has predicted or found."""
        place = self._own.get(name)
        return None if place is None else _read(place)

    def results(self, image_ids: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """The objects in the inputs that this run has predicted or found, in the order of the inputs given.

        Args:
            image_ids: by the names of the outputs; they replace those of the records.
        """
        for name, image_id in image_ids.items():
            record = self.record(name)
            for result in [] if record is None else record.results:
                yield {**result, "image_id": image_id}

    def rotate(self) -> Path:
        """Close the journal and begin another; returns the closed one."""
        closed = self.path
        self._file.close()
        self._begin()
        return closed

    def close(self) -> None:
        """Delete earlier journals that have nothing but what this run has replaced, and release the lock."""
        self._file.close()
        own = {place.journal for place in self._own.values()}
        if self.path not in own:
            self.path.unlink(missing_ok=True)
        kept = {place.journal for name, place in self._records.items() if name not in self._own}
        for journal in self.earlier - kept:
            journal.unlink(missing_ok=True)
        shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
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
                self._records[name] = _Place(path, offset, valid=same)
                latest = header
        if resume and latest is not None:
            remedy = "give the same model and options to resume, or leave --resume out to predict all again"
            sources = latest["source"], self.source
            require_same(self.output, latest["settings"], self.settings, remedy, sources)

    def _is_alive(self, journal: Path, header: Mapping[str, Any]) -> bool:
        """Whether a run is going on; what a dead one has left unfinished is deleted."""
        run = journal.stem.rpartition("-")[0]
        lock = self.folder / f"{run}{LOCK}"
        if not lock.exists():
            return False
        try:
            with FileLock(lock, blocking=False):
                pass
        except Timeout:
            return True
        if header["host"] == socket.gethostname() or time.time() - journal.stat().st_mtime > ABANDONED:
            shutil.rmtree(self.folder / run, ignore_errors=True)
            lock.unlink(missing_ok=True)
        return False


def sizes_below(files: Sequence[Path], output: Path) -> dict[str, int]:
    """Files in and below an output folder, as `Record.files` has them."""
    return {file.relative_to(output).as_posix(): _size(file) or 0 for file in files}


def _size(path: Path) -> int | None:
    try:
        return sum(file.stat().st_size for file in _files(path))
    except OSError:
        return None


def _header(path: Path) -> dict[str, Any] | None:
    """The first line of a journal; None where it is incomplete."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
        types = {"settings": dict, "source": str, "started": float, "host": str, "process": int}
        return header if all(isinstance(header[key], kind) for key, kind in types.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _names(path: Path) -> Iterator[tuple[str, int]]:
    """The name and the offset of each complete record of a journal."""
    with path.open("rb") as file:
        offset = len(file.readline())
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                yield json.loads(line)["name"], offset
            offset += len(line)


def _read(place: _Place) -> Record:
    with place.journal.open("rb") as file:
        file.seek(place.offset)
        return Record(**json.loads(file.readline()))


def begin(folder: Path, settings: Settings) -> None:
    """Make the folder of a run's finished tiles, or go on with it; safe in several processes at once.

    Raises:
        UserError: it is of a run with other settings, or can't be written.
    """
    begun = folder / SETTINGS
    if begun.is_file():
        try:
            before = dict(json.loads(begun.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{begun}: can't be read ({error}); delete {folder} to begin anew") from error
        require_same(folder, before, settings, "give the same again to resume, or delete the folder to begin anew")
    elif any(folder.glob("*.npz")):
        raise UserError(f"{folder} has tiles of a run that is not known: delete it to begin anew")
    else:
        write_text(begun, json.dumps(dict(settings), indent=2) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder of unfinished tiles; it is released when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    path = folder / "lock"
    with writing(folder):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, blocking=False, is_singleton=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise UserError(
                    f"{folder}: another process is predicting these tiles: wait for it, or choose another --output"
                ) from error
            if path.exists():
                break
            lock.release()  # the other process has just ended, and deleted the folder
    try:
        yield
    finally:
        lock.release()
