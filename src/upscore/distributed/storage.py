"""Access to files on a local or shared file system, or in an object store such as S3.

Locations in an object store have the form SCHEME://BUCKET/KEY, with options after a question mark
(`s3://images/2024?region=eu-west-1`). Credentials come from the environment variables and files of the store's client.
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
from upscore.text import first_line

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class Location(NamedTuple):
    """Location of a file or folder on the local file system or in an object store."""

    store: str
    """Scheme, bucket and options; empty for the local file system."""
    path: str
    """Absolute path; BUCKET/KEY in an object store."""

    @property
    def local(self) -> Path | None:
        """The path on the local file system, or None in an object store."""
        return None if self.store else Path(self.path)

    def below(self, name: str) -> Location:
        """Return the location of a file in this folder; `name` may contain slashes."""
        return Location(self.store, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return f"{self.store.partition('://')[0]}://{self.path}" if self.store else self.path


def parse_location(text: str | Path) -> Location:
    """Parse a path, a file:// URL or the URL of an object store.

    Raises:
        UserError: the URL has no bucket.
    """
    scheme, separator, rest = str(text).partition("://")
    if not separator:
        return Location("", str(Path(text).absolute()))
    if scheme == "file":
        return Location("", unquote(urlsplit(str(text)).path))
    location, question, options = rest.partition("?")
    bucket, _, key = location.partition("/")
    if not bucket:
        raise UserError(f"{text} has no bucket: use {scheme}://BUCKET/KEY")
    name = bucket.rpartition("@")[2]  # messages do not show the credentials before the @
    return Location(f"{scheme}://{bucket}{question}{options}", f"{name}/{key}".rstrip("/"))


@lru_cache(maxsize=32)
def _store(address: str) -> FileSystem:
    import_ray()  # installs with pyarrow
    from pyarrow.fs import FileSystem

    if address.startswith("s3://") and "allow_delayed_open" not in address:  # otherwise a file takes three requests
        address += f"{'&' if '?' in address else '?'}allow_delayed_open=true"
    return FileSystem.from_uri(address)[0]


@contextmanager
def _store_errors(location: Location) -> Iterator[FileSystem]:
    """Yield the file system of a location and convert its errors to `UserError`."""
    try:
        yield _store(location.store)
    except FileNotFoundError as error:
        raise UserError(f"{location} does not exist: check the path") from error
    except (OSError, ValueError, NotImplementedError) as error:  # base classes of pyarrow's errors
        raise UserError(
            f"{location}: the object store cannot be used ({first_line(error)}): check the address and the credentials"
        ) from error


class FileInfo(NamedTuple):
    """Size and modification time of a file in an object store."""

    bytes: int
    modified: int
    """Time in nanoseconds; 0 if unknown."""


def list_files(location: Location) -> dict[str, FileInfo]:
    """List all files below a folder in an object store, sorted by name; a file is listed under the name "".

    Raises:
        UserError: the object store cannot be reached.
    """
    with _store_errors(location) as store:
        from pyarrow.fs import FileSelector, FileType

        itself = store.get_file_info(location.path)
        if itself.type == FileType.File:
            return {"": FileInfo(itself.size, itself.mtime_ns or 0)}
        found = store.get_file_info(FileSelector(location.path, recursive=True, allow_not_found=True))
        root = f"{location.path}/"
        files = (file for file in found if file.type == FileType.File)
        return {
            file.path.removeprefix(root): FileInfo(file.size, file.mtime_ns or 0)
            for file in sorted(files, key=lambda file: file.path)
        }


@contextmanager
def fetched(location: Location) -> Iterator[Path]:
    """Yield a local path of a file: the file itself, or a temporary copy from an object store.

    Raises:
        UserError: the file cannot be read from its store.
    """
    if location.local is not None:
        yield location.local
        return
    with tempfile.TemporaryDirectory(prefix="upscore-") as folder:
        copy = Path(folder) / PurePosixPath(location.path).name
        with (
            _store_errors(location) as store,
            store.open_input_stream(location.path) as source,
            copy.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 2**20)
        yield copy


@contextmanager
def delivered(output: Location, staging: Path) -> Iterator[Path]:
    """Yield an empty folder; at the end of the block, move each of its files to the output atomically.

    Args:
        output: folder on a file system or in an object store.
        staging: folder for incomplete files of this run, on the file system of the output.

    Raises:
        UserError: the output cannot be written.
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


def delete_file(location: Location) -> None:
    """Delete a file in an object store.

    Raises:
        UserError: the object store cannot be used.
    """
    with _store_errors(location) as store:
        store.delete_file(location.path)


def upload(file: Path, target: Location) -> None:
    """Upload a file to an object store.

    Raises:
        UserError: the object store cannot be used.
    """
    with _store_errors(target) as store, file.open("rb") as source, store.open_output_stream(target.path) as stream:
        shutil.copyfileobj(source, stream, 2**20)
