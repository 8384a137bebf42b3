"""torchvision's ResNets as backbones, in the variants of published detectors.

N images, H W pixels.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models import ResNet, get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import Bottleneck

from upscore.models.backbones.base import Backbone, Norm, StrideIn, out_channels
from upscore.models.backbones.frozen_batchnorm import FrozenBatchNorm2d, NormedConv2d, attach_norms
from upscore.models.coordinate_maps import centred
from upscore.models.preprocessing import IMAGENET


def resnet(
    name: str, *, pretrained: bool = False, norm: Norm = "batch", norm_eps: float = 1e-5, stride_in: StrideIn = "3x3"
) -> ResNet:
    """Return a torchvision ResNet.

    Args:
        name: one of `RESNETS`.
        pretrained: download torchvision's default ImageNet weights.
        norm: trainable or frozen batch normalisation.
        norm_eps: epsilon of batch normalisation; 0 for torchvision's Mask R-CNN weights "COCO_V1".
        stride_in: which convolution of a bottleneck has stride 2.
    """
    weights = get_model_weights(name)["DEFAULT"] if pretrained else None
    layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    network = get_model(name, weights=weights, norm_layer=partial(layer, eps=norm_eps))
    assert isinstance(network, ResNet)
    if stride_in == "1x1":
        for block in network.modules():
            if isinstance(block, Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    if norm == "frozen":
        attach_norms(network)
    return network


class ResNetBackbone(Backbone):
    """A ResNet without its classifier; the outputs of layer1 to layer4 are the maps of strides 4, 8, 16 and 32.

    Args:
        resnet: the ResNet, which shares its layers with the backbone.
        coarsest: stride of the last map; 16 leaves out layer4, which a C4 network has in its head.
    """

    border = 1

    def __init__(self, resnet: nn.Module, *, coarsest: int = 32) -> None:
        super().__init__()
        strides = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}
        layers = {stride: layer for stride, layer in strides.items() if stride <= coarsest}
        self.channels = {stride: out_channels(resnet.get_submodule(layer)) for stride, layer in layers.items()}
        self.body = _extractor(resnet, {layer: str(stride) for stride, layer in layers.items()})
        self.multiple = coarsest
        self.preprocessing = IMAGENET
        self.coordinates = {stride: centred(stride) for stride in self.channels}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Preprocessed images (N, 3, H, W) -> {stride: map}."""
        return {int(stride): features for stride, features in self.body(images).items()}

    def end_at(self, stride: int) -> None:
        """Return only the map of this stride from now on, and remove the layers after it; 32 is the last map."""
        if stride == 32 or stride not in self.channels:
            raise KeyError(stride)
        self.body = _extractor(self.body, {f"layer{stride.bit_length() - 2}": str(stride)})
        self.channels, self.coordinates = {stride: self.channels[stride]}, {stride: centred(stride)}

    def freeze_at(self, stage: int) -> None:
        """Freeze the stem (stage 1) and the stages up to res`stage`; published detectors freeze up to 2."""
        names = ["conv1", "bn1", *(f"layer{number - 1}" for number in range(2, stage + 1))]
        for name in names:
            self.body.get_submodule(name).requires_grad_(False)


def _extractor(network: nn.Module, layers: dict[str, str]) -> nn.Module:
    return create_feature_extractor(network, layers, tracer_kwargs={"leaf_modules": [NormedConv2d]})
