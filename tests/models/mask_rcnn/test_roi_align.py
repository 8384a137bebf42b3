"""Pooling of regions, compared with torchvision's, and tables of map cells."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from upscore.models.mask_rcnn.presets import DETECTRON2, PAPER, TORCHVISION
from upscore.models.mask_rcnn.roi_align import RoIPooler, assign_levels, from_table, to_table

STRIDES = [4, 8, 16, 32]


@pytest.fixture
def maps():
    torch.manual_seed(0)
    sizes = ((100, 134), (50, 67), (25, 34), (13, 17))
    return [torch.randn(2, 6, h, w).to(memory_format=torch.channels_last) for h, w in sizes]


def boxes(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([536.0, 400.0])
    half = torch.exp(torch.rand(count, 2, generator=generator) * 8 - 2) / 2
    return torch.cat([centre - half, centre + half], dim=1)


ODD = torch.tensor(
    [
        [0.0, 0.0, 0.2, 0.2],  # has the size of a pixel if not aligned
        [-50.0, -70.0, 700.0, 600.0],
        [0.0, 0.0, 112.0, 112.0],
        [30.0, 30.0, 30.0, 30.0],
        [530.0, 395.0, 540.0, 404.0],
        [-90.0, -90.0, -50.0, -50.0],
    ]
)


@pytest.mark.parametrize("preset", [PAPER, TORCHVISION, DETECTRON2])
@pytest.mark.parametrize("size", [7, 14])
def test_regions_equal_torchvisions_roi_align_of_their_level(maps, preset, size):
    regions = [torch.cat([boxes(120), ODD]), boxes(60, seed=2)]
    pooled = RoIPooler(size, STRIDES, preset)(maps, regions)
    rois, images = torch.cat(regions), torch.cat([torch.zeros(126), torch.ones(60)])
    levels = assign_levels(rois, STRIDES, preset)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        members = (levels == level).nonzero()[:, 0]
        expected = roi_align(
            features,
            torch.cat([images[members, None], rois[members]], dim=1),
            size,
            1 / stride,
            preset.samples or -1,
            preset.aligned,
        )
        assert torch.allclose(pooled[members], expected, atol=2e-4)


def test_levels_and_regions_equal_those_of_torchvisions_pooler(maps):
    regions = [boxes(200), boxes(100, seed=3)]
    theirs = MultiScaleRoIAlign([str(i) for i in range(4)], output_size=7, sampling_ratio=2)
    expected = theirs({str(i): m for i, m in enumerate(maps)}, regions, [(400, 536)] * 2)
    assert torch.allclose(RoIPooler(7, STRIDES, TORCHVISION)(maps, regions), expected, atol=2e-4)


@pytest.mark.parametrize("preset", [PAPER, TORCHVISION])
def test_gradients_equal_torchvisions(maps, preset):
    regions = [torch.cat([boxes(50), ODD]), boxes(20, seed=2)]
    ours = [m.clone().requires_grad_() for m in maps]
    weights = torch.randn(76, 6, 7, 7, generator=torch.Generator().manual_seed(4))
    (RoIPooler(7, STRIDES, preset)(ours, regions) * weights).sum().backward()
    rois, images = torch.cat(regions), torch.cat([torch.zeros(56), torch.ones(20)])
    levels = assign_levels(rois, STRIDES, preset)
    for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        theirs = features.clone().requires_grad_()
        members = (levels == level).nonzero()[:, 0]
        pooled = roi_align(
            theirs, torch.cat([images[members, None], rois[members]], dim=1), 7, 1 / stride, 2, preset.aligned
        )
        (pooled * weights[members]).sum().backward()
        assert torch.allclose(ours[level].grad, theirs.grad, atol=1e-3)


@pytest.mark.parametrize(("aligned", "expected"), [(True, [5.0, 7.0]), (False, [5.5, 7.5])])
def test_unaligned_sampling_is_shifted_by_half_a_cell(aligned, expected):
    cells = torch.arange(16.0) + 0.5  # the continuous coordinate of each cell's centre
    features = cells.expand(1, 1, 16, 16)
    preset = PAPER if aligned else TORCHVISION
    pooled = RoIPooler(2, [1], preset)([features], [torch.tensor([[4.0, 4.0, 8.0, 8.0]])])
    assert pooled[0, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [PAPER, TORCHVISION])
def test_boxes_of_the_canonical_sizes_are_assigned_to_the_coarser_level(epsilon):
    sides = torch.tensor([10.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 2000.0])
    squares = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert assign_levels(squares, STRIDES, epsilon).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_pool_and_warp_round_the_box(maps):
    regions = [boxes(40), boxes(0)]
    pooled = RoIPooler(7, [8], PAPER, "pool")([maps[1]], regions)
    rois = torch.cat([torch.zeros(40, 1), regions[0]], dim=1)
    assert torch.equal(pooled, roi_pool(maps[1].contiguous(), rois, 7, 1 / 8))
    warped = RoIPooler(7, [8], PAPER, "warp")
    shifted = [regions[0] + 1.5, regions[1]]
    rounded = [(regions[0] / 8).round() * 8, regions[1]]
    assert torch.equal(warped([maps[1]], regions), warped([maps[1]], rounded))
    assert not torch.equal(warped([maps[1]], regions), warped([maps[1]], shifted))


@pytest.mark.parametrize("pooling", ["align", "pool", "warp"])
def test_no_regions_give_an_empty_result_with_gradients(maps, pooling):
    maps = [m.requires_grad_() for m in maps]
    pooled = RoIPooler(7, STRIDES, PAPER, pooling)(maps, [boxes(0), boxes(0)])
    assert pooled.shape == (0, 6, 7, 7)
    (pooled.sum() + maps[0].sum()).backward()


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
