"""Prediction of single images, upsampling of scores, precisions."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import upscore
from tests.tiny import scenes, tiny_net
from upscore.checkpoints import load_model
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.fcn_runner import BLOCK_ROWS, best_classes, by_resizing, class_map


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Model:
    return upscore.load(trained, engine="torch", precision="float32")


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Image (3, 50, 77) uint8 with several predicted classes."""
    return scenes(1, seed=9, side=80)[0].image[:, :50, :77].contiguous()


def test_an_image_in_all_forms(predictor: Model, image: Tensor, tmp_path: Path) -> None:
    array = image.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "photo.png")
    expected = predictor.predict(image).class_map
    assert expected.shape == (50, 77)
    assert expected.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    forms = [tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(array), array, array.copy(order="F")]
    for form in forms:
        prediction = predictor.predict(form)
        assert np.array_equal(prediction.class_map, expected), type(form)
        assert prediction.image is not None
        assert np.array_equal(prediction.image, array)
        assert prediction.classes == predictor.classes == scenes().classes


def test_a_grey_image(predictor: Model, image: Tensor) -> None:
    grey = image[0].numpy()
    expected = predictor.predict(image[:1].repeat(3, 1, 1)).class_map
    assert np.array_equal(predictor.predict(grey).class_map, expected)
    assert np.array_equal(predictor.predict(Image.fromarray(grey)).class_map, expected)


def test_exif_orientation(predictor: Model, image: Tensor, tmp_path: Path) -> None:
    upright = Image.fromarray(image.permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "rotated.png", exif=exif)
    expected = predictor.predict(upright).class_map
    assert np.array_equal(predictor.predict(tmp_path / "rotated.png").class_map, expected)
    with Image.open(tmp_path / "rotated.png") as rotated:
        assert np.array_equal(predictor.predict(rotated).class_map, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (31, 33), (65, 64)])
def test_any_size(predictor: Model, size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    for max_side in (0, 24, 1):
        prediction = Model(predictor.module, "torch", "float32", max_side=max_side).predict(image, scores=True)
        assert prediction.class_map.shape == size
        assert prediction.scores is not None
        assert prediction.scores.shape == (8, *size)


def test_max_side_limits_the_network_input(predictor: Model) -> None:
    image = scenes(1, seed=5, side=128)[0].image[:, :, :96]
    sizes = []
    net = copy.deepcopy(predictor.module)
    net.backbone.register_forward_pre_hook(lambda _module, inputs: sizes.append(inputs[0].shape[-2:]))
    for max_side in (0, 128, 64):
        assert Model(net, "torch", "float32", max_side=max_side).predict(image).class_map.shape == (128, 96)
    assert sizes == [(128, 96), (128, 96), (64, 64)]  # padded from 48


@pytest.mark.parametrize("cells", [(7, 9), (64, 40), (200, 333), (33, 5)])
@pytest.mark.parametrize("size", [(7, 9), (200, 333), (131, 64), (1, 1), (3 * BLOCK_ROWS, 10), (5, 700)])
def test_blockwise_upsampling_equals_interpolation(cells: tuple[int, int], size: tuple[int, int]) -> None:
    logits = 3 * torch.randn(4, *cells, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    classes, probabilities = class_map(by_resizing(logits, size), size, probabilities=lambda scores: scores.softmax(0))
    assert probabilities is not None
    assert (classes == whole.argmax(0)).float().mean() > 0.999  # apart from ties
    assert torch.allclose(probabilities.float(), whole.softmax(0), atol=2e-3)
    assert torch.allclose(probabilities.float().sum(0), torch.ones(size), atol=5e-3)
    assert class_map(by_resizing(logits, size), size)[1] is None


@pytest.mark.parametrize("classes", [1, 2, 21, 255])
def test_the_first_of_equal_scores_is_best(classes: int) -> None:
    scores = torch.randint(-3, 3, (classes, 9, 14), generator=torch.Generator().manual_seed(0)).float()
    assert (best_classes(scores) == torch.from_numpy(scores.numpy().argmax(0))).all()


def test_scores(predictor: Model, image: Tensor) -> None:
    prediction = predictor.predict(image, scores=True)
    assert prediction.scores is not None
    assert prediction.scores.dtype == np.float16
    assert np.allclose(prediction.scores.astype(np.float32).sum(0), 1, atol=5e-3)
    best = np.take_along_axis(prediction.scores, prediction.class_map[None].astype(int), 0)[0]
    assert (best == prediction.scores.max(0)).all()
    assert predictor.predict(image).scores is None


def test_the_class_map_is_the_argmax_of_the_network(predictor: Model, image: Tensor) -> None:
    net = copy.deepcopy(predictor.module).to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-arg]
    with torch.no_grad():
        logits = net(net.preprocessing(image[None]))[0]
    assert (torch.from_numpy(predictor.predict(image).class_map) == logits.argmax(0)).float().mean() > 0.999


def test_the_text_form_is_short(trained: Path) -> None:
    model = upscore.load(trained, engine="torch", precision="float32")
    assert repr(model).startswith("Model(semantic: fcn8s ")
    assert repr(model).endswith("8 classes, engine torch, precision float32)")


def test_a_module_in_memory(trained: Path) -> None:
    net, _ = load_model(trained)
    sample = scenes()[0]
    assert sample.class_map is not None
    prediction = Model(net, engine="auto", precision="auto").predict(sample.image)
    assert (prediction.class_map == sample.class_map.numpy()).mean() > 0.6
    assert prediction.classes == scenes().classes


def test_bfloat16_agrees_with_float32(trained: Path) -> None:
    net, _ = load_model(trained)
    one, other = (
        [Model(net, "torch", precision).predict(scenes()[index].image).class_map for index in range(2)]
        for precision in ("float32", "bfloat16")
    )
    assert np.mean(np.array(one) == np.array(other)) > 0.99
    dtypes = []
    convolution = next(layer for layer in net.backbone.modules() if isinstance(layer, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    Model(net, "torch", "bfloat16").predict(scenes()[0].image)
    assert dtypes == [torch.bfloat16]


def test_prediction_does_not_change_the_module(image: Tensor) -> None:
    net = tiny_net().train()
    before = copy.deepcopy(net.state_dict())
    predictor = Model(net)
    predictor.predict(image)
    assert all(module.training for module in predictor.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in predictor.module.state_dict().items())


def test_overlay(predictor: Model, image: Tensor, tmp_path: Path) -> None:
    predictor.predict(image).overlay().save(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.mode == "RGB"
        assert overlay.width >= 77


def test_unknown_engines_and_precisions() -> None:
    with pytest.raises(UserError, match="fast"):
        Model(tiny_net(), engine="fast")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="fp16"):
        Model(tiny_net(), precision="fp16")  # type: ignore[arg-type]
