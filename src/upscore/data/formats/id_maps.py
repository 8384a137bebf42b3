"""Read objects from id maps (an object number per pixel), and their classes from class maps.

K objects, H W pixels.

```
ROOT/labels/a.png     an object number per pixel, 8, 16 or 32 bits; 0 = no object
ROOT/classes/a.png    optional (or class_maps/): a class index per pixel, 255 = void
ROOT/classes.txt      optional; without it all objects have the class "object"
```

The class of an object is the most frequent class of its pixels in `classes/`, without void. The indices are those of
`classes.txt`. If the first name is "background", it is not a class of objects and is left out, so that the class maps
and names of a semantic segmentation data set can be used unchanged.
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
"""Names of folders of class maps."""
ONE_CLASS = ["object"]
"""The class names of data sets without `classes.txt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMaps:
    """Reads an id map, and its class map, as objects."""

    classes: list[str]
    """The names of the object classes."""
    background: bool = False
    """Whether class 0 of the class maps is the background."""
    void: int | None = None
    """A value of the id maps that is not an object."""
    class_folders: dict[Path, Path] = field(default_factory=dict)
    """Folder of id maps -> folder of their class maps; if empty, all objects have class 0."""

    def __call__(self, path: Path) -> ObjectAnnotations:
        """Read one id map.

        Raises:
            UserError: the id map or its class map cannot be read, they differ in size, or an object has no class.
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
            raise LabelError(f"{class_path}: differs from {path} in size ({sizes} pixels); make both the same size.")
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
    """Return the most frequent class of each object, at index number - 1; -1 if all pixels are void or background.

    With `background`, class 0 of the class map is the background, and class 1 becomes class 0.
    """
    count = int(ids.max()) + 1
    pairs = ids.flatten().long() * (VOID + 1) + class_map.flatten()
    votes = torch.bincount(pairs, minlength=count * (VOID + 1)).view(count, VOID + 1)[1:, int(background) : VOID]
    most = votes.max(1)
    return torch.where(most.values > 0, most.indices, -1)


def id_maps_of(listing: DatasetIndex, root: Path) -> IdMaps:
    """Return the reader for the labels of a plain folder.

    Raises:
        UserError: only one of `classes.txt` and the folder of class maps exists.
    """
    folders = _class_folders(listing, root)
    background = listing.classes is not None and listing.classes[0].lower() == "background"
    classes = (listing.classes or ONE_CLASS)[int(background) :]
    if not folders and len(classes) > 1:
        raise UserError(
            f"{listing.classes_from}: lists {len(classes)} classes, but there are no class maps; add a folder classes/ "
            "beside labels/ with a class index per pixel, or keep only one name in the file."
        )
    if folders and listing.classes is None:
        raise UserError(f"{root}: has class maps beside the labels, but no classes.txt; add it with one name per line.")
    unclassified = next((path for path in _label_folders(listing) if folders and path not in folders), None)
    if unclassified is not None:
        raise UserError(f"{unclassified}: has no class maps beside it, but other labels do; add a folder classes/.")
    if not classes:
        raise UserError(f"{listing.classes_from}: names only the background; add the name of an object class.")
    return IdMaps(classes=classes, background=background, class_folders=folders)


def _class_folders(listing: DatasetIndex, root: Path) -> dict[Path, Path]:
    found = {folder: _class_folder(folder, root) for folder in _label_folders(listing)}
    return {folder: class_folder for folder, class_folder in found.items() if class_folder is not None}


def _label_folders(listing: DatasetIndex) -> set[Path]:
    return {pair.label.parent for pairs in listing.splits.values() for pair in pairs if pair.label is not None}


def _class_folder(folder: Path, root: Path) -> Path | None:
    """Return the folder of class maps of a folder of id maps: ROOT/train/classes/a for ROOT/train/labels/a."""
    for parent in (folder, *folder.parents):
        if parent == root:
            break
        if parent.name.lower() in LABELS:
            candidates = (parent.parent / name for name in CLASS_MAPS)
            classes = next((candidate for candidate in candidates if candidate.is_dir()), None)
            return None if classes is None else classes / folder.relative_to(parent)
    return None
