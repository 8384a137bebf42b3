"""Backbones for RGB-D images (FCN section 5, table 5): early fusion, late fusion, or depth only.

N images, D depth channels (1, or 3 for HHA), H W pixels. The input is (N, 3 + D, H, W): the preprocessed colours,
followed by the normalised depth.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.models.backbones.base import Backbone
from upscore.models.preprocessing import DepthPreprocessing

Fusion = Literal["early", "late", "only"]
"""early: the first convolution takes colours and depth. late: colours and depth have a backbone each, and their scores
are averaged. only: colours are ignored."""


def with_depth(backbone: Backbone, fusion: Fusion, channels: int) -> Backbone:
    """Convert a colour backbone to one with depth, initialised with the weights of the colour backbone.

    The given backbone becomes a part of the new one. Its `depth_preprocessing` is the identity until it is set.

    Args:
        backbone: a backbone for colours.
        fusion: how colours and depth are combined.
        channels: D.

    Raises:
        UserError: the backbone has no convolution of three input channels.
    """
    if fusion == "early":
        fused = backbone
        _add_inputs(_first_convolution(backbone), channels)
    elif fusion == "late":
        fused = LateFusion(backbone, _for_depth(copy.deepcopy(backbone), channels))
        fused.train(backbone.training)  # a copied fx graph is in training mode
    else:
        fused = DepthOnly(_for_depth(backbone, channels))
    fused.depth_preprocessing = DepthPreprocessing(mean=(0.0,) * channels, std=(1.0,) * channels)
    return fused


class DepthOnly(Backbone):
    """A backbone for depth that ignores the colours."""

    def __init__(self, depth: Backbone) -> None:
        super().__init__()
        self.depth = depth
        self.channels, self.coordinates = dict(depth.channels), dict(depth.coordinates)
        self.multiple, self.border, self.preprocessing = depth.multiple, depth.border, depth.preprocessing

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Colours and depth (N, 3 + D, H, W) -> {stride: map}."""
        return self.depth(images[:, 3:])


class LateFusion(Backbone):
    """Two backbones, for colours and for depth, whose maps are halved and concatenated.

    A score layer on the concatenated maps equals the mean of two score layers, one on each backbone's map, as summing
    scores equals scoring concatenated features (FCN section 4.2). The layers after the scores are shared.
    """

    def __init__(self, colour: Backbone, depth: Backbone) -> None:
        super().__init__()
        self.colour, self.depth = colour, depth
        self.channels = {stride: count + depth.channels[stride] for stride, count in colour.channels.items()}
        self.coordinates = dict(colour.coordinates)
        self.multiple, self.border, self.preprocessing = colour.multiple, colour.border, colour.preprocessing

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Colours and depth (N, 3 + D, H, W) -> {stride: map}, the channels of the colour backbone first."""
        colour, depth = self.colour(images[:, :3]), self.depth(images[:, 3:])
        return {stride: torch.cat([features, depth[stride]], 1) / 2 for stride, features in colour.items()}


def late_scores(colour: nn.Conv2d, depth: nn.Conv2d) -> dict[str, Tensor]:
    """Return the state dict of the score layer on a `LateFusion` that averages the scores of two score layers."""
    assert colour.bias is not None
    assert depth.bias is not None
    return {"weight": torch.cat([colour.weight, depth.weight], 1), "bias": (colour.bias + depth.bias) / 2}


def _for_depth(backbone: Backbone, channels: int) -> Backbone:
    """Convert a colour backbone to depth: HHA replaces the colours, a single channel is treated as a grey image.

    A convolution of three equal channels is one of a single channel with the sum of the filters. (The mean of the
    filters would make all responses three times too small for the layers after it.)
    """
    if channels != 3:
        first = _first_convolution(backbone)
        _set_weight(first, first.weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels)
    return backbone


def _first_convolution(backbone: Backbone) -> nn.Conv2d:
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d) and (layer.in_channels, layer.groups) == (3, 1):
            return layer
    raise UserError("the backbone has no convolution of three input channels, to which depth could be added")


def _add_inputs(layer: nn.Conv2d, count: int) -> None:
    """Add input channels, initialised with the mean of the colour filters (the authors' `nyud-fcn32s-color-d`)."""
    mean = layer.weight.mean(1, keepdim=True).expand(-1, count, -1, -1)
    _set_weight(layer, torch.cat([layer.weight, mean], 1))


def _set_weight(layer: nn.Conv2d, weight: Tensor) -> None:
    """Set the weight of a layer in place, so that its class does not change."""
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=layer.weight.requires_grad)
    layer.in_channels = weight.shape[1]
