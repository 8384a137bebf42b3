"""Mask R-CNN inference with an engine.

N images, H W height and width of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upscore.inference.engines import Engine
from upscore.models.mask_rcnn.inference_parts import BoxPart, DensePart, MaskPart, make_branches, to_outputs
from upscore.models.mask_rcnn.mask_rcnn import Detections, MaskRCNN
from upscore.results import InstanceResult

DENSE, BOX, MASK = "dense", "box", "mask"
"""Names of the compiled parts."""

MASK_BLOCK = 20
"""Number of regions per call of the mask head, for engines that are faster with fixed shapes."""


class DetectorRunner:
    """Run the dense part and the heads of Mask R-CNN with an engine; regions are selected and pooled in torch.

    Args:
        net: the network; its backbone may be a `BackboneSpec` if the engine has the compiled layers.
        engine: engine that runs the parts.
    """

    def __init__(self, net: MaskRCNN, engine: Engine) -> None:
        self.net = net
        # dtype of feature maps and pooled regions; bfloat16 halves the memory traffic between the parts
        dtype = torch.bfloat16 if engine.name == "openvino" and engine.precision != "float32" else torch.float32
        box, mask = BoxPart(net), MaskPart(net, dtype)
        self.dense = engine.compile(DensePart(net, dtype), torch.zeros(1, 3, 64, 96), name=DENSE)
        run_box = engine.compile(box, torch.zeros(2, box.inputs, dtype=dtype), name=BOX)
        run_mask = engine.compile(mask, torch.zeros(2, mask.inputs, dtype=dtype), name=MASK)
        run_mask.warmup((MASK_BLOCK, mask.inputs))
        block = MASK_BLOCK if engine.name == "openvino" else None
        self.branches = make_branches(run_box, run_mask, mask, block)

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Compile for inputs of these sizes (H, W)."""
        self.dense.warmup(*((1, 3, *self.net.backbone.padded_size(*size)) for size in sizes))

    @torch.inference_mode()
    def __call__(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detect the objects of preprocessed and padded images.

        Args:
            images: (N, 3, H, W), float.
            sizes: size of each image before padding.

        Returns:
            The detections of each image, in pixels of the network's input.
        """
        outputs = to_outputs(self.dense(images), len(self.net.box_pooler.strides))
        return self.net.decode(outputs, sizes, self.branches)


def instance_result(net: MaskRCNN, detections: Detections) -> InstanceResult:
    """Convert the detections of one image to arrays, in pixels of the network's input."""
    boxes, scores, labels, masks = (tensor.cpu().numpy() for tensor in detections[:4])
    return InstanceResult(
        boxes=boxes,
        scores=scores,
        labels=labels,
        masks=list(masks),
        size=detections.size,
        classes=net.classes,
        category_ids=net.category_ids,
        mask_paste=net.preset.mask_paste,
    )
