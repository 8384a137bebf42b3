"""Training step of FCN-8s with VGG16 compared with pytorch-fcn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from peers.measure import Row, Sides
from peers.shared import torchfcn_models, with_random_weights
from upscore.errors import UserError

SIDE, CLASSES = 512, 21
RATE, MOMENTUM, DECAY = 1e-10, 0.99, 5e-4


def row() -> Row:
    """Return the row: batch size 1, SGD as in FCN section 4.3; geometry "same" compared with a padding of 100."""
    return Row(
        name="train-fcn-vgg16",
        work=f"FCN-8s VGG16, {SIDE}x{SIDE}, batch 1, a training step",
        peer_name="torchfcn.models.FCN8s, its loss and SGD",
        target={"bfloat16": 5},
        prepare=prepare,
        memory={"bfloat16": 2 / 3},
    )


def prepare() -> Sides:
    """Create both networks with random weights; our side is a complete step of the trainer from a uint8 batch."""
    import torch
    from accelerate import Accelerator

    from upscore.data.transforms import Batch
    from upscore.models import build
    from upscore.training.recipes import HEAVY
    from upscore.training.trainer import Trainer

    peer_net, cross_entropy = with_random_weights(torchfcn_models().FCN8s(n_class=CLASSES)).train(), torchfcn_loss()
    optimizer = torch.optim.SGD(peer_net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    net = build("fcn8s", backbone="vgg16", num_classes=CLASSES)
    with_random_weights(net)
    trainer = Trainer(net, HEAVY, Accelerator(cpu=True), dtype=torch.bfloat16)
    trainer.train_mode()
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    class_maps = torch.randint(0, CLASSES, (1, SIDE, SIDE), dtype=torch.uint8)
    images, targets = net.backbone.prepare(pixels), class_maps.long()
    batch = Batch(images=pixels, class_maps=class_maps, names=["noise"], sizes=[(SIDE, SIDE)])

    def peer() -> object:
        optimizer.zero_grad()
        loss = cross_entropy(peer_net(images), targets, size_average=False)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"bfloat16": lambda: trainer.step([batch], 1.0)}, peer


def torchfcn_loss() -> Callable[..., Any]:
    """Import pytorch-fcn's loss function.

    Raises:
        UserError: a package that its module imports is not installed.
    """
    torchfcn_models()
    try:
        return importlib.import_module("torchfcn.trainer").cross_entropy2d
    except ImportError as error:
        raise UserError(f"pytorch-fcn's trainer, the peer, needs {error.name}: pip install {error.name}") from error
