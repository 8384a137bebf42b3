"""What an FCN stands on: the convolutions of a classifier, giving maps at several strides.

N images, H W pixels; a map of stride s is (N, channels[s], about H / s, about W / s).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.models.geometry import CoordinateMap, path_map
from upscore.models.preprocessing import DepthPreprocessing, Preprocessing


class Backbone(nn.Module):
    """The contract between a backbone and what is built over it: preprocessed images (N, 3, H, W) -> {stride: map}."""

    channels: dict[int, int]
    """Stride -> channels of its map."""
    coordinates: dict[int, CoordinateMap]
    """Stride -> where an image coordinate lies in its map."""
    multiple: int
    """Images are padded, at the bottom and the right, until their sides are multiples of this."""
    border: int
    """Cells repeated around a score map before it is upsampled, where a net has no border of its own to fade into."""
    preprocessing: Preprocessing
    depth_preprocessing: DepthPreprocessing | None = None
    """Where it takes depth too, as further channels behind the photo's."""

    def prepare(self, images: Tensor, depth: Tensor | None = None) -> Tensor:
        """Pixels (N, 3, H, W) and, where it takes depth, that too (N, D, H, W), NaN where unknown -> its input.

        Raises:
            UserError: depth is missing, or of another number of channels.
        """
        prepared = self.preprocessing(images)
        if self.depth_preprocessing is None:
            return prepared
        expected = len(self.depth_preprocessing.mean)
        if depth is None or depth.shape[1] != expected:
            given = "none" if depth is None else depth.shape[1]
            raise UserError(f"this model sees depth beside the photo: give depth of {expected} channels, not {given}")
        return torch.cat([prepared, self.depth_preprocessing(depth)], 1)

    def padded(self, images: Tensor) -> Tensor:
        """Images whose sides are multiples of `multiple`, by zeros at the bottom and the right: the mean colour."""
        height, width = images.shape[-2:]
        bottom, right = self.padded_size(height, width)
        if (bottom, right) == (height, width):
            return images
        return F.pad(images, (0, right - width, 0, bottom - height))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of `padded` images."""
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def end_at(self, stride: int) -> None:
        """Keep one map alone, that of the last pooling or stage of this stride, and leave out what comes after it.

        Raises:
            KeyError: there is none.
        """
        raise KeyError(stride)


class BackboneSpec(Backbone):
    """A backbone of which all is known but its layers, for a network whose convolutions run elsewhere.

    Args:
        facts: what `spec_of` says of the whole one.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.channels = {int(stride): count for stride, count in facts["channels"].items()}
        self.coordinates = {
            int(stride): CoordinateMap(Fraction(scale), Fraction(shift))
            for stride, (scale, shift) in facts["coordinates"].items()
        }
        self.multiple, self.border = facts["multiple"], facts["border"]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        raise NotImplementedError("this network's layers are in its engine alone: load it with cache=False to run it")


def spec_of(backbone: Backbone) -> dict[str, Any]:
    """Channels, coordinates, multiple and border, as JSON takes them; preprocessing is in the model's own card."""
    return {
        "channels": backbone.channels,
        "coordinates": {stride: [str(at.scale), str(at.shift)] for stride, at in backbone.coordinates.items()},
        "multiple": backbone.multiple,
        "border": backbone.border,
    }


class SequentialBackbone(Backbone):
    """A backbone that is a plain chain of named layers, some of which are tapped.

    Args:
        layers: name -> layer, in order.
        taps: stride -> name of the layer whose output is its map.
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
            if name in strides:  # the others' outputs are let go of
                maps[strides[name]] = features
        return maps

    def end_at(self, stride: int) -> None:
        """Keep one map alone, that of the last pooling of this stride, and leave out what comes after it."""
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
    """Of the last convolution in it."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels


RESNETS = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}

Norm = Literal["batch", "frozen"]
"""frozen: statistics, weight and bias of batch normalisation are constants, as a detector's few images want it."""

StrideIn = Literal["3x3", "1x1"]
"""Which convolution of a bottleneck moves by 2: torchvision's ResNets have it in the 3x3, the original ones (MSRA) in
the first 1x1. The weights have the same shapes, so the wrong choice goes unnoticed but for worse results."""
