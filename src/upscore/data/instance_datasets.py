"""Instance segmentation data sets: open the splits of a folder, a COCO file or generated scenes.

The labels are `Sample.objects`; there is no background class. A source is a folder or a file (see `LAYOUTS`), or one of
the strings "scenes", "scenes:COUNT", "scenes:COUNT:SEED".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from upscore.data.datasets import list_files, open_scenes, parse_scenes
from upscore.data.formats import voc
from upscore.data.formats.coco.files import find_coco, list_coco
from upscore.data.formats.folder import DatasetIndex, Pair, child_folders, list_folder
from upscore.data.formats.id_maps import id_maps_of
from upscore.data.io.images import is_deep, read_ids
from upscore.data.object_samples import CocoImages, ObjectFiles, SceneObjects
from upscore.data.sample import Sample
from upscore.data.splits import require_fraction, require_soundness, select, train_and_val
from upscore.errors import UserError
from upscore.labels import VOID

LAYOUTS = """\
  COCO: annotations/instances_train.json (or in the folder itself), annotations.json, or the path of such a file
  images/ and labels/ (or masks/) with an object's number per pixel; also inside train/ and val/, or with these inside
  PASCAL VOC: JPEGImages/, SegmentationObject/, SegmentationClass/ and ImageSets/Segmentation/
  SBD: img/, inst/, cls/, train.txt and val.txt, also inside benchmark_RELEASE/dataset/
  instead of a folder, generated scenes: the words scenes, scenes:COUNT or scenes:COUNT:SEED"""

Task = Literal["semantic", "instances"]
LABELS_READ = 8
"""About this number of labels is read to find the task of a plain folder."""


class InstanceDataset(Protocol):
    """A map-style data set of `Sample`s with objects."""

    @property
    def classes(self) -> list[str]: ...

    @property
    def image_ids(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


Opener = Callable[[list[Pair]], InstanceDataset]
"""Builds a data set from some pairs of a listing."""


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
    listing, opener = list_objects(source, split)
    require_soundness(listing, source)
    return opener(select(listing, split, source))


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
    listing, opener = list_objects(source)
    require_soundness(listing, source)
    train, val = train_and_val(listing, source, val_pattern=val_pattern, fraction=fraction, seed=seed)
    return opener(train), opener(val)


def list_objects(source: str | Path, split: str | None = None) -> tuple[DatasetIndex, Opener]:
    """Return the index of the files of a source, and the function that builds a data set from some of its pairs.

    If `split` is the split of a COCO file, only this file is read.
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
    """Return the task of a source's labels, according to its layout and a few of its labels.

    Labels are object ids if they are COCO's, if class maps lie beside them, or if most labels of a sample have more
    than 8 bits and, if `classes.txt` names the classes, contain values that are neither a class index nor void.
    """
    if parse_scenes(source) is not None:
        return "semantic"
    if find_coco(source) is not None:
        return "instances"
    listing = list_files(source)
    if listing.layout != "a plain folder":
        return "semantic"
    labels = [pair.label for pairs in listing.splits.values() for pair in pairs if pair.label is not None]
    some = labels[:: max(1, len(labels) // LABELS_READ)]
    are_ids = [_has_object_ids(path, listing.classes) for path in some]
    return "instances" if 2 * sum(are_ids) > len(are_ids) else "semantic"


def _has_object_ids(label: Path, classes: list[str] | None) -> bool:
    try:
        if not is_deep(label):
            return False
        if classes is None:
            return True
        ids = read_ids(label)
        return bool(((ids >= len(classes)) & (ids != VOID)).any())
    except UserError:
        return False
