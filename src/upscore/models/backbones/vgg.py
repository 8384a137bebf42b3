"""VGG16 and CaffeNet (AlexNet) as fully convolutional backbones, with the layers of the authors' `net.py`.

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
"""Padding of the network. "caffe": the image is padded by 100 pixels and the scores are cropped, as published. "same":
convolutions keep the size of their input, so that scores have exactly 1/32 of its size and are not cropped. Weights
trained with one are less accurate with the other."""

VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Number of convolutions and channels of each block."""


def vgg16(geometry: Geometry) -> SequentialBackbone:
    """Return VGG16 up to fc7; pool3, pool4 and fc7 are the maps of strides 8, 16 and 32.

    The receptive field of fc7 is 404 pixels (FCN table 1).
    """
    layers: dict[str, nn.Module] = {}
    channels = 3
    for block, (depth, width) in enumerate(VGG16_BLOCKS, start=1):
        for index in range(1, depth + 1):
            padding = 100 if geometry == "caffe" and block == index == 1 else 1
            layers[f"conv{block}_{index}"] = nn.Conv2d(channels, width, 3, padding=padding)
            layers[f"relu{block}_{index}"] = nn.ReLU(inplace=True)
            channels = width
        # with "same", sides are multiples of 32 and need no ceil_mode, which int8 quantisation does not support
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
    """Return CaffeNet up to fc7, whose only map has stride 32.

    Unlike AlexNet it pools before normalisation; the image is padded by 100 pixels.
    """
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
    """Apply He initialisation; with torch's default, activations vanish before fc7 for lack of normalisation layers."""
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return backbone


def _fully_connected(channels: int, *, kernel_size: int, padding: int) -> dict[str, nn.Module]:
    """Return fc6 and fc7 as convolutions; the kernel of fc6 covers the map that the classifier flattens (FCN 3.1)."""
    return {
        "fc6": LargeKernelConv2d(channels, 4096, kernel_size, padding=padding),
        "relu6": nn.ReLU(inplace=True),
        "drop6": nn.Dropout(),
        "fc7": LargeKernelConv2d(4096, 4096, 1),
        "relu7": nn.ReLU(inplace=True),
        "drop7": nn.Dropout(),
    }


def load_torchvision_vgg16(backbone: SequentialBackbone, state: Mapping[str, Tensor]) -> None:
    """Load the state dict of torchvision's `vgg16` into a VGG16 backbone and set torchvision's preprocessing.

    The weights of fc6 and fc7 are reshaped from (O, C * h * w) to (O, C, h, w). The last layer is not used.

    Raises:
        UserError: a key is missing, unexpected, has another shape, or has values that are not finite.
    """
    convolutions = [name for name in backbone.state_dict() if name.startswith("conv") and name.endswith(".weight")]
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    sources = {
        name.removesuffix(".weight"): f"features.{index}" for name, index in zip(convolutions, indices, strict=True)
    }
    sources |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    expected = {
        f"{source}.{parameter}" for source in [*sources.values(), "classifier.6"] for parameter in ("weight", "bias")
    }
    if missing := sorted(expected - set(state)):
        raise UserError(
            f"the weights are not those of torchvision's vgg16: {missing[0]} is missing ({len(missing)} keys in all)"
        )
    if unexpected := sorted(set(state) - expected):
        raise UserError(
            f"the weights are not those of torchvision's vgg16: {unexpected[0]} is unexpected "
            f"({len(unexpected)} keys in all)"
        )
    own = backbone.state_dict()
    for name, source in sources.items():
        for parameter in ("weight", "bias"):
            target, value = own[f"{name}.{parameter}"], state[f"{source}.{parameter}"]
            shape = target.flatten(1).shape if name.startswith("fc") and parameter == "weight" else target.shape
            if value.shape != shape:
                raise UserError(f"{source}.{parameter} has shape {tuple(value.shape)}; {name} needs {tuple(shape)}")
            if not value.isfinite().all():  # the classifier of IMAGENET1K_FEATURES is NaN
                raise UserError(f"{source}.{parameter} has values that are not finite: use VGG16_Weights.IMAGENET1K_V1")
            target.copy_(value.reshape(target.shape))
    backbone.preprocessing = IMAGENET
