"""StarDist's average precision and F1 are what counting by hand and trying all thresholds give."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from upscore.annotations import ObjectAnnotations
from upscore.evaluation.object_matching import THRESHOLDS, Counts, best_threshold, count_matches, pairs


def compare(id_map, scores, truth, labels=None, classes=None, crowd=None):
    labels = [0] * len(scores) if labels is None else labels
    objects = ObjectAnnotations.from_id_map(
        torch.tensor(truth),
        None if classes is None else torch.tensor(classes),
        None if crowd is None else torch.tensor(crowd),
    )
    return pairs(np.array(id_map, np.uint16), np.array(scores, np.float64), np.array(labels), objects)


def ap_dsb(photos, score_threshold, threshold):
    return count_matches(photos, score_threshold, threshold).ap_dsb


def row(*runs):
    """An id map of one row, of (number, length)."""
    return [[number for number, length in runs for _ in range(length)]]


def brute(id_map, kept, truth, threshold):
    """TP / (TP + FP + FN) as defined, of two id maps."""
    numbers = [n for n in np.unique(truth) if n]
    ious = np.array(
        [[((id_map == p) & (truth == t)).sum() / ((id_map == p) | (truth == t)).sum() for t in numbers] for p in kept]
    ).reshape(len(kept), len(numbers))
    rows, columns = linear_sum_assignment(ious >= threshold, maximize=True)
    right = int((ious[rows, columns] >= threshold).sum())
    return right / (len(kept) + len(numbers) - right)


@pytest.mark.parametrize("seed", range(5))
def test_random_maps_give_what_the_definition_gives(seed):
    generator = np.random.default_rng(seed)
    truths, maps, photos = [], [], []
    for _ in range(3):
        truth = generator.integers(0, 5, (6, 6)).repeat(4, 0).repeat(4, 1)
        id_map = np.roll(truth, 1, seed % 2)
        id_map[generator.random(id_map.shape) < 0.1 * seed] = 5
        scores = np.sort(generator.integers(1, 9, 6) / 10)[::-1]  # ties; the sixth is hidden
        truths.append(truth)
        maps.append(id_map)
        photos.append(compare(id_map, scores, truth))

    def expected(photo, score_threshold, threshold):
        kept = [n for n in np.unique(maps[photo]) if n and photos[photo].scores[n - 1] >= score_threshold]
        return brute(maps[photo], kept, truths[photo], threshold)

    for photo in range(3):
        for threshold in THRESHOLDS:
            for score_threshold in (0, 0.45):
                assert ap_dsb([photos[photo]], score_threshold, threshold) == expected(
                    photo, score_threshold, threshold
                )
    tried = {cut: ap_dsb(photos, cut, 0.5) for cut in np.arange(0.05, 1, 0.1)}
    best = best_threshold(photos)
    assert best.ap_dsb == pytest.approx(max(tried.values()))
    assert ap_dsb(photos, best.score_threshold, 0.5) == best.ap_dsb


def test_counts_are_of_the_whole_set():
    """Two right of two, and none right of one with one wrong: 2 / 4, not the mean of 1 and 0."""
    good = compare(row((1, 3), (2, 3)), [0.9, 0.8], row((7, 3), (9, 3)), classes=[0] * 9)
    bad = compare(row((0, 3), (1, 3)), [0.7], row((1, 3), (0, 3)))
    assert ap_dsb([good, bad], 0, 0.5) == 0.5
    assert best_threshold([good, bad]) == pytest.approx((0.75, 2 / 3))


def test_a_pair_needs_the_same_class():
    photo = compare(row((1, 4), (2, 4)), [0.9, 0.8], row((1, 4), (2, 4)), labels=[0, 1], classes=[0, 0])
    assert ap_dsb([photo], 0, 0.5) == 1 / 3


def test_exactly_half_is_a_match_for_one_alone():
    photo = compare(row((1, 2), (2, 2)), [0.9, 0.8], row((1, 4)))
    assert ap_dsb([photo], 0, 0.5) == 0.5
    assert ap_dsb([photo], 0, 0.55) == 0
    assert best_threshold([photo]) == pytest.approx((0.85, 1))


def test_what_lies_on_a_crowd_is_not_counted():
    truth, crowd = row((1, 4), (2, 8)), [False, True]
    photo = compare(row((1, 4), (2, 3), (3, 5)), [0.9, 0.8, 0.7], truth, crowd=crowd)
    assert ap_dsb([photo], 0, 0.9) == 1
    other = compare(row((1, 4), (2, 3), (3, 5)), [0.9, 0.8, 0.7], truth, labels=[0, 1, 1], classes=[0, 0], crowd=crowd)
    assert ap_dsb([other], 0, 0.9) == 1 / 3


def test_hidden_objects_are_not_in_the_map():
    photo = compare(row((1, 4)), [0.9, 0.8], row((1, 4)))
    assert ap_dsb([photo], 0, 0.9) == 1


def test_overlapping_objects_are_labelled_on_layers():
    truth = [row((1, 4), (0, 2)), row((0, 2), (2, 4))]
    photo = compare(row((1, 3), (2, 3)), [0.9, 0.8], truth)
    assert ap_dsb([photo], 0, 0.75) == 1


def test_equal_scores_stay_together():
    photo = compare(row((1, 2), (2, 2), (3, 2)), [0.8, 0.8, 0.8], row((1, 2), (0, 4)))
    assert best_threshold([photo]) == pytest.approx((0.4, 1 / 3))


def test_a_network_that_finds_nothing_right_has_the_usual_threshold():
    assert best_threshold([compare(row((1, 2), (0, 2)), [0.3], row((0, 2), (1, 2)))]) == (0.5, 0)
    assert best_threshold([compare(row((0, 4)), [], row((0, 2), (1, 2)))]) == (0.5, 0)
    empty = best_threshold([compare(row((0, 4)), [], row((0, 4)))])
    assert empty.score_threshold == 0.5
    assert math.isnan(empty.ap_dsb)


def stardist_matching(scores, threshold):
    """TP, FP and FN as StarDist's `matching` computes them from IoU scores (true, predicted)."""
    n_true, n_pred = scores.shape
    n_matched = min(n_true, n_pred)
    if n_matched == 0 or not (scores >= threshold).any():
        return 0, n_pred, n_true
    costs = -(scores >= threshold).astype(float) - scores / (2 * n_matched)
    rows, columns = linear_sum_assignment(costs)
    tp = int((scores[rows, columns] >= threshold).sum())
    return tp, n_pred - tp, n_true - tp


