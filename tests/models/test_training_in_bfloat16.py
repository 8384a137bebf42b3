"""Layers with a special implementation under bfloat16 autocast, compared with float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.backbones.frozen_batchnorm import FrozenBatchNorm2d, NormedConv2d
from upscore.models.backbones.resnet import ResNetBackbone, resnet
from upscore.models.backbones.vgg import vgg16
from upscore.models.kernels.large_kernel_conv import LargeKernelConv2d
from upscore.models.mask_rcnn.rpn import RPNHead


def assert_autocast_agrees(
    outputs: Callable[[], Sequence[Tensor]], of: Sequence[Tensor], upstream: Sequence[Tensor], tolerance: float
) -> None:
    """Compare outputs and gradients in float32 and under autocast."""
    expected = outputs()
    expected_gradients = torch.autograd.grad(expected, of, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        found = outputs()
    gradients = torch.autograd.grad(found, of, [u.to(o.dtype) for u, o in zip(upstream, found, strict=True)])
    for ours, theirs in zip((*found, *gradients), (*expected, *expected_gradients), strict=True):
        assert 0 < (ours.float() - theirs).norm() < tolerance * theirs.norm()  # 0 would mean the same implementation
    for gradient, value in zip(gradients, of, strict=True):
        assert gradient.dtype == value.dtype


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("kernel_size", "padding"), [(7, 3), (7, 0), (6, 0), (1, 0)])
def test_large_kernel_convolution_agrees_with_conv2d(
    kernel_size: int, padding: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscore.models.kernels.large_kernel_conv.OUTPUT_BLOCK", 7)
    torch.manual_seed(0)
    layer = LargeKernelConv2d(12, 20, kernel_size, padding=padding).to(memory_format=memory_format)  # pyright: ignore
    images = torch.randn(2, 12, 9, 11, requires_grad=True)
    expected = F.conv2d(images, layer.weight, layer.bias, padding=padding)
    assert torch.equal(layer(images), expected)
    # in place, as the ReLU after it
    assert_autocast_agrees(
        lambda: [layer(images).mul_(2)], [images, *layer.parameters()], [torch.randn_like(expected)], 0.01
    )


def test_large_kernel_convolution_without_input_gradients() -> None:
    layer, images = LargeKernelConv2d(4, 6, 3), torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        layer(images).sum().backward()
        assert layer.weight.grad is not None
        layer.requires_grad_(False)
        assert not layer(images).requires_grad


def test_vgg16_uses_large_kernel_convolutions() -> None:
    with torch.device("meta"):
        backbone = vgg16("same")
    assert isinstance(backbone.fc6, LargeKernelConv2d)
    assert isinstance(backbone.fc7, LargeKernelConv2d)


def random_frozen_resnet(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = resnet(name, norm="frozen")
    for layer in network.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.get_buffer("weight").uniform_(0.3, 1)
            layer.get_buffer("bias").normal_(std=0.3)
            layer.get_buffer("running_mean").normal_(std=0.3)
            layer.get_buffer("running_var").uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_frozen_norms_are_folded_into_the_preceding_convolutions(name: str) -> None:
    network = random_frozen_resnet(name)
    assert network.state_dict().keys() == {
        key for key in resnet(name).state_dict() if not key.endswith("num_batches_tracked")
    }
    backbone = ResNetBackbone(network)
    convolutions = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert all(isinstance(layer, NormedConv2d) and layer.norm for layer in convolutions)
    images = torch.randn(1, 3, 64, 64)
    of = [convolutions[0].weight, convolutions[-1].weight]
    expected = backbone(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(images)
    assert found[32].dtype == torch.bfloat16  # a separate normalisation would give float32
    for stride, features in expected.items():
        assert (found[stride].float() - features).norm() < 0.05 * features.norm()  # after up to 50 layers
    upstream = torch.randn_like(expected[32])
    for ours, theirs in zip(
        torch.autograd.grad(found[32], of, upstream.bfloat16()),
        torch.autograd.grad(expected[32], of, upstream),
        strict=True,
    ):
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("layers", ["layer1.0", "layer2.0"])
def test_a_bottleneck_with_folded_norms_agrees_with_float32(layers: str) -> None:
    block = random_frozen_resnet("resnet50").get_submodule(layers)
    block.set_submodule("relu", nn.Identity())  # the ReLU of values near zero would differ
    images = torch.randn(2, next(block.parameters()).shape[1], 16, 12, requires_grad=True)
    upstream = torch.randn_like(block(images))
    assert_autocast_agrees(lambda: [block(images)], [images, *block.parameters()], [upstream], 0.02)


def test_the_sparse_gradient_of_the_rpn_head_agrees_with_the_dense_one() -> None:
    torch.manual_seed(0)
    head = RPNHead(16, 3)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    maps = [torch.randn(2, 16, 20, 30, requires_grad=True), torch.randn(2, 16, 5, 8, requires_grad=True)]
    upstream = [torch.zeros_like(level) for values in head(maps) for level in values]
    # corners, neighbours with overlapping windows, a cell with gradients of two anchors
    for image, anchor, y, x in ((0, 1, 0, 0), (1, 0, 19, 29), (0, 2, 5, 6), (0, 1, 5, 7), (0, 0, 5, 7)):
        upstream[0][image, anchor, y, x] = torch.randn(())
        upstream[2][image, 4 * anchor : 4 * anchor + 4, y, x] = torch.randn(4)
    upstream[1][1, 1, 4, 7] = 1.5
    upstream[3][0, 3, 0, 2] = -0.5  # a cell with a gradient of the deltas only

    def outputs() -> list[Tensor]:
        return [level for values in head(maps) for level in values]

    assert_autocast_agrees(
        outputs, [*maps, *(p for name, p in head.named_parameters() if "bias" not in name)], upstream, 0.05
    )


def test_the_rpn_head_without_gradients_of_cells_has_zero_gradients() -> None:
    head, level = RPNHead(8, 3), torch.randn(1, 8, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head([level])
    (outputs.objectness[0].sum() * 0 + outputs.deltas[0].sum() * 0).backward()
    assert all(parameter.grad is None or parameter.grad.eq(0).all() for parameter in head.parameters())
    assert level.grad is None or level.grad.eq(0).all()
