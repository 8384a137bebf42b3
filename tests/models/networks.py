"""Networks for tests: small copies of the real ones, with scores that are not zero."""

from __future__ import annotations

import copy

import torch
from torch import nn

from upscore.models.fcn import FCN
from upscore.models.trunks import ChainTrunk
from upscore.models.vgg import vgg16


def thin(trunk: ChainTrunk, width: int = 6) -> ChainTrunk:
    """The same chain of kernels, strides and paddings with few channels, and He weights."""
    layers: dict[str, nn.Module] = {}
    for name, layer in trunk.named_children():
        if isinstance(layer, nn.Conv2d):
            thinned = nn.Conv2d(min(layer.in_channels, width), width, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
            if layer.in_channels == 3:
                thinned = nn.Conv2d(3, width, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
            nn.init.kaiming_normal_(thinned.weight)
            layers[name] = thinned
        else:
            layers[name] = copy.deepcopy(layer)
    return ChainTrunk(
        layers,
        taps=trunk.taps,
        channels=dict.fromkeys(trunk.taps, width),
        multiple=trunk.multiple,
        border=trunk.border,
        preprocessing=trunk.preprocessing,
    )


def thin_vgg16(geometry: str) -> ChainTrunk:
    """VGG16 with few channels; the whole one is never made."""
    with torch.device("meta"):
        whole = vgg16(geometry)  # type: ignore[arg-type]
    return thin(whole)


def randomise_scores(net: FCN) -> FCN:
    """Give the score layers, zero at birth, weights that make scores of about one."""
    for layer in net.score.values():
        nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        nn.init.normal_(layer.bias)
    return net
