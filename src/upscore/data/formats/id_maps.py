"""Objects out of label files that number them, and out of those beside them that tell their classes.

K objects, H W pixels.

```
ROOT/labels/a.png     an object's number per pixel, of 8, 16 or 32 bits; 0 where there is none
ROOT/classes/a.png    optional (or class_maps/): a class index per pixel, 255 for void
ROOT/classes.txt      optional; without it all objects are of the class "object"
```

An object is of the class that most of its pixels have in `classes/`, void aside; what lies outside the objects does not
count there. Indices are those of `classes.txt`; where its first name is "background", that class is none of an object's
and is left out, so that the labels and the names of a semantic data set serve as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.data.formats.folder import LABELS, DatasetIndex
from upscore.data.io.images import LabelError, read_ids, read_label
from upscore.errors import UserError
from upscore.labels import VOID

CLASS_MAPS = ("classes", "class_maps")
ONE_CLASS = ["object"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMaps:
    """Turns the path of a map of objects into the objects."""

    classes: list[str]
    """The K object classes."""
    background: bool = False
    """Class maps count the background as class 0."""
    void: int | None = None
    """A number in the map that is no object's."""
    class_folders: dict[Path, Path] = field(default_factory=dict)
    """By a folder of maps of objects, that of their class maps; without any all objects are of class 0."""

    def __call__(self, path: Path) -> ObjectAnnotations:
        """Read one map.

        Raises:
            UserError: the map or its class map cannot be read; they differ in size; an object's class is not known.
        """
        ids = read_ids(path)
        if self.void is not None:
            ids[ids == self.void] = 0
        if not self.class_folders:
            return ObjectAnnotations.from_id_map(ids)
        class_path = self.class_folders[path.parent] / f"{path.stem}.png"
        class_map = read_label(class_path)
        if class_map.shape != ids.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width in (class_map.shape, ids.shape))
            raise LabelError(f"{class_path}: differs from {path} in size ({sizes} pixels); draw them over one image.")
        labels = classes_of_objects(ids, class_map, background=self.background)
        objects = ObjectAnnotations.from_id_map(ids, labels)
        if len(objects) and not 0 <= int(objects.labels.min()) <= int(objects.labels.max()) < len(self.classes):
            outside = (objects.labels < 0) | (objects.labels >= len(self.classes))
            number = int(objects.ids[outside][0])
            raise LabelError(
                f"{class_path}: gives object {number} of {path.name} none of the {len(self.classes)} classes "
                f"({', '.join(self.classes[:5])}{', ...' if len(self.classes) > 5 else ''}); label its pixels."
            )
        return objects


def classes_of_objects(ids: Tensor, class_map: Tensor, *, background: bool) -> Tensor:
    """By number - 1: the class that most of an object's pixels have, or -1 where all are void (or background).

    With `background`, class 0 of the class map is none of an object's, and class 1 becomes 0.
    """
    count = int(ids.max()) + 1
    pairs = ids.flatten().long() * (VOID + 1) + class_map.flatten()
    votes = torch.bincount(pairs, minlength=count * (VOID + 1)).view(count, VOID + 1)[1:, int(background) : VOID]
    most = votes.max(1)
    return torch.where(most.values > 0, most.indices, -1)


def id_maps_of(listing: DatasetIndex, root: Path) -> IdMaps:
    """The reader for a plain folder's labels.

    Raises:
        UserError: `classes.txt` and the folder of class maps need each other, and one is missing.
    """
    folders = _class_folders(listing, root)
    background = listing.classes is not None and listing.classes[0].lower() == "background"
    classes = (listing.classes or ONE_CLASS)[int(background) :]
    if not folders and len(classes) > 1:
        raise UserError(
            f"{listing.classes_from}: lists {len(classes)} classes, but nothing tells which object is of which; add "
            "classes/ beside labels/ with each pixel's class index, or leave one name in the file."
        )
    if folders and listing.classes is None:
        raise UserError(f"{root}: has class maps beside the labels, but no classes.txt; add it, with a name a line.")
    bare = next((path for path in _label_folders(listing) if folders and path not in folders), None)
    if bare is not None:
        raise UserError(f"{bare}: has no class maps beside it, but other labels have; add a folder classes/.")
    if not classes:
        raise UserError(f"{listing.classes_from}: names the background alone; add the name of an object.")
    return IdMaps(classes=classes, background=background, class_folders=folders)


def _class_folders(listing: DatasetIndex, root: Path) -> dict[Path, Path]:
    found = {folder: _class_folder(folder, root) for folder in _label_folders(listing)}
    return {folder: home for folder, home in found.items() if home is not None}


def _label_folders(listing: DatasetIndex) -> set[Path]:
    return {pair.label.parent for pairs in listing.splits.values() for pair in pairs if pair.label is not None}


def _class_folder(folder: Path, root: Path) -> Path | None:
    """`ROOT/train/classes/berlin` for `ROOT/train/labels/berlin`."""
    for parent in (folder, *folder.parents):
        if parent == root:
            break
        if parent.name.lower() in LABELS:
            roots = (parent.parent / name for name in CLASS_MAPS)
            home = next((home for home in roots if home.is_dir()), None)
            return None if home is None else home / folder.relative_to(parent)
    return None