def test_hand_made_matches_give_the_formulas_of_stardist():
    """Labelled: columns 0..9, 10..19, 20..29 and 30..39. IoUs: 1, 8/12, 10/13 and 7/12."""
    truth = row((1, 10), (2, 10), (3, 10), (4, 10), (0, 10))
    found = row((1, 10), (0, 4), (2, 8), (0, 0), (3, 10), (0, 1), (4, 7), (0, 2), (5, 8))
    photo = compare(found, [0.9, 0.8, 0.7, 0.6, 0.55], truth)
    masks = [[np.array(ids) == n for n in range(1, count)] for ids, count in ((truth, 5), (found, 6))]
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in masks[1]] for t in masks[0]])
    seen = set()
    for threshold in THRESHOLDS:
        tp, fp, fn = stardist_matching(iou, threshold)
        counts = count_matches([photo], 0, threshold)
        assert counts == (tp, fp, fn)
        assert counts.ap_dsb == tp / (tp + fp + fn)
        assert counts.f1 == 2 * tp / (2 * tp + fp + fn)
        seen.add(tp)
    assert len(seen) > 2
    assert count_matches([photo], 0.58, 0.5) == (4, 0, 0)


def test_ap_and_f1_of_counts():
    assert Counts(8, 1, 3).ap_dsb == 8 / 12
    assert Counts(8, 1, 3).f1 == 16 / 20
    assert Counts(0, 2, 0).f1 == Counts(0, 2, 0).ap_dsb == 0
    assert math.isnan(Counts(0, 0, 0).f1)
