"""Tests that every backbone must pass in an FCN; a new backbone inherits them in a class that gives its name.

N images, C classes, H W pixels.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from skimage import data
from torch import Tensor, nn

from tests.models.networks import randomise_scores, thin
from upscore.checkpoints import load_model, save_model
from upscore.errors import UserError
from upscore.models import FCN, build
from upscore.models.backbones.efficientnet_lite import lite0
from upscore.models.backbones.factory import build_backbone, fetch, load_classifier
from upscore.models.backbones.vgg import vgg16

C = 4


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="class")
def net(request: pytest.FixtureRequest) -> FCN:
    """The network of a test class with random score layers, in evaluation mode."""
    torch.manual_seed(0)
    return randomise_scores(request.cls().make()).eval()


class NetworkTests:
    """Tests of any FCN-8s."""

    def make(self) -> FCN:
        """Build a network of `C` classes."""
        raise NotImplementedError

    @torch.inference_mode()
    def test_scores_have_the_size_of_the_image(self, net: FCN) -> None:
        for height, width in ((1, 1), (33, 65), (64, 96)):
            scores = net(noise(2, 3, height, width))
            assert scores.shape == (2, C, height, width)
            assert scores.isfinite().all()
            assert scores.std() > 0

    @torch.inference_mode()
    def test_maps_have_the_declared_strides_and_channels(self, net: FCN) -> None:
        maps = net.backbone(noise(1, 3, 64, 128))
        assert set(maps) >= {8, 16, 32}
        for stride, features in maps.items():
            assert features.shape[1] == net.backbone.channels[stride]
            assert net.backbone.coordinates[stride].scale * stride == 1
            if net.backbone.multiple == 32:
                assert features.shape[2:] == (64 // stride, 128 // stride)

    def test_initially_only_score_layers_have_gradients(self) -> None:
        net = self.make().train()
        images, targets = noise(2, 3, 64, 40), torch.randint(C, (2, 64, 40))
        scores = net(images)
        assert scores.eq(0).all()
        loss = net.losses(scores, targets)["cross_entropy"]
        assert loss.item() == pytest.approx(math.log(C))
        loss.backward()
        for name, parameter in net.named_parameters():
            if name.startswith("score."):
                assert parameter.grad is not None
                assert parameter.grad.abs().max() > 0, name
            else:
                assert parameter.grad is None or parameter.grad.eq(0).all(), name

    def test_every_parameter_has_a_gradient(self, net: FCN) -> None:
        net = copy.deepcopy(net).train()
        net.losses(net(noise(2, 3, 96, 64)), torch.randint(C, (2, 96, 64)))["cross_entropy"].backward()
        trainable = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        assert len(trainable) > 20
        # distributed training fails for trainable parameters without a gradient
        assert not [name for name, p in trainable if p.grad is None or not p.grad.isfinite().all()]

    @pytest.mark.slow
    @torch.inference_mode()
    def test_scores_shift_with_the_image(self, net: FCN) -> None:
        images = noise(1, 3, 512, 544)
        left, right = net(images[..., :512]), net(images[..., 32:])
        centre = slice(208, -208)
        aligned = (left[..., centre, 240:304] - right[..., centre, 208:272]).square().mean().sqrt()
        misaligned = (left[..., centre, 240:304] - right[..., centre, 240:304]).square().mean().sqrt()
        assert aligned < 0.1 * misaligned  # not zero, because receptive fields reach the border of the image


class BuiltNetworkTests(NetworkTests):
    """Tests of an FCN-8s made by `build`."""

    backbone: str

    def make(self) -> FCN:
        return build("fcn8s", backbone=self.backbone, num_classes=C)

    def test_scores_are_equal_after_saving_and_loading(self, net: FCN, tmp_path: Path) -> None:
        save_model(tmp_path / "model", net, classes=["a", "b", "c", "d"])
        loaded, _ = load_model(tmp_path / "model")
        images = noise(1, 3, 40, 70)
        with torch.inference_mode():
            assert torch.equal(loaded(images), net(images))
        assert loaded.preprocessing == net.preprocessing
        assert loaded.crops == net.crops


class ChainTests(NetworkTests):
    """Tests of a backbone whose coordinates are computed from its layers."""

    @pytest.mark.slow
    @pytest.mark.parametrize("stride", [8, 16, 32])
    def test_scores_are_aligned_with_pixels(self, net: FCN, stride: int) -> None:
        net = copy.deepcopy(net)
        for other, layer in net.score.items():
            if int(other) != stride:
                nn.init.zeros_(layer.weight)
        side, step = 384, 8
        pixels = [side // 2 + step * phase for phase in (-2, -1, 0, 1)]  # evenly distributed over a cell of 32 pixels
        images = noise(len(pixels), 3, side, side).requires_grad_()
        scores = net(images)
        torch.stack([scores[n, :2, p, p] for n, p in enumerate(pixels)]).sum().backward()
        assert images.grad is not None
        energy = images.grad.square().sum(1)
        positions = torch.arange(side)
        offsets = [
            (energy[n].sum(axis) * positions).sum() / energy[n].sum() - pixel
            for n, pixel in enumerate(pixels)
            for axis in (0, 1)
        ]
        # coordinates of other layers would give an error of half a cell
        assert abs(torch.stack(offsets).mean()) < 0.3 * stride


class TestVGG16Same(ChainTests):
    def make(self) -> FCN:
        with torch.device("meta"):
            backbone = vgg16("same")
        return FCN(thin(backbone, 12), C)


class TestVGG16Caffe(ChainTests):
    def make(self) -> FCN:
        with torch.device("meta"):
            backbone = vgg16("caffe")
        return FCN(thin(backbone, 12), C)


class TestEfficientNetLite0(BuiltNetworkTests):
    backbone = "efficientnet_lite0"


class TestResNet18(BuiltNetworkTests):
    backbone = "resnet18"


class TestConvNeXt(BuiltNetworkTests):
    backbone = "timm/convnext_atto"


class TestTimmEfficientNetLite0(BuiltNetworkTests):
    backbone = "timm/tf_efficientnet_lite0"


def test_backbones_keep_the_classifiers_weights_and_statistics() -> None:
    classifier = lite0(pretrained=True).state_dict()
    backbone = build_backbone("efficientnet_lite0", pretrained=True).body.state_dict()
    assert classifier.keys() - backbone.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, classifier[name]) for name, value in backbone.items())


def test_parameters_that_only_the_classifier_uses_are_frozen() -> None:
    backbone = build_backbone("timm/convnext_atto")
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {"body.head.norm.weight", "body.head.norm.bias"}
    assert all(parameter.requires_grad for parameter in build_backbone("efficientnet_lite0").parameters())


@pytest.mark.slow
@pytest.mark.parametrize("stride", [8, 16, 32])
@torch.no_grad()
def test_measured_cell_centres_agree_with_the_coordinates(stride: int) -> None:
    """A network trained with flips computes nearly the flipped features for a flipped image.

    With cells at `stride * i + c`, the features of image columns d to d + S, flipped before and after the network, are
    aligned with those of columns 0 to S for d = 2 c - (stride - 1). The d of the highest similarity gives c.
    """
    backbone = build_backbone("efficientnet_lite0", pretrained=True).eval()
    side, first, margin = 256, 40, 64 // stride
    shifts = range(-36, 40, 4)
    similarity = torch.zeros(len(shifts))
    for pixels in (data.astronaut(), data.coffee(), data.chelsea()):
        image = backbone.preprocessing(torch.from_numpy(pixels).permute(2, 0, 1)[None, :, :side])
        upright = backbone(image[..., first : first + side])[stride]
        for index, shift in enumerate(shifts):
            flipped = backbone(image[..., first + shift : first + shift + side].flip(-1))[stride].flip(-1)
            pair = [m[0, ..., margin:-margin, margin:-margin].flatten(1) for m in (upright, flipped)]
            pair = [m - m.mean(1, keepdim=True) for m in pair]
            similarity[index] += torch.nn.functional.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)
    best = int(similarity.argmax().clamp(1, len(shifts) - 2))
    before, highest, after = similarity[best - 1 : best + 2].tolist()
    shift = shifts[best] + 4 * (before - after) / (2 * (before - 2 * highest + after))  # the vertex of a parabola
    centre = (shift + stride - 1) / 2
    coordinates = backbone.coordinates[stride]
    assert centre == pytest.approx(float(-coordinates.shift / coordinates.scale), abs=stride / 8)


def test_a_failed_download_names_the_backbone_and_the_reason() -> None:
    def fail() -> None:
        raise OSError("no route to host\nat line 3")

    with pytest.raises(UserError, match=r"resnet50 .*\(no route to host\)"):
        fetch("resnet50", fail)


def test_alexnet_loads_no_classifier() -> None:
    with torch.device("meta"):
        backbone = build_backbone("alexnet")
    with pytest.raises(UserError, match="alexnet"):
        load_classifier(backbone, {})
