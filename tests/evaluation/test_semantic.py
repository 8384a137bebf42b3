"""Scores of semantic segmentation, compared with values calculated by hand, a loop over pixels, and torchmetrics."""

import json
import math
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from upscore.errors import UserError
from upscore.evaluation.semantic import BLOCK, ConfusionMatrix, semantic_scores
from upscore.labels import VOID

MEANS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def count(predicted, target, num_classes):
    matrix = ConfusionMatrix(num_classes)
    matrix.update(torch.as_tensor(predicted), torch.as_tensor(target))
    return matrix


def score(rows):
    return semantic_scores(torch.tensor(rows), [f"class {k}" for k in range(len(rows))])


def test_rows_are_true_classes_and_columns_predicted_classes():
    matrix = count(predicted=[0, 1, 1, 2], target=[0, 0, 0, 1], num_classes=3)
    assert matrix.counts.tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]
    assert matrix.counts.dtype == torch.int64


def test_targets_that_are_no_class_are_not_counted():
    matrix = count(predicted=[0, 1, 0, 1, 1], target=[1, 2, VOID, -1, 1], num_classes=2)
    assert matrix.counts.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("predicted", [[0, 2], [0, -1], [0, VOID]])
def test_a_prediction_that_is_no_class_fails_an_assertion(predicted):
    with pytest.raises(AssertionError, match="predicted"):
        count(predicted=predicted, target=[0, VOID], num_classes=2)


def test_maps_of_different_sizes_fail_an_assertion():
    with pytest.raises(AssertionError, match="3 pixels predicted, 2 labelled"):
        count(predicted=[0, 0, 0], target=[0, 0], num_classes=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint32])
def test_all_integer_types_are_counted(dtype):
    target = np.array([[0, 1], [2, 100]]).astype(dtype)
    predicted = np.array([[0, 2], [2, 1]]).astype(dtype)
    matrix = ConfusionMatrix(3)
    matrix.update(predicted, target)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_read_only_and_mirrored_arrays_are_counted(recwarn):
    target = np.array([[0, 1, VOID]], np.uint8)
    target.setflags(write=False)
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[1, 1, 0]], np.uint8)[:, ::-1], target)
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]
    assert not recwarn.list


def test_maps_larger_than_a_block_are_counted():
    target = torch.arange(BLOCK + 5) % 3
    matrix = count(predicted=target, target=target, num_classes=3)
    assert matrix.counts.diagonal().tolist() == target.bincount().tolist()
    assert matrix.counts.sum() == BLOCK + 5


def test_adding_confusion_matrices():
    first, second = count([0, 1], [0, 0], 2), count([1], [1], 2)
    both = first + second
    assert both.counts.tolist() == [[1, 1], [0, 1]]
    assert first.counts.tolist() == [[1, 1], [0, 0]]


def test_scores_match_a_calculation_by_hand():
    scores = score([[50, 10, 0], [5, 20, 5], [0, 0, 10]])
    assert scores.pixel_accuracy == 80 / 100
    assert scores.mean_accuracy == pytest.approx((50 / 60 + 20 / 30 + 10 / 10) / 3)
    assert scores.mean_iu == pytest.approx((50 / 65 + 20 / 40 + 10 / 15) / 3)
    assert scores.frequency_weighted_iu == pytest.approx((60 * 50 / 65 + 30 * 20 / 40 + 10 * 10 / 15) / 100)
    assert scores.per_class == pytest.approx({"class 0": 50 / 65, "class 1": 20 / 40, "class 2": 10 / 15})
    assert scores.per_class_accuracy == pytest.approx({"class 0": 50 / 60, "class 1": 20 / 30, "class 2": 1})
    assert scores.per_class_precision == pytest.approx({"class 0": 50 / 55, "class 1": 20 / 30, "class 2": 10 / 15})
    assert scores.pixels == {"class 0": 60, "class 1": 30, "class 2": 10}


def test_a_class_that_does_not_occur_changes_no_score():
    without, with_absent = score([[6, 2], [1, 3]]), score([[6, 0, 2], [0, 0, 0], [1, 0, 3]])
    for mean in MEANS:
        assert getattr(with_absent, mean) == getattr(without, mean)
    assert with_absent.per_class["class 1"] is None
    assert with_absent.per_class_accuracy["class 1"] is None
    assert with_absent.per_class_precision["class 1"] is None


def test_a_predicted_class_without_ground_truth_lowers_mean_iu_only():
    scores = score([[8, 2], [0, 0]])
    assert scores.per_class == {"class 0": 0.8, "class 1": 0.0}
    assert scores.mean_iu == pytest.approx(0.4)
    assert scores.mean_accuracy == scores.pixel_accuracy == pytest.approx(0.8)
    assert scores.frequency_weighted_iu == pytest.approx(0.8)
    assert scores.per_class_accuracy["class 1"] is None
    assert scores.per_class_precision["class 1"] == 0.0


