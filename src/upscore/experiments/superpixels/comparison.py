"""Comparison of superpixel partitions: the score of an oracle, and of grouping without labels.

S segments, C classes, G <= C groups of segments, F features.

A partition has no classes. The **oracle** gives each segment the class of most of its labelled pixels: an upper bound
for any classifier of these segments. The **unsupervised** method clusters the segments of the whole data set by their
features, and then matches clusters to classes one to one (Hungarian algorithm), so that most pixels are correct: the
protocol of unsupervised segmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.evaluation.class_matching import match_classes
from upscore.evaluation.semantic import SemanticScores, semantic_scores
from upscore.experiments.superpixels.methods import MAX_SIDE, Method, describe, reduced, restored, segment
from upscore.inference import Model
from upscore.labels import VOID
from upscore.progress import ProgressCallback
from upscore.results import as_semantic
from upscore.warning_filters import ignored_warnings

RESTARTS = 10


def class_counts(segments: np.ndarray, class_map: np.ndarray, num_classes: int) -> np.ndarray:
    """(H, W) segments and (H, W) classes, 255 for void -> (S, C) int64, pixels of each class; void is left out."""
    cells = segments.ravel().astype(np.int64) * (VOID + 1) + class_map.ravel()
    total = int(segments.max()) + 1
    return np.bincount(cells, minlength=total * (VOID + 1)).reshape(total, VOID + 1)[:, :num_classes]


def oracle_classes(counts: np.ndarray) -> np.ndarray:
    """(S, C) pixel counts -> (S,) uint8: the commonest class, of a tie the lower index; void without labels."""
    return np.where(counts.any(axis=1), counts.argmax(axis=1), VOID).astype(np.uint8)


def sums_by(groups: np.ndarray, counts: np.ndarray, total: int) -> np.ndarray:
    """(S,) groups and (S, C) counts -> (total, C), summed over each group's segments."""
    sums = np.zeros((total, counts.shape[1]), np.int64)
    np.add.at(sums, groups, counts)
    return sums


