"""Dense output of a network with stride, by shift-and-stitch or by dilated filters (FCN section 3.2).

Shift-and-stitch runs the network for each shift of its input and interlaces the outputs. The "à trous" algorithm runs
it once, with all strides set to 1 and each later filter dilated by the removed strides. The results are equal.

N images, C classes, H W pixels, h w cells of the dense map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

from torch import Tensor, fx, nn
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.models.classifiers.convolutionalize import operation_of, trace


def shift_and_stitch(net: Callable[[Tensor], Tensor], images: Tensor, stride: int, step: int = 1) -> Tensor:
    """Run a network on all shifts of images (N, 3, H, W) and interlace the outputs to (N, C, h, w) of stride `step`.

    The image is shifted to the right and down, and padded with zeros. For a network without padding and with receptive
    field R, the map has (H - R) // step + 1 rows, one for each position of the field within the image.

    Args:
        net: images (N, 3, H, W) -> map of `stride`.
        images: the images.
        stride: stride of the network.
        step: pixels between two shifts, a divisor of `stride`; the network runs (stride / step)**2 times.
    """
    assert stride % step == 0, f"stride {stride} is no multiple of step {step}"
    shifts = range(0, stride, step)
    runs = {(y, x): net(F.pad(images, (x, 0, y, 0))) for y in shifts for x in shifts}
    # After a shift by x, cell i is at pixel stride * i - x; only the first cell can lie outside the image.
    runs = {(y, x): cells[:, :, min(y, 1) :, min(x, 1) :] for (y, x), cells in runs.items()}
    height = sum(runs[y, 0].shape[2] for y in shifts)
    width = sum(runs[0, x].shape[3] for x in shifts)

    every = stride // step
    stitched = runs[0, 0].new_empty(*runs[0, 0].shape[:2], height, width)
    for (y, x), cells in runs.items():
        stitched[:, :, -y // step % every :: every, -x // step % every :: every] = cells
    return stitched


def dilate(net: nn.Module) -> fx.GraphModule:
    """Return a copy of a network with all strides 1 and each window dilated by the strides before it.

    The output equals that of shift-and-stitch wherever the receptive field lies within the image. Padding is dilated
    too, which keeps cells aligned with pixels; near the border the two algorithms pad differently.

    Raises:
        UserError: a layer with a window is no convolution or pooling layer of torch, or is used twice.
    """
    dense = trace(copy.deepcopy(net))
    rates: dict[fx.Node, int] = {}
    dilated: set[str] = set()
    for node in dense.graph.nodes:
        rates[node] = rate = max((rates[source] for source in node.all_input_nodes), default=1)
        layer, name = operation_of(dense, node), str(node.target)
        if not isinstance(layer, nn.Module) or not hasattr(layer, "kernel_size"):
            continue
        if name in dilated:
            raise UserError(f"layer {name} is used twice, and can't be dilated for both uses")
        dilated.add(name)
        dense.set_submodule(name, _dilated(name, layer, rate))
        rates[node] = rate * _stride(name, layer)
    dense.recompile()
    return dense


class DilatedAvgPool2d(nn.Module):
    """Dilated average pooling of stride 1: (N, C, H, W) -> (N, C, h, w)."""

    def __init__(self, kernel_size: tuple[int, int], padding: tuple[int, int], dilation: int) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation

    def forward(self, maps: Tensor) -> Tensor:
        channels = maps.flatten(0, 1).unsqueeze(1)  # channels are pooled separately
        window = maps.new_full((1, 1, *self.kernel_size), 1 / math.prod(self.kernel_size))
        averages = F.conv2d(channels, window, padding=self.padding, dilation=self.dilation)
        return averages.squeeze(1).unflatten(0, maps.shape[:2])


def _dilated(name: str, layer: nn.Module, rate: int) -> nn.Module:
    if type(layer) is nn.Conv2d:
        return _dilated_convolution(name, layer, rate)
    if type(layer) is nn.MaxPool2d:
        height, width = _times(rate, layer.padding)
        # a separate layer, because torch's pooling pads by at most half the kernel
        border = nn.ConstantPad2d((width, width, height, height), float("-inf"))
        return nn.Sequential(border, nn.MaxPool2d(layer.kernel_size, 1, dilation=_times(rate, layer.dilation)))
    if type(layer) is nn.AvgPool2d:
        kernel, padding = _pair(layer.kernel_size), _times(rate, layer.padding)
        if layer.divisor_override or (any(padding) and not layer.count_include_pad):
            raise UserError(
                f"layer {name} can't be dilated: divisor_override and count_include_pad=False are not supported"
            )
        return DilatedAvgPool2d(kernel, padding, rate)
    raise UserError(f"layer {name} is a {type(layer).__name__}, which can't be dilated")


def _dilated_convolution(name: str, layer: nn.Conv2d, rate: int) -> nn.Conv2d:
    if isinstance(layer.padding, str):
        raise UserError(f"layer {name} has padding {layer.padding!r}: give its padding in pixels")
    convolution = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        padding=_times(rate, layer.padding),
        dilation=_times(rate, layer.dilation),
        groups=layer.groups,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    convolution.weight, convolution.bias = layer.weight, layer.bias
    return convolution


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def _times(rate: int, value: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = _pair(value)
    return rate * height, rate * width


def _stride(name: str, layer: nn.Module) -> int:
    assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    height, width = _pair(layer.stride)
    if height != width:
        raise UserError(f"layer {name} has stride {height}x{width}: only square strides are supported")
    return height
