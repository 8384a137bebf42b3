"""Image and category ids of the COCO data set that images belong to."""

import json
from pathlib import Path

import pytest

from tests.data.coco_files import CATEGORIES, image, small, write
from tests.data.layouts import write_image
from upscore.data.formats.coco.ids import CocoIds, find_ids

IDS = {"dog": 7, "cat": 2}


def images_of(root):
    return sorted((root / "images").glob("*.png"))


@pytest.mark.parametrize(
    "name", ["annotations.json", "annotations/instances_default.json", "annotations/annotations.json"]
)
def test_ids_of_the_images_of_a_data_set(tmp_path, name):
    small(tmp_path, name)
    write_image(tmp_path / "images/other.png", 20, 30)
    found = find_ids(images_of(tmp_path))
    assert found.category_ids == IDS
    assert found.number(images_of(tmp_path)) == [3, 5, 6]  # other.png is not listed


def test_relative_paths(tmp_path, monkeypatch):
    small(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_ids([Path("images/3.png")]).number([Path("images/3.png")]) == [3]


def test_splits_in_folders(tmp_path):
    for split, number in (("train", 11), ("valid", 12)):
        write_image(tmp_path / split / f"{number}.png", 20, 30)
        write(tmp_path / split / "_annotations.coco.json", [image(number)], [])
    paths = [tmp_path / "valid/12.png", tmp_path / "train/11.png"]
    assert find_ids(paths).number(paths) == [12, 11]
    assert find_ids(paths[:1]).number(paths[:1]) == [12]


def test_image_ids_in_two_files_are_left_out(tmp_path):
    for split in ("train", "val"):
        write_image(tmp_path / split / f"{split}.png", 20, 30)
        write(tmp_path / f"annotations/instances_{split}.json", [image(1, f"{split}.png")], [])
    paths = [tmp_path / "train/train.png", tmp_path / "val/val.png"]
    assert find_ids(paths).number(paths) == [1, 2]
    assert find_ids(paths).category_ids == IDS
    assert find_ids(paths[1:]).image_ids == {paths[1]: 1}


def test_all_ids_are_left_out_if_category_ids_differ(tmp_path):
    for split, shift in (("train", 0), ("val", 1)):
        write_image(tmp_path / split / f"{split}.png", 20, 30)
        categories = [{**category, "id": category["id"] + shift} for category in CATEGORIES]
        write(tmp_path / f"annotations/instances_{split}.json", [image(5 + shift, f"{split}.png")], [], categories)
    assert find_ids([tmp_path / "train/train.png", tmp_path / "val/val.png"]) == CocoIds()


@pytest.mark.parametrize("content", ["", "[1]", '{"images": [], "annotations": [], "categories": []}', '{"images": 3}'])
def test_json_files_of_other_formats_are_ignored(tmp_path, content):
    write_image(tmp_path / "images/3.png", 20, 30)
    (tmp_path / "annotations.json").write_text(content)
    assert find_ids(images_of(tmp_path)) == CocoIds()


def test_invalid_entries_are_ignored(tmp_path):
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
def test_category_ids_of_the_classes_of_a_model(classes, own, expected):
    assert CocoIds({}, IDS).match_classes(classes, own) == expected


def test_images_without_a_data_set_are_numbered(tmp_path):
    write_image(tmp_path / "a.png", 20, 30)
    assert find_ids([tmp_path / "a.png"]) == CocoIds()
    assert CocoIds().number([tmp_path / "b.png", tmp_path / "a.png"]) == [1, 2]
    assert CocoIds().match_classes(["a"], None) is None
