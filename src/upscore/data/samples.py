"""Samples read from files, with all that has to hold between a photo and its label.

H W pixels, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscore.data import images
from upscore.labels import VOID
from upscore.structures import Sample


class FileDataset:
    """Photos and labels read from files when they are asked for.

    `pairs` holds each photo's path and its label's, or None. `names` default to the photos' stems. `classes_from` says
    in words where the classes come from, for the errors. `read_label` turns a label's path into (H, W) uint8.

    Raises:
        UserError: on reading a sample whose label differs from its photo in size, or holds no class's index.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path | None]],
        classes: list[str],
        *,
        names: Sequence[str] | None = None,
        classes_from: str = "the data set's own",
        read_label: Callable[[Path], Tensor] = images.read_label,
    ) -> None:
        self.classes = classes
        self.classes_from = classes_from
        self.read_label = read_label
        self._names = flat(names if names is not None else [image.stem for image, _ in pairs])
        self._images = flat(image for image, _ in pairs)
        self._labels = flat(label or "" for _, label in pairs)

    @property
    def names(self) -> list[str]:
        """The samples' names in their order."""
        return [os.fsdecode(name) for name in self._names]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path, label_path = Path(os.fsdecode(self._images[index])), os.fsdecode(self._labels[index])
        image = images.read_image(path)
        class_map = self._read_classes(Path(label_path), path, image) if label_path else None
        return Sample(name=os.fsdecode(self._names[index]), image=image, class_map=class_map, path=path)

    def _read_classes(self, label_path: Path, path: Path, image: Tensor) -> Tensor:
        class_map = self.read_label(label_path)
        fault = size_fault(label_path, class_map, path, image)
        if fault is None:
            counts = torch.bincount(class_map.flatten(), minlength=256)
            fault = value_fault(label_path, counts.numpy(), self.classes, self.classes_from)
        if fault is not None:
            raise images.LabelError(fault)
        return class_map


def flat(texts: Iterable[str | Path]) -> np.ndarray:
    """(N,) bytes; a list would be copied into every worker's memory as the counts of its texts change."""
    return np.array([os.fsencode(text) for text in texts], dtype=bytes)


def size_fault(label_path: Path, label: Tensor, image_path: Path, image: Tensor) -> str | None:
    """What is wrong where a label (H, W) and its photo (3, H, W) differ in size, as a sentence."""
    (height, width), (image_height, image_width) = label.shape, image.shape[-2:]
    if (height, width) == (image_height, image_width):
        return None
    turned = (height, width) == (image_width, image_height)
    hint = "the photo was turned by its EXIF orientation after the label was drawn? turn the label as well"
    remedy = hint if turned else "a label has a pixel for each of the photo's"
    return f"{label_path}: is {width}x{height} pixels, but {image_path} is {image_width}x{image_height}; {remedy}."


def value_fault(label_path: Path, counts: np.ndarray, classes: list[str], classes_from: str) -> str | None:
    """What is wrong where a label, by its (256,) count of pixels per value, holds more than classes and void."""
    outside = np.flatnonzero(counts[len(classes) : VOID]) + len(classes)
    if not len(outside):
        return None
    values = ", ".join(str(value) for value in outside[:5]) + (", ..." if len(outside) > 5 else "")
    pixels = int(counts[outside].sum())
    return (
        f"{label_path}: holds {values} ({pixels:,} pixels), but there are {len(classes)} classes, 0 to "
        f"{len(classes) - 1}, and {VOID} for void ({classes_from})."
    )
