"""Samples with their objects: out of files that number them, out of COCO's JSON, or generated.

N samples.
"""

from __future__ import annotations

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
from upscore.data.samples import PairArrays, size_issue
from upscore.errors import UserError


class ObjectFiles(PairArrays):
    """Photos and files of objects, read when they are asked for.

    Raises:
        UserError: on reading a sample whose file of objects differs from its photo in size, or is at fault.
    """

    def __init__(
        self, pairs: list[Pair], classes: list[str], read_objects: Callable[[Path], ObjectAnnotations]
    ) -> None:
        super().__init__(pairs)
        self.classes = classes
        self.read_objects = read_objects
        self.image_ids = np.arange(1, len(pairs) + 1)

    def __getitem__(self, index: int) -> Sample:
        pair = self._pair(index)
        image = read_image(pair.image)
        objects = None if pair.label is None else self.read_objects(pair.label)
        if pair.label is not None and objects is not None:
            issue = size_issue(pair.label, objects.id_map[0], pair.image, image)
            if issue is not None:
                raise LabelError(issue)
        return Sample(name=pair.name, image=image, objects=objects, path=pair.image)


class CocoPhotos(PairArrays):
    """Photos and their objects out of one or more of COCO's JSON files.

    Raises:
        UserError: on reading a sample whose photo cannot be read, or is not of the size that the JSON says.
    """

    def __init__(self, pairs: list[Pair], listing: CocoIndex) -> None:
        super().__init__(pairs)
        self._files = list(listing.files.values())
        self.classes, self.category_ids = self._files[0].classes, self._files[0].category_ids
        numbers = {path: number for number, path in enumerate(listing.files)}
        labels = [pair.label for pair in pairs if pair.label is not None]
        self._file_of = np.array([numbers[label] for label in labels], np.int64)
        self._place_of = np.array([listing.places[pair.label, pair.image] for pair in pairs if pair.label], np.int64)
        ids = [
            int(self._files[file].image_ids[place]) for file, place in zip(self._file_of, self._place_of, strict=True)
        ]
        self.image_ids = np.array(ids if len(set(ids)) == len(ids) else range(1, len(ids) + 1), np.int64)
        """(N,) COCO's image ids; 1 to N where the files share some."""

    def __getitem__(self, index: int) -> Sample:
        pair = self._pair(index)
        file, place = self._files[self._file_of[index]], int(self._place_of[index])
        image = read_image(pair.image)
        height, width = image.shape[-2:]
        issue = listed_size_issue(pair.image, (height, width), file.sizes[place], file.path)
        if issue is not None:
            raise UserError(issue)
        return Sample(name=pair.name, image=image, objects=file.objects(place), path=pair.image)


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
