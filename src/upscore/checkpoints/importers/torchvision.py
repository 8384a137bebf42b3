"""Checkpoints of torchvision's Mask R-CNN: `maskrcnn_resnet50_fpn`, its `_v2`, and what was fine-tuned from them.

K classes, without the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from upscore.checkpoints.importers.coco_classes import coco_by_id, name_classes
from upscore.checkpoints.importers.state_dict import (
    COUNTER,
    check_tensors,
    empty_mask_rcnn,
    fill,
    length,
    rename,
    resnet_name,
    return_all,
    stored_names,
    without_counters,
)
from upscore.errors import UserError
from upscore.models.backbones.base import SequentialBackbone
from upscore.models.backbones.vgg import Geometry, load_torchvision_vgg16
from upscore.models.fcn.build import build_fcn
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

FIRST_NAMES = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn1\.", "roi_heads.mask_head.0.0."),
    (r"^roi_heads\.mask_head\.mask_fcn2\.", "roi_heads.mask_head.1.0."),
    (r"^roi_heads\.mask_head\.mask_fcn3\.", "roi_heads.mask_head.2.0."),
    (r"^roi_heads\.mask_head\.mask_fcn4\.", "roi_heads.mask_head.3.0."),
)
"""The names of 2019, which the published file has -> those of torchvision since 0.13."""

HEADS = (
    (r"^backbone\.", "backbone."),
    *((rf"^neck\.lateral\.{4 * 2**level}\.", f"backbone.fpn.inner_blocks.{level}.") for level in range(4)),
    *((rf"^neck\.output\.{4 * 2**level}\.", f"backbone.fpn.layer_blocks.{level}.") for level in range(4)),
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.convs\.(\d)\.", r"rpn.head.conv.\1.0."),
    (r"^rpn\.head\.objectness\.", "rpn.head.cls_logits."),
    (r"^rpn\.head\.deltas\.", "rpn.head.bbox_pred."),
    (r"^box_head\.convs\.", "roi_heads.box_head."),
    (r"^box_predictor\.classes\.", "roi_heads.box_predictor.cls_score."),
    (r"^box_predictor\.deltas\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^mask_head\.convs\.", "roi_heads.mask_head."),
    (r"^mask_head\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)
"""Our names -> torchvision's, but for the fully connected layers of the box head."""

FCS = ((r"^box_head\.fcs\.0\.", "roi_heads.box_head.fc6."), (r"^box_head\.fcs\.1\.", "roi_heads.box_head.fc7."))

BACKGROUND = {"box_predictor.deltas": 4, "mask_head.predictor": 1}
"""Rows of the background, which torchvision has, first, and never uses."""


def is_detector(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a detector of torchvision's, rather than of a classifier."""
    return any(str(name).startswith(("roi_heads.", "rpn.", "backbone.")) for name in state)


def import_torchvision_mask_rcnn(state: Mapping[str, Any]) -> MaskRCNN:
    """Turn a state dict into a network in evaluation mode, which runs by torchvision's rules.

    The first version's batch normalisation is frozen, and over ResNet-50 without an epsilon, as the published weights
    are run and whatever was fine-tuned from them. A checkpoint that counts batches was trained with it unfrozen, and
    with the usual epsilon.

    The classes are COCO's category ids 1 to 90 where there are so many: ids that COCO does not use are kept, for they
    are a part of the softmax.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    counted = any(name.startswith("backbone.body.") and name.endswith(COUNTER) for name in state)
    state = {rename(name, FIRST_NAMES): value for name, value in without_counters(state).items()}
    if not any(name.startswith("roi_heads.mask_predictor.") for name in state):
        raise UserError("this is no Mask R-CNN of torchvision: it has no roi_heads.mask_predictor, the mask branch")
    num_classes = length(state, "roi_heads.box_predictor.cls_score.bias") - 1
    box_convs = _count(state, "roi_heads.box_head.{}.0.weight")
    first_fc = f"roi_heads.box_head.{box_convs + 1}" if box_convs else "roi_heads.box_head.fc6"
    backbone = resnet_name(state, "backbone.body.layer3.")
    head_norm = "backbone.fpn.inner_blocks.0.1.weight" in state
    frozen = not (counted or head_norm)
    net = empty_mask_rcnn(
        backbone=backbone,
        num_classes=num_classes,
        preset="torchvision",
        channels=length(state, "roi_heads.mask_predictor.conv5_mask.bias"),
        box_features=length(state, f"{first_fc}.bias"),
        box_convs=box_convs,
        rpn_convs=_count(state, "rpn.head.conv.{}.0.weight"),
        head_norm=head_norm,
        norm="frozen" if frozen else "batch",
        norm_eps=0.0 if frozen and backbone == "resnet50" else 1e-5,
    )
    rules = (*HEADS, (r"^box_head\.fcs\.0\.", f"{first_fc}."), *FCS)
    theirs = {ours: rename(ours, rules) for ours in stored_names(net)}
    shapes = {ours: tensor.shape for ours, tensor in net.state_dict().items()}
    check_tensors(
        state, {theirs[ours]: (shapes[ours][:1].numel() + _background(ours), *shapes[ours][1:]) for ours in theirs}
    )
    fill(net, {ours: _without_background(ours, state[name]) for ours, name in theirs.items()})
    return_all(net)
    name_classes(net, coco_by_id())
    return net


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """How many layers there are whose names differ by a number from 0."""
    return next(number for number in range(len(state) + 1) if pattern.format(number) not in state)


def _background(ours: str) -> int:
    return BACKGROUND.get(ours.rpartition(".")[0], 0)


def _without_background(ours: str, tensor: Tensor) -> Tensor:
    """Rows of classes as ours are: the background last among the logits, and nowhere else."""
    if ours.startswith("box_predictor.classes."):
        return torch.cat([tensor[1:], tensor[:1]])
    return tensor[_background(ours) :]


def import_torchvision_vgg16(
    state: Mapping[str, Tensor], name: str, *, num_classes: int, geometry: Geometry = "same"
) -> FCN:
    """A network on the backbone of a trained `torchvision.models.vgg16`, in evaluation mode; its scores are zero.

    Raises:
        UserError: the state dict is not of a vgg16, or there is no network of that name.
    """
    net = build_fcn(name, backbone="vgg16", num_classes=num_classes, geometry=geometry)
    assert isinstance(net.backbone, SequentialBackbone)
    load_torchvision_vgg16(net.backbone, state)
    return net.eval()
