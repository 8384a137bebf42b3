"""Training, validation and prediction use the same resize rule."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import BACKBONE
from upscore.data.synthetic import SceneDataset
from upscore.data.transforms import Augmentation, collate
from upscore.models.build import build
from upscore.models.mask_rcnn.presets import PRESETS
from upscore.training.loader import TrainingView, ValidationView
from upscore.training.recipes import MASK_RCNN_PAPER
from upscore.training.tasks import INSTANCES

SIZES = {"channels": 16, "box_features": 16, "min_side": 64, "max_side": 96, "smallest_anchor": 8}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(200, 150), (64, 64), (40, 50)])
def test_training_validation_and_prediction_resize_equally(preset: str, size: tuple[int, int]) -> None:
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=7, preset=preset, **SIZES)
    net.resizing = type(net.resizing)(min_side=64, max_side=96, rule=net.resizing.rule, shrink=True)
    data = SceneDataset(1, seed=0, size=size)
    predicted = net.resizing(data[0].image, net.preprocessing)
    resize = INSTANCES.resize(net, 0)
    recipe = MASK_RCNN_PAPER.model_copy(update={"flip": 0.0})
    for view in (
        ValidationView(data, resize=resize),
        TrainingView(data, recipe, resize=resize, seed=0, epoch=0),
    ):
        batch = collate([view[0]])
        inputs = INSTANCES.inputs(net, batch, torch.device("cpu"))[0]
        assert inputs.dtype == torch.float32
        assert inputs.shape == predicted.shape
        assert (inputs - predicted).abs().max() < 1e-4
        assert batch.objects is not None
        assert batch.objects[0].size == tuple(predicted.shape[-2:])


def test_augmentation_of_floats_agrees_with_bytes() -> None:
    sample = SceneDataset(1, seed=0, size=(80, 80))[0]
    augmentation = Augmentation(crop=(64, 64), flip=0.5, colour=0.3)
    expected = augmentation(sample, 1).image
    sample.image = sample.image.float()
    found = augmentation(sample, 1).image
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 255
    assert (found - expected).abs().max() < 2.5
