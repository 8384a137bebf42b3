"""Data sets whose samples have objects: from object id maps, from COCO's JSON, or from generated scenes.

N is the number of samples.
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
    """Data set of images and one label file of objects each, read on access.

    Raises:
        UserError: on access, if a file is invalid or the label differs from its image in size.
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


class CocoImages(PairArrays):
    """Data set of the images and objects of one or more COCO JSON files.

    Raises:
        UserError: on access, if an image cannot be read or does not have the size given in the JSON.
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
        """(N,) int64, COCO's image ids; 1 to N if several files contain the same id."""

    def __getitem__(self, index: int) -> Sample:
        pair = self._pair(index)
        file, place = self._files[self._file_of[index]], int(self._place_of[index])
        image = read_image(pair.image)
        height, width = image.shape[-2:]
        issue = listed_size_issue(pair.image, (height, width), file.sizes[place], file.path)
        if issue is not None:
            raise UserError(issue)
        return Sample(name=pair.name, image=image, objects=file.objects(place), path=pair.image)


def listed_size_issue(image: Path, size: tuple[int, int], listed: np.ndarray, json: Path) -> str | None:
    """Return an error message if the (height, width) of an image differs from that in its JSON, else None."""
    (height, width), (listed_height, listed_width) = size, listed.tolist()
    if (height, width) == (listed_height, listed_width):
        return None
    turned = (height, width) == (listed_width, listed_height)
    hint = "it is rotated by its EXIF orientation: save it upright, or annotate it as it is displayed"
    remedy = hint if turned else "annotate the image at its own size"
    return f"{image}: is {width}x{height} pixels, but {listed_width}x{listed_height} in {json}; {remedy}."


class SceneObjects:
    """Generated scenes as an instance segmentation data set, without class maps and background class."""

    def __init__(self, scenes: Dataset) -> None:
        self._scenes = scenes
        self.classes = scenes.classes[1:]
        self.image_ids = np.arange(1, len(scenes) + 1)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        return replace(self._scenes[index], class_map=None)
