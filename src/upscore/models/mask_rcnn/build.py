"""Mask R-CNN in its published forms, and over small backbones: each a single expression.

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
PROPOSALS_PER_DETECTION = 4
"""An object is proposed several times, so many objects need more proposals than the preset's 1000."""


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
    """A Mask R-CNN with random weights, but for the backbone's where `pretrained`.

    Where 0 or "auto" is the default, ResNets get the paper's numbers, and other backbones such as a CPU can bear:
    `channels` 256 or 128, `box_features` 1024 or 256, `smallest_anchor` 32 or 24, `min_side` 800 or 512 (to which
    photos are enlarged but not reduced). `norm` "auto" is "frozen" for a pretrained ResNet and "batch" otherwise:
    frozen layers without loaded statistics normalise nothing.

    Args:
        backbone: see `upscore.models.backbones.factory.build_backbone`.
        num_classes: K, 1 to 255, without a background.
        preset: the rules of the code base that the weights come from.
        neck: a feature pyramid, or the single map of res4 with res5 in the head (ResNets from 50 layers on, and
            EfficientNet-Lite0, whose last stages stand for res5).
        channels: of the pyramid and the mask head.
        box_features: of the fully connected layers of the box head.
        box_convs, rpn_convs, head_norm: 4, 2 and True in torchvision's second version.
        norm, norm_eps, stride_in: of a ResNet, see `upscore.models.backbones.resnet`.
        smallest_anchor: side of the anchors on the finest map; each coarser one has twice it.
        pooling, mask_loss, mask_head, class_agnostic: the paper's alternatives (table 2).
        detections: the most objects that are found in a photo.
        min_side, max_side: the size at which photos are seen, see `Resizing`.
        backbone_module: one of that backbone, made before; a new one by default.

    Raises:
        UserError: a value is out of its range, or the backbone lacks what is asked for.
    """
    published = backbone in RESNETS
    channels = channels or (256 if published else 128)
    box_features = box_features or (1024 if published else 256)
    smallest_anchor = smallest_anchor or (32 if published else 24)
    min_side = min_side or (800 if published else 512)
    norm = ("frozen" if published and pretrained else "batch") if norm == "auto" else norm
    _check(num_classes, max_detections, min_side, max_side, preset)
    if neck == "c4" and mask_head != "fcn":
        raise UserError(
            f"the C4 network's mask head follows res5 and is convolutional; mask_head {mask_head} is the FPN's"
        )
    if class_agnostic and mask_loss == "softmax":
        raise UserError("a class-agnostic mask has no classes for a softmax: use mask_loss sigmoid")
    rules = PRESETS[preset]

    res5 = None
    if backbone_module is None:
        backbone_module, res5 = _backbone(backbone, pretrained, neck, norm, norm_eps, stride_in)
    assert neck == "fpn" or res5 is not None, "the head of a C4 network comes with its backbone"
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
                inference=_more(C4_INFERENCE[preset], max_detections),
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
                inference=_more(rules.inference, max_detections),
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
    """The backbone_module, and for a C4 network its last stage, which becomes the head."""
    # torchvision and timm take seconds to import, and a network whose backbone_module is there does without them
    from upscore.models.backbones.factory import build_backbone
    from upscore.models.backbones.resnet import ResNetBackbone

    res5 = None
    if neck == "fpn":
        backbone_module = build_backbone(
            backbone, pretrained=pretrained, norm=norm, norm_eps=norm_eps, stride_in=stride_in
        )
        if 4 not in backbone_module.channels:
            raise UserError(f"{backbone} has no map at stride 4, which the pyramid begins with; try efficientnet_lite0")
    else:
        backbone_module, res5 = split_at_res5(backbone, pretrained, norm, norm_eps, stride_in)
    if isinstance(backbone_module, ResNetBackbone) and pretrained and norm == "frozen":
        backbone_module.freeze_at(2)
    return backbone_module, res5


def _more(limits: Limits, max_detections: int) -> Limits:
    """At least so many proposals that each detection can be proposed several times."""
    wanted = PROPOSALS_PER_DETECTION * max_detections if max_detections > PAPER_DETECTIONS else 0
    wanted = max(limits.after_nms, wanted)
    return Limits(before_nms=max(limits.before_nms, wanted), after_nms=wanted)


def _check(num_classes: int, max_detections: int, min_side: int, max_side: int, preset: str) -> None:
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes is {num_classes}; it must lie in 1..{MAX_CLASSES}")
    if not 1 <= max_detections <= 65_535:
        raise UserError(f"max_detections is {max_detections}; give 1 to 65535 for a photo")
    if not 32 <= min_side <= max_side <= 8192:
        raise UserError(f"min_side {min_side} and max_side {max_side} must lie in 32..8192, in this order")
    if preset not in PRESETS:
        raise UserError(f"no preset is called {preset!r}; choose one of {', '.join(PRESETS)}")
