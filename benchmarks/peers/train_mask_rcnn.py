"""Training step of Mask R-CNN with ResNet-50-FPN compared with torchvision's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.measure import Row, Sides
from peers.shared import noise

if TYPE_CHECKING:
    from torch import Tensor

HEIGHT, WIDTH = 800, 1066
CLASSES = 90
BOXES = ((50, 60, 350, 420), (400, 100, 700, 500), (600, 300, 1000, 780), (100, 500, 300, 760), (420, 520, 580, 700))
RATE, MOMENTUM, DECAY = 1e-6, 0.9, 1e-4


def row() -> Row:
    """Return the row: batch size 1, SGD, with frozen stem, res2 and batch normalisation, as by default in
    torchvision."""
    return Row(
        name="train-mask-rcnn-r50",
        work=f"Mask R-CNN R-50-FPN, {HEIGHT}x{WIDTH}, a training step",
        peer_name="torchvision MaskRCNN and SGD, float32",
        target={"bfloat16": 3.8},
        prepare=prepare,
        memory={"bfloat16": 1},
    )


def prepare() -> Sides:
    """Create both networks with random weights; our side is a complete step of the trainer from a uint8 batch."""
    import torch
    from accelerate import Accelerator
    from torchvision.models import resnet50
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d

    from upscore.annotations import ObjectAnnotations
    from upscore.data.transforms import Batch
    from upscore.models import build
    from upscore.models.backbones.resnet import ResNetBackbone
    from upscore.training.recipes import INSTANCE_RECIPES
    from upscore.training.trainer import Trainer

    torch.manual_seed(0)
    labels, masks = torch.arange(len(BOXES)), ellipses()
    peer_net = MaskRCNN(_resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3), CLASSES + 1).train()
    trainable = [parameter for parameter in peer_net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    net = build("mask_rcnn", backbone="resnet50", num_classes=CLASSES, preset="torchvision", norm="frozen")
    assert isinstance(net.backbone, ResNetBackbone)
    net.backbone.freeze_at(2)
    recipe = INSTANCE_RECIPES["paper"].model_copy(update={"learning_rate": RATE})
    trainer = Trainer(net, recipe, Accelerator(cpu=True), dtype=torch.bfloat16)
    trainer.train_mode()
    pixels = torch.from_numpy(noise(HEIGHT, WIDTH)).permute(2, 0, 1)
    objects = ObjectAnnotations.from_masks(masks, labels)
    batch = Batch(images=pixels[None], class_maps=None, objects=[objects], names=["noise"], sizes=[(HEIGHT, WIDTH)])
    image = pixels / 255
    target = {"boxes": torch.tensor(BOXES).float(), "labels": labels + 1, "masks": masks.to(torch.uint8)}

    def peer() -> object:
        optimizer.zero_grad()
        loss = torch.stack([*peer_net([image], [target]).values()]).sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"bfloat16": lambda: trainer.step([batch], 1.0)}, peer


def ellipses() -> Tensor:
    """Return masks with an ellipse in each box, (N, H, W) bool."""
    import torch

    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return torch.stack(
        [
            ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
            for left, top, right, bottom in BOXES
        ]
    )
