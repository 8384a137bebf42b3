"""Build a Mask R-CNN: the published FPN and C4 architectures, or with a small backbone.

K classes; strides and sizes are in pixels of the network's input.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES
from upscore.models.backbones.base import RESNETS, Backbone, Norm, StrideIn, out_channels
from upscore.models.mask_rcnn.anchors import AnchorGenerator
from upscore.models.mask_rcnn.c4 import (
    C4_BATCH_SIZE,
    C4_INFERENCE,
    C4_STRIDE,
    C4_TRAINING,
    GlobalAverage,
    SingleMap,
    split_at_res5,
)
from upscore.models.mask_rcnn.fpn import FPN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.mask_rcnn.presets import PRESETS, Limits
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.models.mask_rcnn.roi_align import Pooling, RoIPooler
from upscore.models.mask_rcnn.roi_heads import (
    BoxHead,
    BoxPredictor,
    FCNMaskHead,
    MaskHeadName,
    MaskLoss,
    MLPMaskHead,
    RoISettings,
)
from upscore.models.mask_rcnn.rpn import RPN, RPNHead

Neck = Literal["fpn", "c4"]
PresetName = Literal["paper", "torchvision", "detectron2"]

PAPER_DETECTIONS = 100
"""Maximum number of detections in the paper, for which the presets' numbers of proposals suffice."""
PROPOSALS_PER_DETECTION = 4
"""Minimum number of proposals per detection, because an object is proposed several times."""


def build_mask_rcnn(
    *,
    backbone: str = "efficientnet_lite0",
    num_classes: int,
    pretrained: bool = False,
    preset: PresetName = "paper",
    neck: Neck = "fpn",
    channels: int = 0,
    box_features: int = 0,
    box_convs: int = 0,
    rpn_convs: int = 1,
    head_norm: bool = False,
    norm: Norm | Literal["auto"] = "auto",
    norm_eps: float = 1e-5,
    stride_in: StrideIn = "3x3",
    smallest_anchor: int = 0,
    pooling: Pooling = "align",
    mask_loss: MaskLoss = "sigmoid",
    mask_head: MaskHeadName = "fcn",
    class_agnostic: bool = False,
    max_detections: int = 100,
    min_side: int = 0,
    max_side: int = 1333,
    backbone_module: Backbone | None = None,
) -> MaskRCNN:
    """Build a Mask R-CNN; its weights are random, except those of the backbone if `pretrained`.

    The default 0 selects the paper's number for ResNets, and a number suitable for a CPU for other backbones:
    `channels` 256 or 128, `box_features` 1024 or 256, `smallest_anchor` 32 or 24, `min_side` 800 or 512.

    Args:
        backbone: see `upscore.models.backbones.factory.build_backbone`.
        num_classes: K, 1 to 255, without a background.
        pretrained: load the backbone's ImageNet weights.
        preset: the numeric rules, which must be those of the training of the weights.
        neck: "fpn", a feature pyramid; or "c4", the map of stride 16 with res5 as a shared head, for ResNets from 50
            layers on and EfficientNet-Lite0, whose last stages are used as res5.
        channels: channels of the pyramid and of the mask head.
        box_features: features of the fully connected layers of the box head.
        box_convs, rpn_convs: numbers of convolutions in the box head and the RPN head; 4 and 2 in torchvision's v2.
        head_norm: use batch normalisation in pyramid and heads, as torchvision's v2.
        norm: batch normalisation of a ResNet. "auto" is "frozen" if `pretrained` and "batch" otherwise, because frozen
            layers without loaded statistics do not normalise.
        norm_eps, stride_in: options of a ResNet, see `upscore.models.backbones.resnet.resnet`.
        smallest_anchor: size of the anchors on the finest map; it doubles with each level.
        pooling, mask_loss, mask_head, class_agnostic: the alternatives of the paper's table 2.
        max_detections: maximum number of objects per image, 1 to 65535.
        min_side, max_side: the image size, see `Resizing`; 32 to 8192. Only ResNets reduce images to `min_side`.
        backbone_module: an existing backbone that matches these options, used instead of a new one.

    Raises:
        UserError: a value is out of range, options exclude each other, the backbone has no feature map of a required
            stride, or its weights are not available.
    """
    published = backbone in RESNETS
    channels = channels or (256 if published else 128)
    box_features = box_features or (1024 if published else 256)
    smallest_anchor = smallest_anchor or (32 if published else 24)
    min_side = min_side or (800 if published else 512)
    norm = ("frozen" if published and pretrained else "batch") if norm == "auto" else norm
    _check(num_classes, max_detections, min_side, max_side, preset)
    if neck == "c4" and mask_head != "fcn":
        raise UserError(f"mask_head {mask_head} needs neck fpn: with neck c4 the mask head is convolutional")
    if class_agnostic and mask_loss == "softmax":
        raise UserError("class_agnostic masks can't be trained with mask_loss softmax: use mask_loss sigmoid")
    rules = PRESETS[preset]

    res5 = None
    if backbone_module is None:
        backbone_module, res5 = _backbone(backbone, pretrained, neck, norm, norm_eps, stride_in)
    assert neck == "fpn" or res5 is not None, (
        "an existing backbone can't be used with neck c4, whose head is a part of the backbone"
    )
    sizes = [smallest_anchor * 2**level for level in range(5)]
    mask_channels = 1 if class_agnostic else num_classes + (mask_loss == "softmax")
    resizing = Resizing(min_side=min_side, max_side=max_side, rule=rules.resizing, shrink=published)
    settings = RoISettings(max_detections=max_detections, batch_size=C4_BATCH_SIZE[preset] if res5 else 512)
    if res5 is not None:
        width, head_width = backbone_module.channels[C4_STRIDE], out_channels(res5)
        net = MaskRCNN(
            backbone=backbone_module,
            neck=SingleMap(C4_STRIDE),
            rpn=RPN(
                RPNHead(width, anchors_per_cell=15, convs=rpn_convs),
                AnchorGenerator(
                    [sizes],
                    strides=[C4_STRIDE],
                    rounded=rules.rounded_anchors,
                    fitted=rules.fitted_anchors,
                    aspects_outer=rules.aspects_outer,
                ),
                rules,
                training=C4_TRAINING,
                inference=_raise_limits(C4_INFERENCE[preset], max_detections),
            ),
            box_pooler=(pooler := RoIPooler(14, [C4_STRIDE], rules, pooling)),
            shared_head=res5,
            box_head=GlobalAverage(),
            box_predictor=BoxPredictor(head_width, num_classes),
            mask_pooler=pooler,
            mask_head=FCNMaskHead(head_width, channels, mask_channels, convs=0),
            num_classes=num_classes,
            preset=rules,
            resizing=resizing,
            settings=settings,
            mask_loss=mask_loss,
        )
    else:
        strides = sorted(backbone_module.channels)
        net = MaskRCNN(
            backbone=backbone_module,
            neck=FPN(backbone_module.channels, channels, norm=head_norm),
            rpn=RPN(
                RPNHead(channels, anchors_per_cell=3, convs=rpn_convs),
                AnchorGenerator(
                    [[size] for size in sizes],
                    strides=[*strides, 2 * strides[-1]],
                    rounded=rules.rounded_anchors,
                    fitted=rules.fitted_anchors,
                    aspects_outer=rules.aspects_outer,
                ),
                rules,
                inference=_raise_limits(rules.inference, max_detections),
            ),
            box_pooler=RoIPooler(7, strides, rules, pooling),
            box_head=BoxHead(channels, box_features, size=7, convs=box_convs, norm=head_norm),
            box_predictor=BoxPredictor(box_features, num_classes),
            mask_pooler=RoIPooler(14 if mask_head == "fcn" else 7, strides, rules, pooling),
            mask_head=FCNMaskHead(channels, channels, mask_channels, convs=4, norm=head_norm)
            if mask_head == "fcn"
            else MLPMaskHead(channels, 1024, mask_channels, size=7, mask_size=28),
            num_classes=num_classes,
            preset=rules,
            resizing=resizing,
            settings=settings,
            mask_loss=mask_loss,
        )
    net.architecture = {
        "name": "mask_rcnn",
        "backbone": backbone,
        "num_classes": num_classes,
        "preset": preset,
        "neck": neck,
        "channels": channels,
        "box_features": box_features,
        "box_convs": box_convs,
        "rpn_convs": rpn_convs,
        "head_norm": head_norm,
        "norm": norm,
        "norm_eps": norm_eps,
        "stride_in": stride_in,
        "smallest_anchor": smallest_anchor,
        "pooling": pooling,
        "mask_loss": mask_loss,
        "mask_head": mask_head,
        "class_agnostic": class_agnostic,
        "max_detections": max_detections,
        "min_side": min_side,
        "max_side": max_side,
    }
    return net


