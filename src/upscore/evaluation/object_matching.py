"""Average precision as StarDist and the 2018 Data Science Bowl (DSB2018) define it, and F1, of two label maps.

N predicted and K labelled objects of an image, P candidate pairs; H W pixels. IoU: intersection over union.

At an IoU threshold t, predicted and labelled objects of the same class are matched one to one, as many as possible,
where their IoU is at least t. TP counts the pairs, FP the other predicted and FN the other labelled objects, over all
images (StarDist's `matching_dataset` with `by_image=False`; Schmidt et al. 2018, section 3):

    ap_dsb = TP / (TP + FP + FN)        f1 = 2 TP / (2 TP + FP + FN)

StarDist's code calls the first `accuracy`. COCO's average precision is another measure, the area under the curve of
precision over recall; see `upscore.evaluation.average_precision`.

A label map has at most one object per pixel. Where predicted objects overlap, the pixel belongs to the object with the
higher score, and an object is removed if more than half of it is hidden by better objects of its class. A lower score
threshold therefore only adds objects, so that one label map per image is sufficient for all thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from upscore.annotations import ObjectAnnotations

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""IoU thresholds t."""


@dataclass(slots=True, kw_only=True)
class Pairs:
    """Pairs of predicted and labelled objects of an image with the same class and an IoU of at least 0.5."""

    predicted: np.ndarray
    """(P,) int64, indices of the predicted objects."""
    labelled: np.ndarray
    """(P,) int64, indices of the labelled objects."""
    iou: np.ndarray
    """(P,) float64."""
    scores: np.ndarray
    """(N,) float64, scores of the predicted objects."""
    visible: np.ndarray
    """(N,) bool, whether a predicted object has a pixel in the label map."""
    on_crowd: np.ndarray
    """(N,) float64, fraction of a predicted object's pixels that are part of a crowd of its class."""
    objects: int
    """Number of labelled objects without crowds."""


class Counts(NamedTuple):
    """True positives, false positives and false negatives over a data set at one IoU threshold."""

    tp: int
    fp: int
    fn: int

    @property
    def ap_dsb(self) -> float:
        """TP / (TP + FP + FN); NaN without objects."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN without objects."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


class Threshold(NamedTuple):
    """A score threshold and the average precision with it."""

    score_threshold: float
    ap_dsb: float
    """TP / (TP + FP + FN) at IoU 0.5; NaN without objects."""


def candidate_pairs(id_map: np.ndarray, scores: np.ndarray, labels: np.ndarray, objects: ObjectAnnotations) -> Pairs:
    """Return the candidate pairs of an image.

    Args:
        id_map: (H, W) label map of the predicted objects, 1 to N, 0 for background.
        scores: (N,) scores of the predicted objects.
        labels: (N,) class indices of the predicted objects.
        objects: the labelled objects.
    """
    crowd, classes = objects.crowd.numpy(), objects.labels.numpy()
    shared, areas = _contingency(id_map, len(scores), objects)
    visible = np.bincount(id_map.ravel(), minlength=len(scores) + 1)[1:]
    same = labels[:, None] == classes
    iou = shared / np.maximum(visible[:, None] + areas - shared, 1)
    predicted, labelled = np.nonzero(same & ~crowd & (iou >= THRESHOLDS[0]))
    return Pairs(
        predicted=predicted,
        labelled=labelled,
        iou=iou[predicted, labelled],
        scores=scores,
        visible=visible > 0,
        on_crowd=(shared * (same & crowd)).sum(1) / np.maximum(visible, 1),
        objects=int((~crowd).sum()),
    )


def count_matches(images: Sequence[Pairs], score_threshold: float, threshold: float) -> Counts:
    """Count the matches over a data set.

    As in COCO, an unmatched object on a crowd is not a false positive.

    Args:
        images: candidate pairs of each image.
        score_threshold: lowest score of the predicted objects that count.
        threshold: IoU threshold.
    """
    tp = fp = 0
    for image in images:
        counted = image.visible & (image.scores >= score_threshold)
        matches = _matched(image, counted, threshold)
        tp += int(matches.sum())
        fp += int((counted & ~matches & (image.on_crowd < threshold)).sum())
    return Counts(tp, fp, sum(image.objects for image in images) - tp)


def best_threshold(images: Sequence[Pairs]) -> Threshold:
    """Return the score threshold with the highest `ap_dsb`, and therefore the highest F1, at IoU 0.5.

    It is midway between two consecutive scores, or 0.5 if no object is matched. A labelled object is matched with the
    predicted object with the highest score.
    """
    scores = np.concatenate([image.scores[image.visible] for image in images]) if images else np.zeros(0)
    objects = sum(image.objects for image in images)
    if not len(scores):
        return Threshold(0.5, 0.0 if objects else float("nan"))
    matches = [_best_matches(image) for image in images]
    true_positives = np.concatenate([match[image.visible] for match, image in zip(matches, images, strict=True)])
    on_crowd = np.concatenate([image.on_crowd[image.visible] for image in images])
    false_positives = ~true_positives & (on_crowd < THRESHOLDS[0])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    union = objects + false_positives[order].cumsum()  # TP + FP + FN
    ap_dsb = true_positives[order].cumsum() / np.maximum(union, 1)
    ap_dsb[np.append(scores[:-1] == scores[1:], False)] = -1  # equal scores are counted together
    best = int(ap_dsb.argmax())
    if ap_dsb[best] == 0:
        return Threshold(0.5, 0.0 if union[-1] else float("nan"))
    return Threshold(float((scores[best] + np.append(scores, 0)[best + 1]) / 2), float(ap_dsb[best]))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _contingency(id_map: np.ndarray, count: int, objects: ObjectAnnotations) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of common pixels of each pair, (N, K), and of pixels of each labelled object, (K,)."""
    shared = np.zeros((count + 1, len(objects) + 1), np.int64)
    predicted = id_map.astype(np.int64)
    for layer, plane in enumerate(objects.id_map.numpy()):
        members = np.flatnonzero(objects.layers.numpy() == layer)
        position = np.zeros(plane.max() + 1, np.int64)
        position[objects.ids.numpy()[members]] = members + 1
        cells = predicted * shared.shape[1] + position[plane]
        shared += np.bincount(cells.ravel(), minlength=shared.size).reshape(shared.shape)
    return shared[1:, 1:], shared[:, 1:].sum(0)


def _matched(image: Pairs, counted: np.ndarray, threshold: float) -> np.ndarray:
    """Return (N,) bool, the predicted objects that are matched in a maximum one-to-one matching."""
    keep = (image.iou >= threshold) & counted[image.predicted]
    predicted, labelled = image.predicted[keep], image.labelled[keep]
    matches = np.zeros(len(counted), bool)
    if len(predicted):
        shape = (len(counted), int(labelled.max()) + 1)
        graph = csr_matrix((np.ones(len(predicted), bool), (predicted, labelled)), shape=shape)
        matches = maximum_bipartite_matching(graph, perm_type="column") >= 0
    return matches


def _best_matches(image: Pairs) -> np.ndarray:
    """Return (N,) bool, the predicted objects that are the candidate with the highest score of a labelled object."""
    matches = np.zeros(len(image.scores), bool)
    order = np.argsort(-image.scores[image.predicted], kind="stable")
    first = np.unique(image.labelled[order], return_index=True)[1]
    matches[image.predicted[order][first]] = True
    return matches
