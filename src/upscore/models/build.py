"""Name and arguments -> network."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Literal, get_args, overload

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES
from upscore.models.backbones.base import Backbone
from upscore.models.backbones.vgg import Geometry
from upscore.models.fcn.fcn import AT_ONCE_SCALES, FCN, PixelLoss, Upsampling
from upscore.models.fcn.rgbd import Fusion, with_depth
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.mask_rcnn.build import build_mask_rcnn
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

Option = str | int | float | bool | Backbone | None

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
"""From coarse to fine. The last three score one map alone, and leave out all layers after it (FCN table 3)."""

NETWORKS = (*FCN_STRIDES, "mask_rcnn")


@overload
def build(name: Literal["mask_rcnn"], **options: Option) -> MaskRCNN: ...
@overload
def build(name: FCNName, **options: Option) -> FCN: ...
@overload
def build(name: str, **options: Option) -> FCN | MaskRCNN: ...
def build(name: str, **options: Option) -> FCN | MaskRCNN:
    """A network by its name: an FCN with the options of `build_fcn`, or "mask_rcnn" with those of `build_mask_rcnn`.

    Raises:
        UserError: a name is unknown, the network has no such option, or as the two say.
    """
    if name not in NETWORKS:
        raise UserError(f"no network is called {name!r}; choose one of {', '.join(NETWORKS)}")
    known = inspect.signature(build_mask_rcnn if name == "mask_rcnn" else build_fcn).parameters
    if unknown := [option for option in options if option not in known]:
        raise UserError(f"{name} has no option {unknown[0]!r}; it has {', '.join(p for p in known if p != 'name')}")
    if name == "mask_rcnn":
        return build_mask_rcnn(**options)  # pyright: ignore[reportArgumentType]
    return build_fcn(name, **options)  # pyright: ignore[reportArgumentType]


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
    """An FCN by its name, with random weights unless `pretrained`; its scores are zero until it is trained.

    Args:
        name: "fcn32s", "fcn16s", "fcn8s" or "fcn8s-atonce"; "fcn-pool5", "fcn-pool4" or "fcn-pool3" for one map alone.
        backbone: the classifier it is made of; see `upscore.models.backbones.factory.build_backbone`.
        num_classes: 1 to 255, the background included where there is one.
        geometry: "caffe" (padded by 100 and cropped, as published) or "same"; VGG16 has both.
        pretrained: the backbone's ImageNet weights.
        upsampling: which transposed convolutions are learned: "fixed" (none), "intermediate" or "learned" (all).
        grouped: learned upsampling keeps the classes apart; otherwise kernels are dense, as in Caffe.
        pixel_loss: "softmax" cross-entropy over the classes, or "sigmoid": a binary one for each class.
        null_background: class 0 gets no score but a constant 0 that the others must exceed; with the sigmoid loss.
        geometric_classes: of a second head, see `upscore.models.fcn.two_heads`; 0 for one head alone.
        depth: where depth joins the photo, or takes its place, see `upscore.models.fcn.rgbd`.
        depth_channels: 1, or 3 of HHA.
        backbone_module: one for all of this, made before; a new one by default.

    Raises:
        UserError: a name is unknown, the backbone lacks a stride, options exclude each other, or weights can't be had.
    """
    if name not in FCN_STRIDES:
        raise UserError(f"no FCN is called {name!r}; choose one of {', '.join(FCN_STRIDES)}")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes is {num_classes}; it must lie in 1..{MAX_CLASSES}")
    if null_background and (pixel_loss != "sigmoid" or num_classes < 2):
        raise UserError("a background without a score needs the sigmoid loss, and another class than it")
    if not 0 <= geometric_classes <= MAX_CLASSES:
        raise UserError(f"geometric_classes is {geometric_classes}; it must lie in 0..{MAX_CLASSES}")
    if depth not in ("none", *get_args(Fusion)):
        raise UserError(f"depth is {depth!r}; choose one of none, {', '.join(get_args(Fusion))}")
    if depth != "none" and depth_channels not in (1, 3):
        raise UserError(f"depth_channels is {depth_channels}; depth has 1 channel, or 3 (HHA)")
    if backbone == "alexnet":
        geometry = "caffe"
    strides = FCN_STRIDES[name]
    if backbone_module is None:
        backbone_module = _backbone(name, backbone, geometry, pretrained)
        if depth != "none":
            backbone_module = with_depth(backbone_module, depth, depth_channels)
    heads = partial(TwoHeads, geometric_classes=geometric_classes) if geometric_classes else FCN
    net = heads(
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
    """One for photos, with the maps that the network needs."""
    # torchvision and timm take seconds to import, and a network whose backbone_module is there does without them
    from upscore.models.backbones.factory import build_backbone

    backbone_module = build_backbone(backbone, geometry=geometry, pretrained=pretrained)
    strides = FCN_STRIDES[name]
    if lacking := set(strides) - set(backbone_module.channels):
        raise UserError(f"{backbone} has no map at stride {max(lacking)}, which {name} needs; try fcn32s")
    if name.startswith("fcn-"):
        try:
            backbone_module.end_at(strides[0])
        except KeyError as error:
            raise UserError(f"{backbone} has no layers after its last map: {name} would be fcn32s") from error
    return backbone_module
