"""PASCAL VOC segmentation, with or without the larger training set of SBD.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010); Hariharan et al., "Semantic Contours from
Inverse Detectors" (2011). With SBD the paper's rule holds (FCN section 4.3): train on SBD's `train.txt`, validate on
VOC's `val.txt` without the images that are in it, for many of VOC's validation images are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from upscore.data import images
from upscore.data.folder import UNSPLIT, Fault, Listing, Pair
from upscore.data.id_maps import IdMaps
from upscore.errors import UserError
from upscore.labels import VOID

CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def list_voc(root: Path, sbd: Path | None = None, labels: str = "SegmentationClass") -> Listing | None:
    """List VOC's folder, or the one that holds `VOC2012` or `VOCdevkit/VOC2012`; None if `root` is neither.

    `labels` is the folder of the labels, "SegmentationClass" or "SegmentationObject".

    Raises:
        UserError: a list of a split is missing or cannot be read; `sbd` is not SBD's folder.
    """
    homes = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
    home = next((home for home in homes if (home / "JPEGImages").is_dir()), None)
    if home is None:
        return None
    lists = home / "ImageSets" / "Segmentation"
    names = {split: _read_list(lists / f"{split}.txt") for split in ("train", "val", "test", "trainval")}
    if not names["train"] and not names["val"]:
        names[UNSPLIT] = names["trainval"]
    del names["trainval"]  # the two together
    faults: list[Fault] = []
    extra = None
    if sbd is not None:
        names["train"], extra = None, _list_sbd(sbd, faults)
        trained_on = {pair.name for pair in extra}
        names["val"] = [name for name in names["val"] or [] if name not in trained_on]
    folders = home / "JPEGImages", home / labels
    splits = {split: _pair(part, *folders, ".png", faults, split) for split, part in names.items() if part}
    if extra:
        splits = {"train": extra} | splits
    if not splits:
        raise UserError(f"{lists}: has no train.txt, val.txt or trainval.txt that names an image.")
    return Listing(
        layout="PASCAL VOC" if sbd is None else "PASCAL VOC with SBD",
        splits=splits,
        classes=CLASSES,
        classes_from="PASCAL VOC's",
        read_label=read_label,
        faults=faults,
    )


def _list_sbd(sbd: Path, faults: list[Fault]) -> list[Pair]:
    homes = [sbd, sbd / "dataset", sbd / "benchmark_RELEASE" / "dataset"]
    home = next((home for home in homes if (home / "cls").is_dir() and (home / "img").is_dir()), None)
    names = None if home is None else _read_list(home / "train.txt")
    if home is None or not names:
        raise UserError(f"{sbd}: is not SBD's folder; it must hold img/, cls/ and train.txt.")
    return _pair(names, home / "img", home / "cls", ".mat", faults, "train")


def _read_list(path: Path) -> list[str] | None:
    """The names in a list, one a line; None without such a file."""
    if not path.exists():
        return None
    try:
        return list(dict.fromkeys(path.read_text(encoding="utf-8-sig").split()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error


def _pair(names: list[str], photos: Path, labels: Path, suffix: str, faults: list[Fault], split: str) -> list[Pair]:
    """Pair the listed names; VOC's own test set comes without labels."""
    have_photo, have_label = _stems(photos, ".jpg"), _stems(labels, suffix)
    unlabelled = split == "test" and have_label.isdisjoint(names)
    pairs = []
    for name in sorted(names):
        photo, label = photos / f"{name}.jpg", labels / f"{name}{suffix}"
        if name not in have_photo:
            faults.append(Fault("missing photo", photo, f"{photo}: is listed in the split {split!r} but missing."))
        elif unlabelled:
            pairs.append(Pair(name, photo, None))
        elif name not in have_label:
            faults.append(Fault("missing label", label, f"{label}: is listed in the split {split!r} but missing."))
        else:
            pairs.append(Pair(name, photo, label))
    return pairs


def _stems(folder: Path, suffix: str) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.stem for path in folder.iterdir() if path.suffix == suffix}


def read_label(path: Path) -> Tensor:
    """Read one of VOC's palette images or SBD's `.mat` files as (H, W) uint8."""
    if path.suffix != ".mat":
        return images.read_label(path)
    try:
        labels = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except Exception as error:  # the reader raises anything at all on broken bytes
        raise UserError(f"{path}: is damaged, or no label map of SBD ({error}).") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise images.LabelError(
            f"{path}: GTcls.Segmentation must be (H, W) uint8, but is {labels.shape} {labels.dtype}."
        )
    return torch.from_numpy(labels.copy())


def object_reader(listing: Listing) -> IdMaps:
    """The reader for the labels of a listing of `SegmentationObject`."""
    folders = {pair.label.parent for pairs in listing.splits.values() for pair in pairs if pair.label is not None}
    return IdMaps(
        classes=CLASSES[1:],
        background=True,
        void=VOID,
        class_folders={folder: folder.with_name("SegmentationClass") for folder in folders},
    )
