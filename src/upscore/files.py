"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from platformdirs import user_cache_path

from upscore.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends well, and is removed when it does not.

    The temporary file keeps the suffix, which many writers read the format from.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
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
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(folder: Path, remedy: str) -> None:
    """Make sure, before minutes of work, that files can be written into a folder, which need not be there yet.

    Raises:
        UserError: they can't; it ends in the remedy.
    """
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror or error}); {remedy}") from error


def cache_root() -> Path:
    """The folder for caches: `UPSCORE_CACHE`, or `upscore` in the user's cache folder.

    Raises:
        RuntimeError: the user has no home folder.
    """
    folder = Path(os.environ.get("UPSCORE_CACHE") or user_cache_path("upscore", appauthor=False))
    if not os.environ.get("UPSCORE_CACHE") and not folder.is_absolute():
        raise RuntimeError(f"no folder for caches: {folder}")
    return folder
