"""Resizing of images for Mask R-CNN.

H W pixels of the image, h w pixels of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from upscore.models.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Resizing:
    """Resize the shorter side to `min_side` (800 in Mask R-CNN section 3.1), but the longer to at most `max_side`."""

    min_side: int
    max_side: int
    rule: Literal["floats", "pixels"]
    """See `Preset.resizing`."""
    shrink: bool = True
    """Reduce images whose shorter side is above `min_side`; False: reduce only images with a side above `max_side`."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (h, w) of the network's input for an image of (H, W)."""
        short, long = min(height, width), max(height, width)
        factor = self.min_side / short if self.shrink else max(1.0, self.min_side / short)
        factor = min(factor, self.max_side / long)
        if self.rule == "floats":
            return max(1, int(height * factor)), max(1, int(width * factor))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def pixels(self, image: Tensor) -> Tensor:
        """Resize an image (3, H, W) uint8 to (3, h, w) for training, before preprocessing.

        Returns:
            uint8 for the rule "pixels", float32 in 0..255 for "floats". After preprocessing it equals the result of
            `__call__` up to float32 rounding.
        """
        size = self.size(*image.shape[-2:])
        if self.rule == "pixels":
            if size == tuple(image.shape[-2:]):
                return image
            return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
        return F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]

    def __call__(self, image: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Resize and preprocess an RGB image (3, H, W) uint8 to the network's input (3, h, w) float32."""
        if self.rule == "pixels":
            return preprocessing(self.pixels(image)[None])[0]
        size = self.size(
            *image.shape[-2:]
        )  # torchvision normalises before resizing, which rounds differently from `pixels`
        return F.interpolate(preprocessing(image[None]), size=size, mode="bilinear", align_corners=False)[0]
