"""StarDist's average precision and F1, compared with their definitions and with StarDist's algorithm."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from upscore.annotations import ObjectAnnotations
from upscore.evaluation.object_matching import THRESHOLDS, Counts, best_threshold, candidate_pairs, count_matches


def compare(id_map, scores, truth, labels=None, classes=None, crowd=None):
    labels = [0] * len(scores) if labels is None else labels
    objects = ObjectAnnotations.from_id_map(
        torch.tensor(truth),
        None if classes is None else torch.tensor(classes),
        None if crowd is None else torch.tensor(crowd),
    )
    return candidate_pairs(np.array(id_map, np.uint16), np.array(scores, np.float64), np.array(labels), objects)


def ap_dsb(images, score_threshold, threshold):
    return count_matches(images, score_threshold, threshold).ap_dsb


def row(*runs):
    """Return an id map of one row from runs of (number, length)."""
    return [[number for number, length in runs for _ in range(length)]]


def ap_by_definition(id_map, kept, truth, threshold):
    """Compute TP / (TP + FP + FN) of two id maps by definition."""
    numbers = [n for n in np.unique(truth) if n]
    ious = np.array(
        [[((id_map == p) & (truth == t)).sum() / ((id_map == p) | (truth == t)).sum() for t in numbers] for p in kept]
    ).reshape(len(kept), len(numbers))
    rows, columns = linear_sum_assignment(ious >= threshold, maximize=True)
    tp = int((ious[rows, columns] >= threshold).sum())
    return tp / (len(kept) + len(numbers) - tp)


@pytest.mark.parametrize("seed", range(5))
def test_random_maps_match_the_definition(seed):
    generator = np.random.default_rng(seed)
    truths, maps, images = [], [], []
    for _ in range(3):
        truth = generator.integers(0, 5, (6, 6)).repeat(4, 0).repeat(4, 1)
        id_map = np.roll(truth, 1, seed % 2)
        id_map[generator.random(id_map.shape) < 0.1 * seed] = 5
        scores = np.sort(generator.integers(1, 9, 6) / 10)[::-1]  # ties; the sixth is hidden
        truths.append(truth)
        maps.append(id_map)
        images.append(compare(id_map, scores, truth))

    def expected(image, score_threshold, threshold):
        predicted = [n for n in np.unique(maps[image]) if n and images[image].scores[n - 1] >= score_threshold]
        return ap_by_definition(maps[image], predicted, truths[image], threshold)

    for image in range(3):
        for threshold in THRESHOLDS:
            for score_threshold in (0, 0.45):
                assert ap_dsb([images[image]], score_threshold, threshold) == expected(
                    image, score_threshold, threshold
                )
    by_threshold = {cut: ap_dsb(images, cut, 0.5) for cut in np.arange(0.05, 1, 0.1)}
    best = best_threshold(images)
    assert best.ap_dsb == pytest.approx(max(by_threshold.values()))
    assert ap_dsb(images, best.score_threshold, 0.5) == best.ap_dsb


def test_counts_are_summed_over_images():
    """Two of two objects, and none of one with one false positive: 2 / 4, not the mean of 1 and 0."""
    good = compare(row((1, 3), (2, 3)), [0.9, 0.8], row((7, 3), (9, 3)), classes=[0] * 9)
    bad = compare(row((0, 3), (1, 3)), [0.7], row((1, 3), (0, 3)))
    assert ap_dsb([good, bad], 0, 0.5) == 0.5
    assert best_threshold([good, bad]) == pytest.approx((0.75, 2 / 3))


def test_pairs_need_the_same_class():
    image = compare(row((1, 4), (2, 4)), [0.9, 0.8], row((1, 4), (2, 4)), labels=[0, 1], classes=[0, 0])
    assert ap_dsb([image], 0, 0.5) == 1 / 3


def test_an_iou_of_exactly_half_matches_one_object():
    image = compare(row((1, 2), (2, 2)), [0.9, 0.8], row((1, 4)))
    assert ap_dsb([image], 0, 0.5) == 0.5
    assert ap_dsb([image], 0, 0.55) == 0
    assert best_threshold([image]) == pytest.approx((0.85, 1))


def test_unmatched_objects_on_a_crowd_are_not_counted():
    truth, crowd = row((1, 4), (2, 8)), [False, True]
    image = compare(row((1, 4), (2, 3), (3, 5)), [0.9, 0.8, 0.7], truth, crowd=crowd)
    assert ap_dsb([image], 0, 0.9) == 1
    other = compare(row((1, 4), (2, 3), (3, 5)), [0.9, 0.8, 0.7], truth, labels=[0, 1, 1], classes=[0, 0], crowd=crowd)
    assert ap_dsb([other], 0, 0.9) == 1 / 3


def test_hidden_objects_are_not_counted():
    image = compare(row((1, 4)), [0.9, 0.8], row((1, 4)))
    assert ap_dsb([image], 0, 0.9) == 1


def test_overlapping_labelled_objects():
    truth = [row((1, 4), (0, 2)), row((0, 2), (2, 4))]
    image = compare(row((1, 3), (2, 3)), [0.9, 0.8], truth)
    assert ap_dsb([image], 0, 0.75) == 1


def test_equal_scores_are_counted_together():
    image = compare(row((1, 2), (2, 2), (3, 2)), [0.8, 0.8, 0.8], row((1, 2), (0, 4)))
    assert best_threshold([image]) == pytest.approx((0.4, 1 / 3))


def test_the_threshold_is_half_without_matches():
    assert best_threshold([compare(row((1, 2), (0, 2)), [0.3], row((0, 2), (1, 2)))]) == (0.5, 0)
    assert best_threshold([compare(row((0, 4)), [], row((0, 2), (1, 2)))]) == (0.5, 0)
    empty = best_threshold([compare(row((0, 4)), [], row((0, 4)))])
    assert empty.score_threshold == 0.5
    assert math.isnan(empty.ap_dsb)


def stardist_matching(scores, threshold):
    """Return TP, FP and FN as StarDist's `matching` computes them from IoU scores (true, predicted)."""
    n_true, n_pred = scores.shape
    n_matched = min(n_true, n_pred)
    if n_matched == 0 or not (scores >= threshold).any():
        return 0, n_pred, n_true
    costs = -(scores >= threshold).astype(float) - scores / (2 * n_matched)
    rows, columns = linear_sum_assignment(costs)
    tp = int((scores[rows, columns] >= threshold).sum())
    return tp, n_pred - tp, n_true - tp


