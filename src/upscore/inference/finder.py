"""A network that finds objects, run by an engine.

H W pixels of the network's input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from upscore.inference.engines import Engine
from upscore.instances import Instances
from upscore.models.mask_rcnn import MaskRCNN, Outputs
from upscore.models.rpn import RPNOutputs


class Dense(nn.Module):
    """Preprocessed images -> maps, objectness and deltas, one after another."""

    def __init__(self, net: MaskRCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps, (objectness, deltas) = self.net(images)
        return (*maps, *objectness, *deltas)


class ObjectFinder:
    """The dense part by the engine, the rest here."""

    def __init__(self, net: MaskRCNN, engine: Engine) -> None:
        self.net, self.engine = net, engine
        self.dense = engine.compile(Dense(net), torch.zeros(1, 3, 64, 96), name="dense")
        self.levels = len(net.rpn.anchors.sizes) if hasattr(net.rpn.anchors, "sizes") else 0

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Instances:
        """One preprocessed image (1, 3, H, W) -> its objects."""
        outputs = self.dense(images)
        levels = len(outputs) // 3
        maps, objectness, deltas = (list(outputs[i * levels : (i + 1) * levels]) for i in range(3))
        dtype = torch.bfloat16 if self.engine.precision != "float32" else torch.float32
        with torch.autocast(self.engine.device.type, dtype, enabled=dtype != torch.float32):
            found = self.net.decode(Outputs(maps, RPNOutputs(objectness, deltas)), [tuple(images.shape[-2:])])
        assert found[0].instances is not None
        return found[0].instances
