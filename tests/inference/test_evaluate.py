"""Evaluation of a model on a data set, and matching of class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import upscore
from tests.tiny import scenes
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.evaluation.class_matching import ClassMatchWarning
from upscore.inference import Model, evaluate
from upscore.labels import VOID


class Labelled:
    """Scenes with other class names or indices, and a band of void pixels."""

    def __init__(self, classes: list[str], table: list[int] | None = None, *, labels: bool = True) -> None:
        self.classes, self.table, self.labels = classes, table, labels

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        sample = scenes(3, seed=4)[index]
        assert sample.class_map is not None
        class_map = sample.class_map.clone()
        if self.table is not None:
            class_map = torch.tensor(self.table, dtype=torch.uint8)[class_map.long()]
        class_map[:10] = VOID
        return replace(sample, class_map=class_map if self.labels else None)


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Model:
    return upscore.load(trained, engine="torch", precision="float32")


def test_scores_equal_those_computed_from_the_predictions(predictor: Model) -> None:
    data = Labelled(predictor.classes)
    confusion = np.zeros((8, 8))
    for index in range(len(data)):
        sample = data[index]
        assert sample.class_map is not None
        for true, predicted in zip(
            sample.class_map.flatten().tolist(), predictor.predict(sample.image).class_map.flatten(), strict=True
        ):
            if true != VOID:
                confusion[true, predicted] += 1
    right, truth, union = confusion.diagonal(), confusion.sum(1), confusion.sum(0) + confusion.sum(1)
    union = union - right
    calls = []
    scores = evaluate(predictor, data, progress=lambda done, total: calls.append((done, total)))
    assert np.array_equal(scores.confusion, confusion)
    assert scores.pixel_accuracy == pytest.approx(right.sum() / truth.sum())
    assert scores.mean_accuracy == pytest.approx((right[truth > 0] / truth[truth > 0]).mean())
    assert scores.mean_iu == pytest.approx((right[union > 0] / union[union > 0]).mean())
    assert scores.frequency_weighted_iu == pytest.approx((truth * right / np.maximum(union, 1)).sum() / truth.sum())
    assert confusion.sum() == 3 * 54 * 64
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_classes_are_matched_by_name(predictor: Model) -> None:
    expected = evaluate(predictor, Labelled(predictor.classes))
    reversed_names = predictor.classes[::-1]
    table = [reversed_names.index(name) for name in predictor.classes]
    assert evaluate(predictor, Labelled(reversed_names, table)) == expected
    wrong = evaluate(predictor, Labelled(reversed_names))
    assert wrong.pixel_accuracy != expected.pixel_accuracy


def test_a_data_set_with_fewer_classes(predictor: Model) -> None:
    """Its labels are mapped to the classes of the model."""
    scores = evaluate(predictor, Labelled(["ring", "background"], [1, 0, 0, 0, 0, 0, 0, 0]))
    pixels = {name: count for name, count in scores.pixels.items() if count}
    assert set(pixels) == {"background", "ring"}


@pytest.mark.parametrize("count", [8, 7])
def test_unnamed_classes_are_matched_by_position(count: int, predictor: Model) -> None:
    """Even if the last class is missing."""
    table = [index if index < count else 0 for index in range(8)]
    expected = evaluate(predictor, Labelled(predictor.classes, table))
    with pytest.warns(ClassMatchWarning, match=r"position .*background, disk"):
        assert evaluate(predictor, Labelled([f"class_{index}" for index in range(count)], table)) == expected


def test_class_names_are_matched_case_insensitively(predictor: Model) -> None:
    names = [name.capitalize() for name in predictor.classes[::-1]]
    table = [names.index(name.capitalize()) for name in predictor.classes]
    with pytest.warns(ClassMatchWarning, match="Ring = ring"):
        assert evaluate(predictor, Labelled(names, table)) == evaluate(predictor, Labelled(predictor.classes))


@pytest.mark.parametrize("classes", [["background", "dragon"], ["dragon"], [*"abcdefgh"]])
def test_unknown_classes_are_an_error_with_both_lists(classes: list[str], predictor: Model) -> None:
    with pytest.raises(UserError, match=rf"{', '.join(classes)}.* disk"):
        evaluate(predictor, Labelled(classes))


def test_an_image_without_labels_is_an_error(predictor: Model) -> None:
    with pytest.raises(UserError, match="scene_00000"):
        evaluate(predictor, Labelled(predictor.classes, labels=False))
