"""What segments are worth once they get classes: by an oracle, and by chance of looking alike.

S: segments; C: classes; G groups of segments, G <= C; F features.

A partition has no classes. The **oracle** gives each segment the class that most of its labelled pixels have: no
classifier of these segments can do better, and it looks at the answers. The **unsupervised** way looks at none: it
groups the segments of the whole set by how they look, and only then each group gets a name, one to one, so that most
pixels are right over the whole set. That is how the field scores segmentation without labels.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from upscore.labels import VOID
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
