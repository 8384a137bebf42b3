"""Data sets: what is trained on, scored and shown, one `Sample` at a time.

A source is a folder (see `LAYOUTS`) or the words "scenes", "scenes:COUNT", "scenes:COUNT:SEED".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from upscore.data.formats.camvid import list_camvid
from upscore.data.formats.class_names import BINARY, classes_of_values
from upscore.data.formats.coco.files import find_coco
from upscore.data.formats.folder import DatasetIndex, Pair, child_folders, list_folder
from upscore.data.formats.nyud import DepthChannels, list_nyud
from upscore.data.formats.pascal_context import list_pascal_context
from upscore.data.formats.sift_flow import list_sift_flow
from upscore.data.formats.voc import list_sbd, list_voc
from upscore.data.io import images
from upscore.data.sample import Sample
from upscore.data.samples import FileDataset
from upscore.data.splits import require_fraction, require_soundness, select, train_and_val
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

LAYOUT_LISTS = (list_nyud, list_pascal_context, list_voc, list_sbd, list_sift_flow, list_camvid, list_folder)
"""In this order, for PASCAL-Context has VOC's folders in it, and SIFT Flow one that is called Images."""

SCENE_COUNT = 400
# Seeds from here on, which a user cannot give, draw the scenes to validate on: never those of any training.
VALIDATION_SEEDS = 2**31


class Dataset(Protocol):
    """Samples by number, and what their class indices mean."""

    @property
    def classes(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Subset:
    """Some samples of a data set, in the order of `indices`."""

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
    """(N,) int64, the number that COCO gives each sample; 1 to N where a data set has no such numbers."""
    numbered = getattr(dataset, "image_ids", None)
    return np.arange(1, len(dataset) + 1) if numbered is None else np.asarray(numbered)


def geometric_classes(dataset: Dataset) -> list[str]:
    """The names of the second set of classes, where a data set has `Sample.geometric_map`; otherwise none."""
    return getattr(dataset, "geometric_classes", [])


def depth_channels(dataset: Dataset) -> int:
    """The channels of `Sample.depth`; 0 where a data set has none."""
    return getattr(dataset, "depth_channels", 0)


def subset(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    """The samples of the given numbers, as a data set."""
    return Subset(dataset, indices)


def open_dataset(
    source: str | Path,
    split: str | None = None,
    *,
    sbd: str | Path | None = None,
    depth_channels: DepthChannels | None = None,
) -> Dataset:
    """Open one split of a source, or all its labelled photos.

    `split` is "train", "val", "test" or "trainval" (the first two together). `sbd` is the folder of SBD, whose training
    images then take the place of VOC's own. `depth_channels` chooses between NYUDv2's depth and its HHA. Without a
    `classes.txt` a plain folder's labels are all read once, to learn
    how many classes there are; where they hold 0 and 255 alone, these become `background` and `foreground`.

    Raises:
        UserError: no layout is recognised, the split does not exist, or a file is at fault (the first one is named).
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
    """Open what to train on and what to validate on: the source's own splits where it has them.

    Otherwise `fraction` of the photos is held out, chosen by `seed` from their sorted names. `val_pattern`, a pattern of
    file names such as "0006R0*", pools the two splits and holds out what it matches: a whole video, a whole patient.
    The test split is in neither. Of scenes, `fraction` as many more are drawn to validate on.

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
    """What to score a model on: the test split, else the validation split, else (None) everything there is."""
    if parse_scenes(source) is not None:
        return "val"
    splits = find_coco(source) or list_files(source).splits
    return next((split for split in ("test", "val") if split in splits), None)


def list_files(
    source: str | Path, *, sbd: str | Path | None = None, depth_channels: DepthChannels | None = None
) -> DatasetIndex:
    """Find the files of a folder in any of the `LAYOUTS`, by the lists in it and the files' names."""
    root = Path(source)
    try:
        if not root.exists():
            raise UserError(f"{root}: there is no such folder. Understood are\n{LAYOUTS}")
        if not root.is_dir():
            raise UserError(f"{root}: is a file, but a data set is a folder. Understood are\n{LAYOUTS}")
        child_folders(root)
        listing = _list(root, None if sbd is None else Path(sbd), depth_channels)
    except PermissionError as error:
        raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror}).") from error
    if listing is None:
        raise UserError(f"{root}: holds no data set in a layout that is understood. Understood are\n{LAYOUTS}")
    return listing


def _list(root: Path, sbd: Path | None, depth_channels: DepthChannels | None) -> DatasetIndex | None:
    if sbd is not None:
        listing = list_voc(root, sbd)
        if listing is None:
            raise UserError(f"{root}: SBD ({sbd}) goes with PASCAL VOC only, and this is no folder of it.")
        return listing
    if depth_channels is not None:
        listing = list_nyud(root, depth_channels)
        if listing is None:
            raise UserError(f"{root}: depth_channels={depth_channels} is a choice that NYUDv2's folder alone has.")
        return listing
    return next((listing for layout in LAYOUT_LISTS if (listing := layout(root)) is not None), None)


def parse_scenes(source: str | Path) -> tuple[int, int] | None:
    """The count and the seed of "scenes:COUNT:SEED"; None if the source is a path ("./scenes" is)."""
    if not isinstance(source, str) or not (source == "scenes" or source.startswith("scenes:")):
        return None
    match = re.fullmatch(r"scenes(?::([1-9][0-9]{0,8})(?::([0-9]{1,9}))?)?", source)
    if match is None:
        raise UserError(f"{source}: write scenes:COUNT or scenes:COUNT:SEED, such as scenes:400:7, COUNT from 1.")
    return int(match[1] or SCENE_COUNT), int(match[2] or 0)


def open_scenes(count: int, seed: int, *, split: str | None, fraction: float = 0.2) -> Dataset:
    """Generated scenes: `count` to train on, or `fraction` as many others to validate on."""
    from upscore.data.synthetic.scenes import SceneDataset

    if split in (None, "train"):
        return SceneDataset(count, seed=seed)
    if split == "val":
        return SceneDataset(max(1, round(count * fraction)), seed=VALIDATION_SEEDS + seed)
    raise UserError(f"scenes: have no split {split!r}; they have train, val.")


def read_binary_label(path: Path) -> Tensor:
    """Read a plain mask, 0 and 255, as (H, W) uint8 with 255 as class 1."""
    labels = images.read_label(path)
    labels[labels == VOID] = 1
    return labels


def _with_classes(listing: DatasetIndex, source: str | Path) -> DatasetIndex:
    """The listing with its classes, learnt from the labels where nothing else tells; a fault in it is raised."""
    require_soundness(listing, source)
    if listing.classes is not None:
        return listing
    counts = torch.zeros(256, dtype=torch.int64)
    for pair in select(listing, None, source):
        assert pair.label is not None
        counts += torch.bincount(listing.read_label(pair.label).flatten(), minlength=256)
    classes = classes_of_values(counts.numpy())
    if classes is None:
        raise UserError(f"{source}: no label holds a class; every pixel is void ({VOID}), or there are no labels.")
    read_label = read_binary_label if classes is BINARY else listing.read_label
    return replace(listing, classes=classes, classes_from="as found in the labels", read_label=read_label)


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
