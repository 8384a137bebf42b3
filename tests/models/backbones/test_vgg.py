"""torchvision's VGG16 weights in the fully convolutional backbone (FCN section 3.1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import VGG, vgg16

from tests.weights import he_weights
from upscore.checkpoints.importers.torchvision import import_torchvision_vgg16
from upscore.errors import UserError
from upscore.models.fcn.fcn import FCN
from upscore.models.preprocessing import IMAGENET


@pytest.fixture(scope="module")
def classifier() -> VGG:
    with torch.device("meta"):
        net = vgg16()
    net.load_state_dict(he_weights(net.state_dict()), assign=True)
    return net.eval()


@pytest.fixture(scope="module")
def net(classifier: VGG) -> FCN:
    return import_torchvision_vgg16(classifier.state_dict(), "fcn8s", num_classes=3)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow
@torch.inference_mode()
def test_the_convolutional_layers_give_the_classifiers_logits(classifier: VGG, net: FCN) -> None:
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    layers = dict(net.backbone.named_children())
    features = images
    for name, layer in layers.items():
        features = layer(features)
        if name == "pool5":
            break
    assert_close(features, classifier.features(images))

    fc6, fc7 = layers["fc6"], layers["fc7"]
    hidden = F.relu(F.conv2d(features, fc6.weight, fc6.bias, padding=0))
    hidden = F.relu(F.conv2d(hidden, fc7.weight, fc7.bias))
    fc8 = classifier.classifier[6]
    logits = F.conv2d(hidden, fc8.weight[:, :, None, None], fc8.bias)
    assert logits.shape == (1, 1000, 1, 1)
    assert_close(logits.flatten(1), classifier(images))


@pytest.mark.slow
@torch.inference_mode()
def test_initial_scores_are_zero(net: FCN) -> None:
    assert net.preprocessing == IMAGENET
    assert not net.training
    assert net(torch.randn(1, 3, 40, 33)).eq(0).all()


@pytest.mark.slow
def test_mismatching_keys_are_named_in_the_error(classifier: VGG) -> None:
    state = classifier.state_dict()

    def refused(changed: dict, match: str) -> None:
        with pytest.raises(UserError, match=match):
            import_torchvision_vgg16(changed, "fcn32s", num_classes=2)

    refused({name: value for name, value in state.items() if name != "features.5.bias"}, r"features\.5\.bias")
    refused(state | {"features.1.weight": torch.zeros(1)}, r"features\.1\.weight")
    refused(state | {"features.0.weight": torch.zeros(3, 64, 3, 3)}, r"features\.0\.weight .*\(3, 64, 3, 3\)")
    refused(state | {"classifier.0.weight": torch.zeros(25088, 4096)}, r"classifier\.0\.weight .*\(25088, 4096\)")
    refused(state | {"classifier.3.bias": torch.full((4096,), torch.nan)}, r"classifier\.3\.bias")
