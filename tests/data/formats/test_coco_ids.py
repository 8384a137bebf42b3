"""The ids of the COCO data set that images belong to."""

import json
from pathlib import Path

import pytest

from tests.data.coco_files import CATEGORIES, image, small, write
from tests.data.layouts import photo
from upscore.data.formats.coco.ids import CocoIds, find_ids

IDS = {"dog": 7, "cat": 2}


def images_of(root):
    return sorted((root / "images").glob("*.png"))


@pytest.mark.parametrize(
    "name", ["annotations.json", "annotations/instances_default.json", "annotations/annotations.json"]
)
def test_ids_of_the_images_of_a_data_set(tmp_path, name):
    small(tmp_path, name)
    photo(tmp_path / "images/other.png", 20, 30)
    found = find_ids(images_of(tmp_path))
    assert found.category_ids == IDS
    assert found.number(images_of(tmp_path)) == [3, 5, 6]  # 3.png, 5.png, and one that is not listed


def test_relative_paths(tmp_path, monkeypatch):
    small(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_ids([Path("images/3.png")]).number([Path("images/3.png")]) == [3]


def test_splits_in_folders(tmp_path):
    for split, number in (("train", 11), ("valid", 12)):
        photo(tmp_path / split / f"{number}.png", 20, 30)
        write(tmp_path / split / "_annotations.coco.json", [image(number)], [])
    paths = [tmp_path / "valid/12.png", tmp_path / "train/11.png"]
    assert find_ids(paths).number(paths) == [12, 11]
    assert find_ids(paths[:1]).number(paths[:1]) == [12]


def test_ids_that_two_files_share_are_left_out(tmp_path):
    for split in ("train", "val"):
        photo(tmp_path / split / f"{split}.png", 20, 30)
        write(tmp_path / f"annotations/instances_{split}.json", [image(1, f"{split}.png")], [])
    paths = [tmp_path / "train/train.png", tmp_path / "val/val.png"]
    assert find_ids(paths).number(paths) == [1, 2]
    assert find_ids(paths).category_ids == IDS
    assert find_ids(paths[1:]).image_ids == {paths[1]: 1}


def test_categories_that_contradict_each_other(tmp_path):
    for split, shift in (("train", 0), ("val", 1)):
        photo(tmp_path / split / f"{split}.png", 20, 30)
        categories = [{**category, "id": category["id"] + shift} for category in CATEGORIES]
        write(tmp_path / f"annotations/instances_{split}.json", [image(5 + shift, f"{split}.png")], [], categories)
    assert find_ids([tmp_path / "train/train.png", tmp_path / "val/val.png"]) == CocoIds()


@pytest.mark.parametrize("content", ["", "[1]", '{"images": [], "annotations": [], "categories": []}', '{"images": 3}'])
def test_other_files_of_that_name_are_nothing(tmp_path, content):
    photo(tmp_path / "images/3.png", 20, 30)
    (tmp_path / "annotations.json").write_text(content)
    assert find_ids(images_of(tmp_path)) == CocoIds()


def test_an_entry_that_cannot_be_read_is_left_out(tmp_path):
    path = small(tmp_path)
    content = json.loads(path.read_text())
    content["images"] += [{"id": "x"}, {"id": 9, "file_name": "../a.png", "height": 1, "width": 1}]
    path.write_text(json.dumps(content))
    assert find_ids(images_of(tmp_path)).number(images_of(tmp_path)) == [3, 5]


@pytest.mark.parametrize(
    ("classes", "own", "expected"),
    [
        (["cat", "dog"], None, [2, 7]),
        (["Dog", "CAT"], [1, 9], [7, 2]),
        (["dog", "bird", "fish"], [2, 3, 4], [7, 8, 9]),
        (["bird"], [5], [5]),
        (["bird"], None, None),
        (["dog", "Dog"], None, None),
    ],
)
def test_ids_of_a_models_classes(classes, own, expected):
    assert CocoIds({}, IDS).of_classes(classes, own) == expected


def test_images_of_no_data_set_are_numbered(tmp_path):
    photo(tmp_path / "a.png", 20, 30)
    assert find_ids([tmp_path / "a.png"]) == CocoIds()
    assert CocoIds().number([tmp_path / "b.png", tmp_path / "a.png"]) == [1, 2]
    assert CocoIds().of_classes(["a"], None) is None
