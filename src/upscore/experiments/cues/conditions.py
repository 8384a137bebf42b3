"""Conditions of the cue experiment: images whose background or foreground is masked, or only the shape is left.

C classes, H W pixels. Pixels are masked when a sample is read, before it is resized or cropped, so that hidden colours
are not mixed into visible pixels. Colour augmentation is off, because it would change the fill colour from image to
image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.evaluation.semantic import semantic_scores
from upscore.labels import VOID
from upscore.models.preprocessing import Preprocessing

Color = tuple[int, int, int]
"""RGB, 0..255."""

SHAPE: Color = (255, 255, 255)
"""Colour of the foreground where only its shape is visible."""


class Visible(NamedTuple):
    """The parts of an image that remain visible."""

    foreground: bool
    background: bool


WHOLE, FOREGROUND, BACKGROUND, NEITHER = (
    Visible(True, True),
    Visible(True, False),
    Visible(False, True),
    Visible(False, False),
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition: the visible parts of the images that a network is trained on, and of those that it is tested on."""

    title: str
    trained: Visible
    tested: Visible
    paper: float
    """The paper's mean IoU without the background, for FCN-32s with VGG16 on PASCAL VOC."""


CONDITIONS = {
    "reference": Condition("Reference", WHOLE, WHOLE, 0.848),
    "reference_fg": Condition("Reference-FG", WHOLE, FOREGROUND, 0.810),
    "reference_bg": Condition("Reference-BG", WHOLE, BACKGROUND, 0.198),
    "fg_only": Condition("FG-only", FOREGROUND, FOREGROUND, 0.761),
    "bg_only": Condition("BG-only", BACKGROUND, BACKGROUND, 0.378),
    "shape": Condition("Shape", NEITHER, NEITHER, 0.291),
}

TRAINED_CONDITIONS = [name for name, row in CONDITIONS.items() if row.trained == row.tested]
"""Conditions with their own network; the other conditions test one of these networks."""


def network_of(name: str) -> str:
    """Return the condition whose network is tested under condition `name`."""
    return next(other for other in TRAINED_CONDITIONS if CONDITIONS[other].trained == CONDITIONS[name].trained)


def mean_color(preprocessing: Preprocessing) -> Color:
    """Return the fill colour of hidden pixels: the 8-bit colour nearest to the mean that preprocessing subtracts."""
    red, green, blue = (min(255, max(0, round(value))) for value in preprocessing.mean)
    return red, green, blue


class MaskedDataset:
    """Data set whose samples are masked by `masked`; `foreground` holds the indices of the foreground classes."""

    def __init__(
        self, dataset: Dataset, foreground: Sequence[int], *, keep_foreground: bool, keep_background: bool, fill: Color
    ) -> None:
        self.classes = dataset.classes
        self.dataset = dataset
        self.is_foreground = torch.zeros(256, dtype=torch.bool)
        self.is_foreground[list(foreground)] = True
        self.keep_foreground, self.keep_background, self.fill = keep_foreground, keep_background, fill

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return masked(
            self.dataset[index],
            self.is_foreground,
            keep_foreground=self.keep_foreground,
            keep_background=self.keep_background,
            fill=self.fill,
        )


def masked(
    sample: Sample, is_foreground: Tensor, *, keep_foreground: bool, keep_background: bool, fill: Color
) -> Sample:
    """Return the sample with its foreground, its background or both hidden, and with no labels except the class map.

    Void pixels belong to neither and are hidden with either. Where both are hidden, the image has two colours: `SHAPE`
    for the foreground and `fill` elsewhere.

    Args:
        is_foreground: (256,) bool, for each value of a class map; False for void.

    Raises:
        UserError: the sample has no class map.
    """
    class_map = sample.class_map
    if class_map is None:
        raise UserError(f"{sample.name} has no class map, which masking needs")
    sample = replace(sample, objects=None, geometric_map=None, depth=None)
    if keep_foreground and keep_background:
        return sample
    foreground = is_foreground[class_map.long()]
    shown = ~foreground & (class_map != VOID) if keep_background else foreground
    image = sample.image if keep_foreground or keep_background else _plane(SHAPE)
    sample.image = torch.where(shown, image, _plane(fill))
    return sample


def _plane(color: Color) -> Tensor:
    """(3, 1, 1) uint8."""
    return torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CueScores:
    """The scores of a condition, each in 0..1."""

    foreground_iu: float
    """Mean IoU over the foreground classes of the ground truth, in the confusion matrix without the rows and columns of
    background classes; 0 for a class without pixels there. The paper does not define how the background is excluded;
    this definition agrees with its 84.8 for a network whose mean IoU over all classes is 63.6."""
    mean_iu: float
    """Mean IoU over all classes, as `upscore.evaluation.semantic` defines it."""
    found: float
    """Fraction of the foreground pixels that are predicted as any foreground class."""
    per_class: dict[str, float | None]
    """IoU of each foreground class in the restricted matrix; None for a class that is absent from the ground truth."""

    def to_json(self) -> dict[str, object]:
        """Return the fields as a dictionary."""
        return asdict(self)


class Guess(NamedTuple):
    """Baseline that predicts one class for every foreground pixel."""

    name: str
    foreground_iu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cues:
    """Scores of all conditions on one data set."""

    scores: dict[str, CueScores]
    """Scores by name in `CONDITIONS`."""
    foreground: list[str]
    background: list[str]
    guess: Guess
    images: int
    """Number of held-out images."""


def cue_scores(counts: Tensor, classes: Sequence[str], foreground: Sequence[str]) -> CueScores:
    """Compute the scores from a (C, C) confusion matrix n[i, j]; `foreground` names the foreground classes."""
    chosen = [classes.index(name) for name in foreground]
    truth = counts[chosen].sum(1).tolist()
    kept = counts[chosen][:, chosen]
    restricted = semantic_scores(kept, foreground).per_class
    per_class = {
        name: (restricted[name] or 0.0) if pixels else None for name, pixels in zip(foreground, truth, strict=True)
    }
    present = [iu for iu in per_class.values() if iu is not None]
    return CueScores(
        foreground_iu=sum(present) / max(1, len(present)),
        mean_iu=semantic_scores(counts, classes).mean_iu,
        found=int(kept.sum()) / max(1, sum(truth)),
        per_class=per_class,
    )


def best_guess(pixels: dict[str, int]) -> Guess:
    """Return the baseline of the most frequent class: its IoU is its share of the pixels, that of the others is 0."""
    present = {name: count for name, count in pixels.items() if count}
    name = max(present, key=lambda name: present[name])
    return Guess(name, present[name] / sum(present.values()) / len(present))