def group_segments(features: np.ndarray, groups: int, *, seed: int = 0) -> np.ndarray:
    """(S, F) -> (S,) int64 in 0..groups-1, by k-means over features of equal spread, the best of ten starts.

    Fewer distinct segments than groups are groups of their own.
    """
    spread = features.std(axis=0)
    features = ((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float64)
    distinct, index = np.unique(features, axis=0, return_inverse=True)
    if len(distinct) <= groups:
        return index.reshape(-1).astype(np.int64)
    random = np.random.default_rng(seed)
    best, least = np.zeros(len(features), np.int64), np.inf
    for _ in range(RESTARTS):
        with ignored_warnings(module=r"scipy\.|upscore\.experiments\."):  # a group may stay empty
            first = distinct[random.choice(len(distinct), groups, replace=False)]
            centers, labels = kmeans2(features, first, iter=50, minit="matrix")
        error = float(((features - centers[labels]) ** 2).sum())
        if error < least:
            best, least = labels.astype(np.int64), error
    return best


def match_groups(overlaps: np.ndarray) -> np.ndarray:
    """(G, C) pixels of each class in each group, G <= C -> (G,) int64 classes, each used once, with most pixels right.

    The Hungarian method (Kuhn 1955).
    """
    groups, classes = linear_sum_assignment(overlaps, maximize=True)
    assert len(groups) == len(overlaps), "there are no more groups than classes"
    return classes


def unsupervised_classes(features: np.ndarray, counts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(S, F) features and (S, C) pixel counts of all segments of a set -> (S,) uint8, their classes without labels.

    The labels name the groups, at the end; they do not make them.
    """
    classes = counts.shape[1]
    groups = group_segments(features, classes, seed=seed)
    return match_groups(sums_by(groups, counts, classes))[groups].astype(np.uint8)


def confusion_of(classes: np.ndarray, counts: np.ndarray) -> Tensor:
    """(S,) classes given and (S, C) pixel counts -> (C, C), n[i, j] pixels of true class i given class j."""
    return torch.from_numpy(sums_by(classes, counts, counts.shape[1]).T.copy())


SWEEP = (0.1, 10**-0.5, 1.0, 10**0.5)
"""The numbers of segments that the oracle is asked at, as multiples of the one asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """What segments of one size would score if someone who knows the answers named each of them."""

    aimed: int
    """Segments a photo that were asked for."""
    segments: float
    """Segments a photo that there were, on average."""
    scores: SemanticScores


@dataclass(slots=True, kw_only=True)
class Row:
    """One photo for the picture, with its maps, all (h, w)."""

    index: int
    """Its number in the data set."""
    name: str
    photo: np.ndarray
    truth: np.ndarray
    segments: np.ndarray
    oracle: np.ndarray
    unsupervised: np.ndarray
    network: np.ndarray | None = None


@dataclass(slots=True, kw_only=True)
class Comparison:
    """All that was found out about a labelled set."""

    method: Method
    aimed: int
    photos: int
    classes: list[str]
    oracles: list[Oracle]
    """From few segments a photo to many."""
    unsupervised: SemanticScores
    """At the number of segments aimed at."""
    commonest: SemanticScores
    """Of no segments at all: every pixel is of the class that most pixels have."""
    network: SemanticScores | None = None
    rows: list[Row] = field(default_factory=list, repr=False)

    @property
    def oracle(self) -> Oracle:
        """At the number of segments aimed at."""
        return next(oracle for oracle in self.oracles if oracle.aimed == self.aimed)


def swept(segments: int) -> list[int]:
    """The numbers of segments to ask the oracle at, `segments` among them."""
    return sorted({max(1, round(segments * factor)) for factor in SWEEP})


def compare(
    dataset: Dataset,
    method: Method = "slic",
    segments: int = 100,
    *,
    sweep: Sequence[int] = (),
    max_side: int = MAX_SIDE,
    seed: int = 0,
    pictures: int = 3,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Cluster every photo and score the segments over the whole set, at each photo's own size.

    `sweep` holds other numbers of segments to ask the oracle at; `pictures` photos, evenly spaced, are kept as rows.

    Raises:
        UserError: the set is empty, a photo has no labels, or as `segment`.
    """
    if not len(dataset):
        raise UserError("the data holds no photos to score")
    classes = dataset.classes
    sizes = sorted({segments, *sweep})
    tables: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    features: list[np.ndarray] = []
    rows: list[Row] = []
    shown = set(evenly(len(dataset), pictures))
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.path or sample.name} has no labels to score segments with")
        truth = sample.class_map.numpy()
        photo = reduced(sample.image.permute(1, 2, 0).contiguous().numpy(), max_side)
        for size in sizes:
            ids = segment(photo, method, size, max_side=0, seed=seed)
            counts = class_counts(restored(ids, truth.shape), truth, len(classes))
            tables[size].append(counts)
            if size == segments:
                features.append(describe(photo, ids))
                if index in shown:
                    rows.append(_row(index, sample.name, photo, truth, ids, counts))
        if progress:
            progress(index + 1, len(dataset))

    found = unsupervised_classes(np.concatenate(features), np.concatenate(tables[segments]), seed=seed)
    starts = np.cumsum([0, *(len(counts) for counts in tables[segments])])
    for row in rows:
        row.unsupervised = found[starts[row.index] :][row.segments]
    return Comparison(
        method=method,
        aimed=segments,
        photos=len(dataset),
        classes=classes,
        oracles=[_oracle(size, tables[size], classes) for size in sizes],
        unsupervised=semantic_scores(confusion_of(found, np.concatenate(tables[segments])), classes),
        commonest=semantic_scores(_commonest(np.concatenate(tables[segments]).sum(axis=0)), classes),
        rows=rows,
    )


def evenly(total: int, count: int) -> list[int]:
    """Up to `count` of the numbers 0 to total - 1, evenly spaced, each in the middle of its part."""
    count = min(count, total)
    return [int((k + 0.5) * total / count) for k in range(count)]


def predict_rows(comparison: Comparison, dataset: Dataset, model: Model) -> None:
    """Add to each row what the network says of it, in the data's classes; others of its classes become void."""
    table = np.full(256, VOID, np.uint8)
    for index, of_model in enumerate(match_classes(comparison.classes, model.classes).indices):
        table[of_model] = index
    for row in comparison.rows:
        class_map = as_semantic(model.predict(dataset[row.index].image)).class_map
        assert class_map is not None
        row.network = restored(table[class_map], row.segments.shape)


def _row(index: int, name: str, photo: np.ndarray, truth: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> Row:
    oracle = oracle_classes(counts)[ids]
    return Row(
        index=index,
        name=name,
        photo=photo,
        truth=restored(truth, ids.shape),
        segments=ids,
        oracle=oracle,
        unsupervised=oracle,  # until the whole set is grouped
    )


def _oracle(size: int, tables: list[np.ndarray], classes: list[str]) -> Oracle:
    counts = np.concatenate(tables)
    scores = semantic_scores(confusion_of(counts.argmax(axis=1), counts), classes)
    return Oracle(aimed=size, segments=len(counts) / len(tables), scores=scores)


def _commonest(pixels: np.ndarray) -> Tensor:
    """(C,) pixels of each class -> (C, C) counts where all are given the commonest."""
    confusion = torch.zeros(len(pixels), len(pixels), dtype=torch.int64)
    confusion[:, int(pixels.argmax())] = torch.from_numpy(pixels)
    return confusion
