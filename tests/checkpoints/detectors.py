"""State dicts of detectors with the keys of torchvision and detectron2.

Each tensor is filled with a different number, without memory; rows of classes are filled with the class index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor
from torchvision.models import get_model
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

CLASS_ROWS = ("cls_score", "box_predictor.bbox_pred", "mask_fcn_logits", "mask_head.predictor")

TO_DETECTRON2 = (
    (r"^backbone\.body\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"^backbone\.body\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    (r"^backbone\.body\.layer1\.", "backbone.bottom_up.res2."),
    (r"^backbone\.body\.layer2\.", "backbone.bottom_up.res3."),
    (r"^backbone\.body\.layer3\.", "backbone.bottom_up.res4."),
    (r"^backbone\.body\.layer4\.", "backbone.bottom_up.res5."),
    (r"\.bn([123])\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
    (r"^rpn\.head\.conv\.0\.0\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"\.box_head\.fc6\.", ".box_head.fc1."),
    (r"\.box_head\.fc7\.", ".box_head.fc2."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"\.mask_predictor\.conv5_mask\.", ".mask_head.deconv."),
    (r"\.mask_predictor\.mask_fcn_logits\.", ".mask_head.predictor."),
)


def marked(shapes: Mapping[str, torch.Size | tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors of these shapes, filled as described above."""
    state = {}
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        if any(part in name for part in CLASS_ROWS):
            per_class = 4 if "bbox_pred" in name else 1
            rows = torch.arange(shape[0]) // per_class
            state[name] = rows.float().view(-1, *[1] * (len(shape) - 1)).expand(shape)
        else:
            state[name] = torch.tensor(number / 1000).expand(shape)
    return state


@cache
def torchvision_shapes(version: str = "v1", depth: int = 50, classes: int = 91) -> dict[str, torch.Size]:
    """Return the shapes of a network with counters, because its batch normalisation is not frozen."""
    with torch.device("meta"):
        if version == "v2":
            net = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=classes)
        else:
            net = MaskRCNN(_resnet_fpn_extractor(get_model(f"resnet{depth}", weights=None), 3), num_classes=classes)
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def frozen(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Return the shapes without counters, which frozen batch normalisation does not have."""
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def names_of_2019(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rules = (
        (r"(inner|layer)_blocks\.(\d)\.0\.", lambda m: f"{m[1]}_blocks.{m[2]}."),
        (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
    )
    return {_rename(name, rules): value for name, value in state.items()}


def detectron2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_rename(name, TO_DETECTRON2): value for name, value in state.items()}


def detectron2_shapes(depth: int = 50, classes: int = 80) -> dict[str, torch.Size | tuple[int, ...]]:
    """Return the shapes of a network with a feature pyramid."""
    shapes = {_rename(name, TO_DETECTRON2): s for name, s in frozen(torchvision_shapes(depth=depth)).items()}
    heads = {"box_predictor.cls_score": classes + 1, "box_predictor.bbox_pred": 4 * classes}
    for name, rows in {**heads, "mask_head.predictor": classes}.items():
        for kind in ("weight", "bias"):
            shapes[f"roi_heads.{name}.{kind}"] = torch.Size([rows, *shapes[f"roi_heads.{name}.{kind}"][1:]])
    return dict(shapes)


def detectron2_c4_shapes(depth: int = 50, classes: int = 80) -> dict[str, torch.Size | tuple[int, ...]]:
    """Return the shapes of a network with the C4 neck."""
    backbone = "backbone.bottom_up."
    shapes: dict[str, torch.Size | tuple[int, ...]] = {
        name.replace(f"{backbone}res5.", "roi_heads.res5.").replace(backbone, "backbone."): shape
        for name, shape in detectron2_shapes(depth).items()
        if name.startswith(backbone)
    }
    layers = {
        "proposal_generator.rpn_head.conv": (1024, 1024, 3, 3),
        "proposal_generator.rpn_head.objectness_logits": (15, 1024, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas": (60, 1024, 1, 1),
        "roi_heads.box_predictor.cls_score": (classes + 1, 2048),
        "roi_heads.box_predictor.bbox_pred": (4 * classes, 2048),
        "roi_heads.mask_head.deconv": (2048, 256, 2, 2),
        "roi_heads.mask_head.predictor": (classes, 256, 1, 1),
    }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": (256 if "deconv" in name else shape[0],)}
    return shapes


def _rename(name: str, rules) -> str:  # type: ignore[no-untyped-def]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
