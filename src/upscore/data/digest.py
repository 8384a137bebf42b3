"""Digest of the files of data sets, to detect that they have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from upscore.data.datasets import Dataset, parse_scenes
from upscore.errors import UserError


def data_digest(*datasets: Dataset) -> str | None:
    """Compute a digest of the names, sizes and modification times of all files of some data sets.

    Names are relative to the common parent folder of all files, so the digest stays the same when the folder is moved.

    Returns:
        The SHA-256 digest; None if a data set has no attribute `files`.

    Raises:
        UserError: a file does not exist any more.
    """
    parts = [getattr(dataset, "files", None) or [] for dataset in datasets]
    if not all(parts):
        return None
    files = [[Path(path).absolute() for path in part] for part in parts]
    root = Path(os.path.commonpath([path.parent for part in files for path in part]))
    digest = hashlib.sha256()
    for part in files:
        for line in _lines(part, root):
            digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _lines(files: Iterable[Path], root: Path) -> Iterable[str]:
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error
        yield f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"


def same_source(one: object, other: object) -> bool:
    """Return whether two sources are the same: paths to the same folder, or the same generated scenes."""
    scenes = [parse_scenes(source) if isinstance(source, str) else None for source in (one, other)]
    if any(scenes):
        return scenes[0] == scenes[1]
    if not (isinstance(one, str | Path) and isinstance(other, str | Path)):
        return False
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
