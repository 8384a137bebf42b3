"""Splits defined by lists of image names, and the files that belong to each name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from upscore.data.formats.folder import Issue, Pair
from upscore.errors import UserError


class Files:
    """The files with a suffix and a prefix in a folder, by their names in the lists of splits.

    Names are only looked up among the existing files, so a name in a list cannot lead out of the folder.
    """

    def __init__(self, folder: Path, suffix: str, prefix: str = "") -> None:
        self.folder, self.suffix, self.prefix = folder, suffix, prefix
        files = folder.iterdir() if folder.is_dir() else ()
        self.names = {
            path.stem.removeprefix(prefix)
            for path in files
            if path.suffix == suffix and path.stem.startswith(prefix) and not path.stem.startswith(".")
        }

    def __getitem__(self, name: str) -> Path:
        return self.folder / f"{self.prefix}{name}{self.suffix}"


def read_list(path: Path) -> list[str] | None:
    """Return the names in a list without duplicates; None if the file does not exist.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        return list(dict.fromkeys(path.read_text(encoding="utf-8-sig").split()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error


def pair_listed(
    names: Collection[str],
    split: str,
    images: Files,
    labels: Files | None,
    issues: list[Issue],
    *,
    geometric: Files | None = None,
    depth: Files | None = None,
) -> list[Pair]:
    """Return the pairs of the listed images, sorted by name; images with missing files are added to `issues`."""
    kinds = [("missing image", images)]
    kinds += [("missing label", files) for files in (labels, geometric, depth) if files is not None]
    pairs = []
    for name in sorted(names):
        kind, path = next(((kind, files[name]) for kind, files in kinds if name not in files.names), ("", None))
        if path is not None:
            issues.append(Issue(kind, path, f"{path}: is listed in the split {split!r} but missing."))
            continue
        beside = (None if files is None else files[name] for files in (labels, geometric, depth))
        pairs.append(Pair(name, images[name], *beside))
    return pairs
