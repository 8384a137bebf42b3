"""Class heat maps and ImageNet classifiers."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torchvision.models import get_model

from upscore.cli.heatmap import heatmap
from upscore.data.io.images import read_image
from upscore.errors import UserError
from upscore.inference.heatmap import class_index, heat_map
from upscore.models.classifiers.imagenet import imagenet_classes, imagenet_classifier
from upscore.models.preprocessing import IMAGENET

CATS = ["tiger cat", "Egyptian cat"]


@pytest.fixture(scope="module")
def lite0():
    return imagenet_classifier("efficientnet_lite0")


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@pytest.mark.parametrize(("left", "top"), [(30, 20), pytest.param(330, 180, marks=pytest.mark.slow)])
def test_the_heat_lies_on_the_object(lite0, left, top):
    """A cup of coffee, 180 x 120 pixels, in a corner of a grey image."""
    cup = np.array(Image.fromarray(data.coffee()).resize((180, 120)))
    image = np.full((330, 540, 3), 127, np.uint8)
    image[top : top + 120, left : left + 180] = cup
    heat = heat_map(lite0, tensor(image), ["espresso"], scale=1.5).heat
    assert heat.shape == (330, 540)
    assert heat.dtype == np.float32
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    assert top < hottest[0] < top + 120
    assert left < hottest[1] < left + 180
    inside = heat[top : top + 120, left : left + 180].sum() / heat.sum()
    assert inside > 0.75


def test_the_heat_of_a_mirrored_image_is_mirrored(lite0):
    """A misalignment by half a stride would be a difference of 47 pixels."""
    image = np.full((330, 540, 3), 127, np.uint8)
    image[105:225, 180:360] = np.array(Image.fromarray(data.coffee()).resize((180, 120)))
    heat, mirrored = (heat_map(lite0, tensor(view), ["espresso"], scale=1).heat for view in (image, image[:, ::-1]))
    columns = np.arange(540)
    centre, mirrored_centre = (h.sum(0) @ columns / h.sum() for h in (heat, mirrored[:, ::-1]))
    assert abs(centre - mirrored_centre) < 10


def test_the_default_label_is_the_most_probable_class(lite0):
    found = heat_map(lite0, tensor(data.coffee()))
    assert found.label == found.top[0][0] == "espresso"
    probabilities = [probability for _, probability in found.top]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert found.heat.max() > 0.9


@pytest.mark.slow
def test_probabilities_of_several_labels_are_summed(lite0):
    image = tensor(data.chelsea())
    each = [heat_map(lite0, image, [cat], scale=1).heat for cat in CATS]
    together = heat_map(lite0, image, CATS, scale=1)
    assert together.label == "tiger cat or Egyptian cat"
    np.testing.assert_allclose(together.heat, sum(each), atol=1e-4)


def test_the_heat_map_of_a_small_image_has_its_size(lite0):
    image = tensor(np.array(Image.fromarray(data.coffee()).resize((75, 50))))
    assert heat_map(lite0, image, ["espresso"], scale=1).heat.shape == (50, 75)


@pytest.mark.parametrize("scale", [0.5, 0, -1, float("nan")])
def test_a_scale_below_1_is_an_error(lite0, scale):
    with pytest.raises(UserError, match=rf"scale={scale}"):
        heat_map(lite0, tensor(data.coffee()), scale=scale)


def test_a_very_elongated_image_is_an_error(lite0):
    with pytest.raises(UserError, match="4 million"):
        heat_map(lite0, torch.zeros(3, 4, 4000, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["tabby", "tabby cat", "Tabby_Cat", " TABBY "])
def test_a_class_has_several_names(name):
    assert class_index(imagenet_classes(), name) == 281


def test_every_class_is_found_by_its_name():
    classes = imagenet_classes()
    found = [class_index(classes, name) for name in classes]
    assert [classes[index] for index in found] == classes


def test_an_unknown_label_is_an_error_with_similar_names():
    with pytest.raises(UserError, match=r'no class "tiger-cat": did you mean .*tiger cat'):
        class_index(imagenet_classes(), "tiger-cat")
    with pytest.raises(UserError, match="egyptian cat"):
        class_index(imagenet_classes(), "cat")


def test_the_command_prints_probabilities_and_writes_a_picture(tmp_path, capsys, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.fromarray(data.coffee()).save(tmp_path / "photos/photo.jpg")
    heatmap(tmp_path / "photos/photo.jpg", label=["espresso"])
    printed = capsys.readouterr().out
    assert "espresso: up to" in printed
    assert printed.count("%") == 6
    with Image.open(tmp_path / "work/photo_heatmap.png") as picture:
        assert picture.width == 600
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["photo.jpg"]


def test_the_command_does_not_overwrite_the_image(tmp_path):
    Image.fromarray(data.coffee()).save(tmp_path / "photo.png")
    with pytest.raises(UserError, match="--output"):
        heatmap(tmp_path / "photo.png", output=tmp_path / "photo.png")
    assert read_image(tmp_path / "photo.png").shape == (3, 400, 600)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_weights_are_loaded(tmp_path, suffix):
    net = get_model("squeezenet1_1", weights=None)
    path = tmp_path / f"weights{suffix}"
    save_file(net.state_dict(), path) if suffix == ".safetensors" else torch.save(net.state_dict(), path)
    classifier = imagenet_classifier("squeezenet1_1", path)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in classifier.net.state_dict().items())
    assert not classifier.net.training
    assert (classifier.preprocessing.mean, classifier.input_size) == (pytest.approx(IMAGENET.mean), 224)


def test_invalid_weights_are_an_error(tmp_path):
    torch.save(get_model("squeezenet1_0", weights=None).state_dict(), tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for file, message in [
        ("other.pth", r"other\.pth .*squeezenet1_1.*features\.0\.weight"),
        ("text.pth", r"text\.pth"),
        ("text.safetensors", r"text\.safetensors"),
        ("list.pth", r"list\.pth .*state dict"),
        ("none.pth", r"none\.pth"),
    ]:
        with pytest.raises(UserError, match=message):
            imagenet_classifier("squeezenet1_1", tmp_path / file)


@pytest.mark.parametrize(
    ("name", "close"), [("vgg61", "vgg16"), ("timm/resnet81", "timm/resnet18"), ("fcn_resnet50", "")]
)
def test_an_unknown_classifier_is_an_error_with_similar_names(name, close):
    with pytest.raises(UserError, match=close or name):
        imagenet_classifier(name)


def test_a_failed_download_is_an_error_with_the_remedy(monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("upscore.models.classifiers.imagenet.get_model", offline)
    monkeypatch.setattr("upscore.models.classifiers.imagenet.timm.create_model", offline)
    for name in ("alexnet", "timm/resnet18"):
        with pytest.raises(UserError, match=rf"{name} .*\(no network\).*--weights"):
            imagenet_classifier(name)
