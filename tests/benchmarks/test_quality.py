"""Quality of several ways to run one network."""

import numpy as np
import pytest
import torch

from peers.quality import REFERENCE, Way, measure_quality
from upscore.data import open_dataset
from upscore.inference import load
from upscore.results import SemanticResult


class Wrong:
    """Says of every pixel that it is of the last class."""

    def __init__(self, model):
        self.classes, self.task = model.classes, model.task

    def warmup(self, *sizes):
        pass

    def predict(self, image):
        height, width = image.shape[-2:]
        return SemanticResult(class_map=np.full((height, width), len(self.classes) - 1, np.uint8), classes=self.classes)


def test_each_way_is_scored_against_the_labels_and_the_reference(trained):
    dataset = open_dataset("scenes:2")
    model = load(trained, engine="torch", precision="float32")
    other = Way("torch", "bfloat16")
    told = []
    reference, wrong = measure_quality(
        {REFERENCE: model, other: Wrong(model)}, dataset, progress=lambda *at: told.append(at)
    )
    labels = torch.stack([dataset[index].class_map for index in range(2)])
    found = torch.stack([torch.from_numpy(model.predict(dataset[index].image).class_map) for index in range(2)])
    assert reference.agreement == 1
    assert reference.score > wrong.score
    assert wrong.way == other
    assert wrong.agreement == pytest.approx((found == len(model.classes) - 1).float().mean().item())
    assert wrong.score == pytest.approx(_last_class_alone(labels, len(model.classes)))
    assert told == [(1, 2), (2, 2)]


def _last_class_alone(labels, classes):
    """Mean IoU of saying the last class everywhere: its share of the labelled pixels, over the classes there are."""
    known = labels[labels != 255]
    present = len(set(known.tolist()) | {classes - 1})
    return (known == classes - 1).float().mean().item() / present
