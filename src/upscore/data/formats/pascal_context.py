"""List PASCAL-Context: VOC 2010 with a label for every pixel, 59 classes and a background.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild" (2014). Pixels of the
other 400 categories have class 0, background, which is trained and predicted like the others (the FCN authors' networks
have 60 outputs).

```
trainval/2008_000002.mat        variable `LabelMap`: categories 1 to 459
labels.txt                      names of the categories, "1: accordion" etc.
VOC2010/JPEGImages/             or VOCdevkit/VOC2010/; trainval/ and labels.txt may also be inside VOC2010/
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
"""Names in `labels.txt` of classes with another name there."""


def list_pascal_context(root: Path) -> DatasetIndex | None:
    """List the files of a folder with PASCAL-Context and VOC 2010; None if `root` has another layout.

    Raises:
        UserError: VOC 2010 or a list is missing, or a list cannot be read.
    """
    vocs = [root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"]
    roots = [*vocs, root / "PASCAL-Context", root / "pascal-context"]
    home = next((home for home in roots if (home / "trainval").is_dir() and _is_listed(home)), None)
    if home is None:
        return None
    voc = next((voc for voc in vocs if (voc / "JPEGImages").is_dir()), None)
    if voc is None:
        raise UserError(f"{root}: contains PASCAL-Context's labels without their images; add VOC2010/.")
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
        classes_from="the 59 of PASCAL-Context and the background",
        read_label=ContextLabels(_table(home / "labels.txt")),
        issues=issues,
    )


class ContextLabels:
    """Reader of a map of categories as a class map.

    Args:
        table: (categories + 1,) uint8, the class of each category.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def __call__(self, path: Path) -> Tensor:
        """Read a class map as (H, W) uint8.

        Raises:
            UserError: the file cannot be read.
            LabelError: the file has no map of categories.
        """
        categories = whole_numbers(read_variable(path, "LabelMap"), path, "LabelMap", 0, len(self.table) - 1)
        return torch.from_numpy(self.table[categories])


def _is_listed(home: Path) -> bool:
    """Return whether a folder has one of the lists of PASCAL-Context."""
    return (home / "labels.txt").exists() or (home / "59_labels.txt").exists()


def _table(path: Path) -> np.ndarray:
    """Return the class of each category, (categories + 1,) uint8, from the list of the names of the categories."""
    if not path.exists():
        raise UserError(f"{path}: is missing; it must list the names of the categories.")
    categories = _categories(path)
    table = np.zeros(max(categories.values(), default=0) + 1, np.uint8)
    for index, name in enumerate(CLASSES[1:], start=1):
        category = ALIASES.get(name, name)
        if category not in categories:
            raise UserError(f"{path}: lacks the category {category!r} of the class {name!r}; check the file.")
        table[categories[category]] = index
    return table


def _categories(path: Path) -> dict[str, int]:
    """Return the numbers of the categories by name; spaces are removed, because versions of the list differ in them."""
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
            raise UserError(f"{path}: has the line {line.strip()[:40]!r}; write a number from 1, a colon and a name.")
    return categories
