"""Converted classifiers, compared with the classifier on crops."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import convnext_tiny, get_model

from upscore.errors import UserError
from upscore.models.backbones.efficientnet_lite import lite0
from upscore.models.classifiers.convolutionalize import convolutionalize, linear_to_conv


def build(name):
    torch.manual_seed(0)
    if name == "lite0":
        return lite0().eval()
    if name.startswith("timm/"):
        return timm.create_model(name.removeprefix("timm/")).eval()
    return get_model(name, weights=None).eval()


def padding_free_net():
    """A network with a window of 19 pixels and stride 4, whose first linear layer takes 3x3 cells."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.Dropout(),
        nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "resnet18",
        "efficientnet_b0",
        "timm/resnet18",
        "timm/tf_efficientnet_b0",
        "lite0",
        pytest.param("resnet50", marks=slow),
        pytest.param("vgg11", marks=slow),
        pytest.param("vgg16", marks=slow),
        pytest.param("vgg16_bn", marks=slow),
        pytest.param("timm/vgg11", marks=slow),
    ],
)
@torch.inference_mode()
def test_logits_equal_the_classifiers(name):
    classifier = build(name)
    dense = convolutionalize(classifier)
    images = torch.randn(2, 3, 224, 224)
    expected, logits = classifier(images), dense(images)
    assert logits.shape == (2, 1000, 1, 1)
    assert (logits.flatten(1) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert dense(torch.randn(1, 3, 256, 320)).shape == (1, 1000, 2, 4)


@pytest.mark.parametrize("size", [(19, 19), (37, 45)])
@torch.inference_mode()
def test_each_cell_has_the_logits_of_its_crop(size):
    classifier = padding_free_net()
    image = torch.randn(1, 3, *size)
    logits = convolutionalize(classifier, input_size=19)(image)
    rows, columns = ((side - 19) // 4 + 1 for side in size)
    assert logits.shape == (1, 5, rows, columns)
    for row in range(rows):
        for column in range(columns):
            crop = image[..., 4 * row : 4 * row + 19, 4 * column : 4 * column + 19]
            torch.testing.assert_close(logits[..., row, column], classifier(crop))


def test_rectangular_windows_are_supported():
    classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1), nn.Linear(4 * 4 * 6, 2)).eval()
    image = torch.randn(1, 3, 6, 8)
    dense = convolutionalize(classifier, input_size=(6, 8))
    torch.testing.assert_close(dense(image).flatten(1), classifier(image))
    assert dense(torch.randn(1, 3, 8, 9)).shape == (1, 2, 3, 2)


class Reshaping(nn.Module):
    """A network that pools and flattens by functions."""

    def __init__(self):
        super().__init__()
        self.features, self.score = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.score(x.view(x.size(0), -1))


class Averaging(Reshaping):
    def forward(self, x):
        return self.score(self.features(x).mean([2, 3]))


@pytest.mark.parametrize("network", [Reshaping, Averaging])
@torch.inference_mode()
def test_functional_pooling_and_flattening_are_supported(network):
    classifier, image = network().eval(), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(convolutionalize(classifier, 8)(image).flatten(1), classifier(image))
    assert convolutionalize(classifier, 8)(torch.randn(1, 3, 10, 9)).shape == (1, 2, 3, 2)


@torch.inference_mode()
def test_unpooled_logits_average_to_the_classifiers_logits():
    classifier, image = build("resnet18"), torch.randn(1, 3, 224, 224)
    logits = convolutionalize(classifier, pool=False)(image)
    assert logits.shape == (1, 1000, 7, 7)
    torch.testing.assert_close(logits.mean((2, 3)), classifier(image), rtol=1e-4, atol=1e-4)


def test_the_classifier_is_not_modified():
    classifier = padding_free_net().train()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    dense = convolutionalize(classifier, 19)
    assert dense.training
    with torch.no_grad():
        for parameter in dense.eval().parameters():
            parameter.zero_()
    assert classifier.training
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert dense.state_dict().keys() == before.keys()


def test_running_statistics_do_not_change():
    classifier = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    dense = convolutionalize(classifier.train(), 16)
    assert dense.state_dict()["1.num_batches_tracked"] == 0


def test_weights_are_reshaped_in_row_major_order():
    linear = nn.Linear(2 * 3 * 4, 5)
    convolution = linear_to_conv(linear, (3, 4))
    assert torch.equal(convolution.weight[1, 1, 2, 3], linear.weight[1, 23])
    assert torch.equal(convolution.weight[1, 1, 0, 1], linear.weight[1, 13])


@pytest.mark.parametrize(
    ("head", "layer"),
    [
        ([nn.Flatten(), nn.Linear(4 * 196, 2), nn.LayerNorm(2)], "layer 3"),
        ([nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(100, 2)], "layer 1"),
        ([nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)], "layer 1"),
    ],
)
def test_unsupported_layers_are_named_in_the_error(head, layer):
    with pytest.raises(UserError, match=rf"\b{layer}\b"):
        convolutionalize(nn.Sequential(nn.Conv2d(3, 4, 3), *head), 16)


def test_normalisation_after_pooling_is_an_error():
    with pytest.raises(UserError, match="ConvNeXt"):
        convolutionalize(convnext_tiny(weights=None))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_an_untraceable_layer_is_named_in_the_error():
    with pytest.raises(UserError, match="layer 1 of Sequential"):
        convolutionalize(nn.Sequential(nn.Conv2d(3, 4, 3), Branching(), nn.Flatten()), 16)
