"""List PASCAL VOC segmentation, alone or with the larger training split of SBD, and SBD alone.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010); Hariharan et al., "Semantic Contours from
Inverse Detectors" (2011). VOC with SBD follows the paper (FCN section 4.3): the training split is SBD's `train.txt`,
and the validation split is VOC's `val.txt` without the images of SBD's `train.txt`, which has many of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.data.formats.folder import UNSPLIT, DatasetIndex, Files, Issue, Pair, pair_listed, read_list
from upscore.data.formats.id_maps import IdMaps
from upscore.data.io import images
from upscore.data.io.matlab import read_field, whole_numbers
from upscore.errors import UserError
from upscore.labels import VOID

CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def list_voc(root: Path, sbd: Path | None = None, labels: str = "SegmentationClass") -> DatasetIndex | None:
    """List the files of VOC's folder, or of its subfolders `VOC2012` or `VOCdevkit/VOC2012`; None if there is none.

    Args:
        root: the folder.
        sbd: the folder of SBD; None: VOC alone.
        labels: the folder of the labels, "SegmentationClass" or "SegmentationObject".

    Raises:
        UserError: there are no lists of splits, a list cannot be read, or `sbd` is not the folder of SBD.
    """
    roots = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
    home = next((home for home in roots if (home / "JPEGImages").is_dir()), None)
    if home is None:
        return None
    lists = home / "ImageSets" / "Segmentation"
    names = {split: read_list(lists / f"{split}.txt") for split in ("train", "val", "test", "trainval")}
    if not names["train"] and not names["val"]:
        names[UNSPLIT] = names["trainval"]
    del names["trainval"]
    issues: list[Issue] = []
    extra = None
    if sbd is not None:
        names["train"], extra = None, _pairs_of_sbd(sbd, issues)
        trained_on = {pair.name for pair in extra}
        names["val"] = [name for name in names["val"] or [] if name not in trained_on]
    image_files, maps = Files(home / "JPEGImages", ".jpg"), Files(home / labels, ".png")
    unlabelled = maps.names.isdisjoint(names["test"] or ())  # as in VOC's distribution
    splits = {
        split: pair_listed(part, split, image_files, None if split == "test" and unlabelled else maps, issues)
        for split, part in names.items()
        if part
    }
    if extra:
        splits = {"train": extra} | splits
    if not splits:
        raise UserError(f"{lists}: has no train.txt, val.txt or trainval.txt that names an image.")
    return DatasetIndex(
        layout="PASCAL VOC" if sbd is None else "PASCAL VOC with SBD",
        splits=splits,
        classes=CLASSES,
        classes_from="PASCAL VOC's",
        read_label=read_label,
        issues=issues,
    )


def list_sbd(root: Path, labels: str = "cls") -> DatasetIndex | None:
    """List the files of SBD's folder, or of its subfolders `dataset` or `benchmark_RELEASE/dataset`; None without it.

    Args:
        root: the folder.
        labels: the folder of the labels, "cls" or "inst".

    Raises:
        UserError: there are no lists of splits, or a list cannot be read.
    """
    home = _home_of_sbd(root)
    if home is None:
        return None
    image_files, maps = Files(home / "img", ".jpg"), Files(home / labels, ".mat")
    lists = {split: read_list(home / f"{split}.txt") for split in ("train", "val")}
    if not any(lists.values()):
        raise UserError(f"{home}: has no train.txt or val.txt that names an image; extract them from SBD's archive.")
    issues: list[Issue] = []
    return DatasetIndex(
        layout="SBD",
        splits={split: pair_listed(names, split, image_files, maps, issues) for split, names in lists.items() if names},
        classes=CLASSES,
        classes_from="PASCAL VOC's",
        read_label=read_label,
        issues=issues,
    )


def _home_of_sbd(root: Path) -> Path | None:
    roots = [root, root / "dataset", root / "benchmark_RELEASE" / "dataset"]
    return next((home for home in roots if (home / "cls").is_dir() and (home / "img").is_dir()), None)


def _pairs_of_sbd(sbd: Path, issues: list[Issue]) -> list[Pair]:
    """Return the pairs of SBD's training split."""
    home = _home_of_sbd(sbd)
    names = None if home is None else read_list(home / "train.txt")
    if home is None or not names:
        raise UserError(f"{sbd}: is not the folder of SBD; it must contain img/, cls/ and train.txt.")
    return pair_listed(names, "train", Files(home / "img", ".jpg"), Files(home / "cls", ".mat"), issues)


def read_label(path: Path) -> Tensor:
    """Read a class map, a palette image of VOC or a `.mat` file of SBD, as (H, W) uint8."""
    if path.suffix != ".mat":
        return images.read_label(path)
    labels = whole_numbers(read_field(path, "GTcls", "Segmentation"), path, "GTcls.Segmentation", 0, VOID)
    return torch.from_numpy(labels.astype(np.uint8))


def object_reader(listing: DatasetIndex) -> IdMaps:
    """Return the reader of the objects of VOC; `listing` has the labels of `SegmentationObject`."""
    folders = {pair.label.parent for pairs in listing.splits.values() for pair in pairs if pair.label is not None}
    return IdMaps(
        classes=CLASSES[1:],
        background=True,
        void=VOID,
        class_folders={folder: folder.with_name("SegmentationClass") for folder in folders},
    )


class SbdObjects:
    """Reader of the objects in SBD's `inst/*.mat`."""

    classes = CLASSES[1:]

    def __call__(self, path: Path) -> ObjectAnnotations:
        """Read the objects of an image.

        Raises:
            UserError: the file cannot be read, or an object has no class.
        """
        structure = "GTinst"
        ids = whole_numbers(read_field(path, structure, "Segmentation"), path, f"{structure}.Segmentation", 0, VOID)
        categories = read_field(path, structure, "Categories").reshape(1, -1)
        if ids.max() > categories.size:
            raise images.LabelError(
                f"{path}: has the object {ids.max()}, but {structure}.Categories has {categories.size} entries; "
                "extract the file again."
            )
        labels = np.zeros(0, np.int64)
        if categories.size:
            labels = whole_numbers(categories, path, f"{structure}.Categories", 1, len(self.classes))[0] - 1
        return ObjectAnnotations.from_id_map(torch.from_numpy(ids), torch.from_numpy(labels))
