"""Depth beside the photo (FCN section 5, table 5): in the first convolution, in a backbone of its own, or alone.

N images, D channels of depth (1, or 3 of HHA), H W pixels. A network with depth takes (N, 3 + D, H, W): the
preprocessed photo and, behind it, the normalised depth.
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
"""early: the first convolution sees colours and depth. late: each has a backbone, and the mean of their scores counts.
only: colours are not looked at."""


def with_depth(backbone: Backbone, fusion: Fusion, channels: int) -> Backbone:
    """The backbone of a network with depth, made of one for photos, whose weights it begins with.

    The given backbone becomes a part of the new one. Depth is not normalised until `depth_preprocessing` says how.

    Raises:
        UserError: no convolution of it takes three channels.
    """
    if fusion == "early":
        fused = backbone
        _add_inputs(_first_convolution(backbone), channels)
    elif fusion == "late":
        fused = LateFusion(backbone, _for_depth(copy.deepcopy(backbone), channels))
        fused.train(backbone.training)  # the copy of a traced network is in training mode
    else:
        fused = DepthOnly(_for_depth(backbone, channels))
    fused.depth_preprocessing = DepthPreprocessing(mean=(0.0,) * channels, std=(1.0,) * channels)
    return fused


class DepthOnly(Backbone):
    """A backbone that sees the depth and nothing of the photo."""

    def __init__(self, depth: Backbone) -> None:
        super().__init__()
        self.depth = depth
        self.channels, self.coordinates = dict(depth.channels), dict(depth.coordinates)
        self.multiple, self.border, self.preprocessing = depth.multiple, depth.border, depth.preprocessing

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Photos and depth (N, 3 + D, H, W) -> {stride: map}."""
        return self.depth(images[:, 3:])


class LateFusion(Backbone):
    """Two backbones side by side, one for the photo and one for its depth; a map is the maps of both, each by half.

    A score layer over such a map is the mean of two score layers, one over each backbone's map: summing scores is the
    same as scoring features that lie behind one another (FCN section 4.2). All that comes after the scores is shared.
    """

    def __init__(self, colour: Backbone, depth: Backbone) -> None:
        super().__init__()
        self.colour, self.depth = colour, depth
        self.channels = {stride: count + depth.channels[stride] for stride, count in colour.channels.items()}
        self.coordinates = dict(colour.coordinates)
        self.multiple, self.border, self.preprocessing = colour.multiple, colour.border, colour.preprocessing

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Photos and depth (N, 3 + D, H, W) -> {stride: map}, the photo's channels first."""
        colour, depth = self.colour(images[:, :3]), self.depth(images[:, 3:])
        return {stride: torch.cat([features, depth[stride]], 1) / 2 for stride, features in colour.items()}


def late_scores(colour: nn.Conv2d, depth: nn.Conv2d) -> dict[str, Tensor]:
    """The score layer over a `LateFusion` whose scores are the mean of these two layers', as a state dict."""
    assert colour.bias is not None
    assert depth.bias is not None
    return {"weight": torch.cat([colour.weight, depth.weight], 1), "bias": (colour.bias + depth.bias) / 2}


def _for_depth(backbone: Backbone, channels: int) -> Backbone:
    """A backbone for photos -> one for depth: HHA takes the place of the colours; one channel is seen as a grey photo
    is.

    Three equal channels through a convolution are one through the sum of its filters (their mean would make all
    responses three times too weak for the layers after it).
    """
    if channels != 3:
        first = _first_convolution(backbone)
        _set_weight(first, first.weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels)
    return backbone


def _first_convolution(backbone: Backbone) -> nn.Conv2d:
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d) and (layer.in_channels, layer.groups) == (3, 1):
            return layer
    raise UserError("the backbone does not begin with a convolution of three channels, which depth could join")


def _add_inputs(layer: nn.Conv2d, count: int) -> None:
    """Further inputs begin with the mean of the filters for the three colours (the authors' `nyud-fcn32s-color-d`)."""
    mean = layer.weight.mean(1, keepdim=True).expand(-1, count, -1, -1)
    _set_weight(layer, torch.cat([layer.weight, mean], 1))


def _set_weight(layer: nn.Conv2d, weight: Tensor) -> None:
    """In place: a subclass of convolutions stays what it is."""
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=layer.weight.requires_grad)
    layer.in_channels = weight.shape[1]
