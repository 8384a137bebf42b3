"""The image and category ids of the COCO data set that images belong to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upscore.data.formats.coco.entries import Unusable, read_categories, read_image_entry
from upscore.data.formats.coco.reader import find_coco, image_folder, read_json
from upscore.errors import UserError

ABOVE = 3
"""Folders that are searched for a data set's JSON: an image's own and those above it."""


@dataclass(frozen=True, slots=True)
class CocoIds:
    """Ids of a data set; both are empty for images of none."""

    image_ids: dict[Path, int] = field(default_factory=dict)
    """By the absolute path of the image."""
    category_ids: dict[str, int] = field(default_factory=dict)
    """By class name."""

    def number(self, images: Sequence[Path]) -> list[int]:
        """The id of each image. Where the data set does not list an image, it has the next number that is free."""
        known = [self.image_ids.get(image.absolute()) for image in images]
        last = max((number for number in self.image_ids.values()), default=0)
        free = iter(range(max(last, 0) + 1, max(last, 0) + 1 + len(images)))
        return [next(free) if number is None else number for number in known]

    def of_classes(self, classes: Sequence[str], own: Sequence[int] | None) -> list[int] | None:
        """The id of each class of a model whose own ids are `own`; None: class index + 1.

        Classes are matched by name, and then without regard to case. Where none has a name of the data set's, the
        model's own ids stay. A class that the data set does not have gets an id that no class has.
        """
        folded = {name.strip().casefold(): number for name, number in self.category_ids.items()}
        found = [self.category_ids.get(name, folded.get(name.strip().casefold())) for name in classes]
        taken = {number for number in found if number is not None}
        if not taken or len(taken) < sum(number is not None for number in found):
            return None if own is None else list(own)
        free = iter(range(max(*taken, *self.category_ids.values()) + 1, 1 << 62))
        return [next(free) if number is None else number for number in found]


def find_ids(images: Iterable[Path]) -> CocoIds:
    """The ids of images whose data set's JSON is in a folder at most two above theirs, as `find_coco` knows them.

    Image ids are left out where images of several JSON files share some, as train and val may, and all ids where one
    class has several category ids.
    """
    images = [image.absolute() for image in images]
    roots = dict.fromkeys(root for folder in dict.fromkeys(map(os.path.dirname, images)) for root in _above(folder))
    wanted, image_ids, category_ids = set(images), dict[Path, int](), dict[str, int]()
    seen, conflicting = set[Path](), False
    for root in roots:
        try:
            found = find_coco(root) or {}
        except UserError:  # two files of one split: `train` and `data check` report it
            continue
        for split, path in found.items():
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            of_file, categories = _read_ids(path, split, root)
            of_file = {image: number for image, number in of_file.items() if image in wanted}
            if of_file:
                image_ids |= of_file
                conflicting |= any(category_ids.get(name, number) != number for name, number in categories.items())
                category_ids |= categories
    if conflicting:
        return CocoIds()
    if len(set(image_ids.values())) < len(image_ids):
        return CocoIds({}, category_ids)
    return CocoIds(image_ids, category_ids)


def _above(folder: str) -> list[Path]:
    path = Path(folder)
    return [path, *path.parents][:ABOVE]


def _read_ids(path: Path, split: str, root: Path) -> tuple[dict[Path, int], dict[str, int]]:
    """Image ids by path and category ids by name of one JSON file; nothing of a file that is not COCO's."""
    try:
        content = read_json(path)
        numbers, names = read_categories(content["categories"], path)
    except UserError:  # it is no part of the task, whatever it is
        return {}, {}
    listed: dict[str, int] = {}
    for entry in content["images"]:
        try:
            image = read_image_entry(entry)
        except Unusable:
            continue
        listed.setdefault(image.name, image.id)
    home = image_folder(path, list(listed), split, root)
    return {(home / name).absolute(): number for name, number in listed.items()}, dict(zip(names, numbers, strict=True))
