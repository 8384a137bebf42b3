"""List images and labels in plain folders, paired by file name without reading the files.

```
ROOT/images/a.jpg        ROOT/labels/a.png         (or masks/, annotations/)
ROOT/train/images/a.jpg  ROOT/train/labels/a.png   and the same in val/ and test/
ROOT/images/train/a.jpg  ROOT/labels/train/a.png
ROOT/classes.txt         one class name per line; the class index is the number of the line, from 0
```

The key of a file is its path relative to the folder, without suffix: `berlin/0001` for `images/berlin/0001.jpg`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from torch import Tensor

from upscore.data.formats.class_names import find_classes
from upscore.data.io.decoding import SUFFIXES
from upscore.data.io.images import read_label
from upscore.errors import UserError

IMAGES = ("images",)
"""Names of folders of images."""
LABELS = ("labels", "masks", "annotations")
"""Names of folders of labels."""
LABEL_ENDINGS = ("", "_mask", "_label", "_L")
"""Endings that the key of a label may have in addition to that of its image."""
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Name of a folder -> name of the split."""
UNSPLIT = ""
"""The only key of `DatasetIndex.splits` of a data set without splits."""


class Pair(NamedTuple):
    """The files of one sample."""

    name: str
    image: Path
    label: Path | None
    """The label file; None if the split has no labels."""
    geometric: Path | None = None
    """The label file of a second set of classes."""
    depth: Path | None = None
    """The depth file."""


class Issue(NamedTuple):
    """A problem with one file of a data set."""

    kind: str
    """The kind of problem, such as "missing label", for grouping."""
    path: Path
    message: str
    """A complete sentence that contains the path."""
    annotation: int | None = None
    """The id of the invalid annotation in a COCO file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricLabels:
    """The second set of classes of a data set, and the reader of its labels."""

    classes: list[str]
    read: Callable[[Path], Tensor]
    """Reads a label file as (H, W) uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthMaps:
    """The number of channels of the depth maps of a data set, and their reader."""

    channels: int
    """D: 1 for depth in metres, 3 for HHA."""
    read: Callable[[Path], Tensor]
    """Reads a depth file as (D, H, W) float32, NaN where the depth is unknown."""


@dataclass(slots=True, kw_only=True)
class DatasetIndex:
    """The files of a data set, found by their names without reading them."""

    layout: str
    """Description of the layout, for messages."""
    splits: dict[str, list[Pair]]
    """The pairs of each split; the only key is `UNSPLIT` if there are no splits."""
    classes: list[str] | None
    """The class names; None if the labels must be read to find the classes."""
    classes_from: str
    """Where the class names come from, for messages."""
    read_label: Callable[[Path], Tensor] = read_label
    """Reads a label file as (H, W) uint8."""
    geometric: GeometricLabels | None = None
    depth: DepthMaps | None = None
    issues: list[Issue] = field(default_factory=list)


def list_folder(root: Path) -> DatasetIndex | None:
    """List the files of a plain folder; None if `root` has none of the layouts above.

    Raises:
        UserError: a folder of images has no labels next to it, a folder cannot be read, or `classes.txt` is invalid.
    """
    issues: list[Issue] = []
    folders = _folders_of_splits(root, issues)
    if not folders:
        return None
    splits = {split: pair_folders(images, labels, issues) for split, (images, labels) in folders.items()}
    roots = dict.fromkeys([root, *(images.parent for images, _ in folders.values())])
    classes, source = find_classes([*roots, root.parent] if root.name.lower() in SPLITS else list(roots))
    return DatasetIndex(layout="a plain folder", splits=splits, classes=classes, classes_from=source, issues=issues)


def _folders_of_splits(root: Path, issues: list[Issue]) -> dict[str, tuple[Path, Path | None]]:
    """Return the folders of images and of labels by split; empty if the layout is another."""
    folders = child_folders(root)
    images = _first(folders, IMAGES)
    if images is None:
        roots = _by_split(folders)
        image_folders = {split: _first(child_folders(folder), IMAGES) for split, folder in roots.items()}
        return {
            split: (images, _labels_of(split, roots[split], child_folders(roots[split])))
            for split, images in image_folders.items()
            if images is not None
        }
    labels = _labels_of(UNSPLIT, root, folders)
    assert labels is not None
    subfolders = child_folders(images)
    splits = _by_split(subfolders)
    if "train" not in splits:
        return {UNSPLIT: (images, labels)}
    outside = (path for path in sorted(images.iterdir()) if path not in splits.values())
    issues.extend(
        Issue("outside", path, f"{path}: is outside the folders of the splits; move it into one of them.")
        for path in outside
        if path.name in subfolders or path.suffix.lower() in SUFFIXES
    )
    label_folders = child_folders(labels)
    return {
        split: (folder, None if split == "test" and folder.name not in label_folders else labels / folder.name)
        for split, folder in splits.items()
    }


