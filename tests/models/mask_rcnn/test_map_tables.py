"""Maps as tables of cells, and back."""

import pytest
import torch

from upscore.models.mask_rcnn.roi_align import from_table, to_table

SIZES = [(6, 8), (3, 4), (2, 2)]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_table_rows_are_cells(images, layout):
    maps = [torch.randn(images, 5, *size).contiguous(memory_format=layout) for size in SIZES]
    table = to_table(maps)
    assert torch.equal(table[1], maps[0][0, :, 0, 1])
    assert torch.equal(table[images * 48 + 12 * (images - 1) + 4], maps[1][-1, :, 1, 0])
    for back, features in zip(from_table(table, images, SIZES), maps, strict=True):
        assert torch.equal(back, features)


@torch.inference_mode()
def test_adjacent_maps_are_not_copied():
    table = torch.randn(100, 5)
    assert to_table(from_table(table[10:74], 1, SIZES)).data_ptr() == table[10:].data_ptr()
    assert torch.equal(to_table(from_table(table[10:74], 1, SIZES)), table[10:74])
    assert to_table(from_table(table[10:74], 1, SIZES)[1:]).data_ptr() == table[58:].data_ptr()


@torch.inference_mode()
def test_maps_that_are_not_adjacent_are_copied():
    maps = from_table(torch.randn(128, 5), 2, SIZES)
    second = [features[1:] for features in maps]
    assert torch.equal(to_table(second), torch.cat([f.permute(0, 2, 3, 1).reshape(-1, 5) for f in second]))


def test_gradients_flow_through_a_copy():
    maps = [torch.randn(1, 5, *size, requires_grad=True) for size in SIZES]
    to_table(maps).pow(2).sum().backward()
    assert all(torch.allclose(features.grad, 2 * features.detach()) for features in maps)