def _backbone(
    backbone: str, pretrained: bool, neck: Neck, norm: Norm, norm_eps: float, stride_in: StrideIn
) -> tuple[Backbone, nn.Module | None]:
    """Build the backbone and, for neck c4, res5."""
    # imported here because torchvision and timm take seconds to import, which an existing backbone does not need
    from upscore.models.backbones.factory import build_backbone
    from upscore.models.backbones.resnet import ResNetBackbone

    res5 = None
    if neck == "fpn":
        backbone_module = build_backbone(
            backbone, pretrained=pretrained, norm=norm, norm_eps=norm_eps, stride_in=stride_in
        )
        if 4 not in backbone_module.channels:
            raise UserError(f"{backbone} has no feature map at stride 4, which neck fpn needs; try efficientnet_lite0")
    else:
        backbone_module, res5 = split_at_res5(backbone, pretrained, norm, norm_eps, stride_in)
    if isinstance(backbone_module, ResNetBackbone) and pretrained and norm == "frozen":
        backbone_module.freeze_at(2)
    return backbone_module, res5


def _raise_limits(limits: Limits, max_detections: int) -> Limits:
    """Raise the numbers of proposals to `PROPOSALS_PER_DETECTION` times the detections if these exceed the paper's."""
    proposals = PROPOSALS_PER_DETECTION * max_detections if max_detections > PAPER_DETECTIONS else 0
    proposals = max(limits.after_nms, proposals)
    return Limits(before_nms=max(limits.before_nms, proposals), after_nms=proposals)


def _check(num_classes: int, max_detections: int, min_side: int, max_side: int, preset: str) -> None:
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes is {num_classes}; it must be in 1..{MAX_CLASSES}")
    if not 1 <= max_detections <= 65_535:
        raise UserError(f"max_detections is {max_detections}; it must be in 1..65535")
    if not 32 <= min_side <= max_side <= 8192:
        raise UserError(
            f"min_side is {min_side} and max_side is {max_side}; 32 <= min_side <= max_side <= 8192 must hold"
        )
    if preset not in PRESETS:
        raise UserError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
