"""Build an FCN by its name: stride, backbone, loss, second head and depth."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES
from upscore.models.backbones.base import Backbone
from upscore.models.backbones.vgg import Geometry
from upscore.models.fcn.fcn import AT_ONCE_SCALES, FCN, PixelLoss, Upsampling
from upscore.models.fcn.rgbd import Fusion, with_depth
from upscore.models.fcn.two_heads import TwoHeads

FCNName = Literal["fcn8s", "fcn16s", "fcn32s", "fcn8s-atonce", "fcn-pool5", "fcn-pool4", "fcn-pool3"]
FCN_STRIDES = {
    "fcn32s": (32,),
    "fcn16s": (32, 16),
    "fcn8s": (32, 16, 8),
    "fcn8s-atonce": (32, 16, 8),
    "fcn-pool5": (32,),
    "fcn-pool4": (16,),
    "fcn-pool3": (8,),
}
"""Strides of the scored feature maps, from coarse to fine. The last three networks score a single map and leave out all
layers after it (FCN table 3)."""


def build_fcn(
    name: str,
    *,
    backbone: str = "efficientnet_lite0",
    num_classes: int,
    geometry: Geometry = "same",
    pretrained: bool = False,
    upsampling: Upsampling = "fixed",
    grouped: bool = True,
    pixel_loss: PixelLoss = "softmax",
    null_background: bool = False,
    geometric_classes: int = 0,
    depth: Literal["none"] | Fusion = "none",
    depth_channels: int = 1,
    backbone_module: Backbone | None = None,
) -> FCN:
    """Build an FCN; its score layers start at zero, and its backbone is random unless `pretrained`.

    Args:
        name: "fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"; or "fcn-pool5", "fcn-pool4", "fcn-pool3", which score a
            single feature map.
        backbone: the classifier to convert; see `upscore.models.backbones.factory.build_backbone`.
        num_classes: 1 to 255, including the background if there is one.
        geometry: "caffe" (padded by 100 pixels and cropped, as published) or "same" (each layer keeps its size); only
            VGG16 supports both.
        pretrained: load the backbone's ImageNet weights.
        upsampling: which transposed convolutions are learned: "fixed" (none), "intermediate" (all but the last) or
            "learned" (all).
        grouped: learned upsampling has one kernel per class; False: dense kernels that mix classes, as in Caffe.
        pixel_loss: "softmax" cross-entropy over the classes, or "sigmoid": a binary cross-entropy for each class.
        null_background: give class 0 the constant score 0 instead of a score layer; needs the sigmoid loss.
        geometric_classes: number of classes of a second head, see `upscore.models.fcn.two_heads`; 0: no second head.
        depth: how depth is combined with colour, see `upscore.models.fcn.rgbd`.
        depth_channels: 1 (metres) or 3 (HHA).
        backbone_module: an existing backbone that matches these options, used instead of a new one.

    Raises:
        UserError: the name is unknown, a value is out of range, options exclude each other, the backbone has no feature
            map of a required stride, or its weights are not available.
    """
    if name not in FCN_STRIDES:
        raise UserError(f"there is no FCN {name!r}; choose one of {', '.join(FCN_STRIDES)}")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes is {num_classes}; it must be in 1..{MAX_CLASSES}")
    if null_background and (pixel_loss != "sigmoid" or num_classes < 2):
        raise UserError(
            f"null_background needs pixel_loss sigmoid and at least 2 classes, not {pixel_loss} and {num_classes}"
        )
    if not 0 <= geometric_classes <= MAX_CLASSES:
        raise UserError(f"geometric_classes is {geometric_classes}; it must be in 0..{MAX_CLASSES}")
    if depth not in ("none", *get_args(Fusion)):
        raise UserError(f"depth is {depth!r}; choose one of none, {', '.join(get_args(Fusion))}")
    if depth != "none" and depth_channels not in (1, 3):
        raise UserError(f"depth_channels is {depth_channels}; it must be 1 (metres) or 3 (HHA)")
    if backbone == "alexnet":
        geometry = "caffe"
    strides = FCN_STRIDES[name]
    if backbone_module is None:
        backbone_module = _backbone(name, backbone, geometry, pretrained)
        if depth != "none":
            backbone_module = with_depth(backbone_module, depth, depth_channels)
    network = partial(TwoHeads, geometric_classes=geometric_classes) if geometric_classes else FCN
    net = network(
        backbone_module,
        num_classes,
        strides=strides,
        skip_scales=AT_ONCE_SCALES if name == "fcn8s-atonce" else None,
        upsampling=upsampling,
        grouped=grouped,
        pixel_loss=pixel_loss,
        null_background=null_background,
    )
    net.architecture = {
        "name": name,
        "backbone": backbone,
        "num_classes": num_classes,
        "geometry": geometry,
        "upsampling": upsampling,
        "grouped": grouped,
        "pixel_loss": pixel_loss,
        "null_background": null_background,
        "geometric_classes": geometric_classes,
        "depth": depth,
        "depth_channels": 0 if depth == "none" else depth_channels,
    }
    return net


def _backbone(name: str, backbone: str, geometry: Geometry, pretrained: bool) -> Backbone:
    """Build the colour backbone with the feature maps that the network scores."""
    # imported here because torchvision and timm take seconds to import, which an existing backbone does not need
    from upscore.models.backbones.factory import build_backbone

    backbone_module = build_backbone(backbone, geometry=geometry, pretrained=pretrained)
    strides = FCN_STRIDES[name]
    if lacking := set(strides) - set(backbone_module.channels):
        raise UserError(f"{backbone} has no feature map at stride {max(lacking)}, which {name} needs; try fcn32s")
    if name.startswith("fcn-"):
        try:
            backbone_module.end_at(strides[0])
        except KeyError as error:
            raise UserError(
                f"{name} leaves out the layers after stride {strides[0]}, but {backbone} has none there; use fcn32s"
            ) from error
    return backbone_module
