"""Scores of semantic segmentation: pixel accuracy, mean accuracy, mean IoU, frequency weighted IoU (FCN section 5).

C classes; n[i, j] pixels of true class i predicted as j; t[i] pixels of true class i; p[j] pixels predicted as j.
The paper writes IU for IoU, intersection over union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from upscore.errors import UserError

BLOCK = 2**15
"""Number of pixels that are counted at a time on a CPU, so that their 64-bit copies fit in its cache.

With many classes, blocks are larger, so that adding the matrices takes less time than counting.
"""


class ConfusionMatrix:
    """Confusion matrix over the pixels of a data set.

    `a + b` is the matrix of the pixels of both, on the device of `a`.

    Args:
        num_classes: C.
        device: device of the counts.
    """

    counts: Tensor
    """(C, C) int64: n[i, j], the number of pixels of true class i predicted as j."""

    def __init__(self, num_classes: int, device: torch.device | str | None = None) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    def update(self, predicted: Tensor | np.ndarray, target: Tensor | np.ndarray) -> None:
        """Count the pixels of two integer maps of the same shape, of one image or a batch.

        Args:
            predicted: class indices 0..C-1; predictions have no void.
            target: class indices; pixels with other values than 0..C-1, such as void, are not counted.
        """
        predicted, target = self._flat(predicted), self._flat(target)
        assert predicted.shape == target.shape, f"{len(predicted)} pixels predicted, {len(target)} labelled"
        on_cpu = self.counts.device.type == "cpu"
        block = max(BLOCK, 8 * self.num_classes**2) if on_cpu else max(len(target), 1)
        for pixels, truth in zip(predicted.split(block), target.split(block), strict=True):
            self.counts += self._count(pixels.long(), truth.long())

    def _flat(self, values: Tensor | np.ndarray) -> Tensor:
        if isinstance(values, np.ndarray):
            # torch accepts neither read-only arrays nor negative strides
            values = torch.from_numpy(np.array(values, order="C"))
        assert not values.is_floating_point(), f"class indices are integers, not {values.dtype}"
        return values.detach().to(self.counts.device).flatten()

    def _count(self, predicted: Tensor, target: Tensor) -> Tensor:
        classes = self.num_classes
        if len(predicted):
            lowest, highest = predicted.aminmax()
            assert lowest >= 0, f"class {int(lowest)} predicted"
            assert highest < classes, f"class {int(highest)} predicted, there are {classes}"
        cell = target * classes + predicted
        void = (target < 0) | (target >= classes)
        cell.masked_fill_(void, classes**2)  # an additional cell that is dropped below
        return cell.bincount(minlength=classes**2 + 1)[:-1].view(classes, classes)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        assert self.num_classes == other.num_classes
        total = ConfusionMatrix(self.num_classes, device=self.counts.device)
        total.counts = self.counts + other.counts.to(self.counts.device)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticScores:
    """Scores of a data set, each in 0..1; dictionaries are keyed by class name, in the order of the classes."""

    pixel_accuracy: float
    """sum n[i, i] / sum t[i]."""
    mean_accuracy: float
    """Mean of n[i, i] / t[i] over the classes in the ground truth."""
    mean_iu: float
    """Mean IoU: mean of n[i, i] / (t[i] + p[i] - n[i, i]) over the classes in the ground truth or the prediction."""
    frequency_weighted_iu: float
    """sum t[i] IoU[i] / sum t[i]."""
    per_class: dict[str, float | None]
    """IoU; None for a class that is neither in the ground truth nor predicted."""
    per_class_accuracy: dict[str, float | None]
    """n[i, i] / t[i], the recall; None for a class that is not in the ground truth."""
    per_class_precision: dict[str, float | None]
    """n[i, i] / p[i]; None for a class that is never predicted."""
    pixels: dict[str, int]
    """t[i]."""
    confusion: list[list[int]]
    """C rows of C counts, n[i][j]."""

    def to_json(self) -> dict[str, object]:
        """Return the fields as a JSON-serialisable dictionary without NaN and infinity."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoHeadedScores(SemanticScores):
    """Scores of two sets of classes over the same images; the fields are those of the first set."""

    geometric: SemanticScores


def two_headed_scores(semantic: SemanticScores, geometric: SemanticScores) -> TwoHeadedScores:
    """Combine the scores of the two heads of a network."""
    own = {field.name: getattr(semantic, field.name) for field in fields(SemanticScores)}
    return TwoHeadedScores(**own, geometric=geometric)


def semantic_scores(counts: Tensor, classes: Sequence[str]) -> SemanticScores:
    """Compute the scores of a confusion matrix (FCN section 5).

    Means skip undefined values (0/0), so a class that is neither in the ground truth nor predicted changes no score. A
    class that is predicted but not in the ground truth has IoU 0, which lowers mean IoU (to exclude such classes, pass
    `counts` without their rows and columns), and no accuracy. The background counts like any other class. Without
    labelled pixels, the four scores are 0.

    Args:
        counts: (C, C) integers: n[i, j], the number of pixels of true class i predicted as j.
        classes: class names.

    Raises:
        UserError: two classes have the same name.
    """
    classes = list(classes)
    assert counts.shape == (len(classes), len(classes)), f"{tuple(counts.shape)} counts of {len(classes)} classes"
    for name in classes:
        if classes.count(name) > 1:
            raise UserError(f"two classes are named {name!r}: rename one, since scores are reported by name")

    counts = counts.detach().cpu()
    right, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iu = _ratios(right, truth + predicted - right)
    accuracy = _ratios(right, truth)
    weighted = [t * (value or 0.0) for t, value in zip(truth.tolist(), iu, strict=True)]
    labelled = max(int(truth.sum()), 1)
    return SemanticScores(
        pixel_accuracy=int(right.sum()) / labelled,
        mean_accuracy=_mean(accuracy),
        mean_iu=_mean(iu),
        frequency_weighted_iu=sum(weighted) / labelled,
        per_class=dict(zip(classes, iu, strict=True)),
        per_class_accuracy=dict(zip(classes, accuracy, strict=True)),
        per_class_precision=dict(zip(classes, _ratios(right, predicted), strict=True)),
        pixels=dict(zip(classes, truth.tolist(), strict=True)),
        confusion=counts.tolist(),
    )


def _ratios(part: Tensor, whole: Tensor) -> list[float | None]:
    return [p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]


def _mean(values: list[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(defined) / max(len(defined), 1)
