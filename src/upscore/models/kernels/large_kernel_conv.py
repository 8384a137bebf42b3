"""Convolutions of many channels over a small map, as fc6 of VGG16, whose cost is that of moving their weights.

N images, C and O channels in and out, k the kernel's side, P = N * h * w output cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from upscore.models.precision import autocasts_to_bfloat16

KERNELS_AT_ONCE = 1024
"""Of the O, as many are brought to bfloat16, and their gradients back from it: all of them would be a second copy."""


class LargeKernelConv2d(nn.Conv2d):
    """A convolution of stride 1 that is learned as three matrix products where autocast has it in bfloat16 on a CPU.

    oneDNN's gradient of such a convolution takes several times as long as the product of the same numbers. Everywhere
    else it is what it is called.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        learned = torch.is_grad_enabled() and self.weight.requires_grad
        if not (learned and input.device.type == "cpu" and autocasts_to_bfloat16(input.device)):
            return super().forward(input)
        assert isinstance(self.padding[0], int)
        return _Products.apply(input, self.weight, self.bias, self.padding[0])  # pyright: ignore[reportReturnType]


class _Products(torch.autograd.Function):
    """Windows (P, k * k * C) times weights (k * k * C, O); channels come last, as they lie in memory."""

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
        columns = outputs.permute(0, 2, 3, 1).flatten(0, 2).split(KERNELS_AT_ONCE, dim=1)
        for column, some, shift in zip(columns, _matrices(weight), bias.split(KERNELS_AT_ONCE), strict=True):
            column.copy_(torch.addmm(shift.to(torch.bfloat16), rows, some.T))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight = ctx.saved_tensors
        cells = upstream.to(torch.bfloat16).permute(0, 2, 3, 1).flatten(0, 2)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_rows = torch.zeros(rows.shape)
            for some, column in zip(_matrices(weight), cells.split(KERNELS_AT_ONCE, dim=1), strict=True):
                of_rows += column @ some
            of_inputs = _overlapped(of_rows.view(ctx.shape), ctx.padding).to(ctx.dtype)
            del of_rows
        of_weight = _outer(cells, rows, weight.dtype).unflatten(1, ctx.shape[3:]).permute(0, 3, 1, 2)
        return of_inputs, of_weight, cells.sum(0, dtype=torch.float32).to(weight.dtype), None


def _matrices(weight: Tensor) -> Iterator[Tensor]:
    """Some of the kernels at a time, (some of O, k * k * C) in bfloat16."""
    for some in weight.split(KERNELS_AT_ONCE):
        yield some.to(torch.bfloat16).permute(0, 2, 3, 1).flatten(1)


def _overlapped(windows: Tensor, padding: int) -> Tensor:
    """(N, h, w, k, k, C) -> (N, C, H, W), windows added up where they lie, in float32."""
    images, height, width, side, _, channels = windows.shape
    padded = torch.zeros(images, height + side - 1, width + side - 1, channels)
    for y in range(side):
        for x in range(side):
            padded[:, y : y + height, x : x + width] += windows[:, :, :, y, x]
    inner = padded[:, padding : padded.shape[1] - padding, padding : padded.shape[2] - padding]
    return inner.permute(0, 3, 1, 2)


def _outer(cells: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, O) and (P, D) -> cells' transpose times rows, (O, D)."""
    # oneDNN multiplies several times faster where the dimension that is summed over is the last one of both in memory
    left, right = cells.T.contiguous(), rows.T.contiguous().T
    product = torch.empty(left.shape[0], right.shape[1], dtype=dtype)
    for part, of_rows in zip(product.split(KERNELS_AT_ONCE), left.split(KERNELS_AT_ONCE), strict=True):
        part.copy_(of_rows @ right)
    return product
