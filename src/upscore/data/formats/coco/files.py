"""Find the JSON files and the images of a COCO data set.

```
ROOT/annotations/instances_train2017.json  ROOT/train2017/1.jpg   (or images/, images/train2017/; or the JSON in ROOT)
ROOT/annotations.json                      ROOT/images/1.jpg      (or beside the JSON)
ROOT/train/_annotations.coco.json          ROOT/train/1.jpg
```

The name of a split is the part of the file name after `instances_`, without the year.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from upscore.data.formats.coco.reader import Coco, read_coco
from upscore.data.formats.folder import SPLITS, UNSPLIT, DatasetIndex, Issue, Pair, child_folders
from upscore.errors import UserError

SEARCHED = 100
"""Images of a JSON file that are looked for to find the folder of all of them."""

WHOLE = ("annotations.json", "_annotations.coco.json")


def find_coco(source: str | Path) -> dict[str, Path] | None:
    """Return the JSON file of each split of a folder, or the file itself for a path to one; None if there is none."""
    root = Path(source)
    if root.suffix.lower() == ".json" and root.is_file():
        return {UNSPLIT: root}
    if not root.is_dir():
        return None
    found: dict[str, Path] = {}
    for path in sorted(path for home in (root, root / "annotations") for path in home.glob("instances_*.json")):
        _add(found, _split(path), path)
    for name, folder in {} if found else child_folders(root).items():
        if name.lower() in SPLITS and (folder / WHOLE[1]).is_file():
            _add(found, SPLITS[name.lower()], folder / WHOLE[1])
    whole = [path for home in (root, root / "annotations") for name in WHOLE if (path := home / name).is_file()]
    if not found and whole:
        found[UNSPLIT] = whole[0]
    return {split: found[split] for split in sorted(found, key=_order)} or None


def _split(path: Path) -> str:
    name = path.stem.removeprefix("instances_")
    name = re.sub(r"(19|20)\d\d$", "", name) or name
    return SPLITS.get(name.lower(), name)


def _add(found: dict[str, Path], split: str, path: Path) -> None:
    if split in found:
        raise UserError(f"{path}: {found[split]} also contains the split {split!r}; keep one of them.")
    found[split] = path


def _order(split: str) -> tuple[int, str]:
    known = list(SPLITS.values())
    return (known.index(split) if split in known else len(known)), split


@dataclass(slots=True, kw_only=True)
class CocoIndex(DatasetIndex):
    """The images of one or more JSON files; the label of each pair is its JSON file."""

    files: dict[Path, Coco] = field(default_factory=dict)
    places: dict[tuple[Path, Path], int] = field(default_factory=dict)
    """Index of an image in its JSON file, by JSON file and image file."""


def list_coco(found: dict[str, Path], source: str | Path) -> CocoIndex:
    """Read the JSON files and find their images.

    Raises:
        UserError: a file is not a COCO file, or two files have different categories.
    """
    root = Path(source)
    first, *others = files = [read_coco(path) for path in found.values()]
    for other in others:
        if (other.category_ids, other.classes) != (first.category_ids, first.classes):
            raise UserError(f"{other.path}: has other categories than {first.path}; use the same list in both.")
    listing = CocoIndex(
        layout="COCO",
        splits={},
        classes=first.classes,
        classes_from=f"the categories of {first.path}",
        issues=[issue for file in files for issue in file.issues],
        files={file.path: file for file in files},
    )
    for split, file in zip(found, files, strict=True):
        names = [os.fsdecode(name) for name in file.file_names[:SEARCHED]]
        listing.splits[split] = _pairs(file, image_folder(file.path, names, split, root), listing)
    return listing


def image_folder(json: Path, names: Sequence[str], split: str, root: Path) -> Path:
    """Return the folder of the images of a JSON file: the first candidate that contains one of the listed images."""
    beside = json.parent
    top = beside if root == json else root
    year = json.stem.removeprefix("instances_")
    tops = [top, top.parent] if top.name == "annotations" else [top]
    roots = [home / name for home in tops for name in (f"images/{year}", year, f"images/{split}", split, "images", "")]
    for name in names[:SEARCHED]:
        for home in [*roots, beside]:
            if (home / name).is_file():
                return home
    return top / "images"


def _pairs(file: Coco, folder: Path, listing: CocoIndex) -> list[Pair]:
    pairs = []
    for place, encoded in enumerate(file.file_names):
        name = os.fsdecode(encoded)
        image = folder / name
        if not image.is_file():
            listing.issues.append(
                Issue("missing image", image, f"{image}: is listed in {file.path} but missing; add or unlist it.")
            )
            continue
        listing.places[file.path, image] = place
        pairs.append(Pair(str(PurePosixPath(name).with_suffix("")), image, file.path))
    return sorted(pairs)
