"""Where a cell of a feature map lies in the image: the rule that every crop offset follows from.

Along one axis a layer of kernel k, stride s and padding p puts input coordinate x at output coordinate
`x / s + (p - (k - 1) / 2) / s`; a transposed convolution does the reverse, `x * s + (k - 1) / 2 - p`.
Composed along a path (as Caffe's `coord_map` does), two paths that end at the same scale differ by a shift:
that is the offset at which one map has to be cropped to lie over the other (FCN section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True, slots=True)
class CoordinateMap:
    """`x -> scale * x + shift`, in exact fractions; the identity by default."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def then(self, following: CoordinateMap) -> CoordinateMap:
        """This map first, `following` after it."""
        return CoordinateMap(self.scale * following.scale, following.scale * self.shift + following.shift)


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value


def layer_map(layer: nn.Module) -> CoordinateMap:
    """The coordinate map of one layer; the identity for layers without a window."""
    if not isinstance(layer, (*WINDOWS, nn.ConvTranspose2d)):
        return CoordinateMap()
    kernel, stride = _first(layer.kernel_size), _first(layer.stride)
    kernel = _first(getattr(layer, "dilation", 1)) * (kernel - 1) + 1
    if isinstance(layer, nn.ConvTranspose2d):
        return CoordinateMap(Fraction(stride), Fraction(kernel - 1, 2) - _first(layer.padding))
    # TensorFlow's "SAME" pads k - s in all where the stride divides the side, the smaller half first
    padding = (kernel - stride) // 2 if isinstance(layer, Conv2dSame) else _first(layer.padding)
    return CoordinateMap(Fraction(1, stride), (padding - Fraction(kernel - 1, 2)) / stride)


def path_map(layers: Iterable[nn.Module]) -> CoordinateMap:
    """The coordinate map of a chain of layers."""
    total = CoordinateMap()
    for layer in layers:
        total = total.then(layer_map(layer))
    return total


def centred(stride: int) -> CoordinateMap:
    """Cells of `stride` pixels side by side, each one's coordinate at its centre."""
    return CoordinateMap(Fraction(1, stride), Fraction(1 - stride, 2 * stride))


def probe(network: nn.Module, side: int = 256) -> tuple[dict[int, int], dict[int, CoordinateMap]]:
    """Run a network that returns {stride: map} once on a blank square; return its maps' channels and coordinate maps.

    At each resolution the first window with a stride leads on to the next; parallel branches (a residual shortcut)
    agree with it up to half a pixel. Where no such layer leaves a resolution, cells are taken to be centred.
    """
    steps: dict[int, tuple[int, CoordinateMap]] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape[-1] < inputs[0].shape[-1]:
            steps.setdefault(inputs[0].shape[-1], (output.shape[-1], layer_map(layer)))

    hooks = [layer.register_forward_hook(record) for layer in network.modules() if isinstance(layer, WINDOWS)]
    training = network.training
    try:
        with torch.no_grad():  # in evaluation mode, which leaves running statistics alone
            maps = network.eval()(torch.zeros(1, 3, side, side))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()

    coordinates = {}
    for stride in maps:
        at, total = side, CoordinateMap()
        while at > side // stride:
            at, step = steps.get(at, (at // 2, centred(2)))
            total = total.then(step)
        coordinates[stride] = total
    return {stride: features.shape[1] for stride, features in maps.items()}, coordinates
