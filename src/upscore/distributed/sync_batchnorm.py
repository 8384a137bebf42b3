"""Batch normalisation with the statistics of all processes (Peng et al. 2018, "MegDet", section 3.2).

Unlike torch's SyncBatchNorm, it also runs on CPUs and does not replace layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_ARGUMENTS = inspect.signature(F.batch_norm)


class SyncBatchNorm(TorchFunctionMode):
    """Context in which batches are normalised by the mean and variance over all processes.

    All processes must enter it together. Layers in evaluation mode are not affected.

    Args:
        counts: whether the images of this process contribute to the statistics.
    """

    def __init__(self, *, counts: bool = True) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            bound = _ARGUMENTS.bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            if bound.arguments["training"]:
                return _normalised(**bound.arguments, counts=self.counts)
        return func(*args, **(kwargs or {}))


class _Sum(torch.autograd.Function):
    """Sum over all processes; the backward pass sums the gradients, since each loss depends on all summands."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _sum(values: Tensor) -> Tensor:
    summed = _Sum.apply(values)
    assert isinstance(summed, Tensor)
    return summed


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    counts: bool,
) -> Tensor:
    """Compute `torch.nn.functional.batch_norm` in training mode over the batches of all processes."""
    values, over = input.float(), [axis for axis in range(input.ndim) if axis != 1]
    shape = [1, -1] + [1] * (input.ndim - 2)
    share = float(counts)
    number = values.new_tensor([share * values.numel() / values.shape[1]])
    count, total = _sum(torch.cat([number, share * values.sum(over)])).split([1, values.shape[1]])
    mean = total / count
    centred = values - mean.view(shape)
    squares = _sum(share * centred.square().sum(over))  # of centred values; E[x^2] - E[x]^2 would cancel
    variance = squares / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(squares / (count - 1).clamp(min=1), momentum)
    scale = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
    normalised = centred * scale.view(shape)
    return (normalised if bias is None else normalised + bias.view(shape)).to(input.dtype)
