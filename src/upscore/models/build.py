"""Name and arguments -> network."""

from __future__ import annotations

import inspect
from typing import Literal, overload

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES
from upscore.models.backbones import build_trunk
from upscore.models.detectors import build_mask_rcnn
from upscore.models.fcn import AT_ONCE_SCALES, FCN, Upsampling
from upscore.models.mask_rcnn import MaskRCNN
from upscore.models.vgg import Geometry

Option = str | int | float | bool

FCN_STRIDES = {
    "fcn32s": (32,),
    "fcn16s": (32, 16),
    "fcn8s": (32, 16, 8),
    "fcn8s-atonce": (32, 16, 8),
}


NETWORKS = (*FCN_STRIDES, "mask_rcnn")


@overload
def build(name: Literal["mask_rcnn"], **options: Option) -> MaskRCNN: ...
@overload
def build(name: Literal["fcn8s", "fcn16s", "fcn32s", "fcn8s-atonce"], **options: Option) -> FCN: ...
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
) -> FCN:
    """An FCN by its name, with random weights unless `pretrained`; its scores are zero until it is trained.

    Args:
        name: "fcn32s", "fcn16s", "fcn8s" or "fcn8s-atonce".
        backbone: the classifier it is made of; see `upscore.models.backbones.build_trunk`.
        num_classes: 1 to 255, the background included where there is one.
        geometry: "caffe" (padded by 100 and cropped, as published) or "same"; VGG16 has both.
        pretrained: the backbone's ImageNet weights.
        upsampling: which transposed convolutions are learned: "fixed" (none), "intermediate" or "learned" (all).
        grouped: learned upsampling keeps the classes apart; otherwise kernels are dense, as in Caffe.

    Raises:
        UserError: a name is unknown, the backbone lacks a stride, or weights can't be had.
    """
    if name not in FCN_STRIDES:
        raise UserError(f"no FCN is called {name!r}; choose one of {', '.join(FCN_STRIDES)}")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes is {num_classes}; it must lie in 1..{MAX_CLASSES}")
    if backbone == "alexnet":
        geometry = "caffe"
    trunk = build_trunk(backbone, geometry=geometry, pretrained=pretrained)
    strides = FCN_STRIDES[name]
    if lacking := set(strides) - set(trunk.channels):
        raise UserError(f"{backbone} has no map at stride {max(lacking)}, which {name} needs; try fcn32s")
    net = FCN(
        trunk,
        num_classes,
        strides=strides,
        skip_scales=AT_ONCE_SCALES if name == "fcn8s-atonce" else None,
        upsampling=upsampling,
        grouped=grouped,
    )
    net.architecture = {
        "name": name,
        "backbone": backbone,
        "num_classes": num_classes,
        "geometry": geometry,
        "upsampling": upsampling,
        "grouped": grouped,
    }
    return net
