"""Coordinate maps between an image and its feature maps, from which crop offsets are computed.

Along one axis a layer of kernel k, stride s and padding p puts input coordinate x at output coordinate
`x / s + (p - (k - 1) / 2) / s`; a transposed convolution does the reverse, `x * s + (k - 1) / 2 - p`.
The maps of all layers along a path are composed, as Caffe's `coord_map` does. Two paths that end at the same scale
differ by a shift, which is the offset at which one feature map is cropped to align it with the other (FCN section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True, slots=True)
class CoordinateMap:
    """The affine map `x -> scale * x + shift` in exact fractions; the identity by default."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def then(self, following: CoordinateMap) -> CoordinateMap:
        """Compose two maps: this one first, then `following`."""
        return CoordinateMap(self.scale * following.scale, following.scale * self.shift + following.shift)


def _first(value: int | str | tuple[int, ...]) -> int:
    first = value[0] if isinstance(value, tuple) else value
    assert isinstance(first, int), f'padding "{first}" has no fixed size'
    return first


def layer_window(layer: nn.Module) -> tuple[int, int, int]:
    """Return the kernel size (including dilation), stride and padding of a layer; 1, 1, 0 if it has no window."""
    if not isinstance(layer, (*WINDOWS, nn.ConvTranspose2d)):
        return 1, 1, 0
    kernel = _first(getattr(layer, "dilation", 1)) * (_first(layer.kernel_size) - 1) + 1
    return kernel, _first(layer.stride), _first(layer.padding)


def layer_map(layer: nn.Module) -> CoordinateMap:
    """Return the coordinate map of a layer; the identity if it has no window."""
    kernel, stride, padding = layer_window(layer)
    if isinstance(layer, nn.ConvTranspose2d):
        return CoordinateMap(Fraction(stride), Fraction(kernel - 1, 2) - padding)
    return CoordinateMap(Fraction(1, stride), (padding - Fraction(kernel - 1, 2)) / stride)


def path_map(layers: Iterable[nn.Module]) -> CoordinateMap:
    """Return the coordinate map of a sequence of layers."""
    total = CoordinateMap()
    for layer in layers:
        total = total.then(layer_map(layer))
    return total


def centred(stride: int) -> CoordinateMap:
    """Return the coordinate map whose cells are squares of `stride` pixels, with coordinates at their centres.

    It is the only map that is invariant to horizontal flips, so that networks trained with flips approach it whatever
    their padding. Measured cell centres of the installed EfficientNet-Lite0 are 3.4, 9.3 and 17.5 pixels for strides 8,
    16 and 32. This map gives 3.5, 7.5 and 15.5; the layers' kernels and paddings alone would give 7, 15 and 31
    (`tests/models/backbones/test_factory.py` measures it).
    """
    return CoordinateMap(Fraction(1, stride), Fraction(1 - stride, 2 * stride))
