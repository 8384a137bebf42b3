"""torchvision's `vgg16` classifier as the start of an FCN."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from upscore.models.build import build_fcn
from upscore.models.fcn import FCN
from upscore.models.trunks import ChainTrunk
from upscore.models.vgg import Geometry, load_torchvision_vgg16


def import_torchvision_vgg16(
    state: Mapping[str, Tensor], name: str, *, num_classes: int, geometry: Geometry = "same"
) -> FCN:
    """A network on the trunk of a trained `torchvision.models.vgg16`, in evaluation mode; its scores are zero.

    Raises:
        UserError: the state dict is not of a vgg16, or there is no network of that name.
    """
    net = build_fcn(name, backbone="vgg16", num_classes=num_classes, geometry=geometry)
    assert isinstance(net.trunk, ChainTrunk)
    load_torchvision_vgg16(net.trunk, state)
    return net.eval()
