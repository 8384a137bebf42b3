"""From the pixels of a photo, and what a depth camera adds to it, to the numbers a network was trained on.

N images, 3 channels of colour, D of depth, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """`(pixel - mean) / std`, channel by channel; a part of the weights as much as the weights themselves."""

    mean: tuple[float, float, float]
    """In R, G, B order whatever the network's own order, on the 0..255 scale."""
    std: tuple[float, float, float]
    """As `mean`."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """The order of the channels that the network sees."""

    def __call__(self, images: Tensor) -> Tensor:
        """Turn (N, 3, H, W) RGB pixels, 0..255 of any type, into the network's float32 input of the same shape."""
        mean, std = torch.tensor([self.mean, self.std], device=images.device).unsqueeze(-1).unsqueeze(-1)
        if self.channel_order == "BGR":  # first, while they may still be bytes
            images, mean, std = images.flip(-3), mean.flip(0), std.flip(0)
        images = images - mean
        return images if all(value == 1 for value in self.std) else images.div_(std)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthPreprocessing:
    """`(depth - mean) / std`, channel by channel; where the depth is unknown, it is the mean.

    One channel is metres, whose natural logarithm is taken before (the authors' `nyud_layers.py`); HHA is as it is.
    """

    mean: tuple[float, ...]
    """D numbers, of HHA or of the logarithm."""
    std: tuple[float, ...]
    """As `mean`."""

    def __call__(self, depth: Tensor) -> Tensor:
        """Turn depth (N, D, H, W), NaN where unknown, into the network's float32 input of the same shape."""
        mean = torch.tensor(self.mean, device=depth.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=depth.device).view(-1, 1, 1)
        depth = log_depth(depth)
        return torch.where(depth.isfinite(), (depth - mean) / std, 0.0)


def log_depth(depth: Tensor) -> Tensor:
    """Depth (..., D, H, W) as it is normalised: the logarithm of metres, or HHA."""
    return depth.log() if depth.shape[-3] == 1 else depth


CAFFE = Preprocessing(mean=(122.67892, 116.66877, 104.00699), std=(1.0, 1.0, 1.0), channel_order="BGR")
"""The authors' VGG16 and CaffeNet (their `voc_layers.py`)."""

IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""torchvision's classifiers, and most of timm's."""

LITE0 = Preprocessing(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""The embedded EfficientNet-Lite0."""
