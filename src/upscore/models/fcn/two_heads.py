"""FCN with two heads: semantic classes and the geometric classes of surfaces (FCN section 5, SIFT Flow).

N images, C semantic and G geometric classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from upscore.labels import VOID
from upscore.models.backbones.base import Backbone
from upscore.models.fcn.fcn import FCN, FCNHead, PixelLoss, Upsampling
from upscore.models.fcn.losses import PendingScores, pixel_sum, softmax_sum
from upscore.models.loss_sum import EPS


class TwoHeads(FCN):
    """An FCN with a second head, with its own score and upsampling layers, for a second set of classes.

    Scores are those of both heads, the semantic ones first; targets are the label maps of both heads. Parameters of the
    semantic head have the same names as in `FCN`, so that weights can be loaded from one.

    Args:
        geometric_classes: G.
        backbone, num_classes, strides, skip_scales, upsampling, grouped, pixel_loss, null_background: see `FCN`;
            `pixel_loss` and `null_background` apply to the semantic head only.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        geometric_classes: int,
        strides: Sequence[int] = (32, 16, 8),
        skip_scales: Mapping[int, float] | None = None,
        upsampling: Upsampling = "fixed",
        grouped: bool = True,
        pixel_loss: PixelLoss = "softmax",
        null_background: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            num_classes,
            strides=strides,
            skip_scales=skip_scales,
            upsampling=upsampling,
            grouped=grouped,
            pixel_loss=pixel_loss,
            null_background=null_background,
        )
        self.geometric = FCNHead(
            backbone,
            geometric_classes,
            strides=strides,
            skip_scales=skip_scales,
            upsampling=upsampling,
            grouped=grouped,
        )
        self.geometric_classes = [f"geometric_{index}" for index in range(geometric_classes)]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the scores (N, C + G, H, W) of both heads for preprocessed images (N, 3, H, W) of any size."""
        semantic, geometric = self._fused(images)
        return self._upscored(semantic, geometric, (images.shape[-2], images.shape[-1]))

    def forward_for_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Tensor
    ) -> Tensor | tuple[PendingScores, PendingScores]:
        """Compute the input of `losses`, as `FCN.forward_for_loss`: coarse scores of both heads if either is large."""
        semantic, geometric = self._fused(images)
        size = images.shape[-2], images.shape[-1]
        pending = self.pending(semantic, size), self.geometric.pending(geometric, size)
        if pending[0] is not None and pending[1] is not None and (pending[0].is_large or pending[1].is_large):
            return pending[0], pending[1]
        return self._upscored(semantic, geometric, size)

    def _fused(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the summed scores of both heads at the finest stride."""
        maps = self.backbone(self.backbone.padded(images))
        return self.fuse_scores(maps), self.geometric.fuse_scores(maps)

    def _upscored(self, semantic: Tensor, geometric: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.cat(
            [
                self.add_background(self.upsample_scores(semantic, size)),
                self.geometric.upsample_scores(geometric, size),
            ],
            1,
        )

    def split(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Split scores (..., C + G, H, W) into semantic (..., C, H, W) and geometric ones (..., G, H, W)."""
        semantic, geometric = scores.split([self.num_classes, len(self.geometric_classes)], dim=-3)
        return semantic, geometric

    def losses(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        outputs: Tensor | tuple[PendingScores, PendingScores],
        targets: Tensor,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> dict[str, Tensor]:
        """Each head's own loss of scores (N, C + G, H, W) with class and geometric maps (N, 2, H, W); they are added.

        A pixel may be void in one of the maps and not in the other; a mean is over a head's own pixels.
        """
        semantic, geometric = self.split(outputs) if isinstance(outputs, Tensor) else outputs
        class_maps, geometric_maps = targets.unbind(1)
        losses = {
            "semantic": super().losses(semantic, class_maps, "sum")["cross_entropy"],
            "geometric": pixel_sum(geometric, geometric_maps, softmax_sum),
        }
        if reduction == "sum":
            return losses
        counts = self.counts(targets)
        return {name: loss / counts[name].clamp(min=EPS) for name, loss in losses.items()}

    def counts(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the normaliser of each head's loss, see `FCN.counts`."""
        class_maps, geometric_maps = targets.unbind(1)
        return {
            "semantic": super().counts(class_maps)["cross_entropy"],
            "geometric": (geometric_maps != VOID).sum(),
        }

    def decode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, outputs: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Convert scores (N, C + G, H, W) to the two class maps uint8 of each image, cropped to its (height, width)."""
        semantic, geometric = (FCN.decode(self, scores, sizes) for scores in self.split(outputs))
        return list(zip(semantic, geometric, strict=True))
