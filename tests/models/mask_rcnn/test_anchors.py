"""Anchors, compared with torchvision's."""

import pytest
import torch
from torchvision.models.detection import anchor_utils
from torchvision.models.detection.image_list import ImageList

from upscore.models.mask_rcnn.anchors import ASPECTS, AnchorGenerator

CPU = torch.device("cpu")
PYRAMID = [4, 8, 16, 32, 64]
SIZES = [[32], [64], [128], [256], [512]]


def map_sizes(height, width, strides):
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def torchvisions(sizes, maps, image):
    generator = anchor_utils.AnchorGenerator(tuple(map(tuple, sizes)), (ASPECTS,) * len(sizes))
    images = ImageList(torch.zeros(1, 3, *image), [image])
    return generator(images, [torch.zeros(1, 1, *size) for size in maps])[0]


@pytest.mark.parametrize(
    ("sizes", "strides"),
    [(SIZES, PYRAMID), ([[12], [24], [48]], [4, 8, 16]), ([[32, 64, 128, 256, 512]], [16]), ([[5, 31]], [8])],
)
@pytest.mark.parametrize("image", [(800, 1088), (224, 320), (32, 96)])
def test_torchvision_preset_gives_torchvisions_anchors(sizes, strides, image):
    maps = map_sizes(*image, strides)
    ours = AnchorGenerator(sizes, strides, rounded=True, aspects_outer=True, fitted=True)(maps, CPU)
    assert [len(level) for level in ours] == [h * w * 3 * len(sizes[0]) for h, w in maps]
    assert torch.equal(torch.cat(ours), torchvisions(sizes, maps, image))


def test_fitted_steps_differ_only_for_maps_that_were_rounded_up():
    maps = map_sizes(800, 1088, PYRAMID)  # 13 rows of 64 pixels exceed 800
    plain, fitted = (AnchorGenerator(SIZES, PYRAMID, fitted=fitted)(maps, CPU) for fitted in (False, True))
    assert [torch.equal(a, b) for a, b in zip(plain, fitted, strict=True)] == [True] * 4 + [False]
    assert (plain[-1] - fitted[-1]).view(13, 17, 3, 4)[1, :, 0].unique(dim=0).tolist() == [[0, 3, 0, 3]]


def test_anchors_are_centred_at_the_corner_of_their_cell():
    (level,) = AnchorGenerator([[32, 64]], [8])([(5, 7)], CPU)
    centres = (level[:, :2] + level[:, 2:]).view(5, 7, 6, 2) / 2
    for row, column in ((0, 0), (0, 6), (4, 0), (3, 5)):
        assert torch.allclose(centres[row, column], torch.tensor([8.0 * column, 8.0 * row]).expand(6, 2), atol=1e-5)


def test_areas_and_aspect_ratios_are_exact_without_rounding():
    (level,) = AnchorGenerator([[32, 64]], [16])([(1, 1)], CPU)
    width, height = (level[:, 2:] - level[:, :2]).unbind(1)
    assert (width * height).tolist() == pytest.approx([32.0**2] * 3 + [64.0**2] * 3, rel=1e-5)
    assert (height / width).tolist() == pytest.approx([0.5, 1.0, 2.0] * 2, rel=1e-5)
    (other,) = AnchorGenerator([[32, 64]], [16], aspects_outer=True)([(1, 1)], CPU)
    assert torch.equal(other, level.view(2, 3, 4).transpose(0, 1).reshape(6, 4))


def test_rounded_anchors_are_those_of_published_networks():
    (level,) = AnchorGenerator([[32]], [4], rounded=True)([(1, 1)], CPU)
    assert level.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]


def test_anchors_have_no_state_and_work_on_any_device():
    with torch.device("meta"):
        anchors = AnchorGenerator(SIZES, PYRAMID)
    assert not anchors.state_dict()
    assert anchors.anchors_per_cell == 3
    assert anchors(map_sizes(64, 64, PYRAMID), CPU)[0].device == CPU
    assert anchors(map_sizes(64, 64, PYRAMID), torch.device("meta"))[0].shape == (16 * 16 * 3, 4)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(("sizes", "strides"), [(SIZES, PYRAMID), ([[5, 31]], [8])])
def test_selected_anchors_equal_those_of_the_complete_level(sizes, strides, fitted):
    anchors, maps = AnchorGenerator(sizes, strides, rounded=True, fitted=fitted), map_sizes(200, 330, strides)
    for number, level in enumerate(anchors(maps, CPU)):
        indices = torch.randint(len(level), (2, 50), generator=torch.Generator().manual_seed(number))
        assert torch.equal(anchors.at(maps, number, indices), level[indices])
