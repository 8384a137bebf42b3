"""Matched F: how well two id maps agree object by object, TP / (TP + FP + FN) (StarDist, section 3).

N objects found, K objects labelled in a photo, P pairs of them; H W pixels. IoU: intersection over union.

An id map has one object at each pixel: where objects found overlap, the higher score has it, and what better ones of
its class hide for the most part is left out. So a lower threshold on the scores adds objects to the map and changes
none that is there, and one map per photo serves every threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from upscore.objects import Objects

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""IoU from which on a pair is a match."""


@dataclass(slots=True, kw_only=True)
class Pairs:
    """The pairs of one photo that have the same class and an IoU of at least half."""

    found: np.ndarray
    """(P,) int64, the positions of the objects found."""
    labelled: np.ndarray
    """(P,) int64"""
    iou: np.ndarray
    """(P,) float64"""
    scores: np.ndarray
    """(N,) float64, of the objects found."""
    visible: np.ndarray
    """(N,) bool, whether an object found has a pixel in the id map."""
    on_crowd: np.ndarray
    """(N,) float64, the share of its pixels that are part of a crowd of its class."""
    objects: int
    """K without crowds."""


class Threshold(NamedTuple):
    """The scores from which on objects count, and what that gives."""

    min_score: float
    matched_f: float
    """At IoU 0.5; NaN where there is nothing to score."""


def pairs(id_map: np.ndarray, scores: np.ndarray, labels: np.ndarray, objects: Objects) -> Pairs:
    """Compare an (H, W) map of objects found, numbered by their positions from 1, with what is labelled."""
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


def matched_f(photos: Sequence[Pairs], min_score: float, threshold: float) -> float:
    """The measure over a whole set, at one IoU; NaN where there is nothing to score.

    What is left unmatched on a crowd is not held against the network, as in COCO.
    """
    right = wrong = 0
    for photo in photos:
        counted = photo.visible & (photo.scores >= min_score)
        matches = _matches(photo, counted, threshold)
        right += matches.sum()
        wrong += (counted & ~matches & (photo.on_crowd < threshold)).sum()
    whole = sum(photo.objects for photo in photos) + wrong
    return float(right / whole) if whole else float("nan")


def best_threshold(photos: Sequence[Pairs]) -> Threshold:
    """The threshold with the highest matched F at IoU 0.5, midway between two neighbouring scores.

    It is 0.5 where no object was found right. An object labelled goes to the match with the highest score.
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
    f = right[order].cumsum() / np.maximum(whole, 1)
    f[np.append(scores[:-1] == scores[1:], False)] = -1  # equal scores are counted together
    best = int(f.argmax())
    if f[best] == 0:
        return Threshold(0.5, 0.0 if whole[-1] else float("nan"))
    return Threshold(float((scores[best] + np.append(scores, 0)[best + 1]) / 2), float(f[best]))


def _contingency(id_map: np.ndarray, count: int, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) int64, the pixels that each pair shares; (K,) int64, the pixels of each object labelled."""
    shared = np.zeros((count + 1, len(objects) + 1), np.int64)
    found = id_map.astype(np.int64)
    for layer, plane in enumerate(objects.id_map.numpy()):
        members = np.flatnonzero(objects.layers.numpy() == layer)
        position = np.zeros(plane.max() + 1, np.int64)
        position[objects.numbers.numpy()[members]] = members + 1
        cells = found * shared.shape[1] + position[plane]
        shared += np.bincount(cells.ravel(), minlength=shared.size).reshape(shared.shape)
    return shared[1:, 1:], shared[:, 1:].sum(0)


def _matches(photo: Pairs, counted: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool, the objects found that have a partner when there are as many one-to-one pairs as there can be."""
    keep = (photo.iou >= threshold) & counted[photo.found]
    found, labelled = photo.found[keep], photo.labelled[keep]
    matches = np.zeros(len(counted), bool)
    if len(found):
        shape = (len(counted), int(labelled.max()) + 1)
        graph = csr_matrix((np.ones(len(found), bool), (found, labelled)), shape=shape)
        matches = maximum_bipartite_matching(graph, perm_type="column") >= 0
    return matches


def _first_matches(photo: Pairs) -> np.ndarray:
    """(N,) bool, the objects found that are the first match, by score, of an object labelled."""
    matches = np.zeros(len(photo.scores), bool)
    order = np.argsort(-photo.scores[photo.found], kind="stable")
    first = np.unique(photo.labelled[order], return_index=True)[1]
    matches[photo.found[order][first]] = True
    return matches
