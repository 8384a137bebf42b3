"""Coordinate maps, and the crops that follow from them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from upscore.models import build
from upscore.models.coordinate_maps import CoordinateMap, centred, layer_map, path_map

CAFFE = {
    ("fcn32s", "vgg16"): ({1: 64}, {1: 19}),
    ("fcn16s", "vgg16"): ({16: 4, 1: 32}, {16: 5, 1: 27}),
    ("fcn8s", "vgg16"): ({16: 4, 8: 4, 1: 16}, {16: 5, 8: 9, 1: 31}),
    ("fcn8s-atonce", "vgg16"): ({16: 4, 8: 4, 1: 16}, {16: 5, 8: 9, 1: 31}),
    ("fcn32s", "alexnet"): ({1: 63}, {1: 18}),
}
"""Network and backbone -> kernel sizes and crops of the authors' prototxt files."""


@pytest.mark.parametrize(("name", "backbone"), CAFFE)
def test_derived_kernels_and_offsets_equal_the_authors(name: str, backbone: str) -> None:
    with torch.device("meta"):
        net = build(name, backbone=backbone, num_classes=21, geometry="caffe")
    kernels = {int(stride): layer.kernel_size for stride, layer in net.upscore.items()}
    assert (kernels, net.crops) == CAFFE[name, backbone]


@pytest.mark.parametrize(
    ("name", "crops"), [("fcn32s", {1: 16}), ("fcn16s", {16: 1, 1: 8}), ("fcn8s", {16: 1, 8: 1, 1: 4})]
)
def test_same_padding_crops_a_quarter_of_each_kernel(name: str, crops: dict[int, int]) -> None:
    with torch.device("meta"):
        net = build(name, backbone="vgg16", num_classes=21, geometry="same")
    assert net.crops == crops
    assert all(net.crops[int(stride)] * 4 == layer.kernel_size for stride, layer in net.upscore.items())


def test_caffe_geometry_of_vgg16_equals_the_authors() -> None:
    with torch.device("meta"):
        coordinates = build("fcn8s", backbone="vgg16", num_classes=2, geometry="caffe").backbone.coordinates
    # the first score is at pixel 12.5, where 32 x + b = 0
    assert coordinates[32] == CoordinateMap(Fraction(1, 32), Fraction(-25, 64))
    assert coordinates[16].scale == Fraction(1, 16)
    assert coordinates[8].scale == Fraction(1, 8)


def centre(weights: Tensor) -> float:
    return ((weights * torch.arange(len(weights))).sum() / weights.sum()).item()


def ones(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    return layer


@settings(deadline=None, max_examples=60)
@given(kernel=st.integers(1, 9), stride=st.integers(1, 5), padding=st.integers(0, 6), dilation=st.integers(1, 3))
def test_windows_are_centred_at_their_mapped_coordinates(kernel: int, stride: int, padding: int, dilation: int) -> None:
    layer = ones(nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False))
    line = torch.zeros(1, 1, 120, 120, requires_grad=True)
    cells = layer(line)[0, 0, 60 // stride]
    cell = 60 // stride
    cells[cell].backward()
    assert line.grad is not None
    x = Fraction(centre(line.grad[0, 0].sum(0))).limit_denominator(2)
    coordinates = layer_map(layer)
    assert coordinates.scale * x + coordinates.shift == cell


@settings(deadline=None, max_examples=60)
@given(kernel=st.integers(1, 9), stride=st.integers(1, 5), cell=st.integers(4, 7), data=st.data())
def test_transposed_windows_are_centred_at_their_mapped_coordinates(
    kernel: int, stride: int, cell: int, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, min(kernel - 1, 4 * stride)))  # the window is not cut off
    layer = ones(nn.ConvTranspose2d(1, 1, kernel, stride, padding, bias=False))
    scores = torch.zeros(1, 1, 12, 12)
    scores[..., cell, cell] = 1
    with torch.no_grad():
        x = Fraction(centre(layer(scores)[0, 0].sum(0))).limit_denominator(2)
    coordinates = layer_map(layer)
    assert coordinates.scale * cell + coordinates.shift == x


def test_layers_without_a_window_do_not_change_coordinates() -> None:
    assert layer_map(nn.ReLU()) == layer_map(nn.BatchNorm2d(3)) == CoordinateMap()
    assert path_map([]) == CoordinateMap()
    assert path_map([nn.ReLU(), nn.MaxPool2d(2, 2), nn.Dropout()]) == centred(2)


def test_maps_compose_in_the_order_of_the_path() -> None:
    first, second = CoordinateMap(Fraction(1, 2), Fraction(3)), CoordinateMap(Fraction(4), Fraction(-1, 4))
    for x in (Fraction(0), Fraction(7, 3)):
        through_both = second.scale * (first.scale * x + first.shift) + second.shift
        both = first.then(second)
        assert both.scale * x + both.shift == through_both
    assert path_map([nn.MaxPool2d(2, 2)] * 5) == centred(32)
