"""Quality of one network with several engines and precisions."""

import numpy as np
import pytest
import torch

from peers.quality import REFERENCE, Setting, measure_quality
from upscore.data import open_dataset
from upscore.inference import load
from upscore.results import SemanticResult


class LastClassModel:
    """Model that predicts the last class for every pixel."""

    def __init__(self, model):
        self.classes, self.task = model.classes, model.task

    def warmup(self, *sizes):
        pass

    def predict(self, image):
        height, width = image.shape[-2:]
        return SemanticResult(class_map=np.full((height, width), len(self.classes) - 1, np.uint8), classes=self.classes)


def test_each_setting_is_compared_with_the_labels_and_the_reference(trained):
    dataset = open_dataset("scenes:2")
    model = load(trained, engine="torch", precision="float32")
    other = Setting("torch", "bfloat16")
    calls = []
    reference, wrong = measure_quality(
        {REFERENCE: model, other: LastClassModel(model)}, dataset, progress=lambda *at: calls.append(at)
    )
    labels = torch.stack([dataset[index].class_map for index in range(2)])
    found = torch.stack([torch.from_numpy(model.predict(dataset[index].image).class_map) for index in range(2)])
    assert reference.agreement == 1
    assert reference.score > wrong.score
    assert wrong.setting == other
    assert wrong.agreement == pytest.approx((found == len(model.classes) - 1).float().mean().item())
    assert wrong.score == pytest.approx(_last_class_mean_iu(labels, len(model.classes)))
    assert calls == [(1, 2), (2, 2)]


def _last_class_mean_iu(labels, classes):
    """Return the mean IU of the last class everywhere: its fraction of the labelled pixels, divided by the number of
    present classes."""
    known = labels[labels != 255]
    present = len(set(known.tolist()) | {classes - 1})
    return (known == classes - 1).float().mean().item() / present
