"""Open semantic segmentation data sets: the splits of a folder, or generated scenes.

A source is a folder (see `LAYOUTS`) or one of the strings "scenes", "scenes:COUNT", "scenes:COUNT:SEED".
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from upscore.data.formats.camvid import list_camvid
from upscore.data.formats.class_names import BINARY, classes_of_values
from upscore.data.formats.coco.reader import find_coco
from upscore.data.formats.folder import DatasetIndex, Pair, child_folders, list_folder
from upscore.data.formats.nyud import DepthChannels, list_nyud
from upscore.data.formats.pascal_context import list_pascal_context
from upscore.data.formats.sift_flow import list_sift_flow
from upscore.data.formats.voc import list_sbd, list_voc
from upscore.data.io import images
from upscore.data.samples import FileDataset, Sample
from upscore.data.splits import require_fraction, require_no_issues, select, train_and_val
from upscore.errors import UserError
from upscore.labels import VOID

LAYOUTS = """\
  images/ and labels/ (or masks/, annotations/); also both inside train/ and val/, or both with train/ and val/ inside
  CamVid in SegNet's layout: train/, trainannot/, val/, valannot/, test/, testannot/
  PASCAL VOC: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/, also inside VOC2012/ or VOCdevkit/VOC2012/
  SBD: img/, cls/, train.txt and val.txt, also inside benchmark_RELEASE/dataset/
  PASCAL-Context: trainval/ and labels.txt, with VOC2010/ beside them
  NYUDv2: data/images/, segmentation/, data/depth/ or data/hha/, train.txt, val.txt and test.txt
  SIFT Flow: Images/, SemanticLabels/, GeoLabels/ and TestSet1.txt
  instead of a folder, generated scenes: the words scenes, scenes:COUNT or scenes:COUNT:SEED"""

LAYOUT_LISTERS = (list_nyud, list_pascal_context, list_voc, list_sbd, list_sift_flow, list_camvid, list_folder)
"""Tried in this order, because PASCAL-Context also has the folders of VOC, and SIFT Flow has a folder Images."""

SCENE_COUNT = 400
"""Number of training scenes of the source "scenes"."""
VALIDATION_SEEDS = 2**31
"""First seed of validation scenes; larger than any seed of a source, so that they differ from all training scenes."""


class Dataset(Protocol):
    """A map-style data set of `Sample`s with class names."""

    @property
    def classes(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Subset:
    """The samples of a data set at `indices`, in this order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.classes = dataset.classes
        self.geometric_classes, self.depth_channels = geometric_classes(dataset), depth_channels(dataset)
        self.dataset = dataset
        self.indices = np.array(indices, dtype=np.int64)
        self.image_ids = image_ids(dataset)[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]


def image_ids(dataset: Dataset) -> np.ndarray:
    """Return the COCO image ids of the samples, (N,) int64; 1 to N if the data set has no such ids."""
    ids = getattr(dataset, "image_ids", None)
    return np.arange(1, len(dataset) + 1) if ids is None else np.asarray(ids)


def geometric_classes(dataset: Dataset) -> list[str]:
    """Return the class names of `Sample.geometric_map`; an empty list if the data set has no such maps."""
    return getattr(dataset, "geometric_classes", [])


def depth_channels(dataset: Dataset) -> int:
    """Return the number of channels of `Sample.depth`; 0 if the data set has no depth."""
    return getattr(dataset, "depth_channels", 0)


