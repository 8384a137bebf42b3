"""Oracle, grouping and matching, compared with values calculated by hand and with brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tests.tiny import scenes
from upscore.data.datasets import Dataset
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.evaluation.semantic import ConfusionMatrix, semantic_scores
from upscore.experiments.superpixels.comparison import (
    class_counts,
    compare,
    evenly_spaced,
    group_segments,
    match_groups,
    oracle_classes,
    segment_confusion,
    sum_by_group,
    sweep_sizes,
    unsupervised_classes,
)
from upscore.experiments.superpixels.report import class_rows, markdown, score_rows, summarize
from upscore.labels import VOID

SEGMENTS = np.array([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 3, 3, 3]])
TRUTH = np.array([[2, 2, 1, 0, 255], [2, 1, 0, 1, 255], [255, 255, 255, 255, 2]])


def test_oracle_matches_a_calculation_by_hand():
    counts = class_counts(SEGMENTS, TRUTH, 3)
    assert counts.tolist() == [[0, 1, 3], [2, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert oracle_classes(counts).tolist() == [2, 0, VOID, 2]  # the first of equal classes; void without labels
    confusion = segment_confusion(counts.argmax(axis=1), counts)
    assert confusion.tolist() == [[2, 0, 0], [2, 0, 1], [0, 0, 4]]
    assert semantic_scores(confusion, ["a", "b", "c"]).mean_iu == pytest.approx((2 / 4 + 0 + 4 / 5) / 3)


def test_the_confusion_matrix_of_segments_equals_that_of_pixels():
    random = np.random.default_rng(0)
    segments = np.unique(random.integers(0, 9, (12, 15)), return_inverse=True)[1].reshape(12, 15)
    truth = np.where(random.random((12, 15)) < 0.2, VOID, random.integers(0, 4, (12, 15)))
    classes = random.integers(0, 4, segments.max() + 1)
    pixels = ConfusionMatrix(4)
    pixels.update(classes[segments], truth)
    assert segment_confusion(classes, class_counts(segments, truth, 4)).tolist() == pixels.counts.tolist()


def test_segments_of_one_pixel_have_iou_1():
    truth = np.random.default_rng(0).integers(0, 3, (6, 7))
    truth[0] = VOID
    counts = class_counts(np.arange(42).reshape(6, 7), truth, 3)
    assert semantic_scores(segment_confusion(counts.argmax(axis=1), counts), ["a", "b", "c"]).mean_iu == 1


@pytest.mark.parametrize("groups", [1, 3, 5])
def test_matching_is_optimal(groups):
    random = np.random.default_rng(groups)
    for _ in range(20):
        overlaps = random.integers(0, 100, (groups, 5))
        result = match_groups(overlaps)
        assert len(set(result.tolist())) == groups
        best = max(sum(overlaps[g, c] for g, c in enumerate(way)) for way in permutations(range(5), groups))
        assert overlaps[np.arange(groups), result].sum() == best


def test_similar_segments_are_grouped():
    random = np.random.default_rng(0)
    centers = np.array([[0, 0], [100, 0], [0, 1]])  # the second column counts as much as the first
    truth = random.integers(0, 3, 90)
    result = group_segments(centers[truth] + random.normal(0, 0.01, (90, 2)), 3)
    assert len(set(zip(truth.tolist(), result.tolist(), strict=True))) == 3


def test_fewer_segments_than_groups_are_not_merged():
    features = np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0]])
    assert group_segments(features, 5).tolist() == [0, 1, 0]
    counts = np.array([[0, 0, 9, 0, 0], [5, 0, 1, 0, 0], [0, 4, 0, 0, 0]])
    assert unsupervised_classes(features, counts).tolist() == [2, 0, 2]


def test_sum_by_group():
    counts = np.array([[1, 0], [0, 2], [3, 1]])
    assert sum_by_group(np.array([1, 0, 1]), counts, 3).tolist() == [[0, 2], [4, 1], [0, 0]]


class Renamed:
    """Data set with permuted class indices."""

    def __init__(self, dataset: Dataset, order: np.ndarray) -> None:
        self.dataset, self.order = dataset, order
        self.classes = [dataset.classes[k] for k in np.argsort(order)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        assert sample.class_map is not None
        sample.class_map = sample.class_map.new_tensor(self.order)[sample.class_map.long()]
        return sample


def test_groups_do_not_depend_on_labels():
    """Permuted classes give the same maps up to the names of the groups."""
    data = scenes(4)
    order = np.random.default_rng(1).permutation(8)
    one, other = (compare(dataset, segments=20, pictures=4) for dataset in (data, Renamed(data, order)))
    maps = [np.concatenate([example.unsupervised.ravel() for example in result.examples]) for result in (one, other)]
    pairs = set(zip(*(values.tolist() for values in maps), strict=True))
    assert len(pairs) == len(np.unique(maps[0])) == len(np.unique(maps[1]))
    assert one.unsupervised.pixel_accuracy == pytest.approx(other.unsupervised.pixel_accuracy)
    assert one.oracle.scores.mean_iu == pytest.approx(
        other.oracle.scores.mean_iu, abs=0.02
    )  # equal counts are resolved by the class index


@pytest.fixture(scope="module")
def comparison():
    return compare(scenes(5), segments=40, sweep=[4, 400], pictures=2, progress=None)


def test_compare_scores_a_data_set(comparison):
    assert [oracle.requested for oracle in comparison.oracles] == [4, 40, 400]
    values = [oracle.scores.mean_iu for oracle in comparison.oracles]
    assert values == sorted(values)
    assert comparison.oracle.requested == 40
    assert comparison.unsupervised.pixel_accuracy <= comparison.oracle.scores.pixel_accuracy
    assert comparison.most_frequent.pixel_accuracy <= comparison.oracle.scores.pixel_accuracy
    labelled = sum(comparison.unsupervised.pixels.values())
    assert labelled == sum(comparison.oracle.scores.pixels.values()) == 5 * 64 * 64
    assert [example.index for example in comparison.examples] == evenly_spaced(5, 2) == [1, 3]
    for example in comparison.examples:
        assert np.array_equal(example.truth, scenes(5)[example.index].class_map)


def test_tables_and_summary(comparison):
    assert [row[0] for row in score_rows(comparison)] == [
        "most frequent class",
        *["slic, oracle"] * 3,
        "slic, unsupervised",
    ]
    assert [row[0] for row in class_rows(comparison)] == scenes().classes
    text = markdown(comparison, "Scenes")
    assert "*Oracle*" in text
    assert "*Unsupervised*" in text
    assert "do not separate" in summarize(comparison)
    comparison.network = comparison.oracles[2].scores
    assert "exceeds" in summarize(comparison)
    assert f"{comparison.network.mean_iu:.1%}" in summarize(comparison)
    assert score_rows(comparison)[-1][0] == "FCN, trained"
    assert all(len(row) == 4 for row in class_rows(comparison))
    comparison.network = comparison.unsupervised
    assert "not better" in summarize(comparison)
    comparison.network = None


def test_sweep_sizes_and_evenly_spaced():
    assert sweep_sizes(100) == [10, 32, 100, 316]
    assert sweep_sizes(1) == [1, 3]
    assert evenly_spaced(10, 3) == [1, 5, 8]
    assert evenly_spaced(2, 9) == [0, 1]
    assert evenly_spaced(5, 0) == []


def test_missing_labels_are_a_user_error():
    class Unlabelled(Renamed):
        def __getitem__(self, index: int) -> Sample:
            sample = self.dataset[index]
            sample.class_map = None
            return sample

    with pytest.raises(UserError, match="scene_00000"):
        compare(Unlabelled(scenes(2), np.arange(8)))
