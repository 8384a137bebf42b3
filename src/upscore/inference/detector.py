"""A network that finds objects, run by an engine.

H W pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upscore.inference.engines import Engine
from upscore.models.mask_rcnn.inference_parts import BoxPart, DensePart, MaskPart, make_branches, to_outputs
from upscore.models.mask_rcnn.mask_rcnn import Detections, MaskRCNN

DENSE, BOX, MASK = "dense", "box", "mask"
"""The parts' names."""

MASK_BLOCK = 20
"""Regions whose masks an engine that gains from a fixed number computes together."""


class ObjectFinder:
    """The dense part and the branches by the engine; between them regions are chosen and pooled here.

    Args:
        net: whose backbone may be known by its facts alone where the engine has its layers already.
        engine: what runs the parts.
    """

    def __init__(self, net: MaskRCNN, engine: Engine) -> None:
        self.net = net
        # of maps and regions, which are read and written several times over between the parts
        dtype = torch.bfloat16 if engine.name == "openvino" and engine.precision != "float32" else torch.float32
        box, mask = BoxPart(net), MaskPart(net, dtype)
        self.dense = engine.compile(DensePart(net, dtype), torch.zeros(1, 3, 64, 96), name=DENSE)
        run_box = engine.compile(box, torch.zeros(2, box.inputs, dtype=dtype), name=BOX)
        run_mask = engine.compile(mask, torch.zeros(2, mask.inputs, dtype=dtype), name=MASK)
        run_mask.warmup((MASK_BLOCK, mask.inputs))
        block = MASK_BLOCK if engine.name == "openvino" else None
        self.branches = make_branches(run_box, run_mask, mask, block)

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Be ready for inputs of these sizes (H, W)."""
        self.dense.warmup(*((1, 3, *self.net.backbone.padded_size(*size)) for size in sizes))

    @torch.inference_mode()
    def __call__(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Preprocessed and padded images (N, 3, H, W), and their sizes before -> the objects of each, in its pixels."""
        outputs = to_outputs(self.dense(images), len(self.net.box_pooler.strides))
        return self.net.decode(outputs, sizes, self.branches)
