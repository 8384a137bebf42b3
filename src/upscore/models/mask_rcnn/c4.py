"""C4 architecture: a single feature map of stride 16, and res5 as the shared head of both branches.

Mask R-CNN section 3, "Network Architecture", and figure 4. R regions, C channels, P x P bins of a pooled region.
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
"""Regions sampled from each image in training. The paper's numbers are those of Mask R-CNN section 3.1; torchvision and
detectron2 use the same numbers as with a pyramid. More proposals than with a pyramid enter NMS, because one map has the
anchors of all five sizes."""


class SingleMap(nn.Module):
    """A neck that selects one of the backbone's feature maps."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        """Select the map of one stride from {stride: map}."""
        return [maps[self.stride]]


class GlobalAverage(nn.Module):
    """Box head after res5: the mean over bins, (R, C, P, P) -> (R, C)."""

    def forward(self, regions: Tensor) -> Tensor:
        """Average each region over its bins."""
        return regions.mean(dim=(2, 3))


def split_at_res5(
    backbone: str, pretrained: bool, norm: Norm, norm_eps: float, stride_in: StrideIn
) -> tuple[Backbone, nn.Module]:
    """Build a backbone up to its map of stride 16, and res5: (R, C, P, P) -> (R, C', P / 2, P / 2).

    Args:
        backbone: "efficientnet_lite0" or a ResNet with bottlenecks.
        pretrained, norm, norm_eps, stride_in: see `upscore.models.backbones.factory.build_backbone`.

    Raises:
        UserError: the backbone has no res5, or its weights are not available.
    """
    # imported here because torchvision and timm take seconds to import, which an existing backbone does not need
    from upscore.models.backbones.efficientnet_lite import take_last_stages
    from upscore.models.backbones.factory import build_backbone, fetch
    from upscore.models.backbones.resnet import ResNetBackbone, resnet

    if backbone == "efficientnet_lite0":
        backbone_module = build_backbone(backbone, pretrained=pretrained)
        backbone_module.end_at(C4_STRIDE)
        return backbone_module, take_last_stages(backbone_module.get_submodule("body")).requires_grad_(True)
    if backbone not in RESNETS - {"resnet18", "resnet34"}:
        raise UserError(
            f"neck c4 needs resnet50, resnet101, resnet152 or efficientnet_lite0; {backbone} has no res5: use neck fpn"
        )
    whole = fetch(
        backbone,
        lambda: resnet(backbone, pretrained=pretrained, norm=norm, norm_eps=norm_eps, stride_in=stride_in),
    )
    return ResNetBackbone(whole, coarsest=C4_STRIDE), whole.layer4
