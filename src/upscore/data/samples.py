"""The sample of a data set, and the data set of images with class maps.

H W pixels, D channels of depth.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscore.annotations import ObjectAnnotations
from upscore.data.formats.folder import DepthMaps, GeometricLabels, Pair
from upscore.data.io import images
from upscore.labels import VOID


@dataclass(slots=True, kw_only=True)
class Sample:
    """One image and its labels, which may be missing."""

    name: str
    """Name of the image file without suffix, unique in its data set."""
    image: Tensor
    """(3, H, W) uint8, RGB."""
    class_map: Tensor | None = None
    """(H, W) uint8, class indices, 255 = void."""
    objects: ObjectAnnotations | None = None
    """The annotated objects."""
    geometric_map: Tensor | None = None
    """(H, W) uint8, class indices of a second set of classes, such as SIFT Flow's geometric ones; 255 = void."""
    depth: Tensor | None = None
    """(D, H, W) float32, depth in metres (D = 1) or HHA (D = 3); NaN where unknown."""
    path: Path | None = None
    """The image file; None for a generated image."""


class PairArrays:
    """The names and paths of pairs in flat arrays, whose memory is shared by the workers of a data loader.

    A list of strings would be copied into the memory of every worker, because reading changes its reference counts.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._columns = {
            field: np.array([os.fsencode(getattr(pair, field) or "") for pair in pairs], bytes)
            for field in Pair._fields
        }

    @property
    def names(self) -> list[str]:
        """The names of the samples, in order."""
        return [os.fsdecode(name) for name in self._columns["name"]]

    @property
    def files(self) -> list[str]:
        """The paths of all files, without duplicates."""
        columns = (column for field, column in self._columns.items() if field != "name")
        return [os.fsdecode(path) for path in dict.fromkeys(path for column in columns for path in column if path)]

    def __len__(self) -> int:
        return len(self._columns["name"])

    def _pair(self, index: int) -> Pair:
        name, image, *others = (os.fsdecode(column[index]) for column in self._columns.values())
        return Pair(name, Path(image), *(Path(path) if path else None for path in others))


class FileDataset(PairArrays):
    """Data set of images with their class maps, geometric maps and depth, read on access.

    Args:
        pairs: the files.
        classes: the class names.
        classes_from: where the class names come from, for error messages.
        read_label: reads a label file as (H, W) uint8.
        geometric: the second set of classes, and the function that reads its label files.
        depth: the number of depth channels, and the function that reads the depth files.

    Raises:
        UserError: on access, if a file cannot be read, differs from the image in size, or contains a value that is not
            a class index.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: list[str],
        *,
        classes_from: str = "the data set's own",
        read_label: Callable[[Path], Tensor] = images.read_label,
        geometric: GeometricLabels | None = None,
        depth: DepthMaps | None = None,
    ) -> None:
        super().__init__(pairs)
        self.classes = classes
        self.geometric_classes = [] if geometric is None else geometric.classes
        self.depth_channels = 0 if depth is None else depth.channels
        self.classes_from = classes_from
        self.read_label = read_label
        self._geometric, self._depth = geometric, depth

    def __getitem__(self, index: int) -> Sample:
        pair = self._pair(index)
        sample = Sample(name=pair.name, image=images.read_image(pair.image), path=pair.image)
        if pair.label is not None:
            sample.class_map = self._read_classes(pair.label, sample, self.read_label, self.classes, self.classes_from)
        if self._geometric is not None and pair.geometric is not None:
            geometric = self._geometric
            sample.geometric_map = self._read_classes(
                pair.geometric, sample, geometric.read, geometric.classes, "geometric classes"
            )
        if self._depth is not None and pair.depth is not None:
            sample.depth = self._depth.read(pair.depth)
            _require(size_issue(pair.depth, sample.depth[0], pair.image, sample.image))
        return sample

    @staticmethod
    def _read_classes(
        label_path: Path, sample: Sample, read: Callable[[Path], Tensor], classes: list[str], classes_from: str
    ) -> Tensor:
        assert sample.path is not None
        class_map = read(label_path)
        _require(size_issue(label_path, class_map, sample.path, sample.image))
        counts = torch.bincount(class_map.flatten(), minlength=VOID + 1)
        _require(value_issue(label_path, counts.numpy(), classes, classes_from))
        return class_map


def _require(issue: str | None) -> None:
    """Raise a `LabelError` with the message, unless it is None."""
    if issue is not None:
        raise images.LabelError(issue)


def size_issue(label_path: Path, label: Tensor, image_path: Path, image: Tensor) -> str | None:
    """Return an error message if a label or depth map (H, W) and its image (3, H, W) differ in size, else None."""
    (height, width), (image_height, image_width) = label.shape, image.shape[-2:]
    if (height, width) == (image_height, image_width):
        return None
    rotated = (height, width) == (image_width, image_height)
    hint = "the image is rotated by its EXIF orientation; rotate the label in the same way"
    remedy = hint if rotated else "make both the same size"
    return f"{label_path}: is {width}x{height} pixels, but {image_path} is {image_width}x{image_height}; {remedy}."


def value_issue(label_path: Path, counts: np.ndarray, classes: list[str], classes_from: str) -> str | None:
    """Return an error message if a label contains a value that is neither a class index nor void, else None.

    Args:
        label_path: the label file, for the message.
        counts: (256,) number of pixels per value.
        classes: the class names.
        classes_from: where the class names come from, for the message.
    """
    outside = np.flatnonzero(counts[len(classes) : VOID]) + len(classes)
    if not len(outside):
        return None
    values = ", ".join(str(value) for value in outside[:5]) + (", ..." if len(outside) > 5 else "")
    pixels = int(counts[outside].sum())
    return (
        f"{label_path}: contains the values {values} ({pixels:,} pixels), but there are {len(classes)} classes, 0 to "
        f"{len(classes) - 1}, and {VOID} = void (class names: {classes_from})."
    )
