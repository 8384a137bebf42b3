import numpy as np
import pytest
import torch

from tests.data.layouts import names, photo
from tests.data.published import mat, messages, resized, sift_flow, write_list
from upscore.data.checks.semantic import check
from upscore.data.datasets import default_split, open_dataset, open_splits
from upscore.data.formats.sift_flow import CLASSES, GEOMETRIC_CLASSES, SCENES, UNLABELLED
from upscore.errors import UserError


@pytest.fixture
def home(tmp_path):
    return sift_flow(tmp_path / "SiftFlowDataset")


def semantic(home, name):
    return home / "SemanticLabels" / SCENES / f"{name}.mat"


def geometric(home, name):
    return home / "GeoLabels" / SCENES / f"{name}.mat"


@pytest.mark.parametrize("up", [0, 1])
def test_both_label_maps(home, up):
    root = [home, home.parent][up]
    train, test = open_dataset(root, "train"), open_dataset(root, "test")
    assert (names(train), names(test)) == (["a", "b"], ["c"])
    assert default_split(root) == "test"
    assert train.classes == CLASSES
    assert (len(CLASSES), CLASSES[0], CLASSES[32]) == (33, "awning", "window")
    assert train.geometric_classes == GEOMETRIC_CLASSES == ["sky", "horizontal", "vertical"]
    assert train.depth_channels == 0
    sample = train[0]
    assert sample.class_map.dtype == sample.geometric_map.dtype == torch.uint8
    assert sample.class_map[0].tolist() == [255, 0, 32, 255, 0, 32]
    assert sample.geometric_map[0].tolist() == [255, 255, 0, 2, 255, 255]
    assert messages(check(root)) == []


def test_photos_without_a_label_are_left_out(home):
    for name in UNLABELLED:
        photo(home / "Images" / SCENES / f"{name}.jpg")
        mat(semantic(home, name), {"S": resized([0])})
        mat(geometric(home, name), {"S": resized([0])})
    assert names(open_dataset(home, "train")) == ["a", "b"]
    write_list(home / "trainval.txt", ["a", *sorted(UNLABELLED)])
    assert names(open_dataset(home, "train")) == ["a", *sorted(UNLABELLED)]
    assert any("every pixel is void" in message for message in messages(check(home)))


def test_lists_of_the_authors(home):
    (home / "TestSet1.txt").unlink()
    write_list(home / "test.txt", ["c"])
    write_list(home / "train.txt", ["b"])
    write_list(home / "val.txt", ["a"])
    train, val = open_splits(home)
    assert (names(train), names(val), names(open_dataset(home, "test"))) == (["b"], ["a"], ["c"])
    assert names(open_dataset(home, "trainval")) == ["a", "b"]


def test_semantic_classes_alone(home):
    for name in "abc":
        geometric(home, name).unlink()
    (home / "GeoLabels" / SCENES).rmdir()
    (home / "GeoLabels").rmdir()
    train = open_dataset(home, "train")
    assert train.geometric_classes == []
    assert train[0].geometric_map is None


def test_faults(home):
    geometric(home, "a").unlink()
    with pytest.raises(UserError, match=r"a\.mat: is listed in the split 'train' but missing"):
        open_splits(home)
    (home / "TestSet1.txt").unlink()
    with pytest.raises(UserError, match=r"TestSet1\.txt: is missing or empty"):
        open_dataset(home, "test")
    (home / "TestSet1.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"TestSet1\.txt: cannot be read"):
        open_dataset(home, "test")
    write_list(home / "TestSet1.txt", "abc")
    with pytest.raises(UserError, match="test set"):
        open_dataset(home, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"S": resized([34])}, "whole numbers from 0 to 33, but 34 at x=0, y=0"),
        ({"S": resized([-1])}, "from 0 to 33, but -1"),
        ({"S": resized([0.5])}, "whole numbers"),
        ({"S": resized([np.nan])}, "whole numbers"),
        ({"S": resized([np.inf])}, "whole numbers"),
        ({"S": resized([1], (3, 6))}, "is 6x3 pixels, but .*a.jpg is 6x4"),
        ({"S": resized([1], (2, 4, 6))}, r"must be a map \(H, W\)"),
        ({"S": "sky"}, r"must be a map \(H, W\)"),
        ({"S": np.zeros((0, 0))}, r"must be a map \(H, W\)"),
        ({"S": resized([1j], dtype=complex)}, r"must be a map \(H, W\)"),
        ({"T": resized([1])}, "holds no variable S"),
    ],
)
def test_labels_that_are_none(home, content, message):
    path = mat(semantic(home, "a"), content)
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(home, "train")[0]
    assert str(path) in str(caught.value)
    assert any(str(path) in issue for issue in messages(check(home)))


def test_a_geometric_label_that_is_none(home):
    mat(geometric(home, "a"), {"S": resized([4])})
    with pytest.raises(UserError, match=r"GeoLabels.*a\.mat: S holds whole numbers from -1 to 3, but 4"):
        open_dataset(home, "train")[0]
    (issue,) = check(home).issues
    assert (issue.kind, issue.path) == ("label values", geometric(home, "a"))


def test_broken_files(home):
    content = semantic(home, "a").read_bytes()
    for broken in (b"", content[:90], content[: len(content) // 2], b"MATLAB 7.3 " + bytes(100)):
        semantic(home, "a").write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.mat: "):
            open_dataset(home, "train")[0]
        (issue,) = check(home).issues
        assert issue.path == semantic(home, "a")
