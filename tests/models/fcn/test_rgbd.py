"""Networks with depth, compared with colour networks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tests.models.networks import randomise_scores, thin_vgg16
from tests.tiny import BACKBONE
from upscore.errors import UserError
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.rgbd import late_scores, with_depth
from upscore.models.preprocessing import DepthPreprocessing

RGB = torch.randn(2, 3, 45, 70, generator=torch.Generator().manual_seed(1))
DEPTH = torch.randn(2, 1, 45, 70, generator=torch.Generator().manual_seed(2))


def net_of(backbone, *, strides=(32, 16, 8)) -> FCN:
    torch.manual_seed(0)
    return randomise_scores(FCN(backbone, 5, strides=strides)).eval()


def colour_net(backbone: str = BACKBONE) -> FCN:
    torch.manual_seed(0)
    return randomise_scores(build("fcn8s", backbone=backbone, num_classes=5)).eval()


@pytest.mark.parametrize("backbone", [BACKBONE, "efficientnet_lite0", "resnet18"])
def test_early_fusion_of_zero_depth_equals_the_colour_network(backbone: str) -> None:
    net = colour_net(backbone)
    early = copy.deepcopy(net)
    early.backbone = with_depth(early.backbone, "early", 1)
    early.eval()
    names = {name: value.shape for name, value in net.state_dict().items()}
    changed = [name for name, value in early.state_dict().items() if names.pop(name) != value.shape]
    assert len(changed) == 1
    assert not names
    with torch.no_grad():
        alone = net(RGB)
        assert alone.std() > 0.01
        assert torch.allclose(early(torch.cat([RGB, torch.zeros_like(DEPTH)], 1)), alone, atol=1e-5)
        assert not torch.allclose(early(torch.cat([RGB, DEPTH], 1)), alone, atol=1e-2)


@pytest.mark.parametrize("geometry", ["caffe", "same"])
def test_new_filters_are_the_mean_of_the_colour_filters(geometry: str) -> None:
    backbone = thin_vgg16(geometry)
    first = backbone.get_submodule("conv1_1")
    colours, bias = first.weight.detach().clone(), first.bias.detach().clone()
    early = with_depth(backbone, "early", 3)
    assert early is backbone
    assert first.weight.shape[1] == first.in_channels == 6
    assert torch.equal(first.weight[:, :3], colours)
    assert all(torch.allclose(first.weight[:, extra], colours.mean(1)) for extra in (3, 4, 5))
    assert torch.equal(first.bias, bias)
    # three depth channels that are the mean of the colours have the response of a grey image
    grey = RGB.mean(1, keepdim=True)
    with torch.no_grad():
        response = first(torch.cat([torch.zeros_like(RGB), grey.expand(-1, 3, -1, -1)], 1))
        assert torch.allclose(
            response, nn.functional.conv2d(grey, colours.sum(1, keepdim=True), bias, 1, first.padding), atol=1e-5
        )


def test_a_depth_channel_is_treated_as_a_grey_image() -> None:
    net = colour_net()
    only = copy.deepcopy(net)
    only.backbone = with_depth(only.backbone, "only", 1)
    with torch.no_grad():
        grey = net(DEPTH.expand(-1, 3, -1, -1))
        assert torch.allclose(only(torch.cat([RGB, DEPTH], 1)), grey, atol=1e-4)
        assert torch.equal(only(torch.cat([RGB, DEPTH], 1)), only(torch.cat([0 * RGB, DEPTH], 1)))


def test_three_depth_channels_are_treated_as_colours() -> None:
    net = colour_net()
    only = copy.deepcopy(net)
    only.backbone = with_depth(only.backbone, "only", 3)
    with torch.no_grad():
        assert torch.equal(only(torch.cat([torch.zeros_like(RGB), RGB], 1)), net(RGB))


@pytest.mark.parametrize("strides", [(32,), (32, 16), (32, 16, 8)])
@pytest.mark.parametrize("geometry", ["caffe", "same"])
def test_late_fusion_averages_the_scores_of_two_networks(geometry: str, strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    colour, depth = (net_of(thin_vgg16(geometry), strides=strides) for _ in range(2))
    for layer in depth.score.values():
        nn.init.normal_(layer.weight)  # type: ignore[arg-type]
    hha = torch.randn(RGB.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        each = colour(RGB), depth(hha)
        late = net_of(with_depth(colour.backbone, "late", 3), strides=strides)
        late.backbone.depth = depth.backbone
        for stride, layer in late.score.items():
            layer.load_state_dict(late_scores(colour.score[stride], depth.score[stride]))  # type: ignore[arg-type]
        assert late.crops == colour.crops
        assert torch.allclose(late(torch.cat([RGB, hha], 1)), (each[0] + each[1]) / 2, atol=1e-4)
        assert (each[0] - each[1]).abs().max() > 0.1


def test_late_fusion_of_equal_backbones_equals_one_backbone() -> None:
    net = colour_net()
    late = build("fcn8s", backbone=BACKBONE, num_classes=5, depth="late", depth_channels=3).eval()
    late.backbone.colour.load_state_dict(net.backbone.state_dict())  # type: ignore[union-attr]
    late.backbone.depth.load_state_dict(net.backbone.state_dict())  # type: ignore[union-attr]
    for stride, layer in late.score.items():
        layer.load_state_dict(late_scores(net.score[stride], net.score[stride]))  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.allclose(late(torch.cat([RGB, RGB], 1)), net(RGB), atol=1e-5)
    assert late.upscore.state_dict().keys() == net.upscore.state_dict().keys()


@pytest.mark.parametrize("depth", ["early", "late", "only"])
@pytest.mark.parametrize("size", [(33, 64), (1, 1), (70, 45)])
def test_any_image_size_and_unknown_depth_give_finite_scores(depth: str, size: tuple[int, int]) -> None:
    net = build("fcn16s", backbone=BACKBONE, num_classes=5, depth=depth, depth_channels=1).train()
    net.backbone.depth_preprocessing = DepthPreprocessing(mean=(2.0,), std=(0.5,))
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    metres = torch.full((2, 1, *size), torch.nan)
    inputs = net.backbone.prepare(pixels, metres)
    assert torch.equal(inputs[:, :3], net.preprocessing(pixels))
    assert torch.equal(inputs[:, 3:], torch.zeros(2, 1, *size))
    assert torch.allclose(
        net.backbone.prepare(pixels, metres.nan_to_num(math.e))[:, 3:], torch.full((2, 1, *size), -2.0)
    )
    if size == (1, 1):  # batch normalisation fails for a single value
        net.eval()
    scores = net(inputs)
    assert scores.shape == (2, 5, *size)
    nn.init.normal_(net.score["32"].weight)
    net(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


def test_late_fusion_has_separate_weights() -> None:
    net = build("fcn32s", backbone=BACKBONE, num_classes=5, depth="late")
    pointers = [parameter.data_ptr() for parameter in net.parameters() if parameter.numel()]
    assert len(set(pointers)) == len(pointers)
    assert net.architecture["depth_channels"] == 1
    assert build("fcn32s", backbone=BACKBONE, num_classes=5).architecture["depth_channels"] == 0


@pytest.mark.parametrize("name", ["fcn32s", "fcn8s-atonce", "fcn-pool4"])
def test_the_recorded_architecture_rebuilds_the_network(name: str) -> None:
    with torch.device("meta"):
        for depth, channels in (("early", 1), ("late", 3), ("only", 1)):
            net = build(name, backbone="vgg16", num_classes=5, depth=depth, depth_channels=channels)
            again = build(**net.architecture)  # type: ignore[arg-type]
            assert again.architecture == net.architecture
            assert {n: v.shape for n, v in again.state_dict().items()} == {
                n: v.shape for n, v in net.state_dict().items()
            }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": "middle"}, ["'middle'", "none, early, late, only"]),
        ({"depth": "late", "depth_channels": 2}, ["depth_channels", "2"]),
    ],
)
def test_invalid_depth_options_are_named_in_the_error(options: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build("fcn32s", backbone=BACKBONE, num_classes=2, **options)
    assert all(word in str(error.value) for word in words), error.value


def test_missing_depth_and_a_wrong_channel_count_are_errors() -> None:
    backbone = with_depth(colour_net().backbone, "early", 1)
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"depth.*\b1\b.*none"):
        backbone.prepare(pixels)
    with pytest.raises(UserError, match=r"depth.*\b1\b.*\b3\b"):
        backbone.prepare(pixels, torch.zeros(1, 3, 8, 8))
