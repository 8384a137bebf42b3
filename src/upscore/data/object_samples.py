"""Samples with their objects: out of files that number them, out of COCO's JSON, or generated.

N samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from upscore.annotations import ObjectAnnotations
from upscore.data.datasets import Dataset
from upscore.data.formats.coco.files import CocoIndex
from upscore.data.formats.folder import Pair
from upscore.data.io.images import LabelError, read_image
from upscore.data.sample import Sample
from upscore.data.samples import flat, size_issue
from upscore.errors import UserError


class ObjectFiles:
    """Photos and files of objects, read when they are asked for.

    Raises:
        UserError: on reading a sample whose file of objects differs from its photo in size, or is at fault.
    """

    def __init__(
        self, pairs: list[Pair], classes: list[str], read_objects: Callable[[Path], ObjectAnnotations]
    ) -> None:
        self.classes = classes
        self.read_objects = read_objects
        self.image_ids = np.arange(1, len(pairs) + 1)
        self._names, self._images = flat(pair.name for pair in pairs), flat(pair.image for pair in pairs)
        self._labels = flat(pair.label or "" for pair in pairs)

    @property
    def names(self) -> list[str]:
        """The samples' names in their order."""
        return [os.fsdecode(name) for name in self._names]

    @property
    def files(self) -> list[str]:
        """The paths of all files that are read."""
        return [os.fsdecode(path) for path in (*self._images, *self._labels) if path]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path, label = Path(os.fsdecode(self._images[index])), os.fsdecode(self._labels[index])
        image = read_image(path)
        objects = self.read_objects(Path(label)) if label else None
        issue = None if objects is None else size_issue(Path(label), objects.id_map[0], path, image)
        if issue is not None:
            raise LabelError(issue)
        return Sample(name=os.fsdecode(self._names[index]), image=image, objects=objects, path=path)


class CocoPhotos:
    """Photos and their objects out of one or more of COCO's JSON files.

    Raises:
        UserError: on reading a sample whose photo cannot be read, or is not of the size that the JSON says.
    """

    def __init__(self, pairs: list[Pair], listing: CocoIndex) -> None:
        self._files = list(listing.files.values())
        self.classes, self.category_ids = self._files[0].classes, self._files[0].category_ids
        numbers = {path: number for number, path in enumerate(listing.files)}
        labels = [pair.label for pair in pairs if pair.label is not None]
        self._file_of = np.array([numbers[label] for label in labels], np.int64)
        self._place_of = np.array([listing.places[pair.label, pair.image] for pair in pairs if pair.label], np.int64)
        self._names, self._images = flat(pair.name for pair in pairs), flat(pair.image for pair in pairs)
        ids = [
            int(self._files[file].image_ids[place]) for file, place in zip(self._file_of, self._place_of, strict=True)
        ]
        self.image_ids = np.array(ids if len(set(ids)) == len(ids) else range(1, len(ids) + 1), np.int64)
        """(N,) COCO's image ids; 1 to N where the files share some."""

    @property
    def names(self) -> list[str]:
        """The samples' names in their order."""
        return [os.fsdecode(name) for name in self._names]

    @property
    def files(self) -> list[str]:
        """The paths of all files that are read."""
        return [*map(os.fsdecode, self._images), *(str(file.path) for file in self._files)]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = Path(os.fsdecode(self._images[index]))
        file, place = self._files[self._file_of[index]], int(self._place_of[index])
        image = read_image(path)
        height, width = image.shape[-2:]
        issue = listed_size_issue(path, (height, width), file.sizes[place], file.path)
        if issue is not None:
            raise UserError(issue)
        return Sample(name=os.fsdecode(self._names[index]), image=image, objects=file.objects(place), path=path)


def listed_size_issue(photo: Path, size: tuple[int, int], listed: np.ndarray, json: Path) -> str | None:
    """What is wrong where a photo's (height, width) is not what its JSON says, as a sentence."""
    (height, width), (listed_height, listed_width) = size, listed.tolist()
    if (height, width) == (listed_height, listed_width):
        return None
    turned = (height, width) == (listed_width, listed_height)
    hint = "it is turned by its EXIF orientation: save it upright as the outlines are, or outline it as it is seen"
    remedy = hint if turned else "outline the photo at its own size"
    return f"{photo}: is {width}x{height} pixels, but {listed_width}x{listed_height} in {json}; {remedy}."


class SceneObjects:
    """Generated scenes without their class maps; no class is the background's."""

    def __init__(self, scenes: Dataset) -> None:
        self._scenes = scenes
        self.classes = scenes.classes[1:]
        self.image_ids = np.arange(1, len(scenes) + 1)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        return replace(self._scenes[index], class_map=None)
