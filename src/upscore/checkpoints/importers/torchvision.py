"""Import checkpoints of torchvision: `maskrcnn_resnet50_fpn`, its `_v2`, networks fine-tuned from them, and VGG16.

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
"""Rules that rename the keys of 2019, as in the published file, to those of torchvision since 0.13."""

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
"""Rules that rename our keys to torchvision's, except for the fully connected layers of the box head."""

FULLY_CONNECTED = (
    (r"^box_head\.fcs\.0\.", "roi_heads.box_head.fc6."),
    (r"^box_head\.fcs\.1\.", "roi_heads.box_head.fc7."),
)
"""Rules for the fully connected layers of the box head."""

BACKGROUND = {"box_predictor.deltas": 4, "mask_head.predictor": 1}
"""Number of rows of the background, which are the first in torchvision's layers and never used."""


def is_detector(state: Mapping[str, Any]) -> bool:
    """Return whether the keys are those of a detector of torchvision, not of a classifier."""
    return any(str(name).startswith(("roi_heads.", "rpn.", "backbone.")) for name in state)


def import_torchvision_mask_rcnn(state: Mapping[str, Any]) -> MaskRCNN:
    """Convert a state dict to a network in evaluation mode, with the preset "torchvision".

    Batch normalisation of the first version is frozen, with an epsilon of 0 for ResNet-50, as in torchvision's
    published model and in networks fine-tuned from it. If the checkpoint has counters of batches, it was trained with
    batch normalisation that is not frozen, with the usual epsilon.

    A network with 90 classes gets COCO's category ids 1 to 90 as classes, with the unused ids, because they are part of
    the softmax.

    Raises:
        UserError: a tensor is missing, unexpected or has a wrong shape.
    """
    counted = any(name.startswith("backbone.body.") and name.endswith(COUNTER) for name in state)
    state = {rename(name, FIRST_NAMES): value for name, value in without_counters(state).items()}
    if not any(name.startswith("roi_heads.mask_predictor.") for name in state):
        raise UserError("the checkpoint is not a Mask R-CNN of torchvision: it has no roi_heads.mask_predictor")
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
    rules = (*HEADS, (r"^box_head\.fcs\.0\.", f"{first_fc}."), *FULLY_CONNECTED)
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
    """Return the number of layers whose names match a pattern with consecutive numbers from 0."""
    return next(number for number in range(len(state) + 1) if pattern.format(number) not in state)


def _background(ours: str) -> int:
    """Return the number of rows of the background in torchvision's version of one of our tensors."""
    return BACKGROUND.get(ours.rpartition(".")[0], 0)


def _without_background(ours: str, tensor: Tensor) -> Tensor:
    """Reorder the rows of a tensor: the background is last in the class logits and omitted elsewhere."""
    if ours.startswith("box_predictor.classes."):
        return torch.cat([tensor[1:], tensor[:1]])
    return tensor[_background(ours) :]


def import_torchvision_vgg16(
    state: Mapping[str, Tensor], name: str, *, num_classes: int, geometry: Geometry = "same"
) -> FCN:
    """Build an FCN in evaluation mode on a trained `torchvision.models.vgg16`; its score layers are zero.

    Args:
        state: the state dict of the classifier.
        name: the name of the FCN.
        num_classes: the number of classes.
        geometry: the padding and cropping of the FCN.

    Raises:
        UserError: the state dict is not that of a VGG16, or there is no FCN of this name.
    """
    net = build_fcn(name, backbone="vgg16", num_classes=num_classes, geometry=geometry)
    assert isinstance(net.backbone, SequentialBackbone)
    load_torchvision_vgg16(net.backbone, state)
    return net.eval()
