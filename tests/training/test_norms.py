"""Batch normalisation is frozen only with loaded statistics; networks from scratch use batch statistics."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tests.tiny import BACKBONE, batch_of, scenes
from upscore.checkpoints import load_model
from upscore.models.backbones.frozen_batchnorm import untrained_batchnorms
from upscore.models.build import build
from upscore.training.recipes import HEAVY, INSTANCE_RECIPES, Recipe
from upscore.training.train import train
from upscore.training.trainer import FrozenStatisticsWarning, Trainer

SMALL: dict[str, Any] = {"channels": 16, "box_features": 16, "min_side": 64, "max_side": 128, "smallest_anchor": 8}


def trained(net: Any, recipe: Recipe, **options: Any) -> Trainer:
    trainer = Trainer(net, recipe.model_copy(update={"ema": 0}), Accelerator(cpu=True), **options)
    trainer.train_mode()
    trainer.step([batch_of(scenes(2), 0, 1)], 1.0)
    return trainer


@pytest.mark.parametrize("recipe", INSTANCE_RECIPES)
@pytest.mark.parametrize("backbone", [BACKBONE, "resnet18"])
def test_mask_rcnn_from_scratch_normalises(backbone: str, recipe: str) -> None:
    torch.manual_seed(0)
    net = build("mask_rcnn", backbone=backbone, num_classes=7, **SMALL)
    assert untrained_batchnorms(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FrozenStatisticsWarning)
        trainer = trained(net, INSTANCE_RECIPES[recipe])
    assert not untrained_batchnorms(trainer.net)


def test_fcn_from_scratch_normalises() -> None:
    net = build("fcn32s", backbone=BACKBONE, num_classes=8)
    assert not untrained_batchnorms(trained(net, HEAVY).net)


def test_loaded_statistics_are_not_updated() -> None:
    net = build("mask_rcnn", num_classes=7, pretrained=True, **SMALL)
    before = {name: value.clone() for name, value in net.named_buffers()}
    assert not untrained_batchnorms(net)
    trainer = trained(net, INSTANCE_RECIPES["modern"])
    assert all(torch.equal(value, before[name]) for name, value in trainer.net.named_buffers())


@pytest.mark.parametrize(("options", "head_only"), [({"norm": "frozen"}, False), ({}, True)])
def test_frozen_layers_with_initial_statistics_warn(options: dict[str, Any], head_only: bool) -> None:
    net = build("mask_rcnn", backbone="resnet18", num_classes=7, **SMALL, **options)
    with pytest.warns(FrozenStatisticsWarning, match=r"20 .*backbone\.body\.bn1"):
        Trainer(net, INSTANCE_RECIPES["modern"], Accelerator(cpu=True), head_only=head_only)


def test_the_norm_depends_on_the_weights(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": "mask_rcnn",
        "backbone": "resnet18",
        "changes": {"batch_size": 2, "crop": 48, "ema": 0},
        "epochs": 1,
        "min_side": 64,
        "max_side": 64,
        "workers": 0,
        "precision": "float32",
    }
    train("scenes:4", tmp_path / "scratch", weights="none", **options)
    scratch, config = load_model(tmp_path / "scratch/last")
    assert config.architecture.model_dump()["norm"] == "batch"
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in scratch.modules())
    assert not untrained_batchnorms(scratch)
    train("scenes:4", tmp_path / "tuned", weights=tmp_path / "scratch/last", **options)
    tuned, config = load_model(tmp_path / "tuned/last")
    assert config.architecture.model_dump()["norm"] == "frozen"
    assert any(isinstance(layer, FrozenBatchNorm2d) for layer in tuned.modules())
    assert not untrained_batchnorms(tuned)
