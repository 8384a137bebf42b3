"""Open instance segmentation data sets: object id maps, COCO files, PASCAL VOC, SBD, or generated scenes.

N samples, K objects of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from upscore.annotations import ObjectAnnotations
from upscore.data.datasets import Dataset, list_files, open_scenes, parse_scenes
from upscore.data.formats import voc
from upscore.data.formats.coco.reader import CocoIndex, find_coco, list_coco
from upscore.data.formats.folder import DatasetIndex, Pair, child_folders, list_folder
from upscore.data.formats.id_maps import id_maps_of
from upscore.data.io.images import LabelError, is_deep, read_ids, read_image
from upscore.data.samples import PairArrays, Sample, size_issue
from upscore.data.splits import require_fraction, require_no_issues, select, train_and_val
from upscore.errors import UserError
from upscore.labels import VOID

LAYOUTS = """\
  COCO: annotations/instances_train.json (or in the folder itself), annotations.json, or the path of such a file
  images/ and labels/ (or masks/) with an object number per pixel; also both inside train/ and val/, or with both inside
  PASCAL VOC: JPEGImages/, SegmentationObject/, SegmentationClass/ and ImageSets/Segmentation/
  SBD: img/, inst/, cls/, train.txt and val.txt, also inside benchmark_RELEASE/dataset/
  instead of a folder, generated scenes: the words scenes, scenes:COUNT or scenes:COUNT:SEED"""

Task = Literal["semantic", "instances"]

SAMPLED_LABELS = 8
"""Approximate number of labels that are read to find the task of a plain folder."""


class InstanceDataset(Protocol):
    """A map-style data set of `Sample`s with objects."""

    @property
    def classes(self) -> list[str]: ...

    @property
    def image_ids(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


DatasetBuilder = Callable[[list[Pair]], InstanceDataset]
"""Builds a data set from some pairs of a `DatasetIndex`."""


def open_instances(source: str | Path, split: str | None = None) -> InstanceDataset:
    """Open one split of a source, or all its labelled images.

    Without class names in the files or in a `classes.txt`, all objects have the class `object`. For a COCO source only
    the JSON of the split is read, and the data set has the attribute `category_ids`, by class index.

    Args:
        source: a folder, a COCO file or generated scenes.
        split: "train", "val", "test" or "trainval" (the first two together), or another split of a COCO folder; None:
            all images with a label.

    Raises:
        UserError: no layout is recognised, the split does not exist, or a file is invalid (the first one is named).
    """
    scenes = parse_scenes(source)
    if scenes is not None:
        return SceneObjects(open_scenes(*scenes, split=split))
    listing, build_dataset = list_objects(source, split)
    require_no_issues(listing, source)
    return build_dataset(select(listing, split, source))


def open_instance_splits(
    source: str | Path, *, val_pattern: str | None = None, fraction: float = 0.2, seed: int = 0
) -> tuple[InstanceDataset, InstanceDataset]:
    """Open the training and the validation set of a source; see `upscore.data.datasets.open_splits`.

    Raises:
        UserError: as `open_instances`; the fraction is not between 0 and 1; one of the two would be empty.
    """
    require_fraction(fraction)
    scenes = parse_scenes(source)
    if scenes is not None and val_pattern is not None:
        raise UserError(f"val_pattern={val_pattern!r}: scenes have no file names to match; leave the pattern out.")
    if scenes is not None:
        train, val = (open_scenes(*scenes, split=split, fraction=fraction) for split in ("train", "val"))
        return SceneObjects(train), SceneObjects(val)
    listing, build_dataset = list_objects(source)
    require_no_issues(listing, source)
    train, val = train_and_val(listing, source, val_pattern=val_pattern, fraction=fraction, seed=seed)
    return build_dataset(train), build_dataset(val)


def list_objects(source: str | Path, split: str | None = None) -> tuple[DatasetIndex, DatasetBuilder]:
    """Return the index of the files of a source, and the function that builds a data set from some of its pairs.

    If `split` is the split of a COCO file, only this file is read.

    Raises:
        UserError: no layout is recognised, or a file is invalid.
    """
    root = Path(source)
    found = find_coco(root)
    if found is not None:
        coco = list_coco({split: found[split]} if split in found else found, root)
        return coco, partial(CocoImages, listing=coco)
    if not root.is_dir():
        problem = "is a file, but not a JSON file" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {problem}. Supported layouts:\n{LAYOUTS}")
    child_folders(root)
    listing = voc.list_voc(root, labels="SegmentationObject")
    if listing is not None:
        reader = voc.object_reader(listing)
    elif (listing := voc.list_sbd(root, labels="inst")) is not None:
        reader = voc.SbdObjects()
    else:
        listing = list_folder(root)
        if listing is None:
            raise UserError(f"{root}: does not contain a data set in a supported layout. Supported layouts:\n{LAYOUTS}")
        reader = id_maps_of(listing, root)
        listing.layout = "a plain folder of object ids"
        listing.classes_from = listing.classes_from or "there is no classes.txt"
    listing.classes = reader.classes
    return listing, partial(ObjectFiles, classes=reader.classes, read_objects=reader)


def task_of(source: str | Path) -> Task:
    """Return the task that the labels of a source are for, according to its layout and a sample of its labels.

    COCO files are for instance segmentation. The labels of a plain folder are object ids if most sampled labels have
    more than 8 bits and, if there is a `classes.txt`, contain values that are neither a class index nor void. All other
    sources are for semantic segmentation.
    """
    if parse_scenes(source) is not None:
        return "semantic"
    if find_coco(source) is not None:
        return "instances"
    listing = list_files(source)
    if listing.layout != "a plain folder":
        return "semantic"
    labels = [pair.label for pairs in listing.splits.values() for pair in pairs if pair.label is not None]
    sampled = labels[:: max(1, len(labels) // SAMPLED_LABELS)]
    are_ids = [_has_object_ids(path, listing.classes) for path in sampled]
    return "instances" if 2 * sum(are_ids) > len(are_ids) else "semantic"


def _has_object_ids(label: Path, classes: list[str] | None) -> bool:
    """Return whether a label has more than 8 bits and values that are no class indices."""
    try:
        if not is_deep(label):
            return False
        if classes is None:
            return True
        ids = read_ids(label)
        return bool(((ids >= len(classes)) & (ids != VOID)).any())
    except UserError:
        return False


class ObjectFiles(PairArrays):
    """Data set of images with one file of objects each, read on access.

    Args:
        pairs: the files.
        classes: the class names.
        read_objects: reads a label file.

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
        positions = [listing.positions[pair.label, pair.image] for pair in pairs if pair.label is not None]
        self._file_numbers = np.array([numbers[label] for label in labels], np.int64)
        self._positions = np.array(positions, np.int64)
        ids = [
            int(self._files[file].image_ids[position])
            for file, position in zip(self._file_numbers, self._positions, strict=True)
        ]
        self.image_ids = np.array(ids if len(set(ids)) == len(ids) else range(1, len(ids) + 1), np.int64)
        """(N,) int64, COCO's image ids; 1 to N if several files contain the same id."""

    def __getitem__(self, index: int) -> Sample:
        pair = self._pair(index)
        file, position = self._files[self._file_numbers[index]], int(self._positions[index])
        image = read_image(pair.image)
        height, width = image.shape[-2:]
        issue = listed_size_issue(pair.image, (height, width), file.sizes[position], file.path)
        if issue is not None:
            raise UserError(issue)
        return Sample(name=pair.name, image=image, objects=file.objects(position), path=pair.image)


def listed_size_issue(image: Path, size: tuple[int, int], listed: np.ndarray, json: Path) -> str | None:
    """Return an error message if the size of an image differs from that in its JSON file, else None.

    Args:
        image: the image file, for the message.
        size: the (height, width) of the image.
        listed: (2,) the height and width in the JSON file.
        json: the JSON file, for the message.
    """
    (height, width), (listed_height, listed_width) = size, listed.tolist()
    if (height, width) == (listed_height, listed_width):
        return None
    rotated = (height, width) == (listed_width, listed_height)
    hint = "it is rotated by its EXIF orientation: save it upright, or annotate it as it is displayed"
    remedy = hint if rotated else "annotate the image at its own size"
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
