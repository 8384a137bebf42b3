"""The feature pyramid, compared with torchvision's."""

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from upscore.models.mask_rcnn.fpn import FPN

CHANNELS = {4: 6, 8: 10, 16: 12, 32: 20}


@pytest.mark.parametrize("norm", [False, True])
def test_pyramid_equals_torchvisions_with_the_same_weights(norm):
    torch.manual_seed(0)
    ours = FPN(CHANNELS, 8, norm=norm).eval()
    layer = torch.nn.BatchNorm2d if norm else None
    theirs = FeaturePyramidNetwork(list(CHANNELS.values()), 8, LastLevelMaxPool(), norm_layer=layer).eval()
    pairs = [*zip(theirs.inner_blocks, ours.lateral.values(), strict=True)]
    pairs += [*zip(theirs.layer_blocks, ours.output.values(), strict=True)]
    for block, own in pairs:
        for target, source in zip(block.state_dict().values(), own.state_dict().values(), strict=True):
            target.copy_(source)
    maps = {stride: torch.randn(2, channels, 128 // stride, 160 // stride) for stride, channels in CHANNELS.items()}
    expected = theirs({str(stride): features for stride, features in maps.items()})
    pyramid = ours(maps)
    assert [level.shape[-2:] for level in pyramid] == [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    for level, other in zip(pyramid, expected.values(), strict=True):
        assert torch.allclose(level, other, atol=1e-5)


def test_coarse_maps_affect_finer_ones_but_not_vice_versa():
    torch.manual_seed(0)
    net = FPN(CHANNELS, 8)
    maps = {s: torch.randn(1, c, 64 // s, 64 // s, requires_grad=True) for s, c in CHANNELS.items()}
    pyramid = net(maps)
    (fine,) = torch.autograd.grad(pyramid[0].sum(), maps[32], retain_graph=True)
    assert fine.abs().sum() > 0
    (coarse,) = torch.autograd.grad(pyramid[3].sum(), maps[4], allow_unused=True)
    assert coarse is None
