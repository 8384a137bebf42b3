"""Find and read the JSON files of a COCO data set, and find its images.

```
ROOT/annotations/instances_train2017.json  ROOT/train2017/1.jpg   (or images/, images/train2017/; or the JSON in ROOT)
ROOT/annotations.json                      ROOT/images/1.jpg      (or beside the JSON)
ROOT/train/_annotations.coco.json          ROOT/train/1.jpg
```

The name of a split is the part of the file name after `instances_`, without the year.

N images, K classes, A annotations, R run lengths, L layers of an id map, H W pixels.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from upscore.annotations import ObjectAnnotations
from upscore.data.formats.coco.entries import (
    AnnotationEntry,
    InvalidEntryError,
    Outlines,
    OutlinesBuilder,
    read_annotation,
    read_categories,
    read_image_entry,
)
from upscore.data.formats.folder import SPLITS, UNSPLIT, DatasetIndex, Issue, Pair, child_folders
from upscore.data.io.decoding import MAX_PIXELS
from upscore.errors import UserError
from upscore.results.rle import runs_of_polygons, runs_to_columns

SAMPLED_IMAGES = 100
"""Number of listed images that are searched to find the folder of the images."""

UNSPLIT_NAMES = ("annotations.json", "_annotations.coco.json")
"""Names of the JSON file of a folder without splits; the second is also used in folders of splits."""


def find_coco(source: str | Path) -> dict[str, Path] | None:
    """Return the JSON file of each split of a folder, or the file itself if `source` is one; None if there is none.

    Raises:
        UserError: a split has two files.
    """
    root = Path(source)
    if root.suffix.lower() == ".json" and root.is_file():
        return {UNSPLIT: root}
    if not root.is_dir():
        return None
    found: dict[str, Path] = {}
    for path in sorted(path for parent in (root, root / "annotations") for path in parent.glob("instances_*.json")):
        _add(found, _split(path), path)
    for name, folder in {} if found else child_folders(root).items():
        if name.lower() in SPLITS and (folder / UNSPLIT_NAMES[1]).is_file():
            _add(found, SPLITS[name.lower()], folder / UNSPLIT_NAMES[1])
    unsplit = [root / parent / name for parent in ("", "annotations") for name in UNSPLIT_NAMES]
    if not found and (path := next((path for path in unsplit if path.is_file()), None)):
        found[UNSPLIT] = path
    return {split: found[split] for split in sorted(found, key=_order)} or None


def _split(path: Path) -> str:
    """Return the split of `instances_SPLIT.json`."""
    name = path.stem.removeprefix("instances_")
    name = re.sub(r"(19|20)\d\d$", "", name) or name
    return SPLITS.get(name.lower(), name)


def _add(found: dict[str, Path], split: str, path: Path) -> None:
    if split in found:
        raise UserError(f"{path}: {found[split]} also contains the split {split!r}; keep one of them.")
    found[split] = path


def _order(split: str) -> tuple[int, str]:
    """Return the sort key of a split: train, val, test, then others by name."""
    known = list(SPLITS.values())
    return (known.index(split) if split in known else len(known)), split


@dataclass(slots=True, kw_only=True)
class CocoIndex(DatasetIndex):
    """The images of one or more JSON files; the label of each pair is its JSON file."""

    files: dict[Path, Coco] = field(default_factory=dict)
    """The contents of the JSON files, by path."""
    positions: dict[tuple[Path, Path], int] = field(default_factory=dict)
    """Index of an image in its JSON file, by JSON file and image file."""


def list_coco(found: dict[str, Path], source: str | Path) -> CocoIndex:
    """Read the JSON files of `find_coco` and find their images.

    Raises:
        UserError: a file is not a COCO file, or two files have different categories.
    """
    root = Path(source)
    first, *others = files = [read_coco(path) for path in found.values()]
    for other in others:
        if (other.category_ids, other.classes) != (first.category_ids, first.classes):
            raise UserError(f"{other.path}: has other categories than {first.path}; use the same list in both.")
    listing = CocoIndex(
        layout="COCO",
        splits={},
        classes=first.classes,
        classes_from=f"the categories of {first.path}",
        issues=[issue for file in files for issue in file.issues],
        files={file.path: file for file in files},
    )
    for split, file in zip(found, files, strict=True):
        names = [os.fsdecode(name) for name in file.file_names[:SAMPLED_IMAGES]]
        listing.splits[split] = _pairs(file, image_folder(file.path, names, split, root), listing)
    return listing


def image_folder(json: Path, names: Sequence[str], split: str, root: Path) -> Path:
    """Return the folder of the images of a JSON file: the first candidate that contains one of the listed images."""
    top = json.parent if root == json else root
    tops = [top, top.parent] if top.name == "annotations" else [top]
    split_and_year = json.stem.removeprefix("instances_")
    subfolders = (f"images/{split_and_year}", split_and_year, f"images/{split}", split, "images", "")
    candidates = [parent / subfolder for parent in tops for subfolder in subfolders]
    for name in names[:SAMPLED_IMAGES]:
        for folder in [*candidates, json.parent]:
            if (folder / name).is_file():
                return folder
    return top / "images"


def _pairs(file: Coco, folder: Path, listing: CocoIndex) -> list[Pair]:
    """Return the pairs of the images that exist; missing images are added to the issues of the index."""
    pairs = []
    for position, encoded in enumerate(file.file_names):
        name = os.fsdecode(encoded)
        image = folder / name
        if not image.is_file():
            listing.issues.append(
                Issue(
                    "missing image",
                    image,
                    f"{image}: is listed in {file.path} but missing; add it or remove the entry.",
                )
            )
            continue
        listing.positions[file.path, image] = position
        pairs.append(Pair(str(PurePosixPath(name).with_suffix("")), image, file.path))
    return sorted(pairs)


@dataclass(slots=True, kw_only=True)
class Coco:
    """The contents of a COCO JSON file; annotations are sorted by image."""

    path: Path
    classes: list[str]
    """K class names, by ascending category id."""
    category_ids: list[int]
    """K category ids, by class index."""
    image_ids: np.ndarray
    """(N,) int64, the image ids."""
    file_names: np.ndarray
    """(N,) bytes, paths relative to the folder of the images."""
    sizes: np.ndarray
    """(N, 2) int64, height and width."""
    bounds: np.ndarray
    """(N + 1,) int64; image i has the annotations `bounds[i]` to `bounds[i + 1] - 1`."""
    ids: np.ndarray
    """(A,) int64, the annotation ids."""
    labels: np.ndarray
    """(A,) int64, class indices."""
    boxes: np.ndarray
    """(A, 4) float32, (x1, y1, x2, y2) as annotated; NaN if not annotated."""
    areas: np.ndarray
    """(A,) float32, in pixels, as annotated; NaN if not annotated."""
    crowd: np.ndarray
    """(A,) bool, COCO's `iscrowd`."""
    outlines: Outlines
    """Polygons or run lengths of the A annotations."""
    issues: list[Issue]
    """The invalid entries, which are left out."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def annotations(self, image: int) -> range:
        """Return the indices of the annotations of an image."""
        return range(int(self.bounds[image]), int(self.bounds[image + 1]))

    def runs(self, image: int, annotation: int) -> np.ndarray:
        """Return the run lengths of the mask of an annotation, (R,) int64."""
        outline = self.outlines[annotation]
        if outline.runs is not None:
            return outline.runs.astype(np.int64)
        height, width = self.sizes[image].tolist()
        return runs_of_polygons(outline.polygons, (height, width))

    def objects(self, image: int) -> ObjectAnnotations:
        """Return the objects of an image at its original size; object number k is the k-th annotation.

        Objects without pixels are included, because COCO's evaluation counts them. Boxes and areas are as annotated, or
        measured if not annotated.

        Raises:
            UserError: so many large objects overlap that they do not fit into memory.
        """
        annotations = self.annotations(image)
        height, width = self.sizes[image].tolist()
        try:
            runs = (self.runs(image, annotation) for annotation in annotations)
            id_map = draw_layers(runs, height, width, max_pixels=2 * MAX_PIXELS)
        except UserError as error:
            name = os.fsdecode(self.file_names[image])
            raise UserError(f"{self.path}: {name}: {error}; reduce the image, or split it into tiles.") from error
        rows = slice(annotations.start, annotations.stop)
        measured = ObjectAnnotations.from_id_map(torch.from_numpy(id_map))
        positions = measured.ids - 1
        layers = torch.zeros(len(annotations), dtype=torch.int64).index_copy_(0, positions, measured.layers)
        boxes = torch.zeros(len(annotations), 4).index_copy_(0, positions, measured.boxes)
        areas = torch.zeros(len(annotations)).index_copy_(0, positions, measured.areas)
        annotated_boxes = torch.from_numpy(self.boxes[rows].copy())
        annotated_areas = torch.from_numpy(self.areas[rows].copy())
        return ObjectAnnotations(
            id_map=measured.id_map,
            ids=torch.arange(1, len(annotations) + 1),
            layers=layers,
            labels=torch.from_numpy(self.labels[rows].copy()),
            boxes=torch.where(annotated_boxes.isnan(), boxes, annotated_boxes),
            areas=torch.where(annotated_areas.isnan(), areas, annotated_areas),
            crowd=torch.from_numpy(self.crowd[rows].copy()),
        )


def read_coco(path: Path) -> Coco:
    """Read a COCO instances file; invalid entries are collected in `issues`.

    Raises:
        UserError: the file cannot be read, is not a COCO instances file, or has an invalid category.
    """
    content = read_json(path)
    category_ids, classes = read_categories(content["categories"], path)
    images = _ImageEntries(path)
    for entry in content["images"]:
        images.add(entry)
    annotations = _AnnotationEntries(path, images, {number: index for index, number in enumerate(category_ids)})
    for entry in content["annotations"]:
        annotations.add(entry)
    rows = np.argsort(np.array(annotations.images), kind="stable")
    counts = np.bincount(np.array(annotations.images, np.int64), minlength=len(images.ids))
    return Coco(
        path=path,
        classes=classes,
        category_ids=category_ids,
        image_ids=np.array(images.ids, np.int64),
        file_names=np.array(images.names, bytes),
        sizes=np.array(images.sizes, np.int64).reshape(-1, 2),
        bounds=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        ids=np.array(annotations.ids, np.int64)[rows],
        labels=np.array(annotations.labels, np.int64)[rows],
        boxes=np.array(annotations.boxes, np.float32).reshape(-1, 4)[rows],
        areas=np.array(annotations.areas, np.float32)[rows],
        crowd=np.array(annotations.crowd, bool)[rows],
        outlines=annotations.outlines.ordered(rows),
        issues=images.issues + annotations.issues,
    )


def draw_layers(objects: Iterable[np.ndarray], height: int, width: int, *, max_pixels: int) -> np.ndarray:
    """Draw objects into an id map, each on the first layer where it overlaps no other object.

    Args:
        objects: the run lengths of each object.
        height: H.
        width: W.
        max_pixels: largest number of pixels of all layers.

    Returns:
        (L, H, W) int32, object numbers from 1 in the order of `objects`, 0 = no object.

    Raises:
        UserError: the layers would have more than `max_pixels` pixels.
    """
    layers = [np.zeros((height, width), np.int32)]
    for number, runs in enumerate(objects, start=1):
        columns, mask = runs_to_columns(runs, height)
        layer = next((layer for layer in layers if not layer[:, columns][mask].any()), None)
        if layer is None:
            if (len(layers) + 1) * height * width > max_pixels:
                raise UserError(f"more than {len(layers)} objects overlap in {width}x{height} pixels")
            layer = np.zeros((height, width), np.int32)
            layers.append(layer)
        layer[:, columns][mask] = number
    return np.stack(layers)


def read_json(path: Path) -> dict[str, list[Any]]:
    """Read a JSON file with the three lists of COCO instances; their entries are not checked.

    Raises:
        UserError: the file cannot be read, is not JSON, or lacks a list.
    """
    try:
        content = json.loads(_text(path), parse_constant=lambda _: None)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}).") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f"{path}: is not a COCO instances file; it must contain a list {name!r}.")
    return content


def _text(path: Path) -> str:
    """Return the text of a JSON file; its bytes (0.5 GB for COCO) are freed before the text is parsed."""
    content = path.read_bytes()
    return content.decode(json.detect_encoding(content), "surrogatepass")


class _ImageEntries:
    """The valid entries of `images`, and the issues of the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids, self.names, self.sizes = array("q"), list[bytes](), array("q")
        self.positions: dict[int, int] = {}
        self.issues: list[Issue] = []
        self._names: set[str] = set()

    def add(self, entry: Any) -> None:
        try:
            image = read_image_entry(entry)
            if image.id in self.positions:
                raise InvalidEntryError("image id", f"image {image.id}: the id occurs more than once; make it unique.")
            if image.name in self._names:
                raise InvalidEntryError(
                    "duplicate", f"image {image.id}: {image.name} is listed already; keep one of the two."
                )
        except InvalidEntryError as issue:
            self.issues.append(Issue(issue.kind, self.path, f"{self.path}: {issue}", issue.annotation))
            return
        self.positions[image.id] = len(self.ids)
        self._names.add(image.name)
        self.ids.append(image.id)
        self.names.append(os.fsencode(image.name))
        self.sizes.extend(image.size)


