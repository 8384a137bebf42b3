"""Computed and measured receptive fields."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.networks import thin_vgg16
from tests.tiny import BACKBONE, tiny_net
from upscore.errors import UserError
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.receptive_field import (
    Extent,
    ReceptiveField,
    pixel_span,
    probed_fields,
    receptive_field,
    sequential_fields,
)


def on_meta(name: str, **options: Any) -> FCN:
    with torch.device("meta"):
        return build(name, num_classes=3, **options)  # type: ignore[return-value]


def test_receptive_fields_are_those_of_the_papers_table() -> None:
    """FCN table 1: 404 pixels of VGG16, 355 of AlexNet, both at stride 32."""
    vgg, alexnet = (receptive_field(on_meta("fcn32s", backbone=name)) for name in ("vgg16", "alexnet"))
    assert (vgg.maps[32][0].size, alexnet.maps[32][0].size) == (404, 355)
    assert vgg.grid == alexnet.grid == 32
    assert vgg.maps[8] == (ReceptiveField(8, -18, 44), ReceptiveField(8, -18, 44))


@pytest.mark.slow
def test_the_receptive_field_of_resnet18_is_435_pixels() -> None:
    geometry = receptive_field(build("fcn32s", backbone="resnet18", num_classes=2))
    assert {stride: field.size for stride, (field, _) in geometry.maps.items()} == {4: 43, 8: 99, 16: 211, 32: 435}
    assert geometry.halo == 256


def learned_nets() -> list[FCN]:
    """Return networks whose upsampling is a transposed convolution, which spreads NaN within its kernel only."""
    options: dict[str, Any] = {"backbone": BACKBONE, "num_classes": 2, "upsampling": "learned"}
    names = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce", "fcn-pool4", "fcn-pool3")
    nets = [build(name, **options) for name in names]
    caffe = [
        FCN(thin_vgg16("caffe"), 2, strides=strides, upsampling="learned") for strides in ((32,), (32, 16), (32, 16, 8))
    ]
    return [*nets, *caffe]  # type: ignore[list-item]


@pytest.mark.parametrize("net", learned_nets(), ids=lambda net: f"{type(net.backbone).__name__}-{net.strides}")
@torch.inference_mode()
def test_scores_depend_on_exactly_the_pixels_of_their_span(net: FCN) -> None:
    net.eval()
    fields = {stride: rows for stride, (rows, _) in receptive_field(net).maps.items()}
    spans = [pixel_span(net, fields, pixel) for pixel in range(832)]
    for row in (384, 391, 415):
        image = torch.randn(1, 3, 832, 32)
        image[:, :, row] = math.nan
        affected = net(image)[0, 0].isnan().any(1)
        assert affected.tolist() == [first <= row <= last for first, last in spans]


def test_the_halo_is_the_smallest_multiple_of_the_grid_that_covers_all_spans() -> None:
    net = tiny_net("fcn8s")
    geometry = receptive_field(net)
    assert geometry.rows == geometry.columns
    assert geometry.rows is not None
    spans = [pixel_span(net, {s: rows for s, (rows, _) in geometry.maps.items()}, pixel) for pixel in range(32)]
    farthest = max(-min(first for first, _ in spans), max(last for _, last in spans) - 31)
    assert geometry.halo - 32 < farthest <= geometry.halo
    assert geometry.rows.before == max(pixel - first for pixel, (first, _) in enumerate(spans))
    assert geometry.rows.size == geometry.rows.before + 1 + geometry.rows.after


def test_two_heads_have_the_receptive_field_of_one() -> None:
    one, two = tiny_net("fcn8s"), build("fcn8s", backbone=BACKBONE, num_classes=3, geometric_classes=2)
    assert isinstance(two, TwoHeads)
    assert receptive_field(two) == receptive_field(one)


def test_depth_does_not_change_the_receptive_field() -> None:
    late = build("fcn8s", backbone=BACKBONE, num_classes=3, depth="late", depth_channels=1)
    assert receptive_field(late).rows == receptive_field(tiny_net("fcn8s")).rows


def test_mask_rcnn_has_the_fields_of_its_backbone() -> None:
    geometry, pixels = (
        receptive_field(build("mask_rcnn", backbone=BACKBONE, num_classes=2)),
        receptive_field(tiny_net()),
    )
    assert (geometry.maps, geometry.grid) == (pixels.maps, pixels.grid)
    assert (geometry.rows, geometry.columns, geometry.halo) == (None, None, 0)


def test_weights_and_modes_do_not_change() -> None:
    net, meta = tiny_net(), on_meta("fcn8s", backbone="vgg16")
    net.backbone.train()
    net.score.eval()
    before = {name: module.training for name, module in net.named_modules()}
    state = copy.deepcopy(net.state_dict())
    receptive_field(net)
    assert before == {name: module.training for name, module in net.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert receptive_field(meta).rows == Extent(245, 245, 224)


@pytest.mark.slow
def test_squeeze_and_excitation_is_an_error() -> None:
    with pytest.raises(UserError, match="squeeze-and-excitation"):
        receptive_field(build("fcn8s", backbone="timm/efficientnet_b0", num_classes=2))


def test_receptive_fields_agree_with_the_coordinates_in_both_geometries() -> None:
    for geometry in ("same", "caffe"):
        with torch.device("meta"):
            backbone = build("fcn8s", backbone="vgg16", num_classes=3, geometry=geometry).backbone
        for stride, field in sequential_fields(backbone).items():  # type: ignore[arg-type]
            middle = field.start + (field.size - 1) / 2  # the centre of the field of cell 0, whose coordinate is 0
            assert backbone.coordinates[stride].scale * middle + backbone.coordinates[stride].shift == 0


@pytest.mark.parametrize("geometry", ["same", pytest.param("caffe", marks=pytest.mark.slow)])
def test_measured_fields_equal_computed_ones(geometry: str) -> None:
    backbone = thin_vgg16(geometry).eval()
    probed = probed_fields(backbone, 3, 32)
    assert probed == {stride: (field, field) for stride, field in sequential_fields(backbone).items()}


class Anisotropic(nn.Module):
    """A backbone whose kernels and paddings differ between the axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, (5, 3), 2, (1, 1))
        self.second = nn.Conv2d(4, 4, (3, 2), 2, (1, 0), dilation=(2, 1))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        first = self.first(images)
        return {2: first, 4: self.second(first)}


def test_rows_and_columns_are_measured_separately() -> None:
    assert probed_fields(Anisotropic(), 3, 32) == {
        2: (ReceptiveField(2, -1, 5), ReceptiveField(2, -1, 3)),
        4: (ReceptiveField(4, -1 - 2, 5 + 8), ReceptiveField(4, -1, 3 + 2)),
    }


class PositionEmbedding(nn.Module):
    """A map to which the position of each cell is added."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 4, 4)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        cells = self.layer(images)
        return {4: cells + torch.linspace(0, 9, cells.shape[2])[:, None]}


def test_maps_that_do_not_shift_with_the_image_are_an_error() -> None:
    with pytest.raises(UserError, match=r"\b4 pixels"):
        probed_fields(PositionEmbedding(), 3, 4)
