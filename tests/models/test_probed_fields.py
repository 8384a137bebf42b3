from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.models.networks import thin_vgg16
from upscore.errors import UserError
from upscore.models import build
from upscore.models.receptive_field import ReceptiveField, probed_fields, sequential_fields


def test_receptive_fields_agree_with_the_coordinates_in_both_geometries() -> None:
    for geometry in ("same", "caffe"):
        with torch.device("meta"):
            backbone = build("fcn8s", backbone="vgg16", num_classes=3, geometry=geometry).backbone
        for stride, field in sequential_fields(backbone).items():  # type: ignore[arg-type]
            middle = field.start + (field.size - 1) / 2  # of cell 0's window, which the coordinate map puts at 0
            assert backbone.coordinates[stride].scale * middle + backbone.coordinates[stride].shift == 0


@pytest.mark.parametrize("geometry", ["same", pytest.param("caffe", marks=pytest.mark.slow)])
def test_measured_fields_equal_computed_ones(geometry: str) -> None:
    backbone = thin_vgg16(geometry).eval()
    probed = probed_fields(backbone, 3, 32)
    assert probed == {stride: (field, field) for stride, field in sequential_fields(backbone).items()}


class Oblong(nn.Module):
    """Maps of strides 2 and 4, by kernels and paddings that differ between the axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, (5, 3), 2, (1, 1))
        self.second = nn.Conv2d(4, 4, (3, 2), 2, (1, 0), dilation=(2, 1))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        first = self.first(images)
        return {2: first, 4: self.second(first)}


def test_rows_and_columns_are_measured_separately() -> None:
    assert probed_fields(Oblong(), 3, 32) == {
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
