"""List CamVid as distributed by SegNet's authors: `train/ trainannot/ val/ valannot/ test/ testannot/`, 11 classes.

Brostow et al., "Semantic object classes in video" (2009); the 11 classes and the split are those of SegNet
(Badrinarayanan et al. 2017). Index 11, unlabelled, becomes void.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from upscore.data.formats.class_names import find_classes
from upscore.data.formats.folder import DatasetIndex, Issue, child_folders, pair_folders
from upscore.data.io import images
from upscore.labels import VOID

CLASSES = [
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
]  # fmt: skip
UNLABELLED = 11
"""The label of unlabelled pixels."""


def list_camvid(root: Path) -> DatasetIndex | None:
    """List the files of a folder in SegNet's layout; None if `root` has another layout.

    For other data in the same layout, a `classes.txt` replaces CamVid's classes; index 11 is then a normal class.

    Raises:
        UserError: a folder cannot be read or contains no images, or `classes.txt` is invalid.
    """
    folders = child_folders(root)
    splits = [name for name in ("train", "val", "test") if name in folders and f"{name}annot" in folders]
    if not splits:
        return None
    issues: list[Issue] = []
    classes, source = find_classes([root])
    own = classes is None or classes == CLASSES
    return DatasetIndex(
        layout="CamVid in SegNet's layout",
        splits={name: pair_folders(folders[name], folders[f"{name}annot"], issues) for name in splits},
        classes=CLASSES if own else classes,
        classes_from=source or f"CamVid's, as {root} has SegNet's layout; a classes.txt there replaces them",
        read_label=read_label if own else images.read_label,
        issues=issues,
    )


def read_label(path: Path) -> Tensor:
    """Read a label map as (H, W) uint8, with `UNLABELLED` replaced by void."""
    labels = images.read_label(path)
    labels[labels == UNLABELLED] = VOID
    return labels
