"""Upper bounds of IoU by output stride: label maps are reduced to a grid, enlarged, and compared with themselves.

C classes, H W pixels of a label map, h w cells of the grid, s stride (pixels between cells).

See FCN section 6.3, and appendix A of the conference version. Neither defines how labels are resampled and how void is
treated, so there are two methods, defined in `METHODS`.
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
"""Stride -> mean IoU on the validation images of PASCAL VOC 2011 (FCN section 6.3)."""

Method = Literal["nearest", "bilinear"]

METHODS: dict[Method, str] = {
    "nearest": (
        "all pixels of a cell get the label of the pixel at its centre, or of the nearest labelled pixel if the centre "
        "is void"
    ),
    "bilinear": (
        "the one-hot map of each class is averaged over the labelled pixels of each cell and upsampled bilinearly, as "
        "in an FCN (half-pixel centres, repeated borders); each pixel gets the class with the highest value, and the "
        "first of equal ones"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Upper bounds of IoU of a data set, in 0..1, by method, stride and class."""

    images: int
    """Number of label maps."""
    strides: list[int]
    """Strides in ascending order."""
    mean_iu: dict[Method, dict[int, float]]
    """Mean IoU over the classes that occur, by method and stride."""
    per_class: dict[Method, dict[int, dict[str, float | None]]]
    """IoU by method, stride and class; None for classes that do not occur."""
    pixels: dict[str, int]
    """Number of labelled pixels of each class."""
    class_images: dict[str, int]
    """Number of label maps with each class."""

    @property
    def present(self) -> list[str]:
        """The classes that occur, in their order."""
        return [name for name, pixels in self.pixels.items() if pixels]

    def best(self, name: str, stride: int) -> float:
        """Return the IoU of a class that occurs, by the method with the higher value."""
        return max(self.per_class[method][stride][name] or 0.0 for method in METHODS)

    def to_json(self) -> dict[str, object]:
        """Return the fields and the paper's numbers as a JSON-serialisable dictionary."""
        return {**asdict(self), "methods": METHODS, "paper_mean_iu": PAPER_MEAN_IOU}


class CeilingMeter:
    """Computes upper bounds over label maps, with a confusion matrix for each stride and method."""

    def __init__(self, classes: Sequence[str], strides: Sequence[int] = STRIDES) -> None:
        self.classes = list(classes)
        self.strides = sorted(strides)
        self.images = 0
        self.class_images = torch.zeros(len(self.classes), dtype=torch.int64)
        self.confusions: dict[Method, dict[int, ConfusionMatrix]] = {
            method: {stride: ConfusionMatrix(len(self.classes)) for stride in self.strides} for method in METHODS
        }

    def update(self, class_map: Tensor) -> None:
        """Add a label map, (H, W) uint8 with class indices and 255 for void."""
        self.images += 1
        present = list(_extents(class_map))
        if not present:
            return
        self.class_images[present] += 1
        filled = fill_void(class_map)
        for stride in self.strides:
            self.confusions["nearest"][stride].update(nearest(filled, stride), class_map)
            self.confusions["bilinear"][stride].update(bilinear(class_map, stride), class_map)

    def ceilings(self) -> Ceilings:
        """Return the upper bounds for all maps so far.

        Raises:
            UserError: no pixel is labelled, or two classes have the same name.
        """
        if not self.class_images.any():
            raise UserError(f"all pixels of the {self.images} label maps are void ({VOID}): label at least one class")
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
            class_images=dict(zip(self.classes, self.class_images.tolist(), strict=True)),
        )


def fill_void(class_map: Tensor) -> Tensor:
    """Replace each void pixel of a label map (H, W) by the nearest label; at least one pixel must be labelled."""
    void = (class_map == VOID).numpy()
    if not void.any():
        return class_map
    rows, columns = np.asarray(distance_transform_edt(void, return_distances=False, return_indices=True))
    return torch.from_numpy(class_map.numpy()[rows, columns])


def nearest(class_map: Tensor, stride: int) -> Tensor:
    """Replace the labels (H, W) of each s x s cell by the label of its central pixel.

    Cells at the border are cropped to the map. For an even size, the centre is the lower right of the central pixels.
    """
    rows, columns = (_centres(side, stride) for side in class_map.shape)
    return class_map[rows[:, None], columns]


def _centres(side: int, stride: int) -> Tensor:
    """Return the centre of the cell of each coordinate, (side,)."""
    start = torch.arange(side) // stride * stride
    return (start + (start + stride).clamp(max=side)) // 2


def bilinear(class_map: Tensor, stride: int) -> Tensor:
    """Average the one-hot classes of a map (H, W) over s x s cells, upsample bilinearly, and take the highest class.

    Cells at the border average over their pixels inside of the map. Void pixels where no class is positive get class 0,
    as a prediction has no void. Classes are processed one at a time and only where they can be positive, so that memory
    does not grow with the number of classes.
    """
    height, width = class_map.shape
    labels = F.pad(class_map, (0, -width % stride, 0, -height % stride), value=VOID)
    labelled = _cell_means(labels != VOID, stride)
    highest = torch.zeros(labels.shape)
    winner = torch.zeros_like(labels)
    for index, extent in _extents(class_map).items():
        cells = tuple(_cells_in_reach(span, stride, count) for span, count in zip(extent, labelled.shape, strict=True))
        window = tuple(slice(stride * span.start, stride * span.stop) for span in cells)
        shares = _cell_means(labels[window] == index, stride) / labelled[cells].clamp(min=1e-9)
        scores = F.interpolate(shares[None, None], scale_factor=stride, mode="bilinear", align_corners=False)[0, 0]
        winner[window].masked_fill_(scores > highest[window], index)
        torch.maximum(highest[window], scores, out=highest[window])
    return winner[:height, :width]


def _extents(class_map: Tensor) -> dict[int, tuple[slice, slice]]:
    """Return the bounding box of each class that occurs, as slices of rows and columns by class index."""
    numbers = class_map.numpy() + np.uint8(1)  # void becomes 0, the background of `find_objects`
    return {index: extent for index, extent in enumerate(find_objects(numbers) or ()) if extent is not None}


def _cells_in_reach(span: slice, stride: int, cells: int) -> slice:
    """Return the cells of an axis that a class can influence, given its span in pixels.

    These are the cells that contain it and one more on either side, since interpolation reaches half a cell further.
    """
    return slice(max(0, span.start // stride - 1), min(cells, (span.stop - 1) // stride + 2))


def _cell_means(plane: Tensor, stride: int) -> Tensor:
    """Return the fraction of true pixels of each cell: (h s, w s) bool -> (h, w)."""
    return F.avg_pool2d(plane.float()[None], stride)[0]
