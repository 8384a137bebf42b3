import numpy as np
import pytest
import torch

from tests.data.layouts import names, write_image
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
def test_splits_and_both_label_maps(home, up):
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


def test_unlabelled_images_are_left_out(home):
    for name in UNLABELLED:
        write_image(home / "Images" / SCENES / f"{name}.jpg")
        mat(semantic(home, name), {"S": resized([0])})
        mat(geometric(home, name), {"S": resized([0])})
    assert names(open_dataset(home, "train")) == ["a", "b"]
    write_list(home / "trainval.txt", ["a", *sorted(UNLABELLED)])
    assert names(open_dataset(home, "train")) == ["a", *sorted(UNLABELLED)]
    assert any("every pixel is void" in message for message in messages(check(home)))


def test_lists_of_all_splits(home):
    (home / "TestSet1.txt").unlink()
    write_list(home / "test.txt", ["c"])
    write_list(home / "train.txt", ["b"])
    write_list(home / "val.txt", ["a"])
    train, val = open_splits(home)
    assert (names(train), names(val), names(open_dataset(home, "test"))) == (["b"], ["a"], ["c"])
    assert names(open_dataset(home, "trainval")) == ["a", "b"]


def test_geometric_labels_are_optional(home):
    for name in "abc":
        geometric(home, name).unlink()
    (home / "GeoLabels" / SCENES).rmdir()
    (home / "GeoLabels").rmdir()
    train = open_dataset(home, "train")
    assert train.geometric_classes == []
    assert train[0].geometric_map is None


def test_missing_files_and_lists_are_named(home):
    geometric(home, "a").unlink()
    with pytest.raises(UserError, match=r"GeoLabels/.*a\.mat: .*'train'"):
        open_splits(home)
    (home / "TestSet1.txt").unlink()
    with pytest.raises(UserError, match=r"TestSet1\.txt: "):
        open_dataset(home, "test")
    (home / "TestSet1.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"TestSet1\.txt: .*UTF-8"):
        open_dataset(home, "test")
    write_list(home / "TestSet1.txt", "abc")
    with pytest.raises(UserError, match="Images/"):
        open_dataset(home, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"S": resized([34])}, "0 to 33.* 34 at x=0, y=0"),
        ({"S": resized([-1])}, "0 to 33.* -1 "),
        ({"S": resized([0.5])}, "0.5 at"),
        ({"S": resized([np.nan])}, "nan at"),
        ({"S": resized([np.inf])}, "inf at"),
        ({"S": resized([1], (3, 6))}, r"6x3.*a\.jpg.*6x4"),
        ({"S": resized([1], (2, 4, 6))}, r"\(H, W\)"),
        ({"S": "sky"}, r"\(H, W\)"),
        ({"S": np.zeros((0, 0))}, r"\(H, W\)"),
        ({"S": resized([1j], dtype=complex)}, r"\(H, W\)"),
        ({"T": resized([1])}, "variable S"),
    ],
)
def test_invalid_labels_are_named(home, content, message):
    path = mat(semantic(home, "a"), content)
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(home, "train")[0]
    assert str(path) in str(caught.value)
    assert any(str(path) in issue for issue in messages(check(home)))


def test_invalid_geometric_labels_are_named(home):
    mat(geometric(home, "a"), {"S": resized([4])})
    with pytest.raises(UserError, match=r"GeoLabels.*a\.mat: S .*-1 to 3.* 4 "):
        open_dataset(home, "train")[0]
    (issue,) = check(home).issues
    assert (issue.kind, issue.path) == ("label values", geometric(home, "a"))


def test_damaged_files_are_named(home):
    content = semantic(home, "a").read_bytes()
    for damaged in (b"", content[:90], content[: len(content) // 2], b"MATLAB 7.3 " + bytes(100)):
        semantic(home, "a").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.mat: "):
            open_dataset(home, "train")[0]
        (issue,) = check(home).issues
        assert issue.path == semantic(home, "a")
