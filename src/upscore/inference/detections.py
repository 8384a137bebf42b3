"""A network's detections as a result.

N objects, H W pixels.
"""

from __future__ import annotations

from upscore.models.mask_rcnn.mask_rcnn import Detections, MaskRCNN
from upscore.results import InstanceResult


def instance_result(net: MaskRCNN, detections: Detections) -> InstanceResult:
    """What `MaskRCNN.decode` returns for one image, as arrays in the coordinates of the network's input."""
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
