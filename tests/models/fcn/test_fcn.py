"""FCNs with a VGG16 of few channels: sizes, skip connections, losses and predictions."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.models.networks import randomise_scores, thin
from upscore.labels import VOID
from upscore.models import FCN, build
from upscore.models.backbones.vgg import Geometry, vgg16
from upscore.models.fcn.build import FCN_STRIDES
from upscore.models.fcn.fcn import AT_ONCE_SCALES

C = 4
GEOMETRIES: tuple[Geometry, ...] = ("caffe", "same")


def small(name: str, geometry: Geometry, *, seed: int = 0) -> FCN:
    """Return a network with few channels and random scores; the backbone depends on the seed but not on the name."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        backbone = vgg16(geometry)
    net = FCN(
        thin(backbone),
        C,
        strides=FCN_STRIDES[name],
        skip_scales=AT_ONCE_SCALES if name == "fcn8s-atonce" else None,
    )
    return randomise_scores(net).eval()


def noise(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


# The height of the output does not depend on the width of the input and vice versa, so the pairs (n, 601 - n) test all
# heights and all widths. On the meta device only shapes are computed. Learned upsampling is sliced from the complete
# output, so that a window that exceeds it would be too small.


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_scores_have_the_size_of_the_image_with_caffe_geometry(name: str) -> None:
    with torch.device("meta"):
        net = build(name, backbone="vgg16", num_classes=2, geometry="caffe", upsampling="learned").eval()
    coarse_side = {
        "fcn32s": lambda n: n,
        "fcn16s": lambda n: 2 * n + 2,
        "fcn8s": lambda n: 4 * n + 6,
    }[name]  # spec section 3.1: upsampled scores are not cropped where finer ones are added
    for side in range(1, 601):
        images = torch.empty(1, 3, side, 601 - side, device="meta")
        coarse = net.coarse_scores(images)
        expected = tuple(coarse_side(math.ceil((s + 198) / 32) - 6) for s in (side, 601 - side))
        assert coarse.shape == (1, 2, *expected)
        whole = net.upscore["1"](coarse, -net.offsets[1], images.shape[-2:])
        assert whole.shape == (1, 2, side, 601 - side)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_scores_have_the_size_of_the_image_with_same_padding(name: str) -> None:
    with torch.device("meta"):
        net = build(name, backbone="vgg16", num_classes=2, geometry="same", upsampling="learned").eval()
    cells = 32 // FCN_STRIDES[name][-1]
    for side in range(1, 601):
        images = torch.empty(1, 3, side, 601 - side, device="meta")
        coarse = net.coarse_scores(images)
        assert coarse.shape == (1, 2, *(cells * math.ceil(s / 32) for s in (side, 601 - side)))
        whole = net.upscore["1"](coarse, -net.offsets[1], images.shape[-2:])
        assert whole.shape == (1, 2, side, 601 - side)


@pytest.mark.parametrize("name", FCN_STRIDES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_odd_sizes_give_finite_scores_of_that_size(name: str, geometry: Geometry) -> None:
    net = small(name, geometry)
    for height, width in ((1, 1), (33, 65), (64, 31)):
        scores = net(noise(height, width))
        assert scores.shape == (1, C, height, width)
        assert scores.isfinite().all()
        assert scores.abs().max() > 0


@torch.inference_mode()
def test_images_of_a_batch_are_independent() -> None:
    net = small("fcn8s", "same")
    images = torch.cat([noise(40, 50, seed) for seed in (1, 2)])
    assert torch.allclose(net(images)[1:], net(images[1:]), atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_initially_only_score_layers_have_gradients(geometry: Geometry) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = vgg16(geometry)
    net = FCN(thin(backbone), C)
    scores = net(noise(40, 33))
    assert scores.eq(0).all()
    loss = net.losses(scores, torch.randint(C, (1, 40, 33)))["cross_entropy"]
    assert loss.item() == pytest.approx(math.log(C))
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith("score."):
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad.eq(0).all(), name


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_16s_initialised_from_32s_gives_almost_the_same_prediction(geometry: Geometry) -> None:
    net32, net16 = small("fcn32s", geometry), small("fcn16s", geometry)
    images = noise(180, 230)
    net32.score["32"].bias.sub_(net32.coarse_scores(images).mean((0, 2, 3)))  # so that every class is predicted
    net16.load_state_dict(net32.state_dict(), strict=False)
    nn.init.zeros_(net16.score["16"].weight)
    nn.init.zeros_(net16.score["16"].bias)
    scores32, scores16 = net32(images), net16(images)
    assert (scores32 - scores16).abs().max() > 0  # upsampling in two steps is close to one step, but not equal
    classes32, classes16 = scores32.argmax(1), scores16.argmax(1)
    assert len(classes32.unique()) == C

    def agreement(shift: int) -> float:
        inner = classes32[..., 16:-16, 16:-16]
        return (inner == classes16.roll((shift, shift), (1, 2))[..., 16:-16, 16:-16]).float().mean().item()

    # scores of a random network vary more between cells than those of a trained one
    assert agreement(0) > 0.9
    assert agreement(0) > max(agreement(-4), agreement(4))  # the two are not shifted against each other


@torch.inference_mode()
def test_at_once_equals_8s_with_scaled_skip_weights() -> None:
    at_once, staged = small("fcn8s-atonce", "caffe"), small("fcn8s", "caffe", seed=5)
    staged.load_state_dict(at_once.state_dict())
    images = noise(50, 70)
    assert (at_once(images) - staged(images)).abs().max() > 0.1
    staged.score["16"].weight.mul_(0.01)
    staged.score["8"].weight.mul_(0.0001)  # biases are not scaled, because features are scaled, not scores
    assert torch.allclose(at_once(images), staged(images), atol=1e-5)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize(("geometry", "side"), [("caffe", 58), ("caffe", 154), ("same", 64), ("same", 160)])
@torch.inference_mode()
def test_a_flipped_network_flips_the_scores_of_a_flipped_image(name: str, geometry: Geometry, side: int) -> None:
    # these sides make the windows symmetric, so that a crop error of one pixel is detected
    net = small(name, geometry)
    flipped = copy.deepcopy(net)
    for layer in flipped.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.copy_(layer.weight.flip(-1))
    images = noise(side, side)
    assert torch.allclose(flipped(images.flip(-1)).flip(-1), net(images), atol=1e-4)
    assert not torch.allclose(net(images.flip(-1)).flip(-1), net(images), atol=1e-2)


class TestLosses:
    net = small("fcn32s", "same")
    outputs = torch.randn(2, C, 5, 6, generator=torch.Generator().manual_seed(3))
    targets = torch.randint(C, (2, 5, 6), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)

    def by_hand(self, targets: Tensor) -> Tensor:
        """Return the loss of each pixel that is not void."""
        log_p = self.outputs - self.outputs.exp().sum(1, keepdim=True).log()
        return torch.stack(
            [
                -log_p[n, int(targets[n, y, x]), y, x]
                for n in range(2)
                for y in range(5)
                for x in range(6)
                if targets[n, y, x] != VOID
            ]
        )

    def test_mean_and_sum(self) -> None:
        pixels = self.by_hand(self.targets)
        assert self.net.losses(self.outputs, self.targets).keys() == {"cross_entropy"}
        assert torch.allclose(self.net.losses(self.outputs, self.targets)["cross_entropy"], pixels.mean())
        summed = self.net.losses(self.outputs, self.targets, reduction="sum")["cross_entropy"]
        assert torch.allclose(summed, pixels.sum())

    def test_void_pixels_are_ignored(self) -> None:
        targets = self.targets.clone()
        targets[0, :3] = VOID
        pixels = self.by_hand(targets)
        assert len(pixels) == 42
        outputs = self.outputs.clone().requires_grad_()
        loss = self.net.losses(outputs, targets)["cross_entropy"]
        assert torch.allclose(loss, pixels.mean())
        loss.backward()
        assert outputs.grad is not None
        assert outputs.grad[0, :, :3].eq(0).all()
        assert outputs.grad[1].ne(0).all()

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_all_void_is_zero_with_a_gradient_of_zero(self, reduction: str) -> None:
        outputs = self.outputs.clone().requires_grad_()
        loss = self.net.losses(outputs, torch.full_like(self.targets, VOID), reduction)["cross_entropy"]  # type: ignore[arg-type]
        assert loss.item() == 0
        loss.backward()
        assert outputs.grad is not None
        assert outputs.grad.eq(0).all()

    def test_losses_are_float32_for_scores_of_any_dtype(self) -> None:
        outputs = torch.zeros(1, 21, 500, 375, dtype=torch.float16)
        targets = torch.zeros(1, 500, 375, dtype=torch.uint8)
        loss = self.net.losses(outputs, targets, reduction="sum")["cross_entropy"]
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(5.7e5, rel=2e-3)  # ln 21 per pixel


def test_decoding_gives_each_image_its_own_size() -> None:
    net = small("fcn32s", "same")
    outputs = torch.randn(2, C, 6, 7, generator=torch.Generator().manual_seed(0))
    class_maps = net.decode(outputs, [(6, 7), (4, 2)])
    assert [class_map.shape for class_map in class_maps] == [(6, 7), (4, 2)]
    for class_map, scores in zip(class_maps, outputs, strict=True):
        height, width = class_map.shape
        assert class_map.dtype == torch.uint8
        assert torch.equal(class_map, scores.argmax(0)[:height, :width])
    with pytest.raises(ValueError, match="zip"):
        net.decode(outputs, [(6, 7)])


def test_dropout_is_active_in_training_only() -> None:
    net, images = small("fcn8s", "same"), noise(40, 40)
    with torch.no_grad():
        assert torch.equal(net(images), net(images))
        net.train()
        assert not torch.equal(net(images), net(images))


def test_scores_are_float32_for_a_backbone_of_any_dtype() -> None:
    with torch.device("meta"):
        backbone = vgg16("same")
    net = randomise_scores(FCN(thin(backbone), 3))
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        coarse, scores = net.coarse_scores(images), net(images)
    assert coarse.dtype == scores.dtype == torch.float32
    assert not torch.equal(scores, net(images))  # the backbone ran in bfloat16


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("name", "stride"), [("fcn-pool5", 32), ("fcn-pool4", 16), ("fcn-pool3", 8)])
def test_networks_of_a_single_map(name: str, stride: int, geometry: Geometry) -> None:
    with torch.device("meta"):
        net, whole = (build(n, backbone="vgg16", num_classes=3, geometry=geometry) for n in (name, "fcn8s"))
    images = torch.empty(1, 3, 97, 141, device="meta")
    assert net.eval()(images).shape == (1, 3, 97, 141)
    last = [layer for layer, _ in net.backbone.named_children()][-1]
    assert last == f"pool{int(math.log2(stride))}"
    assert net.strides == (stride,)
    trained = {layer for layer, _ in net.backbone.named_parameters()}
    assert trained < {layer for layer, _ in whole.backbone.named_parameters()}


def test_a_single_map_has_the_features_that_8s_adds() -> None:
    whole, alone = build("fcn8s", num_classes=3).eval(), build("fcn-pool3", num_classes=3).eval()
    alone.backbone.load_state_dict(whole.backbone.state_dict())
    images = noise(64, 96)
    assert torch.equal(alone.backbone(images)[8], whole.backbone(images)[8])
    trained = {
        name.split(".")[2] for name, p in alone.backbone.named_parameters() if p.requires_grad and "blocks" in name
    }
    assert trained == {"0", "1", "2"}


def fcn8s(**options: Any) -> FCN:
    """Return an FCN-8s with options of the loss and random scores."""
    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = vgg16("same")
    return randomise_scores(FCN(thin(backbone), C, **options)).eval()


def labels(height: int = 40, width: int = 56) -> Tensor:
    """Return class maps of two images, the second with void pixels."""
    targets = torch.randint(C, (2, height, width), generator=torch.Generator().manual_seed(3))
    targets[1, :9] = VOID
    return targets.to(torch.uint8)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_sigmoid_loss_is_a_binary_cross_entropy_per_class(reduction: Literal["sum", "mean"]) -> None:
    net = fcn8s(pixel_loss="sigmoid")
    scores, targets = 3 * torch.randn(2, C, 40, 56), labels()
    by_hand = 0.0
    for image, truth in zip(scores.double(), targets, strict=True):
        for c in range(C):
            p = torch.sigmoid(image[c])
            right = torch.where(truth == c, p, 1 - p)
            by_hand -= right.log()[truth != VOID].sum().item()
    by_hand /= (targets != VOID).sum().item() if reduction == "mean" else 1
    assert net.losses(scores, targets, reduction)["cross_entropy"].item() == pytest.approx(by_hand, rel=1e-5)


def test_null_background_is_predicted_where_no_class_score_is_positive() -> None:
    net = fcn8s(pixel_loss="sigmoid", null_background=True)
    assert [layer.out_channels for layer in net.score.values()] == [C - 1] * 3
    net.score["8"].bias.data -= 1
    scores = net(torch.randn(2, 3, 40, 56))
    assert scores.shape == (2, C, 40, 56)
    assert not scores[:, 0].any()
    predicted = torch.stack(net.decode(scores, [(40, 56)] * 2))
    background = (scores[:, 1:].sigmoid() < 0.5).all(1)
    assert background.any()
    assert not background.all()
    assert torch.equal(predicted == 0, background)
    # the background's channel does not affect the loss
    targets = labels()
    loss = net.losses(scores, targets)["cross_entropy"]
    shifted = scores.clone()
    shifted[:, 0] = 5
    assert net.losses(shifted, targets)["cross_entropy"] == loss
    with_background = fcn8s(pixel_loss="sigmoid").losses(scores, targets)["cross_entropy"]
    assert with_background.item() == pytest.approx(loss.item() + math.log(2), rel=1e-5)


@pytest.mark.parametrize("pixel_loss", ["softmax", "sigmoid"])
def test_a_class_weight_equals_that_many_copies_of_a_pixel(pixel_loss: Literal["softmax", "sigmoid"]) -> None:
    net = fcn8s(pixel_loss=pixel_loss)
    scores, targets = torch.randn(1, C, 6, 7), labels(6, 7)[:1]
    weights = [1, 3, 0, 2]
    copies = [(y, x) for y in range(6) for x in range(7) for _ in range(weights[targets[0, y, x]])]
    rows, columns = torch.tensor(copies).T
    expected = {r: net.losses(scores[..., rows, columns][..., None], targets[:, rows, columns][..., None], r)
                for r in ("sum", "mean")}  # fmt: skip
    net.class_weights = torch.tensor(weights, dtype=torch.float32)
    for reduction, loss in expected.items():
        assert torch.allclose(net.losses(scores, targets, reduction)["cross_entropy"], loss["cross_entropy"])
    net.class_weights = torch.zeros(C)
    assert net.losses(scores, targets)["cross_entropy"] == 0


def test_probabilities_match_the_loss() -> None:
    scores = torch.randn(C, 5, 6)
    assert torch.allclose(fcn8s().probabilities(scores).sum(0), torch.ones(5, 6))
    assert torch.equal(fcn8s(pixel_loss="sigmoid").probabilities(scores), scores.sigmoid())
