"""Every FCN with every type of backbone can be trained."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from tests.tiny import RECIPES, batch_of, scenes
from upscore.models.build import build
from upscore.models.fcn.build import FCN_STRIDES
from upscore.training.trainer import Trainer

BACKBONES = ("efficientnet_lite0", "resnet18", "timm/convnext_atto", "timm/test_resnet", "timm/test_efficientnet")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", FCN_STRIDES)
def test_every_trainable_parameter_has_a_gradient_and_a_step_can_be_made(name: str, backbone: str) -> None:
    if name == "fcn-pool5" and backbone == "resnet18":
        pytest.skip("resnet18 has no layers after its last feature map")
    torch.manual_seed(0)
    net = build(name, backbone=backbone, num_classes=8)
    for layer in net.score.values():
        torch.nn.init.normal_(layer.get_parameter("weight"))
    trainer = Trainer(net, RECIPES["heavy"], Accelerator(cpu=True))
    trainer.train_mode()
    batch = batch_of(scenes(2), 0, 1)
    losses = trainer._losses(batch, 0)[0]
    losses.backward()
    assert not [n for n, p in trainer.net.named_parameters() if p.requires_grad and p.grad is None]
    trainer.optimizer.zero_grad()
    assert trainer.step([batch], 1.0) == losses.item()
