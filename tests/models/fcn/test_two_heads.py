"""FCNs with two heads, compared with two FCNs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.networks import randomise_scores, thin_vgg16
from tests.tiny import BACKBONE
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads


def heads(geometry: str = "same", strides: tuple[int, ...] = (32, 16, 8)) -> tuple[TwoHeads, FCN, FCN]:
    """Return a network with two heads and two networks with one head each, all with the same backbone."""
    torch.manual_seed(0)
    backbone = thin_vgg16(geometry).eval()
    both = TwoHeads(backbone, 5, geometric_classes=3, strides=strides).eval()
    semantic, geometric = (FCN(backbone, count, strides=strides).eval() for count in (5, 3))
    randomise_scores(semantic)
    randomise_scores(geometric)
    missing, unexpected = both.load_state_dict(semantic.state_dict(), strict=False)
    assert not unexpected  # the semantic head has the parameter names of an FCN
    assert all(name.startswith("geometric.") for name in missing)
    both.geometric.score.load_state_dict(geometric.score.state_dict())
    return both, semantic, geometric


@pytest.mark.parametrize("strides", [(32,), (32, 16), (32, 16, 8), (16,)])
@pytest.mark.parametrize("geometry", ["caffe", "same"])
@pytest.mark.parametrize("size", [(64, 96), (45, 71)])
def test_each_head_equals_an_fcn(geometry: str, strides: tuple[int, ...], size: tuple[int, int]) -> None:
    both, semantic, geometric = heads(geometry, strides)
    assert both.crops == both.geometric.crops == semantic.crops
    images = torch.randn(2, 3, *size)
    targets = torch.stack([torch.randint(0, 5, (2, *size)), torch.randint(0, 3, (2, *size))], 1).to(torch.uint8)
    targets[0, 0, :9] = VOID  # void in one of the maps only
    with torch.no_grad():
        scores = both(images)
        each = semantic(images), geometric(images)
        assert each[0].std() > 0.1
        assert torch.equal(scores, torch.cat(each, 1))
        for reduction in ("mean", "sum"):
            losses = both.losses(scores, targets, reduction)
            assert list(losses) == ["semantic", "geometric"]
            for part, net, own, maps in zip(
                losses.values(), (semantic, geometric), each, targets.unbind(1), strict=True
            ):
                assert torch.allclose(part, net.losses(own, maps, reduction)["cross_entropy"])
    first, second = both.decode(scores, [size, (30, 20)])
    assert torch.equal(first[0], semantic.decode(each[0], [size] * 2)[0])
    assert torch.equal(first[1], geometric.decode(each[1], [size] * 2)[0])
    assert second[0].shape == second[1].shape == (30, 20)
    assert both.geometric_classes == ["geometric_0", "geometric_1", "geometric_2"]


def test_void_label_maps_give_zero_losses() -> None:
    both, _, _ = heads()
    scores = both(torch.randn(1, 3, 40, 40))
    losses = both.losses(scores, torch.full((1, 2, 40, 40), VOID, dtype=torch.uint8))
    assert [part.item() for part in losses.values()] == [0, 0]


def test_gradients_of_both_heads_reach_the_backbone() -> None:
    both, _, _ = heads()
    gradients = []
    for index in range(2):
        targets = torch.full((1, 2, 40, 40), VOID, dtype=torch.uint8)
        targets[:, index] = 1
        both.zero_grad()
        torch.stack([*both.losses(both(torch.ones(1, 3, 40, 40)), targets).values()]).sum().backward()
        gradients.append(both.backbone.get_parameter("conv1_1.weight").grad.clone())
        assert gradients[-1].abs().sum() > 0
    assert not torch.equal(*gradients)


def test_null_background_applies_to_the_semantic_head_only() -> None:
    both = build(
        "fcn16s",
        backbone=BACKBONE,
        num_classes=4,
        geometric_classes=3,
        pixel_loss="sigmoid",
        null_background=True,
    ).eval()
    assert isinstance(both, TwoHeads)
    nn.init.normal_(both.geometric.score["32"].weight)
    scores = both(torch.ones(1, 3, 50, 50))
    assert scores.shape == (1, 7, 50, 50)
    assert not scores[:, :4].any()
    assert scores[:, 4:].std() > 0
    targets = torch.ones(1, 2, 50, 50, dtype=torch.uint8)
    assert both.losses(scores, targets)["semantic"].item() == pytest.approx(3 * torch.log(torch.tensor(2.0)).item())


def test_two_heads_are_rebuilt_from_the_recorded_architecture() -> None:
    with torch.device("meta"):
        net = build(
            "fcn8s", backbone="vgg16", num_classes=33, geometric_classes=3, geometry="caffe", upsampling="learned"
        )
        again = build(**net.architecture)  # type: ignore[arg-type]
        one = build("fcn8s", backbone="vgg16", num_classes=33, geometry="caffe", upsampling="learned")
    assert isinstance(again, TwoHeads)
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in net.state_dict().items()}
    own = net.state_dict().keys() - one.state_dict().keys()
    assert own == {f"geometric.{name}" for name in one.state_dict() if not name.startswith("backbone.")}
    assert net.crops == {16: 5, 8: 9, 1: 31}
    assert not isinstance(one, TwoHeads)
    with pytest.raises(UserError, match=r"geometric_classes.*\b256\b"):
        build("fcn8s", num_classes=2, geometric_classes=256)


def test_depth_and_two_heads_can_be_combined() -> None:
    net = build("fcn16s", backbone=BACKBONE, num_classes=4, geometric_classes=3, depth="late", depth_channels=1).eval()
    assert net(torch.randn(1, 4, 40, 33)).shape == (1, 7, 40, 33)
