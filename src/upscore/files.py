"""Atomic writing of files and folders, and checks that they can be written."""

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
    """A file can't be written: the disk is full, the folder is read-only, the name is too long.

    It is also an OSError, so that code that writes optional files, such as caches, can ignore it by `except OSError`.

    Args:
        path: the file or folder.
        reason: what the operating system says.
        remedy: what the user should do.
    """

    def __init__(self, path: str | Path, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path}: can't be written ({reason}){'; ' if remedy else ''}{remedy}")
        self.filename, self.strerror = str(path), reason

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn each OSError of a block into a `WriteError` with the path of the file that the block writes.

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
            if replaced.exists() and not path.exists():  # interrupted between the two
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
    """Check, before minutes of work, that files can be written into a folder, which need not exist.

    Raises:
        WriteError: they can't; the message ends in the remedy.
    """
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise WriteError(folder, error.strerror or str(error), remedy) from error


def require_writable_file(path: Path, remedy: str) -> None:
    """Check, before minutes of work, that a file can be written.

    Raises:
        WriteError: it can't; the message ends in the remedy.
    """
    if path.is_dir():
        raise WriteError(path, "it is a folder", remedy)
    require_writable(path.parent, remedy)


def not_own(path: Path) -> UserError:
    """Return the error for a file of another program that an output would replace."""
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


def _temporary(path: Path, suffix: str) -> Path:
    """Return a hidden path in the folder of `path` that no other process or thread uses."""
    return path.with_name(f".{os.getpid()}-{uuid4().hex[:12]}{suffix[-64:]}")


def file_digest(path: Path) -> str:
    """The SHA-256 digest of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
