"""Files on the machine, on a file system that machines share, or in a store such as S3.

A place in a store is written as SCHEME://BUCKET/KEY, with options behind a question mark where the store takes any
(`s3://photos/2024?region=eu-west-1`). Who is asking, the store's own environment variables and files say.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from upscore.distributed.ray.cluster import import_ray
from upscore.errors import UserError
from upscore.files import writing

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class Place(NamedTuple):
    """A file or a folder, wherever it is."""

    store: str
    """The scheme, the bucket and the options; empty for the machine's own file system."""
    path: str
    """Absolute; in a store BUCKET/KEY."""

    @property
    def local(self) -> Path | None:
        """The path on the machine's own file system, if it is there."""
        return None if self.store else Path(self.path)

    def below(self, name: str) -> Place:
        """What has this name, with slashes for folders, in the folder."""
        return Place(self.store, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return f"{self.store.partition('://')[0]}://{self.path}" if self.store else self.path


def place(text: str | Path) -> Place:
    """A path, a file:// address, or an address in a store.

    Raises:
        UserError: an address without a bucket.
    """
    scheme, separator, rest = str(text).partition("://")
    if not separator:
        return Place("", str(Path(text).absolute()))
    if scheme == "file":
        return Place("", unquote(urlsplit(str(text)).path))
    location, question, options = rest.partition("?")
    bucket, _, key = location.partition("/")
    if not bucket:
        raise UserError(f"{text}: has no bucket; a place in a store is {scheme}://BUCKET/KEY")
    name = bucket.rpartition("@")[2]  # before it may be keys, which belong to the store and are never shown
    return Place(f"{scheme}://{bucket}{question}{options}", f"{name}/{key}".rstrip("/"))


@lru_cache(maxsize=32)
def _store(address: str) -> FileSystem:
    import_ray()  # pyarrow comes with it
    from pyarrow.fs import FileSystem

    if address.startswith("s3://") and "allow_delayed_open" not in address:  # else a file takes three requests
        address += f"{'&' if '?' in address else '?'}allow_delayed_open=true"
    return FileSystem.from_uri(address)[0]


@contextmanager
def _reaching(where: Place) -> Iterator[FileSystem]:
    """The store of a place; whatever it answers with ends in one sentence."""
    try:
        yield _store(where.store)
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no such file.") from error
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are among them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: the store can't be used: {reason}") from error


class Stored(NamedTuple):
    """What a store tells of a file."""

    bytes: int
    modified: int
    """Time in nanoseconds, 0 where the store does not tell it."""


def list_files(where: Place) -> dict[str, Stored]:
    """All files in and below a folder in a store by their names, sorted; a file itself has the one name "".

    Raises:
        UserError: the store can't be reached.
    """
    with _reaching(where) as store:
        from pyarrow.fs import FileSelector, FileType

        itself = store.get_file_info(where.path)
        if itself.type == FileType.File:
            return {"": Stored(itself.size, itself.mtime_ns or 0)}
        found = store.get_file_info(FileSelector(where.path, recursive=True, allow_not_found=True))
        root = f"{where.path}/"
        files = (file for file in found if file.type == FileType.File)
        return {
            file.path.removeprefix(root): Stored(file.size, file.mtime_ns or 0)
            for file in sorted(files, key=lambda file: file.path)
        }


@contextmanager
def fetched(where: Place) -> Iterator[Path]:
    """A file on this machine: itself, or a copy that is gone afterwards.

    Raises:
        UserError: it can't be read from its store.
    """
    if where.local is not None:
        yield where.local
        return
    with tempfile.TemporaryDirectory(prefix="upscore-") as folder:
        copy = Path(folder) / PurePosixPath(where.path).name
        with _reaching(where) as store, store.open_input_stream(where.path) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        yield copy


@contextmanager
def delivered(output: Place, staging: Path) -> Iterator[Path]:
    """Yield an empty folder; when the block ends, each of its files goes to the output, atomically.

    Args:
        output: the folder, or place in a store.
        staging: for what is not complete, on the file system of the output; of this run alone.

    Raises:
        UserError: the output can't be written.
    """
    local = output.local
    if local is None:
        with tempfile.TemporaryDirectory(prefix="upscore-") as folder:
            yield Path(folder)
            for file in _files(Path(folder)):
                upload(file, output.below(file.relative_to(folder).as_posix()))
        return
    folder = staging / uuid4().hex
    try:
        with writing(local):
            folder.mkdir(parents=True)
            yield folder
            for file in _files(folder):
                target = local / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def delete_file(where: Place) -> None:
    """Delete a file in a store.

    Raises:
        UserError: the store can't be used.
    """
    with _reaching(where) as store:
        store.delete_file(where.path)


def upload(file: Path, target: Place) -> None:
    """Copy a file to a store.

    Raises:
        UserError: the store can't be used.
    """
    with _reaching(target) as store, file.open("rb") as source, store.open_output_stream(target.path) as stream:
        shutil.copyfileobj(source, stream, 2**20)
