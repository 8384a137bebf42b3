"""In which forms there are ResNets; apart from the networks, for it needs no torchvision."""

from __future__ import annotations

from typing import Literal

RESNETS = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}

Norm = Literal["batch", "frozen"]
"""frozen: statistics, weight and bias of batch normalisation are constants, as a detector's few images want it."""

StrideIn = Literal["3x3", "1x1"]
"""Which convolution of a bottleneck moves by 2: torchvision's ResNets have it in the 3x3, the original ones (MSRA) in
the first 1x1. The weights have the same shapes, so the wrong choice goes unnoticed but for worse results."""
