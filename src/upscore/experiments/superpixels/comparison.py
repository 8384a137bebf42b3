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
from upscore.experiments.superpixels.methods import MAX_SIDE, Method, reduce, resize_labels, segment, segment_features
from upscore.inference import Model
from upscore.labels import VOID
from upscore.progress import ProgressCallback
from upscore.results import as_semantic
from upscore.warning_filters import ignored_warnings

RESTARTS = 10
"""Number of runs of k-means; the best one is used."""

SWEEP = (0.1, 10**-0.5, 1.0, 10**0.5)
"""Numbers of segments at which the oracle is evaluated, as multiples of the requested number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """Scores of segments that each have the class of most of their labelled pixels."""

    requested: int
    """Requested number of segments per image."""
    segments: float
    """Mean number of segments per image."""
    scores: SemanticScores


@dataclass(slots=True, kw_only=True)
class Example:
    """An image of the figure with its maps, all (h, w)."""

    index: int
    """Index in the data set."""
    name: str
    image: np.ndarray
    truth: np.ndarray
    segments: np.ndarray
    oracle: np.ndarray
    unsupervised: np.ndarray
    network: np.ndarray | None = None


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Scores of segments on a labelled data set."""

    method: Method
    requested: int
    images: int
    classes: list[str]
    oracles: list[Oracle]
    """Scores of the oracle, in ascending order of the number of segments."""
    unsupervised: SemanticScores
    """Scores without labels at the requested number of segments."""
    most_frequent: SemanticScores
    """Scores of the most frequent class for all pixels."""
    network: SemanticScores | None = None
    """Scores of a trained network."""
    examples: list[Example] = field(default_factory=list, repr=False)

    @property
    def oracle(self) -> Oracle:
        """The oracle at the requested number of segments."""
        return next(oracle for oracle in self.oracles if oracle.requested == self.requested)


def sweep_sizes(segments: int) -> list[int]:
    """Return the numbers of segments at which the oracle is evaluated, including `segments`."""
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
    """Segment all images of a data set and score the segments in original size.

    Args:
        dataset: labelled data.
        method: method of `segment`.
        segments: requested number of segments per image.
        sweep: further numbers of segments for the oracle.
        max_side: longest side of the images that are segmented, in pixels.
        seed: seed of segmentation and clustering.
        pictures: number of images, evenly spaced, that are kept as examples.
        progress: receives the progress.

    Raises:
        UserError: the data set is empty, an image has no labels, or an option is invalid.
    """
    if not len(dataset):
        raise UserError("the data has no images: choose another folder or split")
    classes = dataset.classes
    sizes = sorted({segments, *sweep})
    tables: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    features: list[np.ndarray] = []
    examples: list[Example] = []
    shown = set(evenly_spaced(len(dataset), pictures))
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.path or sample.name} has no labels: label it, or remove the image")
        truth = sample.class_map.numpy()
        image = reduce(sample.image.permute(1, 2, 0).contiguous().numpy(), max_side)
        for size in sizes:
            ids = segment(image, method, size, max_side=0, seed=seed)
            counts = class_counts(resize_labels(ids, truth.shape), truth, len(classes))
            tables[size].append(counts)
            if size == segments:
                features.append(segment_features(image, ids))
                if index in shown:
                    examples.append(_example(index, sample.name, image, truth, ids, counts))
        if progress:
            progress(index + 1, len(dataset))

    predicted = unsupervised_classes(np.concatenate(features), np.concatenate(tables[segments]), seed=seed)
    starts = np.cumsum([0, *(len(counts) for counts in tables[segments])])
    for example in examples:
        example.unsupervised = predicted[starts[example.index] :][example.segments]
    return Comparison(
        method=method,
        requested=segments,
        images=len(dataset),
        classes=classes,
        oracles=[_oracle(size, tables[size], classes) for size in sizes],
        unsupervised=semantic_scores(segment_confusion(predicted, np.concatenate(tables[segments])), classes),
        most_frequent=semantic_scores(_most_frequent_confusion(np.concatenate(tables[segments]).sum(axis=0)), classes),
        examples=examples,
    )


def predict_examples(comparison: Comparison, dataset: Dataset, model: Model) -> None:
    """Add the prediction of a network to each example; classes that the data does not have become void."""
    table = np.full(256, VOID, np.uint8)
    for index, model_index in enumerate(match_classes(comparison.classes, model.classes).indices):
        table[model_index] = index
    for example in comparison.examples:
        class_map = as_semantic(model.predict(dataset[example.index].image)).class_map
        assert class_map is not None
        example.network = resize_labels(table[class_map], example.segments.shape)


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return up to `count` evenly spaced indices from 0 to `total` - 1."""
    count = min(count, total)
    return [int((k + 0.5) * total / count) for k in range(count)]


def class_counts(segments: np.ndarray, class_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the labelled pixels of each class in each segment: (H, W) and (H, W), 255 for void -> (S, C) int64."""
    cells = segments.ravel().astype(np.int64) * (VOID + 1) + class_map.ravel()
    total = int(segments.max()) + 1
    return np.bincount(cells, minlength=total * (VOID + 1)).reshape(total, VOID + 1)[:, :num_classes]


