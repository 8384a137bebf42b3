"""Small networks for tests, with random score layers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from upscore.models.backbones.base import SequentialBackbone
from upscore.models.backbones.vgg import vgg16
from upscore.models.fcn.fcn import FCN


def thin(backbone: SequentialBackbone, width: int = 6) -> SequentialBackbone:
    """Return a backbone with the same kernels, strides and paddings but few channels, and He weights."""
    layers: dict[str, nn.Module] = {}
    for name, layer in backbone.named_children():
        if isinstance(layer, nn.Conv2d):
            thinned = nn.Conv2d(min(layer.in_channels, width), width, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
            if layer.in_channels == 3:
                thinned = nn.Conv2d(3, width, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
            nn.init.kaiming_normal_(thinned.weight)
            layers[name] = thinned
        else:
            layers[name] = copy.deepcopy(layer)
    return SequentialBackbone(
        layers,
        taps=backbone.taps,
        channels=dict.fromkeys(backbone.taps, width),
        multiple=backbone.multiple,
        border=backbone.border,
        preprocessing=backbone.preprocessing,
    )


def thin_vgg16(geometry: str) -> SequentialBackbone:
    """Return VGG16 with few channels, without allocating the complete network."""
    with torch.device("meta"):
        whole = vgg16(geometry)  # type: ignore[arg-type]
    return thin(whole)


def randomise_scores(net: FCN) -> FCN:
    """Initialise the score layers, which are zero by default, so that scores have a scale of about one."""
    for layer in net.score.values():
        nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        nn.init.normal_(layer.bias)
    return net
