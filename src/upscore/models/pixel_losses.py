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
from upscore.models.precision import in_float32

AT_ONCE = 2**24
"""Scores of pixels (64 MiB), of which a loss and its gradient keep several copies; where there are more, it is taken in
blocks."""

BLOCK = 2**20
"""Scores of pixels in a block, or as many as a row has; a block that stays in the processor's cache is the fastest."""

PixelLoss = Callable[[Tensor, Tensor], Tensor]
"""Scores (N, C, rows, W) and targets (N, rows, W) -> a sum over the pixels."""


@dataclass(frozen=True, slots=True)
class PendingScores:
    """What a network returns in training where scores of pixels would be many: upsampled as they are needed."""

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
        with in_float32(self.scores.device):
            return self.rows @ (self.scores.float() @ self.columns.T)


def pixel_sum(scores: Tensor | PendingScores, targets: Tensor, loss: PixelLoss) -> Tensor:
    """The loss of scores over all pixels; of pending ones, that of their `upsampled` up to rounding."""
    if isinstance(scores, Tensor):
        return loss(scores, targets)
    return _InBlocks.apply(scores.scores, scores.rows, scores.columns, targets, loss)  # pyright: ignore[reportReturnType]


def softmax_sum(scores: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of scores (N, C, H, W) with class maps (N, H, W), summed over the pixels that are not void."""
    return F.cross_entropy(scores.float(), targets.long(), class_weights, ignore_index=VOID, reduction="sum")


class _InBlocks(torch.autograd.Function):
    """A block's gradient is computed with its loss, and nothing else is kept of it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor, columns: Tensor, targets: Tensor, loss: PixelLoss) -> Tensor:
        with in_float32(scores.device):
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
