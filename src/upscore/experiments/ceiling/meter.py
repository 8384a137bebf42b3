"""What an output stride alone costs: labels brought down to a grid of cells and up again, scored against themselves.

C classes, H W pixels of a label map, h w cells of the grid, s stride (pixels from one cell to the next).

Upper bounds on IU: FCN section 6.3, and appendix A of the conference version. Neither says how labels were resampled or
what became of void, so there are two methods here, each defined in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.evaluation.semantic import ConfusionMatrix, SemanticScores, semantic_scores
from upscore.labels import VOID

STRIDES = (2, 4, 8, 16, 32, 64, 128)

PAPER_MEAN_IOU = {4: 0.985, 8: 0.964, 16: 0.928, 32: 0.861, 64: 0.733, 128: 0.509}
"""Stride -> mean IoU on PASCAL VOC 2011's validation photos (FCN section 6.3)."""

Method = Literal["nearest", "bilinear"]

METHODS: dict[Method, str] = {
    "nearest": (
        "each cell takes the label of the pixel at its centre, or where that is void of the labelled pixel nearest to "
        "it, and gives it to all of its pixels"
    ),
    "bilinear": (
        "each class's one-hot plane is averaged over the cell, void left out of the average, and upsampled bilinearly "
        "as an FCN upsamples (half-pixel centres, borders repeated); each pixel takes the highest class, of equals the "
        "one that is listed first"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the labels of a whole set keep of themselves at each stride: IUs in 0..1, by method, stride and class.

    `None` stands for the IU of a class that the labels don't have.
    """

    images: int
    """Label maps that were counted."""
    strides: list[int]
    """In ascending order."""
    mean_iu: dict[Method, dict[int, float]]
    """Over the classes that the labels have."""
    per_class: dict[Method, dict[int, dict[str, float | None]]]
    pixels: dict[str, int]
    """Labelled pixels of each class."""
    photos: dict[str, int]
    """Label maps that have the class."""

    @property
    def present(self) -> list[str]:
        """The classes that the labels have, in their order."""
        return [name for name, pixels in self.pixels.items() if pixels]

    def best(self, name: str, stride: int) -> float:
        """The IU of a class that the labels have, by the method that is kinder to it."""
        return max(self.per_class[method][stride][name] or 0.0 for method in METHODS)

    def to_json(self) -> dict[str, object]:
        """The fields by name, and the paper's numbers, of types that JSON has."""
        return {**asdict(self), "methods": METHODS, "paper_mean_iu": PAPER_MEAN_IOU}


class CeilingMeter:
    """Scores label maps against what the strides leave of them: one confusion matrix for each stride and method."""

    def __init__(self, classes: Sequence[str], strides: Sequence[int] = STRIDES) -> None:
        self.classes = list(classes)
        self.strides = sorted(strides)
        self.images = 0
        self.photos = torch.zeros(len(self.classes), dtype=torch.int64)
        self.confusions: dict[Method, dict[int, ConfusionMatrix]] = {
            method: {stride: ConfusionMatrix(len(self.classes)) for stride in self.strides} for method in METHODS
        }

    def update(self, class_map: Tensor) -> None:
        """Count one label map, (H, W) uint8: a class index, or 255 for void. A map that is all void counts nothing."""
        self.images += 1
        present = list(_extents(class_map))
        if not present:
            return
        self.photos[present] += 1
        filled = void_filled(class_map)
        for stride in self.strides:
            self.confusions["nearest"][stride].update(nearest(filled, stride), class_map)
            self.confusions["bilinear"][stride].update(bilinear(class_map, stride), class_map)

    def ceilings(self) -> Ceilings:
        """Of all maps so far.

        Raises:
            UserError: no pixel is labelled, or two classes have the same name.
        """
        if not self.photos.any():
            raise UserError(f"no pixel of the {self.images} label maps has a class: all are void ({VOID})")
        scores: dict[Method, dict[int, SemanticScores]] = {
            method: {stride: semantic_scores(matrix.counts, self.classes) for stride, matrix in matrices.items()}
            for method, matrices in self.confusions.items()
        }
        return Ceilings(
            images=self.images,
            strides=self.strides,
            mean_iu={method: {s: score.mean_iu for s, score in found.items()} for method, found in scores.items()},
            per_class={method: {s: score.per_class for s, score in found.items()} for method, found in scores.items()},
            pixels=scores["nearest"][self.strides[0]].pixels,
            photos=dict(zip(self.classes, self.photos.tolist(), strict=True)),
        )


def void_filled(class_map: Tensor) -> Tensor:
    """(H, W) uint8 -> the same with each void pixel taking the label of the labelled pixel nearest to it.

    At least one pixel must be labelled.
    """
    void = (class_map == VOID).numpy()
    if not void.any():
        return class_map
    rows, columns = np.asarray(distance_transform_edt(void, return_distances=False, return_indices=True))
    return torch.from_numpy(class_map.numpy()[rows, columns])


def nearest(class_map: Tensor, stride: int) -> Tensor:
    """(H, W) uint8 -> each s x s cell in the label of the pixel at its centre.

    Cells that the border cuts have the centre of what is left of them. Of an even number, the centre is the lower and
    right one of the middle pixels.
    """
    rows, columns = (_centres(side, stride) for side in class_map.shape)
    return class_map[rows[:, None], columns]


def _centres(side: int, stride: int) -> Tensor:
    """(side,) the coordinate of the centre of the cell that each coordinate is in."""
    start = torch.arange(side) // stride * stride
    return (start + (start + stride).clamp(max=side)) // 2


def bilinear(class_map: Tensor, stride: int) -> Tensor:
    """(H, W) uint8 -> the class of each pixel by averages over s x s cells, upsampled bilinearly.

    Void pixels that no class reaches are given class 0, as a prediction has no void.

    One class's plane is looked at at a time, and only where the class can reach, so that memory does not grow with the
    number of classes. Cells that the border cuts average the pixels that are left of them, as void does not count.
    """
    height, width = class_map.shape
    labels = F.pad(class_map, (0, -width % stride, 0, -height % stride), value=VOID)
    labelled = _cell_means(labels != VOID, stride)
    highest = torch.zeros(labels.shape)
    winner = torch.zeros_like(labels)
    for index, extent in _extents(class_map).items():
        cells = tuple(_reached(span, stride, count) for span, count in zip(extent, labelled.shape, strict=True))
        window = tuple(slice(stride * span.start, stride * span.stop) for span in cells)
        shares = _cell_means(labels[window] == index, stride) / labelled[cells].clamp(min=1e-9)
        scores = F.interpolate(shares[None, None], scale_factor=stride, mode="bilinear", align_corners=False)[0, 0]
        winner[window].masked_fill_(scores > highest[window], index)
        torch.maximum(highest[window], scores, out=highest[window])
    return winner[:height, :width]


def _extents(class_map: Tensor) -> dict[int, tuple[slice, slice]]:
    """Class index -> the rows and the columns that hold all of the class, of those that the map has."""
    numbers = class_map.numpy() + np.uint8(1)  # void becomes 0, which is no object
    return {index: extent for index, extent in enumerate(find_objects(numbers) or ()) if extent is not None}


def _reached(span: slice, stride: int, cells: int) -> slice:
    """The cells of an axis from whose averages the pixels in reach of a class are made, given the pixels it spans.

    The cells that it is in have one more on either side: a cell's triangle covers half of each of its neighbours.
    """
    return slice(max(0, span.start // stride - 1), min(cells, (span.stop - 1) // stride + 2))


def _cell_means(plane: Tensor, stride: int) -> Tensor:
    """(h s, w s) bool -> (h, w) the share of each cell that is true."""
    return F.avg_pool2d(plane.float()[None], stride)[0]
