"""List NYUDv2, indoor images with depth and 40 classes, in the layout that the FCN authors published.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images" (2012). The classes are those of Gupta et
al., "Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images" (2013). HHA is the encoding of Gupta
et al., "Learning Rich Features from RGB-D Images" (2014).

```
data/images/img_5001.png        the image
data/depth/img_5001.png         optional: 16-bit depth in millimetres, 0 = unknown
data/hha/img_5001.png           optional: horizontal disparity, height above ground, angle with gravity as RGB
segmentation/img_5001.mat       variable `segmentation`: 1 to 40, 0 = no class
train.txt, val.txt, test.txt    numbers such as 5001; trainval.txt may replace the first two
```
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from upscore.data.formats.folder import DatasetIndex, DepthMaps, Files, Issue, pair_listed, read_list
from upscore.data.io.decoding import load, open_image, reading
from upscore.data.io.images import LabelError, read_image
from upscore.data.io.matlab import classes_from_one
from upscore.errors import UserError

CLASSES = [
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
]  # fmt: skip

DepthChannels = Literal[1, 3]
"""1: depth in metres; 3: HHA."""

OFFICIAL = "nyu_depth_v2_labeled.mat"
"""The file of the original distribution, which is not supported."""


def list_nyud(root: Path, depth_channels: DepthChannels | None = None) -> DatasetIndex | None:
    """List the files of the folder, or of its subfolder `nyud`; None if `root` has another layout.

    Args:
        root: the folder.
        depth_channels: 1 for depth, 3 for HHA; None: depth if there is `data/depth`, else HHA if there is `data/hha`.

    Raises:
        UserError: there are no lists of splits, a list cannot be read, or the folder of the depth is missing.
    """
    roots = [root, root / "nyud"]
    home = next((home for home in roots if (home / "segmentation").is_dir() and (home / "data").is_dir()), None)
    if home is None:
        if (root / OFFICIAL).is_file():
            raise UserError(
                f"{root / OFFICIAL}: has 894 classes and is an HDF5 file, which is not supported; use the data set "
                "of Gupta et al. with 40 classes: data/images/, segmentation/, and data/depth/ or data/hha/."
            )
        return None
    names = {split: read_list(home / f"{split}.txt") for split in ("train", "val", "test", "trainval")}
    trainval = names.pop("trainval")
    if not names["train"] and not names["val"]:
        names["train"] = trainval
    if not any(names.values()):
        raise UserError(f"{home}: has no train.txt, val.txt, trainval.txt or test.txt that names an image.")
    image_files, labels = Files(home / "data" / "images", ".png", "img_"), Files(home / "segmentation", ".mat", "img_")
    depth, depth_maps = _depth(home / "data", depth_channels)
    issues: list[Issue] = []
    return DatasetIndex(
        layout="NYUDv2",
        splits={
            split: pair_listed(part, split, image_files, labels, issues, depth=depth)
            for split, part in names.items()
            if part
        },
        classes=CLASSES,
        classes_from="NYUDv2's",
        read_label=partial(classes_from_one, name="segmentation", count=len(CLASSES)),
        depth=depth_maps,
        issues=issues,
    )


def _depth(data: Path, channels: DepthChannels | None) -> tuple[Files, DepthMaps] | tuple[None, None]:
    """Return the files and the reader of the chosen depth, or of the depth that exists; (None, None) without depth."""
    kinds = {1: (data / "depth", read_depth), 3: (data / "hha", read_hha)}
    if channels is None:
        channels = next((count for count in (1, 3) if kinds[count][0].is_dir()), None)
        if channels is None:
            return None, None
    folder, read = kinds[channels]
    if not folder.is_dir():
        raise UserError(f"{folder}: is missing; it must contain the depth with {channels} channels.")
    return Files(folder, ".png", "img_"), DepthMaps(channels=channels, read=read)


def read_depth(path: Path) -> Tensor:
    """Read a depth map in millimetres as (1, H, W) float32 in metres, NaN where unknown.

    Raises:
        LabelError: the file is not 16-bit grey.
        UserError: the file is missing, damaged or too large.
    """
    with reading(path), open_image(path) as image:
        load(image)
        values = np.array(image)
    if values.ndim != 2 or image.mode == "P" or not np.issubdtype(values.dtype, np.integer) or values.itemsize < 2:
        raise LabelError(f"{path}: depth must be 16-bit grey in millimetres, but Pillow's mode is {image.mode}.")
    metres = np.where(values > 0, values, np.nan).astype(np.float32) / 1000
    return torch.from_numpy(metres)[None]


def read_hha(path: Path) -> Tensor:
    """Read HHA as (3, H, W) float32, 0 to 255: disparity, height, angle.

    Raises:
        UserError: as `read_image`.
    """
    return read_image(path).float()
