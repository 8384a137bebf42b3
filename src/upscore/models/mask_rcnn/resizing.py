"""At which size a detector sees a photo.

H W pixels of the photo, h w of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from upscore.models.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Resizing:
    """The shorter side becomes `min_side` (section 3.1 of Mask R-CNN: 800), unless the longer would pass `max_side`."""

    min_side: int
    max_side: int
    rule: Literal["floats", "pixels"]
    """See `Preset.resizing`."""
    shrink: bool = True
    """Photos with a shorter side above `min_side` are reduced to it; otherwise they are left alone up to `max_side`."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) -> (h, w)."""
        short, long = min(height, width), max(height, width)
        wanted = self.min_side / short if self.shrink else max(1.0, self.min_side / short)
        factor = min(wanted, self.max_side / long)
        if self.rule == "floats":
            return max(1, int(height * factor)), max(1, int(width * factor))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def pixels(self, image: Tensor) -> Tensor:
        """Resize an image (3, H, W) uint8 for training to (3, h, w), which `Preprocessing` turns into the input.

        Returns:
            uint8 for the rule "pixels"; for "floats" unrounded float32, on the same scale 0 to 255. Up to float32
            rounding, the preprocessed result is that of `__call__`.
        """
        size = self.size(*image.shape[-2:])
        if self.rule == "pixels":
            if size == tuple(image.shape[-2:]):
                return image
            return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
        return F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]

    def __call__(self, image: Tensor, preprocessing: Preprocessing) -> Tensor:
        """(3, H, W) uint8, RGB -> the network's input (3, h, w), float32."""
        if self.rule == "pixels":
            return preprocessing(self.pixels(image)[None])[0]
        size = self.size(*image.shape[-2:])  # torchvision's order, whose rounding differs from that of `pixels`
        return F.interpolate(preprocessing(image[None]), size=size, mode="bilinear", align_corners=False)[0]
