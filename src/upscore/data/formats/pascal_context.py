"""PASCAL-Context: the images of VOC 2010 labelled all over, 59 classes and a background.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild" (2014). Pixels of the
other 400 categories are background, class 0, which is learned and predicted as any (the FCN authors' nets have 60
outputs).

```
trainval/2008_000002.mat        LabelMap: 1 to 459
labels.txt                      "1: accordion" and so on
VOC2010/JPEGImages/             or VOCdevkit/VOC2010/, or both files and folder inside VOC2010/ itself
VOC2010/ImageSets/Main/         train.txt, val.txt
```
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscore.data.formats.folder import DatasetIndex, Files, Issue, pair_listed, read_list
from upscore.data.io.matlab import read_variable, whole_numbers
from upscore.errors import UserError

CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed", "bench",
    "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door", "fence", "floor", "flower", "food",
    "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform", "sign", "plate", "road", "rock",
    "shelves", "sidewalk", "sky", "snow", "bedcloth", "track", "tree", "truck", "wall", "water", "window", "wood",
]  # fmt: skip

ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Class -> what its category is called in `labels.txt`."""


def list_pascal_context(root: Path) -> DatasetIndex | None:
    """List a folder that holds both PASCAL-Context and VOC 2010; None if the former is not in it.

    Raises:
        UserError: a list or VOC 2010 is missing, or a list cannot be read.
    """
    vocs = [root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"]
    roots = [*vocs, root / "PASCAL-Context", root / "pascal-context"]
    home = next((home for home in roots if (home / "trainval").is_dir() and _is_listed(home)), None)
    if home is None:
        return None
    voc = next((voc for voc in vocs if (voc / "JPEGImages").is_dir()), None)
    if voc is None:
        raise UserError(f"{root}: holds PASCAL-Context's labels without their images; put VOC2010/ beside them.")
    lists = voc / "ImageSets" / "Main"
    names = {split: read_list(lists / f"{split}.txt") for split in ("train", "val")}
    if not any(names.values()):
        raise UserError(f"{lists}: has no train.txt or val.txt that names an image; take them from VOC 2010.")
    image_files, labels = Files(voc / "JPEGImages", ".jpg"), Files(home / "trainval", ".mat")
    issues: list[Issue] = []
    return DatasetIndex(
        layout="PASCAL-Context",
        splits={split: pair_listed(part, split, image_files, labels, issues) for split, part in names.items() if part},
        classes=CLASSES,
        classes_from="PASCAL-Context's 59, and the background",
        read_label=ContextLabels(_table(home / "labels.txt")),
        issues=issues,
    )


class ContextLabels:
    """Turns the path of a map of categories into a map of classes."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table
        """Category -> class."""

    def __call__(self, path: Path) -> Tensor:
        """Read one map as (H, W) uint8.

        Raises:
            UserError: the file cannot be read.
            LabelError: it holds no map of categories.
        """
        categories = whole_numbers(read_variable(path, "LabelMap"), path, "LabelMap", 0, len(self.table) - 1)
        return torch.from_numpy(self.table[categories])


def _is_listed(home: Path) -> bool:
    return (home / "labels.txt").exists() or (home / "59_labels.txt").exists()


def _table(path: Path) -> np.ndarray:
    """(categories + 1,) uint8, the class of each category by the list of their names."""
    if not path.exists():
        raise UserError(f"{path}: is missing; it names the categories that the labels number.")
    categories = _categories(path)
    table = np.zeros(max(categories.values(), default=0) + 1, np.uint8)
    for index, name in enumerate(CLASSES[1:], start=1):
        category = ALIASES.get(name, name)
        if category not in categories:
            raise UserError(f"{path}: names no category {category!r}, of which class {name!r} is made; is it cut off?")
        table[categories[category]] = index
    return table


def _categories(path: Path) -> dict[str, int]:
    """The numbers by name, without its spaces, for it is written with and without."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    categories = {}
    for line in lines:
        match = re.fullmatch(r"\s*([1-9][0-9]{0,3})\s*:(.*\S.*)", line)
        if match:
            categories[match[2].replace(" ", "")] = int(match[1])
        elif line.strip():
            raise UserError(
                f"{path}: has the line {line.strip()[:40]!r}; a line is a number from 1, a colon and a name."
            )
    return categories