def test_counts_equal_those_of_stardist():
    """Labelled: columns 0..9, 10..19, 20..29 and 30..39. IoUs: 1, 8/12, 10/13 and 7/12."""
    truth = row((1, 10), (2, 10), (3, 10), (4, 10), (0, 10))
    found = row((1, 10), (0, 4), (2, 8), (0, 0), (3, 10), (0, 1), (4, 7), (0, 2), (5, 8))
    image = compare(found, [0.9, 0.8, 0.7, 0.6, 0.55], truth)
    masks = [[np.array(ids) == n for n in range(1, count)] for ids, count in ((truth, 5), (found, 6))]
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in masks[1]] for t in masks[0]])
    counts_of_tp = set()
    for threshold in THRESHOLDS:
        tp, fp, fn = stardist_matching(iou, threshold)
        counts = count_matches([image], 0, threshold)
        assert counts == (tp, fp, fn)
        assert counts.ap_dsb == tp / (tp + fp + fn)
        assert counts.f1 == 2 * tp / (2 * tp + fp + fn)
        counts_of_tp.add(tp)
    assert len(counts_of_tp) > 2
    assert count_matches([image], 0.58, 0.5) == (4, 0, 0)


def test_ap_and_f1_of_counts():
    assert Counts(8, 1, 3).ap_dsb == 8 / 12
    assert Counts(8, 1, 3).f1 == 16 / 20
    assert Counts(0, 2, 0).f1 == Counts(0, 2, 0).ap_dsb == 0
    assert math.isnan(Counts(0, 0, 0).f1)
