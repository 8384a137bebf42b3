"""What a network looks at: the rows of FCN's table 8 (journal version), and how they are scored.

C classes, of which some are foreground; n[i, j] pixels of true class i predicted as j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor

from upscore.evaluation.semantic import semantic_scores


class Keeps(NamedTuple):
    """What of a photo is not hidden."""

    foreground: bool
    background: bool


WHOLE, FOREGROUND, BACKGROUND, NEITHER = Keeps(True, True), Keeps(True, False), Keeps(False, True), Keeps(False, False)


@dataclass(frozen=True, slots=True)
class Row:
    """A network by what of the photos it is trained on, tested on photos of which perhaps something else is kept."""

    title: str
    trained: Keeps
    tested: Keeps
    paper: float
    """The paper's mean IU without the background: FCN-32s over VGG16, PASCAL VOC."""


ROWS = {
    "reference": Row("Reference", WHOLE, WHOLE, 0.848),
    "reference_fg": Row("Reference-FG", WHOLE, FOREGROUND, 0.810),
    "reference_bg": Row("Reference-BG", WHOLE, BACKGROUND, 0.198),
    "fg_only": Row("FG-only", FOREGROUND, FOREGROUND, 0.761),
    "bg_only": Row("BG-only", BACKGROUND, BACKGROUND, 0.378),
    "shape": Row("Shape", NEITHER, NEITHER, 0.291),
}

TRAINED = [name for name, row in ROWS.items() if row.trained == row.tested]
"""The rows that have a network of their own."""


def network_of(name: str) -> str:
    """The row whose network a row tests."""
    return next(other for other in TRAINED if ROWS[other].trained == ROWS[name].trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class CueScores:
    """The scores of a row, each in 0..1."""

    foreground_iu: float
    """Mean IU in the matrix without the rows and columns of background classes, over the foreground classes that the
    truth has; of a class none of whose pixels is left there it is 0. The paper does not say how it leaves out the
    background, but this is the reading that fits 84.8 for a network whose mean IU over all classes is 63.6."""
    mean_iu: float
    """Over all classes, as `upscore.evaluation.semantic` has it."""
    found: float
    """The share of the foreground's pixels that are predicted as any of its classes: those that count above."""
    per_class: dict[str, float | None]
    """IU in the restricted matrix by foreground class; None for one that the truth doesn't have."""

    def to_json(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)


def cue_scores(counts: Tensor, classes: Sequence[str], foreground: Sequence[str]) -> CueScores:
    """Score a (C, C) matrix of counts n[i, j], of which the classes named in `foreground` are the foreground."""
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


class Guess(NamedTuple):
    """What calling every object the same gives."""

    name: str
    foreground_iu: float


def best_guess(pixels: dict[str, int]) -> Guess:
    """Of the pixels of each foreground class, the most frequent for all: its IU is its share, that of the others 0."""
    present = {name: count for name, count in pixels.items() if count}
    name = max(present, key=lambda name: present[name])
    return Guess(name, present[name] / sum(present.values()) / len(present))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cues:
    """All rows on one data set."""

    scores: dict[str, CueScores]
    """By the names in `ROWS`."""
    foreground: list[str]
    background: list[str]
    guess: Guess
    photos: int
    """That were held out."""
