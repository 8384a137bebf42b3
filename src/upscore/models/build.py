"""Build a network by its name."""

from __future__ import annotations

import inspect
from typing import Literal, overload

from upscore.errors import UserError
from upscore.models.backbones.base import Backbone
from upscore.models.fcn.build import FCN_STRIDES, FCNName, build_fcn
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.build import build_mask_rcnn
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN

Option = str | int | float | bool | Backbone | None

NETWORKS = (*FCN_STRIDES, "mask_rcnn")


@overload
def build(name: Literal["mask_rcnn"], **options: Option) -> MaskRCNN: ...
@overload
def build(name: FCNName, **options: Option) -> FCN: ...
@overload
def build(name: str, **options: Option) -> FCN | MaskRCNN: ...
def build(name: str, **options: Option) -> FCN | MaskRCNN:
    """Build an FCN or a Mask R-CNN.

    Args:
        name: "mask_rcnn", or the name of an FCN as in `upscore.models.fcn.build.FCN_STRIDES`.
        options: the keyword arguments of `build_mask_rcnn` or `build_fcn`.

    Raises:
        UserError: the name is unknown, the network has no such option, or a value is rejected by the builder.
    """
    if name not in NETWORKS:
        raise UserError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    known = inspect.signature(build_mask_rcnn if name == "mask_rcnn" else build_fcn).parameters
    if unknown := [option for option in options if option not in known]:
        raise UserError(f"{name} has no option {unknown[0]!r}; it has {', '.join(p for p in known if p != 'name')}")
    if name == "mask_rcnn":
        return build_mask_rcnn(**options)  # pyright: ignore[reportArgumentType]
    return build_fcn(name, **options)  # pyright: ignore[reportArgumentType]
