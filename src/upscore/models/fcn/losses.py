"""The loss of every pixel, without the scores of all pixels at once.

N images, C classes, h w cells of the coarse scores, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from upscore.labels import VOID
from upscore.models.precision import autocast_disabled

AT_ONCE = 2**24
"""Scores of pixels (64 MiB), of which a loss and its gradient keep several copies; where there are more, it is taken in
blocks."""

BLOCK = 2**20
"""Scores of pixels in a block, or as many as a row has; a block that stays in the processor's cache is the fastest."""

PixelLoss = Callable[[Tensor, Tensor], Tensor]
"""Scores (N, C, rows, W) and targets (N, rows, W) -> a sum over the pixels."""


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Coarse scores and their upsampling to pixels, which the loss computes block by block."""

    scores: Tensor
    """(N, C, h, w)."""
    rows: Tensor
    """(H, h), what of each row of cells a row of pixels is made of."""
    columns: Tensor
    """(W, w), as `rows`."""

    @property
    def many(self) -> bool:
        """Whether there are more scores of pixels than are taken at once."""
        images, classes = self.scores.shape[:2]
        return images * classes * len(self.rows) * len(self.columns) > AT_ONCE

    def upsampled(self) -> Tensor:
        """(N, C, H, W), all at once."""
        with autocast_disabled(self.scores.device):
            return self.rows @ (self.scores.float() @ self.columns.T)


def pixel_sum(scores: Tensor | PendingScores, targets: Tensor, loss: PixelLoss) -> Tensor:
    """The loss of scores over all pixels; of pending ones, that of their `upsampled` up to rounding."""
    if isinstance(scores, Tensor):
        return loss(scores, targets)
    return _InBlocks.apply(scores.scores, scores.rows, scores.columns, targets, loss)  # pyright: ignore[reportReturnType]


def softmax_sum(scores: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of scores (N, C, H, W) with class maps (N, H, W), summed over the pixels that are not void."""
    return F.cross_entropy(scores.float(), targets.long(), class_weights, ignore_index=VOID, reduction="sum")


def sigmoid_sum(scores: Tensor, targets: Tensor, classes: range, class_weights: Tensor | None = None) -> Tensor:
    """A yes or no for each of the classes, summed over them and over the pixels of (N, H, W) that are not void.

    The classes' scores are the last of (N, C, H, W): a background without a score of its own is not among the classes,
    and may be left out of the scores.
    """
    truth = targets[:, None] == torch.arange(classes.start, classes.stop, device=targets.device).view(1, -1, 1, 1)
    own = scores.float()[:, -len(classes) :]
    pixels = F.binary_cross_entropy_with_logits(own, truth.float(), reduction="none").sum(1)
    return (pixels * pixel_weights(targets, class_weights)).sum()


def pixel_weights(targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """What each pixel of (N, H, W) counts: its class's weight of (C,), or without weights True; 0 of void."""
    valid = targets != VOID
    return valid if class_weights is None else class_weights[targets.long().masked_fill(~valid, 0)] * valid


class _InBlocks(torch.autograd.Function):
    """A block's gradient is computed with its loss, and nothing else is kept of it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor, columns: Tensor, targets: Tensor, loss: PixelLoss) -> Tensor:
        with autocast_disabled(scores.device):
            wide = scores.float() @ columns.T
            gradient = torch.zeros_like(wide)
            total = wide.new_zeros(())
            images, classes, _, width = wide.shape
            height = max(1, BLOCK // (images * classes * width))
            for some, wanted in zip(rows.split(height), targets.split(height, dim=1), strict=True):
                some, cells = _touched(some)
                with torch.enable_grad():
                    pixels = (some @ wide[:, :, cells]).requires_grad_()
                    part = loss(pixels, wanted)
                total += part.detach()
                gradient[:, :, cells] += some.T @ torch.autograd.grad(part, pixels)[0]
            ctx.save_for_backward((gradient @ columns).to(scores.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None


def _touched(rows: Tensor) -> tuple[Tensor, slice]:
    """A few rows of a bilinear matrix -> the part that is not zero, and which cells it is about."""
    used = rows.ne(0).any(dim=0).nonzero()[:, 0]
    cells = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return rows[:, cells], cells
