"""Interface of backbones: the convolutions of a classifier, which return feature maps of several strides.

N images, D depth channels, H W pixels; a feature map of stride s is (N, channels[s], about H / s, about W / s).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.models.coordinate_maps import CoordinateMap, path_map
from upscore.models.preprocessing import DepthPreprocessing, Preprocessing


class Backbone(nn.Module):
    """Base class of backbones: preprocessed images (N, 3, H, W) -> {stride: feature map}."""

    channels: dict[int, int]
    """Stride -> number of channels of the feature map."""
    coordinates: dict[int, CoordinateMap]
    """Stride -> map from image coordinates to coordinates of the feature map."""
    multiple: int
    """The sides of input images must be multiples of this; see `padded`."""
    border: int
    """Cells replicated around a score map before it is upsampled; 0 for networks that pad the image itself."""
    preprocessing: Preprocessing
    depth_preprocessing: DepthPreprocessing | None = None
    """Preprocessing of depth channels, which follow the colour channels of the input; None: no depth."""

    def prepare(self, images: Tensor, depth: Tensor | None = None) -> Tensor:
        """Convert pixels (N, 3, H, W), and depth (N, D, H, W), NaN where unknown, to the input (N, 3 + D, H, W).

        `depth` is ignored by a backbone without depth.

        Raises:
            UserError: the backbone needs depth, which is missing or has another number of channels.
        """
        prepared = self.preprocessing(images)
        if self.depth_preprocessing is None:
            return prepared
        expected = len(self.depth_preprocessing.mean)
        if depth is None or depth.shape[1] != expected:
            given = "none" if depth is None else depth.shape[1]
            raise UserError(
                f"the model needs depth beside the image, with {expected} channels; the depth given has {given}"
            )
        return torch.cat([prepared, self.depth_preprocessing(depth)], 1)

    def padded(self, images: Tensor) -> Tensor:
        """Pad preprocessed images with zeros (the mean colour) at the bottom and right to multiples of `multiple`."""
        height, width = images.shape[-2:]
        bottom, right = self.padded_size(height, width)
        if (bottom, right) == (height, width):
            return images
        return F.pad(images, (0, right - width, 0, bottom - height))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of an image after `padded`."""
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def end_at(self, stride: int) -> None:
        """Return only the feature map of this stride from now on, and remove the layers after it.

        The map is the output of the last pooling layer or stage of this stride.

        Raises:
            KeyError: there is no such layer, or none after it.
        """
        raise KeyError(stride)


class BackboneSpec(Backbone):
    """Metadata of a backbone without its layers, for a network whose backbone runs in a compiled engine.

    Args:
        spec: the return value of `spec_of` for the complete backbone.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.channels = {int(stride): count for stride, count in spec["channels"].items()}
        self.coordinates = {
            int(stride): CoordinateMap(Fraction(scale), Fraction(shift))
            for stride, (scale, shift) in spec["coordinates"].items()
        }
        self.multiple, self.border = spec["multiple"], spec["border"]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        raise NotImplementedError(
            "the layers of this backbone exist only in its compiled engine: load the model with cache=False to run it"
        )


def spec_of(backbone: Backbone) -> dict[str, Any]:
    """Return channels, coordinates, multiple and border of a backbone as JSON values.

    The preprocessing is stored in the model folder's `model.json`.
    """
    return {
        "channels": backbone.channels,
        "coordinates": {stride: [str(c.scale), str(c.shift)] for stride, c in backbone.coordinates.items()},
        "multiple": backbone.multiple,
        "border": backbone.border,
    }


class SequentialBackbone(Backbone):
    """A backbone that is a sequence of named layers.

    Args:
        layers: name -> layer, in order.
        taps: stride -> name of the layer whose output is the feature map.
        channels, multiple, border, preprocessing: see `Backbone`.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        taps: Mapping[int, str],
        channels: Mapping[int, int],
        multiple: int,
        border: int,
        preprocessing: Preprocessing,
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.taps = dict(taps)
        self.channels = dict(channels)
        self.multiple, self.border, self.preprocessing = multiple, border, preprocessing
        names = list(layers)
        self.coordinates = {
            stride: path_map(layers[name] for name in names[: names.index(tap) + 1]) for stride, tap in taps.items()
        }

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Preprocessed images (N, 3, H, W) -> {stride: map}."""
        strides = {tap: stride for stride, tap in self.taps.items()}
        maps, features = {}, images
        for name, layer in self.named_children():
            features = layer(features)
            if name in strides:  # other outputs are freed
                maps[strides[name]] = features
        return maps

    def end_at(self, stride: int) -> None:
        """Return only the output of the pooling layer of this stride from now on, and remove the layers after it."""
        pool = f"pool{stride.bit_length() - 1}"
        names = [name for name, _ in self.named_children()]
        if stride not in self.channels or pool not in names:
            raise KeyError(stride)
        for name in names[names.index(pool) + 1 :]:
            delattr(self, name)
        layers = dict(self.named_children())
        self.taps = {stride: pool}
        self.channels = {stride: out_channels(self)}
        self.coordinates = {stride: path_map(layers.values())}


def out_channels(module: nn.Module) -> int:
    """Return the number of output channels of the last convolution of a module."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels


RESNETS = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}

Norm = Literal["batch", "frozen"]
"""Batch normalisation: "batch" is trained; "frozen" has constant statistics, weight and bias, because the few images of
a detector's batch give poor statistics."""

StrideIn = Literal["3x3", "1x1"]
"""Which convolution of a bottleneck has stride 2: the 3x3 one in torchvision's ResNets, the first 1x1 one in the
original (MSRA) ResNets. The weights have the same shapes, so that the wrong choice shows only in worse results."""
