"""The C4 network: one map of stride 16, and the classifier's last stages, res5, as a head that both branches share.

R regions, C channels, P bins a side of what was pooled. Mask R-CNN section 3, "Network Architecture", and figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from upscore.errors import UserError
from upscore.models.backbones.base import RESNETS, Backbone, Norm, StrideIn
from upscore.models.mask_rcnn.presets import PRESETS, Limits

C4_STRIDE = 16
C4_TRAINING = Limits(before_nms=12_000, after_nms=2000)
C4_INFERENCE = {name: Limits(before_nms=6000, after_nms=300 if name == "paper" else 1000) for name in PRESETS}
C4_BATCH_SIZE = {name: 64 if name == "paper" else 512 for name in PRESETS}
"""One map has all the anchors that a pyramid spreads over five. Proposals at test and regions per image are Mask R-CNN
section 3.1's; code bases have long used as many as over a pyramid."""


class SingleMap(nn.Module):
    """The neck: one of the backbone's maps, as it is."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        """{stride: map} -> that of one stride."""
        return [maps[self.stride]]


class GlobalAverage(nn.Module):
    """The box head after res5: (R, C, P, P) -> (R, C)."""

    def forward(self, regions: Tensor) -> Tensor:
        """The mean over all bins."""
        return regions.mean(dim=(2, 3))


def split_at_res5(
    backbone: str, pretrained: bool, norm: Norm, norm_eps: float, stride_in: StrideIn
) -> tuple[Backbone, nn.Module]:
    """The backbone up to its map of stride 16, and res5, which makes (R, C', P / 2, P / 2) of (R, C, P, P).

    Raises:
        UserError: the backbone has no such stage.
    """
    # torchvision and timm take seconds to import, and a network whose backbone_module is there does without them
    from upscore.models.backbones.efficientnet_lite import take_last_stages
    from upscore.models.backbones.factory import build_backbone, fetch
    from upscore.models.backbones.resnet import ResNetBackbone, resnet

    if backbone == "efficientnet_lite0":
        backbone_module = build_backbone(backbone, pretrained=pretrained)
        backbone_module.end_at(C4_STRIDE)
        return backbone_module, take_last_stages(backbone_module.get_submodule("body")).requires_grad_(True)
    if backbone not in RESNETS - {"resnet18", "resnet34"}:
        raise UserError(f"the C4 network has a ResNet's res5 as its head; {backbone} has none: use resnet50 or the FPN")
    whole = fetch(
        backbone,
        lambda: resnet(backbone, pretrained=pretrained, norm=norm, norm_eps=norm_eps, stride_in=stride_in),
    )
    return ResNetBackbone(whole, coarsest=C4_STRIDE), whole.layer4
