import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.layouts import names, write_image
from tests.data.published import mat, messages, nyud, resized, write_list
from upscore.data.checks.semantic import check
from upscore.data.datasets import open_dataset, open_splits
from upscore.data.formats.nyud import CLASSES
from upscore.errors import UserError


@pytest.fixture
def home(tmp_path):
    return nyud(tmp_path / "nyud")


def remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("up", [0, 1])
def test_splits_and_labels(home, up):
    root = [home, home.parent][up]
    train, val = open_splits(root)
    assert (names(train), names(val)) == (["5001", "5003"], ["5002"])
    assert names(open_dataset(root, "trainval")) == ["5001", "5002", "5003"]
    assert names(open_dataset(root, "test")) == ["5004"]
    assert train.classes == CLASSES
    assert (len(CLASSES), CLASSES[0], CLASSES[39]) == (40, "wall", "otherprop")
    assert train[0].class_map[0].tolist() == [255, 0, 39, 255, 0, 39]
    assert train.geometric_classes == []
    assert messages(check(root)) == []


def test_depth_is_in_metres(home):
    train = open_dataset(home, "train")
    depth = train[0].depth
    assert train.depth_channels == 1
    assert (depth.shape, depth.dtype) == ((1, 4, 6), torch.float32)
    assert math.isnan(depth[0, 0, 0])
    assert depth[0, 0, 1:3].tolist() == pytest.approx([1, math.e], abs=1e-3)
    assert depth.isfinite().sum() == 23


def test_depth_channels_choose_depth_or_hha(home):
    train = open_dataset(home, "train", depth_channels=3)
    depth = train[0].depth
    assert train.depth_channels == 3
    assert (depth.shape, depth.dtype) == ((3, 4, 6), torch.float32)
    assert depth[:, 2, 3].tolist() == [10, 20, 30]
    remove(home / "data" / "depth")
    assert open_dataset(home, "train").depth_channels == 3
    with pytest.raises(UserError, match=r"data/depth: "):
        open_dataset(home, "train", depth_channels=1)
    remove(home / "data" / "hha")
    train = open_dataset(home, "train")
    assert (train.depth_channels, train[0].depth) == (0, None)


def test_depth_channels_are_refused_for_other_data(tmp_path):
    write_image(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match="depth_channels="):
        open_dataset(tmp_path, depth_channels=3)


def test_trainval_alone_is_split_at_random(home):
    (home / "train.txt").unlink()
    (home / "val.txt").unlink()
    write_list(home / "trainval.txt", ["5001", "5002", "5003"])
    train, val = open_splits(home, fraction=0.3)
    assert (len(train), len(val)) == (2, 1)
    assert "5004" not in names(train) + names(val)
    assert names(open_dataset(home, "train")) == ["5001", "5002", "5003"]
    (home / "trainval.txt").unlink()
    (home / "test.txt").unlink()
    with pytest.raises(UserError, match=r"nyud: .*train\.txt"):
        open_splits(home)


def test_missing_files_are_named(home):
    (home / "data" / "depth" / "img_5001.png").unlink()
    with pytest.raises(UserError, match=r"depth/img_5001\.png: .*'train'"):
        open_splits(home)
    (home / "segmentation" / "img_5002.mat").unlink()
    (home / "data" / "images" / "img_5003.png").unlink()
    issues = check(home).issues
    assert [issue.kind for issue in issues] == ["missing label", "missing image", "missing label"]


def test_invalid_depth_is_named(home):
    path = home / "data" / "depth" / "img_5001.png"
    for values in (np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint8)):
        Image.fromarray(values).save(path)
        with pytest.raises(UserError, match=r"depth/img_5001\.png: .*16-bit"):
            open_dataset(home, "train")[0]
    Image.fromarray(np.ones((3, 6), np.uint16)).save(path)
    with pytest.raises(UserError, match=r"depth/img_5001\.png: .*6x3.*6x4"):
        open_dataset(home, "train")[0]
    (issue,) = check(home).issues
    assert (issue.kind, issue.path) == ("size", path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"depth/img_5001\.png: "):
        open_dataset(home, "train")[0]
    assert [issue.kind for issue in check(home).issues] == ["unreadable"]


def test_invalid_labels_are_named(home):
    path = home / "segmentation" / "img_5001.mat"
    mat(path, {"segmentation": resized([41], dtype=np.uint8)})
    with pytest.raises(UserError, match=r"img_5001\.mat: segmentation .*0 to 40.* 41 "):
        open_dataset(home, "train")[0]
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(UserError, match=r"img_5001\.mat: "):
        open_dataset(home, "train")[0]
    assert [issue.path for issue in check(home).issues] == [path]


def test_the_original_distribution_is_refused(tmp_path):
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"HDF")
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat: .*HDF5"):
        open_dataset(tmp_path)
