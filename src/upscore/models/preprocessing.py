"""Normalisation of images and depth maps as a network was trained on.

N images, 3 colour channels, D depth channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Normalisation `(pixel - mean) / std` per channel; weights are only valid with their own preprocessing."""

    mean: tuple[float, float, float]
    """Means in the order R, G, B (also if `channel_order` is "BGR"), on the scale 0..255."""
    std: tuple[float, float, float]
    """Standard deviations, ordered and scaled as `mean`."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Channel order of the network's input."""

    def __call__(self, images: Tensor) -> Tensor:
        """Convert RGB pixels (N, 3, H, W), 0..255 of any dtype, to the network's float32 input of the same shape."""
        mean, std = torch.tensor([self.mean, self.std], device=images.device).unsqueeze(-1).unsqueeze(-1)
        if self.channel_order == "BGR":  # flipped first: uint8 pixels are the cheapest to copy
            images, mean, std = images.flip(-3), mean.flip(0), std.flip(0)
        images = images - mean
        return images if all(value == 1 for value in self.std) else images.div_(std)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthPreprocessing:
    """Normalisation `(depth - mean) / std` per channel; unknown depth becomes 0, the normalised mean.

    Of a single channel, in metres, the natural logarithm is normalised (the authors' `nyud_layers.py`). Three channels
    are HHA and are normalised as they are.
    """

    mean: tuple[float, ...]
    """D means, of the logarithm or of HHA."""
    std: tuple[float, ...]
    """D standard deviations, scaled as `mean`."""

    def __call__(self, depth: Tensor) -> Tensor:
        """Convert depth (N, D, H, W), NaN where unknown, to the network's float32 input of the same shape."""
        mean = torch.tensor(self.mean, device=depth.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=depth.device).view(-1, 1, 1)
        depth = log_depth(depth)
        return torch.where(depth.isfinite(), (depth - mean) / std, 0.0)


def log_depth(depth: Tensor) -> Tensor:
    """Return the logarithm of depth in metres (..., 1, H, W), and HHA (..., 3, H, W) unchanged."""
    return depth.log() if depth.shape[-3] == 1 else depth


CAFFE = Preprocessing(mean=(122.67892, 116.66877, 104.00699), std=(1.0, 1.0, 1.0), channel_order="BGR")
"""Preprocessing of the authors' VGG16 and CaffeNet (their `voc_layers.py`)."""

IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""Preprocessing of torchvision's classifiers and most of timm's."""

LITE0 = Preprocessing(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""Preprocessing of the installed EfficientNet-Lite0."""
