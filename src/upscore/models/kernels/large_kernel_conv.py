"""Convolutions with large weights on small maps, as fc6 of VGG16, which are limited by memory bandwidth.

N images, C input and O output channels, kernel size k, P = N * h * w output cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from upscore.models.precision import autocasts_to_bfloat16

OUTPUT_BLOCK = 1024
"""Output channels that are converted to or from bfloat16 at a time, to avoid a second copy of all weights."""


class LargeKernelConv2d(nn.Conv2d):
    """A convolution of stride 1 that is trained by matrix products under bfloat16 autocast on a CPU.

    oneDNN's gradient of such a convolution takes several times as long as the equivalent matrix products. In all other
    cases it is an ordinary convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not (trained and input.device.type == "cpu" and autocasts_to_bfloat16(input.device)):
            return super().forward(input)
        assert isinstance(self.padding[0], int)
        return _ConvAsMatmul.apply(input, self.weight, self.bias, self.padding[0])  # pyright: ignore[reportReturnType]


class _ConvAsMatmul(torch.autograd.Function):
    """A convolution as the product of windows (P, k * k * C) and weights (k * k * C, O), channels last in memory."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
        side = weight.shape[-1]
        border = (0, 0, padding, padding, padding, padding)
        padded = F.pad(inputs.to(torch.bfloat16).permute(0, 2, 3, 1), border)
        windows = padded.unfold(1, side, 1).unfold(2, side, 1).permute(0, 1, 2, 4, 5, 3)
        rows = windows.flatten(3).flatten(0, 2)
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.padding, ctx.dtype = windows.shape, padding, inputs.dtype
        images, height, width = windows.shape[:3]
        size = (images, len(weight), height, width)
        outputs = torch.empty(size, dtype=torch.bfloat16, memory_format=torch.channels_last)
        output_blocks = outputs.permute(0, 2, 3, 1).flatten(0, 2).split(OUTPUT_BLOCK, dim=1)
        for block, block_weight, block_bias in zip(
            output_blocks, _weight_blocks(weight), bias.split(OUTPUT_BLOCK), strict=True
        ):
            block.copy_(torch.addmm(block_bias.to(torch.bfloat16), rows, block_weight.T))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight = ctx.saved_tensors
        cells = upstream.to(torch.bfloat16).permute(0, 2, 3, 1).flatten(0, 2)
        grad_inputs = None
        if ctx.needs_input_grad[0]:
            grad_rows = torch.zeros(rows.shape)
            for block_weight, block in zip(_weight_blocks(weight), cells.split(OUTPUT_BLOCK, dim=1), strict=True):
                grad_rows += block @ block_weight
            grad_inputs = _fold(grad_rows.view(ctx.shape), ctx.padding).to(ctx.dtype)
            del grad_rows
        grad_weight = _outer(cells, rows, weight.dtype).unflatten(1, ctx.shape[3:]).permute(0, 3, 1, 2)
        return grad_inputs, grad_weight, cells.sum(0, dtype=torch.float32).to(weight.dtype), None


def _weight_blocks(weight: Tensor) -> Iterator[Tensor]:
    """Yield blocks of the weights in bfloat16, (up to `OUTPUT_BLOCK`, k * k * C)."""
    for block in weight.split(OUTPUT_BLOCK):
        yield block.to(torch.bfloat16).permute(0, 2, 3, 1).flatten(1)


def _fold(windows: Tensor, padding: int) -> Tensor:
    """Sum overlapping windows (N, h, w, k, k, C) to a map (N, C, H, W) in float32."""
    images, height, width, side, _, channels = windows.shape
    padded = torch.zeros(images, height + side - 1, width + side - 1, channels)
    for y in range(side):
        for x in range(side):
            padded[:, y : y + height, x : x + width] += windows[:, :, :, y, x]
    inner = padded[:, padding : padded.shape[1] - padding, padding : padded.shape[2] - padding]
    return inner.permute(0, 3, 1, 2)


def _outer(cells: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `cells.T @ rows`: (P, O) and (P, D) -> (O, D)."""
    # oneDNN is several times faster if the summed dimension is the last one in memory of both factors
    left, right = cells.T.contiguous(), rows.T.contiguous().T
    product = torch.empty(left.shape[0], right.shape[1], dtype=dtype)
    for block, left_block in zip(product.split(OUTPUT_BLOCK), left.split(OUTPUT_BLOCK), strict=True):
        block.copy_(left_block @ right)
    return product
