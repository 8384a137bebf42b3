"""Fully convolutional networks (Shelhamer, Long, Darrell: FCN section 4, figure 3).

N images, C classes, H W pixels; a backbone's maps are named by their stride: {8: pool3, 16: pool4, 32: fc7}.

The paper's layers and ours: `score_fr` is score["32"], `score_pool4` score["16"], `score_pool3` score["8"];
`upscore2` is upscore["16"], `upscore_pool4` upscore["8"] (each named by the stride it reaches), and the last one,
`upscore`, `upscore16` or `upscore8`, is upscore["1"].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.backbones.base import Backbone
from upscore.models.fcn.losses import PendingScores, pixel_sum, pixel_weights, sigmoid_sum, softmax_sum
from upscore.models.fcn.upsampling import Upsample
from upscore.models.geometry import CoordinateMap
from upscore.models.losses import EPS
from upscore.models.precision import autocast_disabled
from upscore.models.preprocessing import Preprocessing

AT_ONCE_SCALES = {16: 1e-2, 8: 1e-4}
"""What pool4 and pool3 are multiplied by so that all strides can be trained at once (FCN section 4.3)."""

PixelLoss = Literal["softmax", "sigmoid"]

Upsampling = Literal["fixed", "intermediate", "learned"]
"""Which transposed convolutions are learned: none (the released nets), all but the last (the paper's text), or all."""


class FCNHead(nn.Module):
    """All of an FCN but the convolutions it stands on: maps are scored, coarse scores upsampled, finer ones added.

    Args:
        backbone: whose maps are scored, one at each of `strides`.
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
        for parameter in self.score.parameters():  # zeros do as well as noise (FCN section 4.1)
            nn.init.zeros_(parameter)

        self.upscore = nn.ModuleDict()
        self.offsets: dict[int, int] = {}
        at = backbone.coordinates[self.strides[0]]
        for coarse, fine in zip(self.strides, (*self.strides[1:], 1), strict=True):
            target = backbone.coordinates[fine] if fine > 1 else CoordinateMap()
            factor = coarse // fine
            # an even kernel moves cell centres by half a pixel, an odd one does not: take the one that fits exactly
            kernel_size = 2 * factor - int((factor * at.shift - target.shift).denominator == 1)
            learned = upsampling == "learned" or (upsampling == "intermediate" and fine > 1)
            layer = Upsample(num_classes, factor, kernel_size, border=backbone.border, learned=learned, grouped=grouped)
            at = at.then(layer.coordinates)
            self.offsets[fine] = round(target.shift - at.shift)
            at = CoordinateMap(at.scale, at.shift + min(0, self.offsets[fine]))
            self.upscore[str(fine)] = layer

    @property
    def crops(self) -> dict[int, int]:
        """Stride reached (1: the image) -> cells or pixels cropped in front; in Caffe's geometry {16: 5, 8: 9, 1: 31}.

        The finer scores are cropped to the upsampled ones; in the end the upsampled ones are cropped to the image.
        """
        return {stride: abs(offset) for stride, offset in self.offsets.items()}

    def fuse_scores(self, maps: Mapping[int, Tensor]) -> Tensor:
        """{stride: map} -> the summed scores (N, C, h, w) at the finest of the strides."""
        scores = self._score(maps, self.strides[0])
        for stride in self.strides[1:]:
            scores = self._fuse(scores, self._score(maps, stride), stride)
        return scores

    def upsample_scores(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The summed scores (N, C, h, w) -> those of each pixel of an image of this size, (N, C, H, W)."""
        return self.upscore["1"](scores, -self.offsets[1], size)

    def pending(self, scores: Tensor, size: tuple[int, int]) -> PendingScores | None:
        """Inputs of a loss in blocks; None in evaluation mode, without gradients, or if the last layer is learned."""
        upsample = cast(Upsample, self.upscore["1"])
        if not (self.training and torch.is_grad_enabled()) or upsample.deconvolution is not None:
            return None
        return PendingScores(scores, *upsample.matrices(scores, -self.offsets[1], size))

    def _score(self, maps: Mapping[int, Tensor], stride: int) -> Tensor:
        features = maps[stride]
        if stride in self.skip_scales:
            features = features * self.skip_scales[stride]
        # in float32 always: they are cheap, and oneDNN's bfloat16 gradient of 4096 to 11 channels corrupts memory
        with autocast_disabled(features.device):
            return self.score[str(stride)](features.float())

    def _fuse(self, coarse: Tensor, fine: Tensor, stride: int) -> Tensor:
        """Upsample the coarse scores, lay the finer ones over them, add."""
        upsample, offset = cast(Upsample, self.upscore[str(stride)]), self.offsets[stride]
        start, skipped = max(0, -offset), max(0, offset)
        height, width = (
            min(upsample.output_size(coarse_side) - start, fine_side - skipped)
            for coarse_side, fine_side in zip(coarse.shape[-2:], fine.shape[-2:], strict=True)
        )
        fine = fine[..., skipped : skipped + height, skipped : skipped + width]
        return upsample(coarse, start, (height, width)) + fine


class FCN(FCNHead):
    """FCN-32s, 16s and 8s in one class: the coarsest map is scored, and each finer one adds its own scores.

    Args:
        backbone: the classifier's convolutions, with a map at each of `strides`.
        num_classes: C, the background included where there is one.
        strides: from coarse to fine: (32,), (32, 16) or (32, 16, 8); or a single finer one.
        skip_scales: stride -> constant on that map's features before they are scored, as `AT_ONCE_SCALES`.
        upsampling: which upsampling layers are learned.
        grouped: learned upsampling keeps the classes apart, instead of Caffe's dense kernels.
        pixel_loss: softmax cross-entropy, or a binary one for each class.
        null_background: class 0 has no score of its own but a constant 0, which the others must exceed (section 6.1).
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
        """(C,) what a pixel of each class counts in the loss; None: all the same. For training, no part of a model."""
        self.architecture: dict[str, str | int | bool] = {}
        """The arguments of `build` that make this network again; empty for one put together by hand."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns pixels into the input of `forward`."""
        return self.backbone.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Compute the class scores of every pixel, the logits of `pixel_loss`.

        Args:
            images: preprocessed, (N, 3, H, W) float32 of any size; (N, 3 + D, H, W) with depth.

        Returns:
            (N, C, H, W).
        """
        return self.add_background(
            self.upsample_scores(self.coarse_scores(images), (images.shape[-2], images.shape[-1]))
        )

    def forward_for_loss(self, images: Tensor) -> Tensor | PendingScores:
        """Compute what `losses` needs of images (N, 3, H, W), in less memory than `forward` for many pixels.

        Returns:
            The scores of `forward`; or, if gradients are recorded in training mode, the upsampling is not learned and
            there are more than `pixel_losses.AT_ONCE` scores, the coarse scores, which `losses` upsamples in blocks.
        """
        scores, size = self.coarse_scores(images), (images.shape[-2], images.shape[-1])
        pending = self.pending(scores, size)
        if pending is not None and pending.many:
            return pending
        return self.add_background(self.upsample_scores(scores, size))

    def coarse_scores(self, images: Tensor) -> Tensor:
        """Preprocessed images (N, 3, H, W) -> the summed scores (N, C, h, w) at the finest of the strides.

        Without the background where it has no score of its own.
        """
        return self.fuse_scores(self.backbone(self.backbone.padded(images)))

    def add_background(self, scores: Tensor) -> Tensor:
        """Scores of the classes that have their own -> those of all C (N, C, H, W), with 0 for a background without."""
        return F.pad(scores, (0, 0, 0, 0, 1, 0)) if self.null_background else scores

    def losses(
        self,
        outputs: Tensor | PendingScores,
        targets: Tensor,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> dict[str, Tensor]:
        """Cross-entropy of scores (N, C, H, W) with class maps (N, H, W) over the pixels that are not void.

        `outputs` are those of `forward` or `forward_for_loss`.

        With the sigmoid loss, a pixel's is the sum over the classes' own. The paper's loss is the sum over pixels (FCN
        section 4.3); the mean is it divided by the sum of the pixels' weights, and zero where there are none.
        """
        pixels = pixel_sum(outputs, targets, self._sum)
        if reduction == "mean":
            pixels = pixels / self.counts(targets)["cross_entropy"].clamp(min=EPS)
        return {"cross_entropy": pixels}

    def counts(self, targets: Tensor) -> dict[str, Tensor]:
        """What each of `losses` as a sum is divided by to be a mean: how many pixels count, or their weights' sum."""
        weights = None if self.class_weights is None else self.class_weights.to(targets.device)
        return {"cross_entropy": pixel_weights(targets, weights).sum()}

    def _sum(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss over pixels as a sum; a background without a score of its own may be left out of the scores."""
        class_weights = None if self.class_weights is None else self.class_weights.to(scores.device)
        if self.pixel_loss == "softmax":
            return softmax_sum(scores, targets, class_weights)
        return sigmoid_sum(scores, targets, range(self.null_background, self.num_classes), class_weights)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class scores (C, ...) -> probabilities: of one class out of all, or with the sigmoid loss of each by itself.

        A background without a score of its own then has a half, which the others must exceed.
        """
        return scores.softmax(0) if self.pixel_loss == "softmax" else scores.sigmoid()

    def decode(self, outputs: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Scores (N, C, H, W) -> the class map (h, w) uint8 of each image, cut to its own size (height, width)."""
        # torch's argmax over channels is several times slower than the indices of its max
        class_maps = outputs.max(dim=1).indices.to(torch.uint8)
        return [class_map[:height, :width] for class_map, (height, width) in zip(class_maps, sizes, strict=True)]