def oracle_classes(counts: np.ndarray) -> np.ndarray:
    """Return the most frequent class of each segment, the first of equal ones, void without labels: (S, C) -> (S,)."""
    return np.where(counts.any(axis=1), counts.argmax(axis=1), VOID).astype(np.uint8)


def sum_by_group(groups: np.ndarray, counts: np.ndarray, total: int) -> np.ndarray:
    """Sum the counts (S, C) over the segments of each group (S,): returns (total, C)."""
    sums = np.zeros((total, counts.shape[1]), np.int64)
    np.add.at(sums, groups, counts)
    return sums


def group_segments(features: np.ndarray, groups: int, *, seed: int = 0) -> np.ndarray:
    """Cluster segments by k-means over standardised features; the best of ten runs.

    If there are fewer distinct segments than groups, each is a group.

    Args:
        features: (S, F).
        groups: number of groups.
        seed: seed of the initial centres.

    Returns:
        (S,) int64, groups from 0 to `groups` - 1.
    """
    spread = features.std(axis=0)
    features = ((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float64)
    distinct, index = np.unique(features, axis=0, return_inverse=True)
    if len(distinct) <= groups:
        return index.reshape(-1).astype(np.int64)
    random = np.random.default_rng(seed)
    best, least = np.zeros(len(features), np.int64), np.inf
    for _ in range(RESTARTS):
        with ignored_warnings(module=r"scipy\.|upscore\.experiments\."):  # scipy warns about empty groups
            first = distinct[random.choice(len(distinct), groups, replace=False)]
            centers, labels = kmeans2(features, first, iter=50, minit="matrix")
        error = float(((features - centers[labels]) ** 2).sum())
        if error < least:
            best, least = labels.astype(np.int64), error
    return best


def match_groups(overlaps: np.ndarray) -> np.ndarray:
    """Assign a class to each group, one to one, so that most pixels are correct (Hungarian algorithm, Kuhn 1955).

    Args:
        overlaps: (G, C) pixels of each class in each group, G <= C.

    Returns:
        (G,) int64 classes.
    """
    groups, classes = linear_sum_assignment(overlaps, maximize=True)
    assert len(groups) == len(overlaps), "there are no more groups than classes"
    return classes


def unsupervised_classes(features: np.ndarray, counts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Classify segments without labels; the labels are only used to match groups with classes.

    Args:
        features: (S, F) features of all segments of the data set.
        counts: (S, C) labelled pixels of each class.
        seed: seed of the clustering.

    Returns:
        (S,) uint8 classes.
    """
    classes = counts.shape[1]
    groups = group_segments(features, classes, seed=seed)
    return match_groups(sum_by_group(groups, counts, classes))[groups].astype(np.uint8)


def segment_confusion(classes: np.ndarray, counts: np.ndarray) -> Tensor:
    """Return the confusion matrix (C, C) of segments with predicted classes (S,) and labelled pixels (S, C)."""
    return torch.from_numpy(sum_by_group(classes, counts, counts.shape[1]).T.copy())


def _example(
    index: int, name: str, image: np.ndarray, truth: np.ndarray, ids: np.ndarray, counts: np.ndarray
) -> Example:
    oracle = oracle_classes(counts)[ids]
    return Example(
        index=index,
        name=name,
        image=image,
        truth=resize_labels(truth, ids.shape),
        segments=ids,
        oracle=oracle,
        unsupervised=oracle,  # replaced after the segments of all images are grouped
    )


def _oracle(size: int, tables: list[np.ndarray], classes: list[str]) -> Oracle:
    counts = np.concatenate(tables)
    scores = semantic_scores(segment_confusion(counts.argmax(axis=1), counts), classes)
    return Oracle(requested=size, segments=len(counts) / len(tables), scores=scores)


def _most_frequent_confusion(pixels: np.ndarray) -> Tensor:
    """Return the confusion matrix (C, C) of the most frequent class, from the number of pixels of each class (C,)."""
    confusion = torch.zeros(len(pixels), len(pixels), dtype=torch.int64)
    confusion[:, int(pixels.argmax())] = torch.from_numpy(pixels)
    return confusion
