"""Sparse backward pass for the RPN head: of some 100,000 anchors of an image, at most 256 have a gradient.

N images, C channels, A anchors per cell, S cells with a gradient; a map is h x w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SparseRPNHead(torch.autograd.Function):
    """The RPN head: a 3x3 convolution in bfloat16, a ReLU, and two 1x1 convolutions in float32.

    The backward pass recomputes only the 3x3 windows of cells with a gradient; no activations are kept. The arguments
    of `apply` are the map (N, C, h, w) and the weights and biases of the 3x3 convolution (bfloat16), of the objectness
    and of the deltas. It returns objectness (N, A, h, w) and deltas (N, 4A, h, w).
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, w1, b1, w2, b2 = parameters
        ctx.save_for_backward(features, *parameters)
        hidden = F.conv2d(features.to(torch.bfloat16), weight, bias, padding=1).relu_().float()
        return F.conv2d(hidden, w1, b1), F.conv2d(hidden, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_objectness: Tensor, grad_deltas: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, *parameters = ctx.saved_tensors
        upstream = torch.cat([grad_objectness, grad_deltas], dim=1).permute(0, 2, 3, 1)
        image, y, x = (upstream != 0).any(dim=-1).nonzero().unbind(1)
        if not len(image):
            return (None,) * (1 + len(parameters))
        rows = features.permute(0, 2, 3, 1)
        images, height, width, _ = rows.shape
        window = torch.arange(-1, 2, device=rows.device)
        ys, xs = (y[:, None] + window)[:, :, None], (x[:, None] + window)[:, None]
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        index = (image[:, None, None], ys.clamp(0, height - 1), xs.clamp(0, width - 1))
        with torch.enable_grad():
            windows = (rows[index].to(torch.bfloat16) * inside[..., None]).requires_grad_()
            parameters = [parameter.detach().requires_grad_() for parameter in parameters]
            outputs = torch.cat(_head(windows, *parameters), dim=1)
            grad_windows, *grad_parameters = torch.autograd.grad(outputs, [windows, *parameters], upstream[image, y, x])
        grad_map = torch.zeros(images, height, width, features.shape[1], dtype=features.dtype, device=features.device)
        grad_map.index_put_(index, grad_windows.to(grad_map.dtype) * inside[..., None], accumulate=True)
        return grad_map.permute(0, 3, 1, 2), *grad_parameters


def _head(windows: Tensor, weight: Tensor, bias: Tensor, *predictors: Tensor) -> list[Tensor]:
    """Apply the head to windows (S, 3, 3, C): objectness (S, A) and deltas (S, 4A)."""
    hidden = F.linear(windows.flatten(1), weight.permute(0, 2, 3, 1).flatten(1), bias).relu().float()
    return [F.linear(hidden, w.flatten(1), b) for w, b in (predictors[:2], predictors[2:])]
