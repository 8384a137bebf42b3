"""VGG16 and CaffeNet (AlexNet) made fully convolutional, layer by layer as the authors' `net.py` has them.

N images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from upscore.errors import UserError
from upscore.models.backbones.base import SequentialBackbone
from upscore.models.kernels.large_kernel_conv import LargeKernelConv2d
from upscore.models.preprocessing import CAFFE, IMAGENET

Geometry = Literal["caffe", "same"]
"""How the borders are treated. "caffe": the image is padded by 100 so that the first score already sees it whole, and
what is too much is cropped off. "same": every layer keeps its size ("proper padding"), so that scores come out at
exactly 1/32 and nothing needs a crop. Weights trained in one are not quite at home in the other."""

VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions and channels of each block."""


def vgg16(geometry: Geometry) -> SequentialBackbone:
    """VGG16 up to fc7, with pool3, pool4 and fc7 as the maps of strides 8, 16 and 32 (FCN table 1: it sees 404 px)."""
    layers: dict[str, nn.Module] = {}
    channels = 3
    for block, (depth, width) in enumerate(VGG16_BLOCKS, start=1):
        for index in range(1, depth + 1):
            padding = 100 if geometry == "caffe" and block == index == 1 else 1
            layers[f"conv{block}_{index}"] = nn.Conv2d(channels, width, 3, padding=padding)
            layers[f"relu{block}_{index}"] = nn.ReLU(inplace=True)
            channels = width
        # in "same" geometry sides are multiples of 32: nothing is left over to round, which int8 could not pass
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=geometry == "caffe")
    layers |= _fully_connected(channels, kernel_size=7, padding=3 if geometry == "same" else 0)
    backbone = SequentialBackbone(
        layers,
        taps={8: "pool3", 16: "pool4", 32: "drop7"},
        channels={8: 256, 16: 512, 32: 4096},
        multiple=32 if geometry == "same" else 1,
        border=0,
        preprocessing=IMAGENET if geometry == "same" else CAFFE,
    )
    return _reset_parameters(backbone)


def alexnet() -> SequentialBackbone:
    """CaffeNet up to fc7: pooling before normalisation, two groups, padded by 100; a map at stride 32 alone."""
    layers = {
        "conv1": nn.Conv2d(3, 96, 11, stride=4, padding=100),
        "relu1": nn.ReLU(inplace=True),
        "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm1": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2),
        "relu2": nn.ReLU(inplace=True),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm2": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "conv3": nn.Conv2d(256, 384, 3, padding=1),
        "relu3": nn.ReLU(inplace=True),
        "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2),
        "relu4": nn.ReLU(inplace=True),
        "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2),
        "relu5": nn.ReLU(inplace=True),
        "pool5": nn.MaxPool2d(3, 2, ceil_mode=True),
    } | _fully_connected(256, kernel_size=6, padding=0)
    backbone = SequentialBackbone(
        layers, taps={32: "drop7"}, channels={32: 4096}, multiple=1, border=0, preprocessing=CAFFE
    )
    return _reset_parameters(backbone)


def _reset_parameters(backbone: SequentialBackbone) -> SequentialBackbone:
    """He initialisation: without normalisation layers, torch's own lets the signal die before fc7."""
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return backbone


def _fully_connected(channels: int, *, kernel_size: int, padding: int) -> dict[str, nn.Module]:
    """fc6 and fc7 as convolutions; fc6 covers the whole map that the classifier flattened (FCN section 3.1)."""
    return {
        "fc6": LargeKernelConv2d(channels, 4096, kernel_size, padding=padding),
        "relu6": nn.ReLU(inplace=True),
        "drop6": nn.Dropout(),
        "fc7": LargeKernelConv2d(4096, 4096, 1),
        "relu7": nn.ReLU(inplace=True),
        "drop7": nn.Dropout(),
    }


def load_torchvision_vgg16(backbone: SequentialBackbone, state: Mapping[str, Tensor]) -> None:
    """Load torchvision's `vgg16` classifier into a VGG16 backbone, which then takes torchvision's preprocessing.

    fc6 and fc7 are the same numbers, reshaped (O, C * h * w) -> (O, C, h, w); fc8, the classifier proper, is left out.

    Raises:
        UserError: a key is missing, left over, of another shape, or holds no finite values.
    """
    convolutions = [name for name in backbone.state_dict() if name.startswith("conv") and name.endswith(".weight")]
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    sources = {
        name.removesuffix(".weight"): f"features.{index}" for name, index in zip(convolutions, indices, strict=True)
    }
    sources |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    expected = {f"{source}.{kind}" for source in [*sources.values(), "classifier.6"] for kind in ("weight", "bias")}
    if missing := sorted(expected - set(state)):
        raise UserError(f"this is no torchvision vgg16: {missing[0]} is missing ({len(missing)} keys in all)")
    if left_over := sorted(set(state) - expected):
        raise UserError(f"this is no torchvision vgg16: {left_over[0]} is left over ({len(left_over)} keys in all)")
    own = backbone.state_dict()
    for name, source in sources.items():
        for kind in ("weight", "bias"):
            target, value = own[f"{name}.{kind}"], state[f"{source}.{kind}"]
            shape = target.flatten(1).shape if name.startswith("fc") and kind == "weight" else target.shape
            if value.shape != shape:
                raise UserError(f"{source}.{kind} has shape {tuple(value.shape)}; {name} needs {tuple(shape)}")
            if not value.isfinite().all():  # torchvision's features-only weights have a classifier of NaNs
                raise UserError(f"{source}.{kind} holds values that are not finite: use VGG16_Weights.IMAGENET1K_V1")
            target.copy_(value.reshape(target.shape))
    backbone.preprocessing = IMAGENET
