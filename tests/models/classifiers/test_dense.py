"""Dense output by shift-and-stitch and by dilation."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from upscore.errors import UserError
from upscore.models.classifiers.convolutionalize import convolutionalize
from upscore.models.classifiers.dense import dilate, shift_and_stitch


def chain(padding=0, pool=nn.MaxPool2d):
    """A network of stride 4 with a receptive field of 17 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, padding=padding), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=padding), pool(2),
        nn.Conv2d(6, 4, 3, padding=padding), nn.Conv2d(4, 2, 1),
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize("size", [(17, 17), (18, 18), (19, 33), (30, 27), (24, 41)])
@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
@torch.inference_mode()
def test_dilation_equals_shift_and_stitch_without_padding(size, pool):
    net, images = chain(pool=pool), torch.randn(2, 3, *size, dtype=torch.float64)
    stitched = shift_and_stitch(net, images, stride=4)
    dilated = dilate(net)(images)
    assert stitched.shape[-2:] == (size[0] - 17 + 1, size[1] - 17 + 1)
    torch.testing.assert_close(stitched, dilated)


@torch.inference_mode()
def test_each_dense_cell_equals_the_network_on_its_crop():
    net, images = chain(), torch.randn(1, 3, 21, 23, dtype=torch.float64)
    dense = dilate(net)(images)
    for row, column in [(0, 0), (1, 3), (4, 6), (3, 5)]:
        torch.testing.assert_close(
            dense[..., row, column], net(images[..., row : row + 17, column : column + 17])[..., 0, 0]
        )


@pytest.mark.parametrize("size", [(48, 48), (51, 46)])
@torch.inference_mode()
def test_dilation_equals_shift_and_stitch_in_the_interior_with_padding(size):
    net, images = chain(padding=1), torch.randn(1, 3, *size, dtype=torch.float64)
    stitched, dilated = shift_and_stitch(net, images, stride=4), dilate(net)(images)
    rows, columns = (min(a, b) for a, b in zip(stitched.shape[-2:], dilated.shape[-2:], strict=True))
    inner = (..., slice(17, rows - 17), slice(17, columns - 17))
    assert dilated[inner].numel()
    torch.testing.assert_close(stitched[inner], dilated[inner])


@torch.inference_mode()
def test_a_larger_step_subsamples_the_dense_map():
    net, images = chain(), torch.randn(1, 3, 33, 38, dtype=torch.float64)
    every = shift_and_stitch(net, images, stride=4)
    torch.testing.assert_close(shift_and_stitch(net, images, stride=4, step=2), every[..., ::2, ::2])
    torch.testing.assert_close(shift_and_stitch(net, images, stride=4, step=4), net(images))


@torch.inference_mode()
def test_all_branches_of_a_residual_network_are_dilated():
    net = convolutionalize(resnet18(weights=None).double().eval(), pool=False)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    dense = dilate(net)(images)
    assert dense.shape == (1, 1000, 64, 64)
    assert net(images).shape == (1, 1000, 2, 2)  # the original keeps its strides


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 3, stride=2), nn.LPPool2d(2, 2)), "layer 1 .*LPPool2d"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, stride=(2, 1))), "layer 0 .*2x1"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding="same")), "layer 0 .*'same'"),
        (nn.Sequential(*[nn.Conv2d(3, 3, 3)] * 2), "layer 0 .*twice"),
    ],
)
def test_layers_that_cannot_be_dilated_are_named_in_the_error(net, words):
    with pytest.raises(UserError, match=words):
        dilate(net)
