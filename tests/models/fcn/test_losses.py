"""Blockwise pixel losses, compared with losses of all pixels at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.networks import randomise_scores, thin_vgg16
from upscore.labels import VOID
from upscore.models.fcn import losses as pixel_losses
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.losses import PendingScores
from upscore.models.fcn.two_heads import TwoHeads

C, SIZE = 5, (70, 90)
FORMS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid": {"pixel_loss": "sigmoid"},
    "null background": {"pixel_loss": "sigmoid", "null_background": True},
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_losses, "MAX_SCORES", 1000)
    monkeypatch.setattr(pixel_losses, "BLOCK_SIZE", 2 * C * SIZE[1] * 7)  # 7 rows of two images, 10 blocks in all


def network(geometry: str = "same", **form: Any) -> FCN:
    torch.manual_seed(0)
    return randomise_scores(FCN(thin_vgg16(geometry), C, **form)).train()


def targets(classes: int = C) -> Tensor:
    maps = torch.randint(0, classes, (2, *SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    maps[0, :30] = VOID  # complete blocks of an image
    maps[1, 40, 5:50] = VOID
    return maps


def gradients(
    net: FCN, images: Tensor, class_maps: Tensor, reduction: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the losses, and the gradient of every parameter that has one."""
    torch.manual_seed(2)  # dropout
    losses = net.losses(net.forward_for_loss(images), class_maps, reduction)
    net.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    return losses, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def compare(net: FCN, class_maps: Tensor, monkeypatch: pytest.MonkeyPatch, reduction: str = "mean") -> None:
    images = torch.randn(2, 3, *SIZE)
    blockwise, blockwise_gradients = gradients(net, images, class_maps, reduction)
    monkeypatch.setattr(pixel_losses, "MAX_SCORES", 10**9)
    at_once, expected = gradients(net, images, class_maps, reduction)
    assert blockwise.keys() == at_once.keys()
    for name, loss in at_once.items():
        assert blockwise[name].item() == pytest.approx(loss.item(), rel=1e-5)
    assert blockwise_gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (blockwise_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert expected["score.8.weight"].norm() > 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_blockwise_gradients_equal_those_of_all_pixels(
    form: str, weighted: bool, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(**FORMS[form])
    if weighted:
        net.class_weights = torch.tensor([0.5, 2, 1, 3, 0.1])
    images = torch.randn(2, 3, *SIZE)
    assert isinstance(net.forward_for_loss(images), PendingScores)
    assert net(images).shape == (2, C, *SIZE)  # forward returns a tensor in every mode
    compare(net, targets(), monkeypatch, reduction)


@pytest.mark.usefixtures("small_blocks")
def test_blockwise_gradients_with_caffe_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    compare(network("caffe"), targets(), monkeypatch)


@pytest.mark.usefixtures("small_blocks")
def test_blockwise_gradients_with_two_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = TwoHeads(thin_vgg16("same"), C, geometric_classes=3).train()
    randomise_scores(net)
    for layer in net.geometric.score.values():
        torch.nn.init.normal_(layer.get_parameter("weight"))
    images = torch.randn(2, 3, *SIZE)
    assert isinstance(net.forward_for_loss(images), tuple)
    assert net(images).shape == (2, C + 3, *SIZE)
    compare(net, torch.stack([targets(), targets(3)], 1), monkeypatch)


@pytest.mark.usefixtures("small_blocks")
def test_blockwise_loss_of_void_pixels_is_zero() -> None:
    losses, parameter_gradients = gradients(network(), torch.randn(2, 3, *SIZE), torch.full((2, *SIZE), VOID), "mean")
    assert losses["cross_entropy"] == 0
    assert all(gradient.eq(0).all() for gradient in parameter_gradients.values())


@pytest.mark.usefixtures("small_blocks")
def test_other_modes_return_pixel_scores() -> None:
    images = torch.randn(2, 3, *SIZE)
    assert network(upsampling="learned").forward_for_loss(images).shape == (2, C, *SIZE)
    net = network().eval()
    scores = net(images)
    assert scores.shape == (2, C, *SIZE)
    with torch.no_grad():
        assert network().train().forward_for_loss(images).shape == (2, C, *SIZE)
    net.train()
    for layer in net.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.eval()
    assert torch.equal(net.forward_for_loss(images).upsampled(), scores)


def test_small_images_are_not_computed_in_blocks() -> None:
    assert network().forward_for_loss(torch.randn(2, 3, *SIZE)).shape == (2, C, *SIZE)


class LargestTensor(TorchDispatchMode):
    """Records the number of values of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.numel())
        return result


def test_the_scores_of_all_pixels_are_never_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, side, cells = 40, 400, 50
    monkeypatch.setattr(pixel_losses, "BLOCK_SIZE", 2**16)
    torch.manual_seed(0)
    net = FCN(thin_vgg16("same"), classes).train()
    coarse = torch.randn(1, classes, cells, cells, requires_grad=True)
    class_maps = torch.randint(0, classes, (1, side, side))
    pixel_scores = classes * side * side
    pending = net.pending(coarse, (side, side))
    assert pending is not None
    with LargestTensor() as largest:
        net.losses(pending, class_maps)["cross_entropy"].backward()
    assert largest.values < pixel_scores / 6
    with LargestTensor() as largest:
        net.losses(pending.upsampled(), class_maps)["cross_entropy"].backward()
    assert largest.values == pixel_scores
