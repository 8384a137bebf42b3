from __future__ import annotations

import pytest
import torch

from upscore.errors import UserError
from upscore.models import build
from upscore.models.build import FCN_STRIDES
from upscore.models.fcn.fcn import AT_ONCE_SCALES
from upscore.models.preprocessing import CAFFE, IMAGENET, LITE0


@pytest.mark.parametrize("name", FCN_STRIDES)
def test_networks_by_name(name: str) -> None:
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


def test_the_architecture_builds_the_network_again() -> None:
    with torch.device("meta"):
        net = build(
            "fcn16s", backbone="vgg16", num_classes=5, geometry="caffe", upsampling="intermediate", grouped=False
        )
        again = build(**net.architecture)  # type: ignore[arg-type]
    assert again.architecture == net.architecture
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in net.state_dict().items()}
    assert again.crops == net.crops


def test_preprocessing_belongs_to_the_backbone() -> None:
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
def test_which_upsampling_is_learned(upsampling: str, learned: list[int], grouped: bool) -> None:
    with torch.device("meta"):
        net = build("fcn8s", backbone="vgg16", num_classes=5, upsampling=upsampling, grouped=grouped)  # type: ignore[arg-type]
    weights = {int(stride): list(layer.parameters()) for stride, layer in net.upscore.items()}
    assert sorted(stride for stride, parameters in weights.items() if parameters) == learned
    assert all(w.shape[1] == (1 if grouped else 5) for parameters in weights.values() for w in parameters)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "fcn4s"}, "no network is called 'fcn4s'; choose one of fcn32s, fcn16s"),
        ({"num_classes": 0}, r"num_classes is 0; it must lie in 1\.\.255"),
        ({"num_classes": 256}, "num_classes is 256"),
        ({"backbone": "vgg61"}, "no backbone is called 'vgg61'"),
        ({"backbone": "resnet18", "geometry": "caffe"}, 'geometry "caffe" is for vgg16 and alexnet'),
        (
            {"backbone": "alexnet", "geometry": "caffe"},
            "alexnet has no map at stride 16, which fcn8s needs",
        ),
        ({"backbone": "alexnet", "geometry": "caffe", "pretrained": True}, "no published ImageNet weights"),
        ({"backbone": "timm/vit_tiny_patch16_224"}, "vit_tiny_patch16_224"),
    ],
)
def test_what_can_not_be_built_is_said(arguments: dict, match: str) -> None:
    with torch.device("cpu"), pytest.raises(UserError, match=match):
        build(**({"name": "fcn8s", "num_classes": 2} | arguments))