class _AnnotationEntries:
    """The valid entries of `annotations`, in the order of the file, and the issues of the others."""

    def __init__(self, path: Path, images: _ImageEntries, classes: dict[int, int]) -> None:
        self.path, self._images, self._classes = path, images, classes
        self.images, self.ids, self.labels, self.crowd = array("q"), array("q"), array("q"), array("b")
        self.boxes, self.areas = array("d"), array("d")
        self.outlines = OutlinesBuilder()
        self.issues: list[Issue] = []
        self._id_counts: Counter[int] = Counter()

    def add(self, content: Any) -> None:
        try:
            entry, image, label = self._read(content)
        except InvalidEntryError as issue:
            self.issues.append(Issue(issue.kind, self.path, f"{self.path}: {issue}", issue.annotation))
            return
        self.images.append(image)
        self.ids.append(entry.id)
        self.labels.append(label)
        self.boxes.extend(entry.box)
        self.areas.append(entry.area)
        self.crowd.append(entry.crowd)
        self.outlines.add(entry.polygons, entry.runs)

    def _read(self, content: Any) -> tuple[AnnotationEntry, int, int]:
        def size_of(image_id: int) -> tuple[int, int] | None:
            position = self._images.positions.get(image_id)
            return (
                None if position is None else (self._images.sizes[2 * position], self._images.sizes[2 * position + 1])
            )

        entry = read_annotation(content, size_of)
        self._id_counts[entry.id] += 1
        if self._id_counts[entry.id] > 1:
            raise InvalidEntryError("annotation id", "has an id that occurs more than once; make it unique.", entry.id)
        label = self._classes.get(entry.category_id)
        if label is None:
            known = ", ".join(str(number) for number in list(self._classes)[:5])
            more = ", ..." if len(self._classes) > 5 else ""
            raise InvalidEntryError(
                "category",
                f"has the category_id {entry.category_id}, but the file has the categories {known}{more}; add it.",
                entry.id,
            )
        return entry, self._images.positions[entry.image_id], label