def test_scores_without_labelled_pixels_are_zero():
    matrix = count(predicted=[0, 1], target=[VOID, VOID], num_classes=2)
    matrix.update(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8))
    scores = semantic_scores(matrix.counts, ["a", "b"])
    assert [getattr(scores, mean) for mean in MEANS] == [0, 0, 0, 0]
    assert scores.per_class == {"a": None, "b": None}


def test_scores_are_json_serialisable():
    scores = score([[8, 2, 0], [0, 0, 0], [0, 0, 0]])
    read = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert set(read) == {*MEANS, "per_class", "per_class_accuracy", "per_class_precision", "pixels", "confusion"}
    assert read["confusion"] == [[8, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert read["per_class"] == {"class 0": 0.8, "class 1": 0.0, "class 2": None}


def test_duplicate_class_names_are_refused():
    with pytest.raises(UserError, match="'car'"):
        semantic_scores(torch.eye(2, dtype=torch.int64), ["car", "car"])


@st.composite
def maps(draw):
    num_classes = draw(st.integers(1, 6))
    pixels = draw(st.integers(1, 40))
    predicted = draw(st.lists(st.integers(0, num_classes - 1), min_size=pixels, max_size=pixels))
    label = st.integers(0, num_classes - 1) | st.just(VOID)
    return num_classes, predicted, draw(st.lists(label, min_size=pixels, max_size=pixels))


@given(maps())
@settings(deadline=None)
def test_scores_equal_a_loop_over_pixels(drawn):
    num_classes, predicted, target = drawn
    scores = semantic_scores(count(predicted, target, num_classes).counts, [str(k) for k in range(num_classes)])

    pairs = [(p, t) for p, t in zip(predicted, target, strict=True) if t != VOID]
    accuracies, ius, weighted = [], [], 0.0
    for k in range(num_classes):
        both = sum(p == t == k for p, t in pairs)
        true = sum(t == k for _, t in pairs)
        either = sum(k in pair for pair in pairs)
        assert scores.pixels[str(k)] == true
        assert scores.per_class[str(k)] == (both / either if either else None)
        if true:
            accuracies.append(both / true)
            weighted += true * both / either
        if either:
            ius.append(both / either)
    assert math.isclose(scores.pixel_accuracy, sum(p == t for p, t in pairs) / max(len(pairs), 1))
    assert math.isclose(scores.mean_accuracy, sum(accuracies) / max(len(accuracies), 1))
    assert math.isclose(scores.mean_iu, sum(ius) / max(len(ius), 1))
    assert math.isclose(scores.frequency_weighted_iu, weighted / max(len(pairs), 1))


@pytest.mark.parametrize("absent", [None, 3])
def test_scores_equal_torchmetrics(absent):
    """Without class 3 in truth and prediction, torchmetrics reports its IoU as 0 but excludes it from the mean."""
    generator = torch.Generator().manual_seed(0)
    target, predicted = torch.randint(0, 5, (2, 4, 60, 80), generator=generator).where(
        torch.rand(2, 4, 60, 80, generator=generator) < 0.5, torch.tensor(1)
    )
    if absent is not None:
        target[target == absent], predicted[predicted == absent] = 0, 0
    target[:, :7] = VOID
    scores = semantic_scores(count(predicted, target, 5).counts, "abcde")

    iu = partial(multiclass_jaccard_index, predicted, target, num_classes=5, ignore_index=VOID)
    accuracy = partial(multiclass_accuracy, predicted, target, num_classes=5, ignore_index=VOID)
    assert scores.mean_iu == pytest.approx(iu(average="macro").item())
    assert scores.frequency_weighted_iu == pytest.approx(iu(average="weighted").item())
    assert [value or 0.0 for value in scores.per_class.values()] == pytest.approx(iu(average="none").tolist())
    assert scores.pixel_accuracy == pytest.approx(accuracy(average="micro").item())
    assert scores.mean_accuracy == pytest.approx(accuracy(average="macro").item())


def test_mean_accuracy_differs_from_torchmetrics_without_ground_truth():
    """A class that is predicted but not in the truth has no accuracy here, and accuracy 0 in torchmetrics."""
    predicted, target = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0])
    scores = semantic_scores(count(predicted, target, 2).counts, "ab")
    assert scores.mean_accuracy == pytest.approx(2 / 3)
    assert multiclass_accuracy(predicted, target, num_classes=2, average="macro").item() == pytest.approx(1 / 3)
