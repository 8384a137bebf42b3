"""Atomic writing of files and folders, checks that they can be written, the cache folder, and digests of files."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from platformdirs import user_cache_path

from upscore.errors import UserError


class WriteError(UserError, OSError):
    """A file or folder can't be written, for example because the disk is full or the folder is read-only.

    It is also an OSError, so that code that writes optional files, such as caches, can ignore it with `except OSError`.

    Args:
        path: the file or folder.
        reason: the message of the operating system.
        remedy: what the user should do.
    """

    def __init__(self, path: str | Path, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path}: can't be written ({reason}){'; ' if remedy else ''}{remedy}")
        self.filename, self.strerror = str(path), reason

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Convert each OSError in a block to a `WriteError` with the path of the file that the block writes.

    Raises:
        WriteError: the block raises an OSError.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error.strerror or str(error)) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; it replaces `path` when the block ends, and is deleted when the block raises.

    The temporary file is in the same folder and has the same suffix. The length of its name does not depend on that of
    `path`, which may be as long as the file system allows.

    Raises:
        WriteError: the file can't be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path, path.suffix)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder; it replaces `path` when the block ends, and is deleted when the block raises.

    Raises:
        WriteError: the folder can't be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, replaced = _temporary(path, ".new"), _temporary(path, ".old")
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():
                path.replace(replaced)
            temporary.replace(path)
        finally:
            if replaced.exists() and not path.exists():  # interrupted between the two renames
                replaced.replace(path)
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        WriteError: the file can't be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(folder: Path, remedy: str) -> None:
    """Check, before long work, that files can be written to a folder, which may not exist yet.

    Args:
        folder: the folder.
        remedy: what the user should do otherwise; the end of the message.

    Raises:
        WriteError: files can't be written there.
    """
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        TemporaryFile(dir=existing).close()
    except OSError as error:
        raise WriteError(folder, error.strerror or str(error), remedy) from error


def require_writable_file(path: Path, remedy: str) -> None:
    """Check, before long work, that a file can be written.

    Args:
        path: the file.
        remedy: what the user should do otherwise; the end of the message.

    Raises:
        WriteError: the file can't be written.
    """
    if path.is_dir():
        raise WriteError(path, "it is a folder", remedy)
    require_writable(path.parent, remedy)


def not_own(path: Path) -> UserError:
    """Return the error for an output that would replace a file of another program."""
    return UserError(f"{path} exists, was not written by upscore and would be overwritten: choose another output")


def cache_root() -> Path:
    """Return the folder for caches: `UPSCORE_CACHE`, or `upscore` in the user's cache folder.

    Raises:
        RuntimeError: the user has no home folder.
    """
    folder = Path(os.environ.get("UPSCORE_CACHE") or user_cache_path("upscore", appauthor=False))
    if not os.environ.get("UPSCORE_CACHE") and not folder.is_absolute():
        raise RuntimeError(f"no folder for caches: {folder}")
    return folder


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of the contents of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary(path: Path, suffix: str) -> Path:
    """Return a hidden path in the folder of `path` that no other process or thread uses."""
    return path.with_name(f".{os.getpid()}-{uuid4().hex[:12]}{suffix[-64:]}")
