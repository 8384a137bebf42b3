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

from torch import nn

WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True, slots=True)
class CoordinateMap:
    """`x -> scale * x + shift`, in exact fractions; the identity by default."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def then(self, following: CoordinateMap) -> CoordinateMap:
        """This map first, `following` after it."""
        return CoordinateMap(self.scale * following.scale, following.scale * self.shift + following.shift)


def _first(value: int | str | tuple[int, ...]) -> int:
    first = value[0] if isinstance(value, tuple) else value
    assert isinstance(first, int), f'padding "{first}" has no fixed size'
    return first


def layer_window(layer: nn.Module) -> tuple[int, int, int]:
    """Kernel (as wide as its dilation makes it), stride and padding; 1, 1, 0 for layers without a window."""
    if not isinstance(layer, (*WINDOWS, nn.ConvTranspose2d)):
        return 1, 1, 0
    kernel = _first(getattr(layer, "dilation", 1)) * (_first(layer.kernel_size) - 1) + 1
    return kernel, _first(layer.stride), _first(layer.padding)


def layer_map(layer: nn.Module) -> CoordinateMap:
    """The coordinate map of one layer; the identity for layers without a window."""
    kernel, stride, padding = layer_window(layer)
    if isinstance(layer, nn.ConvTranspose2d):
        return CoordinateMap(Fraction(stride), Fraction(kernel - 1, 2) - padding)
    return CoordinateMap(Fraction(1, stride), (padding - Fraction(kernel - 1, 2)) / stride)


def path_map(layers: Iterable[nn.Module]) -> CoordinateMap:
    """The coordinate map of a chain of layers."""
    total = CoordinateMap()
    for layer in layers:
        total = total.then(layer_map(layer))
    return total


def centred(stride: int) -> CoordinateMap:
    """Cells of `stride` pixels side by side, each one's coordinate at its centre: the only map that mirroring keeps.

    Networks trained on mirrored photos settle there whatever their padding. The cells of the embedded
    EfficientNet-Lite0 are found at 3.4, 9.3 and 17.5 pixels for strides 8, 16 and 32, where this says 3.5, 7.5 and
    15.5, and the windows of its layers alone 7, 15 and 31 (`tests/models/test_backbones.py` measures it).
    """
    return CoordinateMap(Fraction(1, stride), Fraction(1 - stride, 2 * stride))
