"""Networks by name, with their options."""

from __future__ import annotations

import pytest
import torch

from upscore.errors import UserError
from upscore.models import build
from upscore.models.fcn.build import FCN_STRIDES
from upscore.models.fcn.fcn import AT_ONCE_SCALES
from upscore.models.preprocessing import CAFFE, IMAGENET, LITE0


@pytest.mark.parametrize("name", FCN_STRIDES)
def test_a_name_gives_its_strides_and_skip_scales(name: str) -> None:
    with torch.device("meta"):
        net = build(name, backbone="vgg16", num_classes=21)
    assert net.strides == FCN_STRIDES[name]
    assert net.skip_scales == (AT_ONCE_SCALES if name == "fcn8s-atonce" else {})
    assert net.architecture["name"] == name
    scores = sum(p.numel() for p in net.score.parameters())
    channels = {32: 512 if name == "fcn-pool5" else 4096, 16: 512, 8: 256}
    assert scores == sum(21 * (channels[stride] + 1) for stride in net.strides)
    if not name.startswith("fcn-"):
        assert sum(p.numel() for p in net.parameters()) == 134_260_544 + scores  # FCN table 1: 134M


def test_the_recorded_architecture_rebuilds_the_network() -> None:
    with torch.device("meta"):
        net = build(
            "fcn16s", backbone="vgg16", num_classes=5, geometry="caffe", upsampling="intermediate", grouped=False
        )
        again = build(**net.architecture)  # type: ignore[arg-type]
    assert again.architecture == net.architecture
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in net.state_dict().items()}
    assert again.crops == net.crops


def test_the_backbone_determines_the_preprocessing() -> None:
    with torch.device("meta"):
        assert build("fcn32s", backbone="vgg16", num_classes=2, geometry="caffe").preprocessing == CAFFE
        assert build("fcn32s", backbone="vgg16", num_classes=2, geometry="same").preprocessing == IMAGENET
        assert build("fcn32s", backbone="alexnet", num_classes=2, geometry="caffe").preprocessing == CAFFE
    assert build("fcn32s", num_classes=2).preprocessing == LITE0
    assert build("fcn32s", backbone="resnet18", num_classes=2).preprocessing == IMAGENET
    other = build("fcn32s", backbone="timm/resnet18", num_classes=2).preprocessing
    assert other.mean == pytest.approx(IMAGENET.mean, abs=0.01)
    assert other.std == pytest.approx(IMAGENET.std, abs=0.01)


@pytest.mark.parametrize(("upsampling", "learned"), [("fixed", []), ("intermediate", [8, 16]), ("learned", [1, 8, 16])])
@pytest.mark.parametrize("grouped", [True, False])
def test_upsampling_option_selects_the_learned_layers(upsampling: str, learned: list[int], grouped: bool) -> None:
    with torch.device("meta"):
        net = build("fcn8s", backbone="vgg16", num_classes=5, upsampling=upsampling, grouped=grouped)  # type: ignore[arg-type]
    weights = {int(stride): list(layer.parameters()) for stride, layer in net.upscore.items()}
    assert sorted(stride for stride, parameters in weights.items() if parameters) == learned
    assert all(w.shape[1] == (1 if grouped else 5) for parameters in weights.values() for w in parameters)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "fcn4s"}, ["'fcn4s'", "fcn32s", "fcn16s", "mask_rcnn"]),
        ({"num_classes": 0}, ["num_classes", "0", "1..255"]),
        ({"num_classes": 256}, ["num_classes", "256", "1..255"]),
        ({"pixel_loss": "sigmoid", "null_background": True, "num_classes": 1}, ["null_background", "sigmoid", "1"]),
        ({"null_background": True}, ["null_background", "softmax"]),
        ({"kernel": 3}, ["fcn8s", "'kernel'", "num_classes"]),
        ({"backbone": "vgg61"}, ["'vgg61'"]),
        ({"backbone": "resnet18", "geometry": "caffe"}, ["resnet18", "caffe", "vgg16"]),
        ({"backbone": "alexnet", "geometry": "caffe"}, ["alexnet", "stride 16", "fcn8s"]),
        ({"backbone": "alexnet", "geometry": "caffe", "pretrained": True}, ["alexnet"]),
        ({"backbone": "timm/vit_tiny_patch16_224"}, ["vit_tiny_patch16_224"]),
    ],
)
def test_invalid_options_are_named_in_the_error(arguments: dict, words: list[str]) -> None:
    with torch.device("cpu"), pytest.raises(UserError) as error:
        build(**({"name": "fcn8s", "num_classes": 2} | arguments))
    assert all(word in str(error.value) for word in words), error.value
