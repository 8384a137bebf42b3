"""Pixel losses of an FCN, which upsample scores of large images in blocks to save memory.

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

MAX_SCORES = 2**24
"""Number of pixel scores (64 MiB in float32) above which the loss is computed in blocks."""

BLOCK_SIZE = 2**20
"""Number of pixel scores in a block, but at least one row; blocks that fit into the CPU's cache are the fastest."""

PixelLoss = Callable[[Tensor, Tensor], Tensor]
"""Scores (N, C, rows, W) and targets (N, rows, W) -> the sum of the loss over pixels."""


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Coarse scores and the matrices that upsample them, which the loss applies block by block."""

    scores: Tensor
    """(N, C, h, w)."""
    rows: Tensor
    """(H, h), the upsampling matrix of rows."""
    columns: Tensor
    """(W, w), the upsampling matrix of columns."""

    @property
    def is_large(self) -> bool:
        """Whether there are more than `MAX_SCORES` pixel scores."""
        images, classes = self.scores.shape[:2]
        return images * classes * len(self.rows) * len(self.columns) > MAX_SCORES

    def upsampled(self) -> Tensor:
        """Return the scores of all pixels, (N, C, H, W)."""
        with autocast_disabled(self.scores.device):
            return self.rows @ (self.scores.float() @ self.columns.T)


def pixel_sum(scores: Tensor | PendingScores, targets: Tensor, loss: PixelLoss) -> Tensor:
    """Return the sum of the loss over all pixels; pending scores give that of `upsampled`, up to rounding."""
    if isinstance(scores, Tensor):
        return loss(scores, targets)
    return _BlockwiseLoss.apply(scores.scores, scores.rows, scores.columns, targets, loss)  # pyright: ignore[reportReturnType]


def softmax_sum(scores: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of scores (N, C, H, W) and class maps (N, H, W), summed over non-void pixels."""
    return F.cross_entropy(scores.float(), targets.long(), class_weights, ignore_index=VOID, reduction="sum")


def sigmoid_sum(scores: Tensor, targets: Tensor, classes: range, class_weights: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of each class, summed over classes and non-void pixels.

    Args:
        scores: (N, C, H, W); the last channels are those of `classes`, preceding channels are ignored.
        targets: class maps (N, H, W).
        classes: the class indices that have a score.
        class_weights: (C,) weights of pixels by their true class.
    """
    truth = targets[:, None] == torch.arange(classes.start, classes.stop, device=targets.device).view(1, -1, 1, 1)
    scores = scores.float()[:, -len(classes) :]
    pixels = F.binary_cross_entropy_with_logits(scores, truth.float(), reduction="none").sum(1)
    return (pixels * pixel_weights(targets, class_weights)).sum()


def pixel_weights(targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the weight of each pixel of (N, H, W): its class's weight of (C,), or True by default; 0 for void."""
    valid = targets != VOID
    return valid if class_weights is None else class_weights[targets.long().masked_fill(~valid, 0)] * valid


class _BlockwiseLoss(torch.autograd.Function):
    """A loss whose gradient is computed block by block in the forward pass, so that no pixel scores are kept."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor, columns: Tensor, targets: Tensor, loss: PixelLoss) -> Tensor:
        with autocast_disabled(scores.device):
            wide = scores.float() @ columns.T
            gradient = torch.zeros_like(wide)
            total = wide.new_zeros(())
            images, classes, _, width = wide.shape
            height = max(1, BLOCK_SIZE // (images * classes * width))
            for block, block_targets in zip(rows.split(height), targets.split(height, dim=1), strict=True):
                block, cells = _nonzero_columns(block)
                with torch.enable_grad():
                    pixels = (block @ wide[:, :, cells]).requires_grad_()
                    block_loss = loss(pixels, block_targets)
                total += block_loss.detach()
                gradient[:, :, cells] += block.T @ torch.autograd.grad(block_loss, pixels)[0]
            ctx.save_for_backward((gradient @ columns).to(scores.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None


def _nonzero_columns(rows: Tensor) -> tuple[Tensor, slice]:
    """Return the nonzero columns of some rows of a bilinear matrix, and the slice of the cells they belong to."""
    used = rows.ne(0).any(dim=0).nonzero()[:, 0]
    cells = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return rows[:, cells], cells
