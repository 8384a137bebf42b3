"""Which files a data set reads, and whether they are still the same ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from upscore.data.datasets import Dataset, parse_scenes
from upscore.errors import UserError


def data_digest(*datasets: Dataset) -> str | None:
    """Digest of the names, sizes and modification times of all files that some data sets read.

    Names are relative to the folder that all files have in common, so that a folder can be moved.

    Returns:
        None where a data set reads no files, or does not say which (it has no attribute `files`).

    Raises:
        UserError: a file is not there any more.
    """
    parts: list[list[str]] = []
    for dataset in datasets:
        listed = getattr(dataset, "files", None)
        if listed is None:
            return None
        # links are kept: a file that is replaced behind a link has another time, not another name
        parts.append([str(Path(path).absolute()) for path in listed])
    root = os.path.commonpath([Path(path).parent for files in parts for path in files])
    digest = hashlib.sha256()
    for part in parts:
        for line in _lines(part, root):
            digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _lines(files: Iterable[str], root: str) -> Iterable[str]:
    for path in files:
        try:
            stat = Path(path).stat()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error
        yield f"{os.path.relpath(path, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"


def same_source(one: object, other: object) -> bool:
    """Whether two descriptions of data are of the same: the same path however it is spelled, or the same scenes."""
    scenes = [parse_scenes(source) if isinstance(source, str) else None for source in (one, other)]
    if any(scenes):
        return scenes[0] == scenes[1]
    if not (isinstance(one, str | Path) and isinstance(other, str | Path)):
        return False
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
