"""Oracle, grouping, matching: by hand and against brute force."""

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
    confusion_of,
    evenly,
    group_segments,
    match_groups,
    oracle_classes,
    sums_by,
    swept,
    unsupervised_classes,
)
from upscore.experiments.superpixels.report import class_rows, conclusion, markdown, score_rows
from upscore.labels import VOID

SEGMENTS = np.array([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 3, 3, 3]])
TRUTH = np.array([[2, 2, 1, 0, 255], [2, 1, 0, 1, 255], [255, 255, 255, 255, 2]])


def test_the_oracle_by_hand():
    counts = class_counts(SEGMENTS, TRUTH, 3)
    assert counts.tolist() == [[0, 1, 3], [2, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert oracle_classes(counts).tolist() == [2, 0, VOID, 2]  # a tie goes to the lower index, void to nothing
    confusion = confusion_of(counts.argmax(axis=1), counts)
    assert confusion.tolist() == [[2, 0, 0], [2, 0, 1], [0, 0, 4]]
    assert semantic_scores(confusion, ["a", "b", "c"]).mean_iu == pytest.approx((2 / 4 + 0 + 4 / 5) / 3)


def test_the_confusion_of_segments_is_that_of_their_pixels():
    random = np.random.default_rng(0)
    segments = np.unique(random.integers(0, 9, (12, 15)), return_inverse=True)[1].reshape(12, 15)
    truth = np.where(random.random((12, 15)) < 0.2, VOID, random.integers(0, 4, (12, 15)))
    classes = random.integers(0, 4, segments.max() + 1)
    pixels = ConfusionMatrix(4)
    pixels.update(classes[segments], truth)
    assert confusion_of(classes, class_counts(segments, truth, 4)).tolist() == pixels.counts.tolist()


def test_one_pixel_segments_are_always_right():
    truth = np.random.default_rng(0).integers(0, 3, (6, 7))
    truth[0] = VOID
    counts = class_counts(np.arange(42).reshape(6, 7), truth, 3)
    assert semantic_scores(confusion_of(counts.argmax(axis=1), counts), ["a", "b", "c"]).mean_iu == 1


@pytest.mark.parametrize("groups", [1, 3, 5])
def test_matching_is_the_best_of_all(groups):
    random = np.random.default_rng(groups)
    for _ in range(20):
        overlaps = random.integers(0, 100, (groups, 5))
        found = match_groups(overlaps)
        assert len(set(found.tolist())) == groups
        best = max(sum(overlaps[g, c] for g, c in enumerate(way)) for way in permutations(range(5), groups))
        assert overlaps[np.arange(groups), found].sum() == best


def test_groups_are_of_those_that_look_alike():
    random = np.random.default_rng(0)
    centers = np.array([[0, 0], [100, 0], [0, 1]])  # the second column counts as much as the first
    truth = random.integers(0, 3, 90)
    found = group_segments(centers[truth] + random.normal(0, 0.01, (90, 2)), 3)
    assert len(set(zip(truth.tolist(), found.tolist(), strict=True))) == 3


def test_fewer_segments_than_classes_are_groups_of_their_own():
    features = np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0]])
    assert group_segments(features, 5).tolist() == [0, 1, 0]
    counts = np.array([[0, 0, 9, 0, 0], [5, 0, 1, 0, 0], [0, 4, 0, 0, 0]])
    assert unsupervised_classes(features, counts).tolist() == [2, 0, 2]


def test_sums_by_group():
    counts = np.array([[1, 0], [0, 2], [3, 1]])
    assert sums_by(np.array([1, 0, 1]), counts, 3).tolist() == [[0, 2], [4, 1], [0, 0]]


class Renamed:
    """The samples of a set with other class indices."""

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


def test_labels_do_not_make_the_groups():
    """With the classes in another order the maps are the same, but for the names."""
    data = scenes(4)
    order = np.random.default_rng(1).permutation(8)
    one, other = (compare(dataset, segments=20, pictures=4) for dataset in (data, Renamed(data, order)))
    maps = [np.concatenate([row.unsupervised.ravel() for row in found.rows]) for found in (one, other)]
    pairs = set(zip(*(values.tolist() for values in maps), strict=True))
    assert len(pairs) == len(np.unique(maps[0])) == len(np.unique(maps[1]))
    assert one.unsupervised.pixel_accuracy == pytest.approx(other.unsupervised.pixel_accuracy)
    assert one.oracle.scores.mean_iu == pytest.approx(other.oracle.scores.mean_iu, abs=0.02)  # ties fall otherwise


@pytest.fixture(scope="module")
def comparison():
    return compare(scenes(5), segments=40, sweep=[4, 400], pictures=2, progress=None)


def test_a_whole_set(comparison):
    assert [oracle.aimed for oracle in comparison.oracles] == [4, 40, 400]
    values = [oracle.scores.mean_iu for oracle in comparison.oracles]
    assert values == sorted(values)
    assert comparison.oracle.aimed == 40
    assert comparison.unsupervised.pixel_accuracy <= comparison.oracle.scores.pixel_accuracy
    assert comparison.commonest.pixel_accuracy <= comparison.oracle.scores.pixel_accuracy
    labelled = sum(comparison.unsupervised.pixels.values())
    assert labelled == sum(comparison.oracle.scores.pixels.values()) == 5 * 64 * 64
    assert [row.index for row in comparison.rows] == evenly(5, 2) == [1, 3]
    for row in comparison.rows:
        assert np.array_equal(row.truth, scenes(5)[row.index].class_map)


def test_in_words(comparison):
    rows = score_rows(comparison)
    assert [row[0] for row in rows] == ["commonest class only", *["slic, oracle"] * 3, "slic, unsupervised"]
    assert [row[0] for row in class_rows(comparison)] == scenes().classes
    text = markdown(comparison, "Scenes")
    assert "Hungarian" in text
    assert "rises to 100%" in text
    assert "takes training" in conclusion(comparison)
    comparison.network = comparison.oracles[2].scores
    assert "train." in conclusion(comparison)
    assert score_rows(comparison)[-1][0] == "FCN, trained"
    assert all(len(row) == 4 for row in class_rows(comparison))
    comparison.network = comparison.unsupervised
    assert "train the network longer" in conclusion(comparison)
    comparison.network = None


def test_spacing():
    assert swept(100) == [10, 32, 100, 316]
    assert swept(1) == [1, 3]
    assert evenly(10, 3) == [1, 5, 8]
    assert evenly(2, 9) == [0, 1]
    assert evenly(5, 0) == []


def test_what_cannot_be_scored():
    class Unlabelled(Renamed):
        def __getitem__(self, index: int) -> Sample:
            sample = self.dataset[index]
            sample.class_map = None
            return sample

    with pytest.raises(UserError, match="has no labels"):
        compare(Unlabelled(scenes(2), np.arange(8)))
