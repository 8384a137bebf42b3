"""The four scores of semantic segmentation, from one matrix of pixel counts (FCN section 5).

C: classes; H, W: height and width in pixels; n[i, j]: pixels of true class i predicted as j;
t[i]: pixels of true class i; p[j]: pixels predicted as j. IU: intersection over union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from upscore.errors import UserError

BLOCK = 2**15
"""Pixels that a CPU counts at a time: their 64-bit copies fit in its cache, however large the map is.

Where there are many classes, blocks are larger, so that adding up the matrices takes less time than counting.
"""


class ConfusionMatrix:
    """Counts over a whole set which class was predicted where: the metrics are not means over images.

    `a + b` counts what both have seen, whatever device each is on.
    """

    counts: Tensor
    """(C, C) int64, n[i, j] pixels of true class i predicted as j."""

    def __init__(self, num_classes: int, device: torch.device | str | None = None) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    def update(self, predicted: Tensor | np.ndarray, target: Tensor | np.ndarray) -> None:
        """Count the pixels of two integer maps of the same shape, one image or a batch.

        Pixels whose target is not one of 0..C-1 (void) are left out. A prediction has no void.
        """
        predicted, target = self._flat(predicted), self._flat(target)
        assert predicted.shape == target.shape, f"{len(predicted)} pixels predicted, {len(target)} labelled"
        on_cpu = self.counts.device.type == "cpu"
        block = max(BLOCK, 8 * self.num_classes**2) if on_cpu else max(len(target), 1)
        for pixels, truth in zip(predicted.split(block), target.split(block), strict=True):
            self.counts += self._count(pixels.long(), truth.long())

    def _flat(self, values: Tensor | np.ndarray) -> Tensor:
        if isinstance(values, np.ndarray):
            # A view may be read-only or run backwards, and torch takes neither.
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
        cell.masked_fill_(void, classes**2)  # One cell behind the matrix, dropped below.
        return cell.bincount(minlength=classes**2 + 1)[:-1].view(classes, classes)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        assert self.num_classes == other.num_classes
        total = ConfusionMatrix(self.num_classes, device=self.counts.device)
        total.counts = self.counts + other.counts.to(self.counts.device)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticScores:
    """The scores of a whole set, each in 0..1; dictionaries are keyed by class name, in the order of the classes."""

    pixel_accuracy: float
    """sum n[i, i] / sum t[i]"""
    mean_accuracy: float
    """The mean of n[i, i] / t[i] over the classes that are in the truth."""
    mean_iu: float
    """The mean of IU[i] = n[i, i] / (t[i] + p[i] - n[i, i]) over the classes that are in the truth or predicted."""
    frequency_weighted_iu: float
    """sum t[i] IU[i] / sum t[i]"""
    per_class: dict[str, float | None]
    """IU; None for a class that is neither in the truth nor predicted."""
    per_class_accuracy: dict[str, float | None]
    """n[i, i] / t[i], the recall; None for a class that is not in the truth."""
    per_class_precision: dict[str, float | None]
    """n[i, i] / p[i]; None for a class that is never predicted."""
    pixels: dict[str, int]
    """t[i]"""
    confusion: list[list[int]]
    """C rows of C counts, n[i][j]."""

    def to_json(self) -> dict[str, object]:
        """The fields by name, of types that JSON has; never NaN or infinity."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoHeadedScores(SemanticScores):
    """The scores of two sets of classes over the same photos; those of the first are its own."""

    geometric: SemanticScores


def two_headed_scores(semantic: SemanticScores, geometric: SemanticScores) -> TwoHeadedScores:
    """Put the scores of the two heads of a network together."""
    own = {field.name: getattr(semantic, field.name) for field in fields(SemanticScores)}
    return TwoHeadedScores(**own, geometric=geometric)


def semantic_scores(counts: Tensor, classes: Sequence[str]) -> SemanticScores:
    """Score a (C, C) matrix of counts, n[i, j] pixels of true class i predicted as j (FCN section 5).

    What is 0/0 is skipped by the means: a class that is neither in the truth nor predicted changes no score. A class
    that is absent from the truth but predicted has IU 0, which does lower mean IoU (to leave such classes out, score
    `counts` without their rows and columns); it has no accuracy, so mean accuracy skips it. Background is a class like
    any other. Where no pixel is labelled at all, the four scores are 0.

    Raises:
        UserError: two classes have the same name.
    """
    classes = list(classes)
    assert counts.shape == (len(classes), len(classes)), f"{tuple(counts.shape)} counts of {len(classes)} classes"
    for name in classes:
        if classes.count(name) > 1:
            raise UserError(f"two classes are called {name!r}: scores are reported by name, give each class its own")

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
