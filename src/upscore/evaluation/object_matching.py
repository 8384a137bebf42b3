"""Average precision as StarDist and the 2018 Data Science Bowl (DSB2018) define it, and F1, of two label maps.

N predicted objects, K labelled objects in an image, P pairs of them; H W pixels. IoU: intersection over union.

At an IoU threshold t, predicted and labelled objects of the same class are matched one to one, as many as possible,
where their IoU is at least t. TP counts the pairs, FP the other predicted and FN the other labelled objects, over all
images (StarDist's `matching_dataset` with `by_image=False`; Schmidt et al. 2018, section 3):

    ap_dsb = TP / (TP + FP + FN)        f1 = 2 TP / (2 TP + FP + FN)

StarDist's code calls the first `accuracy`. COCO's average precision is another measure, the area under a curve of
precision over recall; see `upscore.evaluation.average_precision`.

A label map has one object at each pixel: where predicted objects overlap, the higher score has it, and an object of
which better ones of its class hide more than half is left out. A lower score threshold therefore adds objects to the
map and changes none, so that one map an image serves every threshold.
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
    """The pairs of one image that have the same class and an IoU of at least 0.5."""

    found: np.ndarray
    """(P,) int64, the positions of the predicted objects."""
    labelled: np.ndarray
    """(P,) int64"""
    iou: np.ndarray
    """(P,) float64"""
    scores: np.ndarray
    """(N,) float64, of the predicted objects."""
    visible: np.ndarray
    """(N,) bool, whether a predicted object has a pixel in the label map."""
    on_crowd: np.ndarray
    """(N,) float64, the share of its pixels that are part of a crowd of its class."""
    objects: int
    """K without crowds."""


class Counts(NamedTuple):
    """Matches at one IoU threshold over a whole set."""

    tp: int
    fp: int
    fn: int

    @property
    def ap_dsb(self) -> float:
        """TP / (TP + FP + FN); NaN where there is no object."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where there is no object."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


class Threshold(NamedTuple):
    """A score threshold and its result."""

    score_threshold: float
    ap_dsb: float
    """At an IoU of 0.5; NaN where there is no object."""


def pairs(id_map: np.ndarray, scores: np.ndarray, labels: np.ndarray, objects: ObjectAnnotations) -> Pairs:
    """Compare an (H, W) map of predicted objects, numbered by their positions from 1, with the labelled objects."""
    crowd, classes = objects.crowd.numpy(), objects.labels.numpy()
    shared, areas = _contingency(id_map, len(scores), objects)
    visible = np.bincount(id_map.ravel(), minlength=len(scores) + 1)[1:]
    same = labels[:, None] == classes
    iou = shared / np.maximum(visible[:, None] + areas - shared, 1)
    found, labelled = np.nonzero(same & ~crowd & (iou >= THRESHOLDS[0]))
    return Pairs(
        found=found,
        labelled=labelled,
        iou=iou[found, labelled],
        scores=scores,
        visible=visible > 0,
        on_crowd=(shared * (same & crowd)).sum(1) / np.maximum(visible, 1),
        objects=int((~crowd).sum()),
    )


def count_matches(photos: Sequence[Pairs], score_threshold: float, threshold: float) -> Counts:
    """Count the matches of a whole set at one IoU threshold, of predicted objects with at least a score.

    An unmatched object on a crowd is no false positive, as in COCO.
    """
    right = wrong = 0
    for photo in photos:
        counted = photo.visible & (photo.scores >= score_threshold)
        matches = _matches(photo, counted, threshold)
        right += matches.sum()
        wrong += (counted & ~matches & (photo.on_crowd < threshold)).sum()
    return Counts(int(right), int(wrong), sum(photo.objects for photo in photos) - int(right))


def best_threshold(photos: Sequence[Pairs]) -> Threshold:
    """The score threshold with the highest `ap_dsb`, and so the highest F1, at an IoU of 0.5.

    It lies midway between two neighbouring scores, and is 0.5 where no object is matched. A labelled object goes to the
    match with the highest score.
    """
    scores = np.concatenate([photo.scores[photo.visible] for photo in photos]) if photos else np.zeros(0)
    objects = sum(photo.objects for photo in photos)
    if not len(scores):
        return Threshold(0.5, 0.0 if objects else float("nan"))
    first = [_first_matches(photo) for photo in photos]
    right = np.concatenate([match[photo.visible] for match, photo in zip(first, photos, strict=True)])
    on_crowd = np.concatenate([photo.on_crowd[photo.visible] for photo in photos])
    wrong = ~right & (on_crowd < THRESHOLDS[0])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    whole = objects + wrong[order].cumsum()
    ap_dsb = right[order].cumsum() / np.maximum(whole, 1)
    ap_dsb[np.append(scores[:-1] == scores[1:], False)] = -1  # equal scores are counted together
    best = int(ap_dsb.argmax())
    if ap_dsb[best] == 0:
        return Threshold(0.5, 0.0 if whole[-1] else float("nan"))
    return Threshold(float((scores[best] + np.append(scores, 0)[best + 1]) / 2), float(ap_dsb[best]))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _contingency(id_map: np.ndarray, count: int, objects: ObjectAnnotations) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) int64, the pixels that each pair shares; (K,) int64, the pixels of each labelled object."""
    shared = np.zeros((count + 1, len(objects) + 1), np.int64)
    found = id_map.astype(np.int64)
    for layer, plane in enumerate(objects.id_map.numpy()):
        members = np.flatnonzero(objects.layers.numpy() == layer)
        position = np.zeros(plane.max() + 1, np.int64)
        position[objects.ids.numpy()[members]] = members + 1
        cells = found * shared.shape[1] + position[plane]
        shared += np.bincount(cells.ravel(), minlength=shared.size).reshape(shared.shape)
    return shared[1:, 1:], shared[:, 1:].sum(0)


def _matches(photo: Pairs, counted: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool, the predicted objects that have a partner in a largest set of one-to-one pairs."""
    keep = (photo.iou >= threshold) & counted[photo.found]
    found, labelled = photo.found[keep], photo.labelled[keep]
    matches = np.zeros(len(counted), bool)
    if len(found):
        shape = (len(counted), int(labelled.max()) + 1)
        graph = csr_matrix((np.ones(len(found), bool), (found, labelled)), shape=shape)
        matches = maximum_bipartite_matching(graph, perm_type="column") >= 0
    return matches


def _first_matches(photo: Pairs) -> np.ndarray:
    """(N,) bool, the predicted objects that are the first match, by score, of a labelled object."""
    matches = np.zeros(len(photo.scores), bool)
    order = np.argsort(-photo.scores[photo.found], kind="stable")
    first = np.unique(photo.labelled[order], return_index=True)[1]
    matches[photo.found[order][first]] = True
    return matches