def subset(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    """Return the samples with the given indices as a data set."""
    return Subset(dataset, indices)


def open_dataset(
    source: str | Path,
    split: str | None = None,
    *,
    sbd: str | Path | None = None,
    depth_channels: DepthChannels | None = None,
) -> Dataset:
    """Open one split of a source, or all its labelled images.

    If a plain folder has no `classes.txt`, all labels are read once to find the number of classes; if they contain only
    the values 0 and 255, the classes are `background` and `foreground`.

    Args:
        source: a folder or generated scenes.
        split: "train", "val", "test" or "trainval" (the first two together); None: all images with a label.
        sbd: the folder of SBD, whose training images replace those of PASCAL VOC.
        depth_channels: 1 for NYUDv2's depth, 3 for its HHA.

    Raises:
        UserError: no layout is recognised, the split does not exist, or a file is invalid (the first one is named).
    """
    scenes = parse_scenes(source)
    if scenes is not None:
        return open_scenes(*scenes, split=split)
    listing = _with_classes(list_files(source, sbd=sbd, depth_channels=depth_channels), source)
    return _dataset(listing, select(listing, split, source))


def open_splits(
    source: str | Path,
    *,
    val_pattern: str | None = None,
    fraction: float = 0.2,
    seed: int = 0,
    sbd: str | Path | None = None,
) -> tuple[Dataset, Dataset]:
    """Open the training and the validation set of a source.

    These are the splits `train` and `val` of the source if it has them. Otherwise a random part is held out for
    validation. The test split is in neither.

    Args:
        source: a folder or generated scenes.
        val_pattern: a pattern of file names such as "0006R0*". The two splits are pooled, and the images that match are
            held out, such as a whole video or a whole patient.
        fraction: the part that is held out, between 0 and 1; for generated scenes, the number of validation scenes
            relative to the number of training scenes.
        seed: seed of the random choice from the sorted names.
        sbd: the folder of SBD, whose training images replace those of PASCAL VOC.

    Raises:
        UserError: as `open_dataset`; the fraction is not between 0 and 1; one of the two would be empty.
    """
    require_fraction(fraction)
    scenes = parse_scenes(source)
    if scenes is not None and val_pattern is not None:
        raise UserError(f"val_pattern={val_pattern!r}: scenes have no file names to match; leave the pattern out.")
    if scenes is not None:
        return open_scenes(*scenes, split="train"), open_scenes(*scenes, split="val", fraction=fraction)
    listing = _with_classes(list_files(source, sbd=sbd), source)
    train, val = train_and_val(listing, source, val_pattern=val_pattern, fraction=fraction, seed=seed)
    return _dataset(listing, train), _dataset(listing, val)


def default_split(source: str | Path) -> str | None:
    """Return the split to score a model on: "test" if there is one, else "val", else None (all images)."""
    if parse_scenes(source) is not None:
        return "val"
    splits = find_coco(source) or list_files(source).splits
    return next((split for split in ("test", "val") if split in splits), None)


def list_files(
    source: str | Path, *, sbd: str | Path | None = None, depth_channels: DepthChannels | None = None
) -> DatasetIndex:
    """Find the files of a data set in any of the `LAYOUTS`, by the file names and the lists in its folder.

    Raises:
        UserError: the folder is missing, cannot be read, or has no supported layout.
    """
    root = Path(source)
    try:
        if not root.exists():
            raise UserError(f"{root}: there is no such folder. Supported layouts:\n{LAYOUTS}")
        if not root.is_dir():
            raise UserError(f"{root}: is a file; give a folder. Supported layouts:\n{LAYOUTS}")
        child_folders(root)
        listing = _list(root, None if sbd is None else Path(sbd), depth_channels)
    except PermissionError as error:
        raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror}).") from error
    if listing is None:
        raise UserError(f"{root}: does not contain a data set in a supported layout. Supported layouts:\n{LAYOUTS}")
    return listing


def _list(root: Path, sbd: Path | None, depth_channels: DepthChannels | None) -> DatasetIndex | None:
    if sbd is not None:
        listing = list_voc(root, sbd)
        if listing is None:
            raise UserError(f"{root}: must be the folder of PASCAL VOC, because SBD ({sbd}) extends it.")
        return listing
    if depth_channels is not None:
        listing = list_nyud(root, depth_channels)
        if listing is None:
            raise UserError(f"{root}: depth_channels={depth_channels} is for NYUDv2; leave it out for other data.")
        return listing
    return next((listing for list_layout in LAYOUT_LISTERS if (listing := list_layout(root)) is not None), None)


