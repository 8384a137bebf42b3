"""Fully convolutional networks (Shelhamer, Long, Darrell: FCN section 4, figure 3).

N images, C classes, h w cells of a score map, H W pixels. Feature maps of the backbone are keyed by their stride:
{8: pool3, 16: pool4, 32: fc7}.

Names of the paper's layers in this module: `score_fr` is score["32"], `score_pool4` is score["16"] and `score_pool3` is
score["8"]. Upsampling layers are keyed by the stride of their output: `upscore2` is upscore["16"], `upscore_pool4` is
upscore["8"], and the last layer (`upscore`, `upscore16` or `upscore8`) is upscore["1"].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.backbones.base import Backbone
from upscore.models.coordinate_maps import CoordinateMap
from upscore.models.fcn.losses import PendingScores, pixel_sum, pixel_weights, sigmoid_sum, softmax_sum
from upscore.models.fcn.upsampling import Upsample
from upscore.models.loss_sum import EPS
from upscore.models.precision import autocast_disabled
from upscore.models.preprocessing import Preprocessing

AT_ONCE_SCALES = {16: 1e-2, 8: 1e-4}
"""Factors for pool4 and pool3 with which all strides are trained at once (FCN section 4.3)."""

PixelLoss = Literal["softmax", "sigmoid"]

Upsampling = Literal["fixed", "intermediate", "learned"]
"""Which transposed convolutions are learned: none (the published networks), all but the last (the paper's text), or
all."""


class FCNHead(nn.Module):
    """The layers of an FCN after its backbone: score layers, upsampling and skip connections.

    Args:
        backbone: the backbone, of which channels, coordinates and border are read; it has a map for each of `strides`.
        num_classes, strides, skip_scales, upsampling, grouped: see `FCN`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        strides: Sequence[int],
        skip_scales: Mapping[int, float] | None,
        upsampling: Upsampling,
        grouped: bool,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.skip_scales = dict(skip_scales or {})
        self.score = nn.ModuleDict({str(s): nn.Conv2d(backbone.channels[s], num_classes, 1) for s in self.strides})
        for parameter in self.score.parameters():  # zeros train as well as random values (FCN section 4.1)
            nn.init.zeros_(parameter)

        self.upscore = nn.ModuleDict()
        self.offsets: dict[int, int] = {}
        current = backbone.coordinates[self.strides[0]]
        for coarse, fine in zip(self.strides, (*self.strides[1:], 1), strict=True):
            target = backbone.coordinates[fine] if fine > 1 else CoordinateMap()
            factor = coarse // fine
            # an even kernel shifts cell centres by half a pixel, an odd one does not: use the one that aligns exactly
            kernel_size = 2 * factor - int((factor * current.shift - target.shift).denominator == 1)
            learned = upsampling == "learned" or (upsampling == "intermediate" and fine > 1)
            layer = Upsample(num_classes, factor, kernel_size, border=backbone.border, learned=learned, grouped=grouped)
            current = current.then(layer.coordinates)
            self.offsets[fine] = round(target.shift - current.shift)
            current = CoordinateMap(current.scale, current.shift + min(0, self.offsets[fine]))
            self.upscore[str(fine)] = layer

    @property
    def crops(self) -> dict[int, int]:
        """Stride of the output (1: the image) -> crop offset in cells or pixels; {16: 5, 8: 9, 1: 31} as published.

        The finer scores are cropped to the upsampled ones, and the last upsampled scores are cropped to the image.
        """
        return {stride: abs(offset) for stride, offset in self.offsets.items()}

    def fuse_scores(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Score feature maps {stride: map} and sum the scores at the finest stride, (N, C, h, w)."""
        scores = self._score(maps, self.strides[0])
        for stride in self.strides[1:]:
            scores = self._fuse(scores, self._score(maps, stride), stride)
        return scores

    def upsample_scores(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample the summed scores (N, C, h, w) to an image of size (H, W) and crop them: (N, C, H, W)."""
        return self.upscore["1"](scores, -self.offsets[1], size)

    def pending(self, scores: Tensor, size: tuple[int, int]) -> PendingScores | None:
        """Return coarse scores that the loss upsamples in blocks.

        Returns:
            None in evaluation mode, without gradients, or if the last upsampling is learned.
        """
        upsample = cast(Upsample, self.upscore["1"])
        if not (self.training and torch.is_grad_enabled()) or upsample.deconvolution is not None:
            return None
        return PendingScores(scores, *upsample.matrices(scores, -self.offsets[1], size))

    def _score(self, maps: Mapping[int, Tensor], stride: int) -> Tensor:
        features = maps[stride]
        if stride in self.skip_scales:
            features = features * self.skip_scales[stride]
        # always float32: the layer is cheap, and oneDNN's bfloat16 gradient from 4096 to 11 channels corrupts memory
        with autocast_disabled(features.device):
            return self.score[str(stride)](features.float())

    def _fuse(self, coarse: Tensor, fine: Tensor, stride: int) -> Tensor:
        """Upsample the coarse scores, crop them or the finer ones so that they align, and add."""
        upsample, offset = cast(Upsample, self.upscore[str(stride)]), self.offsets[stride]
        start, fine_start = max(0, -offset), max(0, offset)
        height, width = (
            min(upsample.output_size(coarse_side) - start, fine_side - fine_start)
            for coarse_side, fine_side in zip(coarse.shape[-2:], fine.shape[-2:], strict=True)
        )
        fine = fine[..., fine_start : fine_start + height, fine_start : fine_start + width]
        return upsample(coarse, start, (height, width)) + fine


class FCN(FCNHead):
    """Fully convolutional network: FCN-32s, FCN-16s or FCN-8s, by `strides`.

    Args:
        backbone: the classifier's convolutions, with a feature map for each of `strides`.
        num_classes: C, including the background if there is one.
        strides: strides of the scored maps from coarse to fine: (32,), (32, 16), (32, 16, 8), or a single finer one.
        skip_scales: stride -> factor for the features of that map before they are scored, as `AT_ONCE_SCALES`.
        upsampling: which upsampling layers are learned.
        grouped: learned upsampling has one kernel per class; False: dense kernels that mix classes, as in Caffe.
        pixel_loss: softmax cross-entropy, or a binary cross-entropy for each class.
        null_background: class 0 has the constant score 0 instead of a score layer (section 6.1).
    """

    task = "semantic"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        strides: Sequence[int] = (32, 16, 8),
        skip_scales: Mapping[int, float] | None = None,
        upsampling: Upsampling = "fixed",
        grouped: bool = True,
        pixel_loss: PixelLoss = "softmax",
        null_background: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            num_classes - null_background,
            strides=strides,
            skip_scales=skip_scales,
            upsampling=upsampling,
            grouped=grouped,
        )
        self.backbone = backbone
        self.num_classes = num_classes
        self.pixel_loss, self.null_background = pixel_loss, null_background
        self.classes = [f"class_{index}" for index in range(num_classes)]
        self.class_weights: Tensor | None = None
        """(C,) weights of the classes in the loss; None: equal weights. Used in training only, and not saved."""
        self.architecture: dict[str, str | int | bool] = {}
        """The arguments of `build` that rebuild this network; empty if it was not made by `build`."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the input of `forward`."""
        return self.backbone.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Compute the class scores of each pixel, which are the logits of `pixel_loss`.

        Args:
            images: preprocessed images (N, 3, H, W) float32 of any size; (N, 3 + D, H, W) with depth.

        Returns:
            (N, C, H, W).
        """
        return self.add_background(
            self.upsample_scores(self.coarse_scores(images), (images.shape[-2], images.shape[-1]))
        )

    def forward_for_loss(self, images: Tensor) -> Tensor | PendingScores:
        """Compute the input of `losses` for images (N, 3, H, W), in less memory than `forward` for large images.

        Returns:
            The scores of `forward`; or the coarse scores, which `losses` upsamples in blocks, if gradients are recorded
            in training mode, the last upsampling is not learned, and there are more than `losses.MAX_SCORES` scores.
        """
        scores, size = self.coarse_scores(images), (images.shape[-2], images.shape[-1])
        pending = self.pending(scores, size)
        if pending is not None and pending.is_large:
            return pending
        return self.add_background(self.upsample_scores(scores, size))

    def coarse_scores(self, images: Tensor) -> Tensor:
        """Compute the summed scores (N, C, h, w) at the finest stride for preprocessed images (N, 3, H, W).

        With `null_background` they have C - 1 channels.
        """
        return self.fuse_scores(self.backbone(self.backbone.padded(images)))

    def add_background(self, scores: Tensor) -> Tensor:
        """Prepend the constant background score 0 if `null_background` is set: (N, C, H, W)."""
        return F.pad(scores, (0, 0, 0, 0, 1, 0)) if self.null_background else scores

    def losses(
        self,
        outputs: Tensor | PendingScores,
        targets: Tensor,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy of all pixels that are not void.

        With the sigmoid loss, the loss of a pixel is the sum over the classes.

        Args:
            outputs: scores (N, C, H, W) of `forward`, or the output of `forward_for_loss`.
            targets: class maps (N, H, W).
            reduction: "sum" over pixels, as in the paper (FCN section 4.3), or "mean": the sum divided by the sum of
                the pixel weights; zero if all pixels are void.

        Returns:
            {"cross_entropy": scalar}.
        """
        pixels = pixel_sum(outputs, targets, self._sum)
        if reduction == "mean":
            pixels = pixels / self.counts(targets)["cross_entropy"].clamp(min=EPS)
        return {"cross_entropy": pixels}

    def counts(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the normaliser of each loss: the number of pixels that are not void, or the sum of their weights."""
        weights = None if self.class_weights is None else self.class_weights.to(targets.device)
        return {"cross_entropy": pixel_weights(targets, weights).sum()}

    def _sum(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the loss over pixels; with `null_background`, the scores may lack class 0."""
        class_weights = None if self.class_weights is None else self.class_weights.to(scores.device)
        if self.pixel_loss == "softmax":
            return softmax_sum(scores, targets, class_weights)
        return sigmoid_sum(scores, targets, range(self.null_background, self.num_classes), class_weights)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Convert class scores (C, ...) to probabilities: a softmax over classes, or with the sigmoid loss a sigmoid.

        With `null_background`, the probability of class 0 is then 0.5.
        """
        return scores.softmax(0) if self.pixel_loss == "softmax" else scores.sigmoid()

    def decode(self, outputs: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Convert scores (N, C, H, W) to class maps uint8, each cropped to the (height, width) of its image."""
        # several times faster than argmax over channels
        class_maps = outputs.max(dim=1).indices.to(torch.uint8)
        return [class_map[:height, :width] for class_map, (height, width) in zip(class_maps, sizes, strict=True)]
