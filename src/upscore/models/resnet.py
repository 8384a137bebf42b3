"""ResNets as trunks (torchvision's), in the forms that detectors were published with.

N images, H W pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.models import ResNet, get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from upscore.models.geometry import centred
from upscore.models.preprocessing import IMAGENET
from upscore.models.trunks import Trunk, out_channels

RESNETS = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}

Norm = Literal["batch", "frozen"]
"""frozen: statistics, weight and bias of batch normalisation are constants, as a detector's few images want it."""

StrideIn = Literal["3x3", "1x1"]
"""Which convolution of a bottleneck moves by 2: torchvision's ResNets have it in the 3x3, the original ones (MSRA) in
the first 1x1. The weights have the same shapes, so the wrong choice goes unnoticed but for worse results."""


def resnet(
    name: str, *, pretrained: bool = False, norm: Norm = "batch", norm_eps: float = 1e-5, stride_in: StrideIn = "3x3"
) -> ResNet:
    """A torchvision ResNet by its name, one of `RESNETS`.

    Args:
        norm_eps: of batch normalisation; torchvision's first detector has 0 (Mask R-CNN weights "COCO_V1").
    """
    weights = get_model_weights(name)["DEFAULT"] if pretrained else None
    layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    network = get_model(name, weights=weights, norm_layer=partial(layer, eps=norm_eps))
    assert isinstance(network, ResNet)
    if stride_in == "1x1":
        for block in network.modules():
            if isinstance(block, Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network


class ResNetTrunk(Trunk):
    """A ResNet without its classifier; the outputs of layer1 to layer4 are the maps of strides 4 to 32.

    Args:
        resnet: what it is made of.
        coarsest: stride of the last map; with 16, layer4 is left out, which C4 networks have in their head.
    """

    border = 1

    def __init__(self, resnet: nn.Module, *, coarsest: int = 32) -> None:
        super().__init__()
        strides = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}
        layers = {stride: layer for stride, layer in strides.items() if stride <= coarsest}
        self.channels = {stride: out_channels(resnet.get_submodule(layer)) for stride, layer in layers.items()}
        self.body = create_feature_extractor(resnet, {layer: str(stride) for stride, layer in layers.items()})
        self.multiple = coarsest
        self.preprocessing = IMAGENET
        self.coordinates = {stride: centred(stride) for stride in self.channels}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Preprocessed images (N, 3, H, W) -> {stride: map}."""
        return {int(stride): features for stride, features in self.body(images).items()}

    def end_at(self, stride: int) -> None:
        """Keep one map alone, that of the last stage of this stride; nothing comes after layer4."""
        if stride == 32 or stride not in self.channels:
            raise KeyError(stride)
        self.body = create_feature_extractor(self.body, {f"layer{stride.bit_length() - 2}": str(stride)})
        self.channels, self.coordinates = {stride: self.channels[stride]}, {stride: centred(stride)}

    def freeze_at(self, stage: int) -> None:
        """The stem (1) and the stages up to res`stage` are no longer learned (2 in the published detectors)."""
        names = ["conv1", "bn1", *(f"layer{number - 1}" for number in range(2, stage + 1))]
        for name in names:
            self.body.get_submodule(name).requires_grad_(False)