def _by_split(folders: dict[str, Path]) -> dict[str, Path]:
    """Return the folders that are named like a split, by split, in the order of `SPLITS`."""
    splits: dict[str, Path] = {}
    for name, folder in folders.items():
        split = SPLITS.get(name.lower())
        if split in splits:
            raise UserError(f"{folder}: {splits[split]} also contains the split {split!r}; keep one of them.")
        if split is not None:
            splits[split] = folder
    return {split: splits[split] for split in SPLITS.values() if split in splits}


def pair_folders(images: Path, labels: Path | None, issues: list[Issue]) -> list[Pair]:
    """Pair the images and the labels of two folders by key; files without a partner are added to `issues`."""
    image_files = list_images(images, issues)
    if labels is None:
        return [Pair(key, path, None) for key, path in image_files.items()]
    masks = list_images(labels, issues)
    pairs = []
    for key, image in image_files.items():
        mask = next((masks.pop(key + ending) for ending in LABEL_ENDINGS if key + ending in masks), None)
        if mask is None:
            issues.append(Issue("missing label", image, f"{image}: has no label {labels / key}.png; add it."))
        else:
            pairs.append(Pair(key, image, mask))
    for key, mask in masks.items():
        issues.append(Issue("missing image", mask, f"{mask}: has no image {images / key}.jpg; add it."))
    return pairs


def list_images(folder: Path, issues: list[Issue]) -> dict[str, Path]:
    """Return the image files in a folder and its subfolders by key, sorted; repeated keys are added to `issues`.

    Raises:
        UserError: a folder cannot be read, or there are no image files.
    """
    found: dict[str, str] = {}
    others: Counter[str] = Counter()
    for path, key, suffix in walk_files(folder):
        if suffix not in SUFFIXES:
            others[suffix or "no suffix"] += 1
        elif key in found:
            duplicate = Path(max(path, found[key]))
            found[key] = min(path, found[key])
            message = f"{duplicate}: {found[key]} has the same name; keep one of them."
            issues.append(Issue("duplicate", duplicate, message))
        else:
            found[key] = path
    if not found:
        only = f" (only {', '.join(sorted(others)[:5])})" if others else ""
        raise UserError(f"{folder}: contains no image files{only}; supported are {', '.join(sorted(SUFFIXES))}.")
    return {key: Path(found[key]) for key in sorted(found)}


def walk_files(folder: Path, *, labels: bool = True, exclude: Path | None = None) -> list[tuple[str, str, str]]:
    """Return (path, key, lower-case suffix) of every file in a folder and its subfolders.

    Links to folders are followed, each folder once; hidden files and folders are left out. Keys are in Unicode's
    composed form (NFC), so that names written by different operating systems match.

    Args:
        folder: the folder.
        labels: whether to include labels/, masks/ and annotations/ beside images/.
        exclude: a subfolder to leave out.

    Raises:
        UserError: a folder can't be read.
    """
    files: list[tuple[str, str, str]] = []
    visited = set() if exclude is None else {os.path.realpath(exclude)}
    for parent, children, names in os.walk(folder, onerror=_cannot_read, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            children.clear()
            continue
        visited.add(real)
        excluded = LABELS if not labels and not {*IMAGES}.isdisjoint(children) else ()
        children[:] = [child for child in children if not child.startswith(".") and child not in excluded]
        relative = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        for name in names:
            if not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                stem, suffix = os.path.splitext(name)  # noqa: PTH122 - Path objects take seconds for 100,000 files
                key = unicodedata.normalize("NFC", prefix + stem)
                files.append((f"{parent}{os.sep}{name}", key, suffix.lower()))
    return files


def child_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders of a folder by name, sorted, without hidden ones.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        _cannot_read(error)
    return {name: folder / name for name in names}


def _cannot_read(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror}).") from error


def _first(folders: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    """Return the folder with the first of the names that exists, ignoring case."""
    by_name = {name.lower(): path for name, path in folders.items()}
    return next((by_name[name] for name in names if name in by_name), None)


def _labels_of(split: str, root: Path, folders: dict[str, Path]) -> Path | None:
    """Return the folder of labels among the subfolders of `root`; None if the test split has none."""
    labels = _first(folders, LABELS)
    if labels is None and split != "test":
        raise UserError(f"{root}: has images/ but no labels/ next to it; add labels/, masks/ or annotations/.")
    return labels


class Files:
    """The files with a suffix and a prefix in a folder, by their names in the lists of splits.

    Names are only looked up among the existing files, so a name in a list cannot lead out of the folder.

    Args:
        folder: the folder, which may be missing.
        suffix: the end of the file names, such as ".png".
        prefix: the beginning of the file names that the lists omit.
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
