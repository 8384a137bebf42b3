"""Find the image and category ids of the COCO data set that images belong to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upscore.data.formats.coco.entries import InvalidEntryError, read_categories, read_image_entry
from upscore.data.formats.coco.reader import find_coco, image_folder, read_json
from upscore.errors import UserError

SEARCHED_FOLDERS = 3
"""Number of folders that are searched for the JSON: the folder of an image and its parents."""


@dataclass(frozen=True, slots=True)
class CocoIds:
    """The ids of a COCO data set; empty if there is no data set."""

    image_ids: dict[Path, int] = field(default_factory=dict)
    """Image ids by absolute path."""
    category_ids: dict[str, int] = field(default_factory=dict)
    """Category ids by class name."""

    def number(self, images: Sequence[Path]) -> list[int]:
        """Return the id of each image; images that the data set does not list get the next unused numbers."""
        known = [self.image_ids.get(image.absolute()) for image in images]
        last = max((number for number in self.image_ids.values()), default=0)
        free = iter(range(max(last, 0) + 1, max(last, 0) + 1 + len(images)))
        return [next(free) if number is None else number for number in known]

    def match_classes(self, classes: Sequence[str], own: Sequence[int] | None) -> list[int] | None:
        """Return the category id of each class of a model; None if the ids are class index + 1.

        Classes are matched by name, then by name without case. If no class matches, or two classes match the same
        category, the model's own ids are returned. Classes that the data set does not have get unused ids.

        Args:
            classes: the class names of the model.
            own: the category ids in the model's configuration; None if it has none.
        """
        folded = {name.strip().casefold(): number for name, number in self.category_ids.items()}
        found = [self.category_ids.get(name, folded.get(name.strip().casefold())) for name in classes]
        taken = {number for number in found if number is not None}
        if not taken or len(taken) < sum(number is not None for number in found):
            return None if own is None else list(own)
        free = iter(range(max(*taken, *self.category_ids.values()) + 1, 1 << 62))
        return [next(free) if number is None else number for number in found]


def find_ids(images: Iterable[Path]) -> CocoIds:
    """Find the ids of images in the COCO files of their folder and its next two parents; see `find_coco`.

    Image ids are left out if images of several JSON files have the same id, as in train and val. All ids are left out
    if a class has different category ids in several files.
    """
    images = [image.absolute() for image in images]
    folders = dict.fromkeys(map(os.path.dirname, images))
    roots = dict.fromkeys(
        root for folder in folders for root in [Path(folder), *Path(folder).parents][:SEARCHED_FOLDERS]
    )
    wanted, image_ids, category_ids = set(images), dict[Path, int](), dict[str, int]()
    visited, conflicting = set[Path](), False
    for root in roots:
        try:
            found = find_coco(root) or {}
        except UserError:  # two files of one split; `train` and `data check` report this
            continue
        for split, path in found.items():
            if path.resolve() in visited:
                continue
            visited.add(path.resolve())
            ids_in_file, categories = _read_ids(path, split, root)
            ids_in_file = {image: number for image, number in ids_in_file.items() if image in wanted}
            if ids_in_file:
                image_ids |= ids_in_file
                conflicting |= any(category_ids.get(name, number) != number for name, number in categories.items())
                category_ids |= categories
    if conflicting:
        return CocoIds()
    if len(set(image_ids.values())) < len(image_ids):
        return CocoIds({}, category_ids)
    return CocoIds(image_ids, category_ids)


def _read_ids(path: Path, split: str, root: Path) -> tuple[dict[Path, int], dict[str, int]]:
    """Return the image ids by path and the category ids by name of a JSON file; empty if it is not a COCO file."""
    try:
        content = read_json(path)
        numbers, names = read_categories(content["categories"], path)
    except UserError:
        return {}, {}
    listed: dict[str, int] = {}
    for entry in content["images"]:
        try:
            image = read_image_entry(entry)
        except InvalidEntryError:
            continue
        listed.setdefault(image.name, image.id)
    folder = image_folder(path, list(listed), split, root)
    return {(folder / name).absolute(): number for name, number in listed.items()}, dict(
        zip(names, numbers, strict=True)
    )