def parse_scenes(source: str | Path) -> tuple[int, int] | None:
    """Parse "scenes:COUNT:SEED" into the count and the seed; return None if the source is a path, as "./scenes" is."""
    if not isinstance(source, str) or not (source == "scenes" or source.startswith("scenes:")):
        return None
    match = re.fullmatch(r"scenes(?::([1-9][0-9]{0,8})(?::([0-9]{1,9}))?)?", source)
    if match is None:
        raise UserError(f"{source}: write scenes:COUNT or scenes:COUNT:SEED, such as scenes:400:7, COUNT from 1.")
    return int(match[1] or SCENE_COUNT), int(match[2] or 0)


def open_scenes(count: int, seed: int, *, split: str | None, fraction: float = 0.2) -> Dataset:
    """Open generated scenes: `count` for training, or `count * fraction` others for validation."""
    from upscore.data.synthetic import SceneDataset

    if split in (None, "train"):
        return SceneDataset(count, seed=seed)
    if split == "val":
        return SceneDataset(max(1, round(count * fraction)), seed=VALIDATION_SEEDS + seed)
    raise UserError(f"scenes: have no split {split!r}; they have train and val.")


def read_binary_label(path: Path) -> Tensor:
    """Read a binary mask with the values 0 and 255 as (H, W) uint8, with class 1 for 255."""
    labels = images.read_label(path)
    labels[labels == VOID] = 1
    return labels


def _with_classes(listing: DatasetIndex, source: str | Path) -> DatasetIndex:
    """Return the listing with its classes, which are found in the labels if no file names them.

    Raises:
        UserError: the listing has an issue, or no label contains a class.
    """
    require_no_issues(listing, source)
    if listing.classes is not None:
        return listing
    counts = torch.zeros(256, dtype=torch.int64)
    for pair in select(listing, None, source):
        assert pair.label is not None
        counts += torch.bincount(listing.read_label(pair.label).flatten(), minlength=256)
    classes = classes_of_values(counts.numpy())
    if classes is None:
        raise UserError(f"{source}: no label contains a class; all pixels are void ({VOID}), or there are no labels.")
    read_label = read_binary_label if classes is BINARY else listing.read_label
    return replace(listing, classes=classes, classes_from="found in the labels", read_label=read_label)


def _dataset(listing: DatasetIndex, pairs: list[Pair]) -> FileDataset:
    assert listing.classes is not None
    return FileDataset(
        pairs,
        listing.classes,
        classes_from=listing.classes_from,
        read_label=listing.read_label,
        geometric=listing.geometric,
        depth=listing.depth,
    )


def data_digest(*datasets: Dataset) -> str | None:
    """Compute a digest of the names, sizes and modification times of all files of some data sets.

    Names are relative to the common parent folder of all files, so the digest stays the same when the folder is moved.

    Returns:
        The SHA-256 digest; None if a data set has no attribute `files`.

    Raises:
        UserError: a file does not exist any more.
    """
    parts = [getattr(dataset, "files", None) or [] for dataset in datasets]
    if not all(parts):
        return None
    files = [[Path(path).absolute() for path in part] for part in parts]
    root = Path(os.path.commonpath([path.parent for part in files for path in part]))
    digest = hashlib.sha256()
    for part in files:
        for line in _file_lines(part, root):
            digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _file_lines(files: Iterable[Path], root: Path) -> Iterable[str]:
    """Yield the name, size and modification time of each file."""
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}).") from error
        yield f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"


def same_source(one: object, other: object) -> bool:
    """Return whether two sources are the same: paths to the same folder, or the same generated scenes."""
    scenes = [parse_scenes(source) if isinstance(source, str) else None for source in (one, other)]
    if any(scenes):
        return scenes[0] == scenes[1]
    if not (isinstance(one, str | Path) and isinstance(other, str | Path)):
        return False
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
