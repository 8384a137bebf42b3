import csv

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.data.coco_files import CATEGORIES, small, write
from tests.data.layouts import SHARED, label, names, pairs, write_image
from upscore.data.datasets import default_split, image_ids, subset
from upscore.data.instance_datasets import open_instance_splits, open_instances, task_of
from upscore.data.synthetic import SHAPES
from upscore.errors import UserError

NUCLEI = SHARED / "nuclei"


def id_map(path, values=(0, 1, 300), dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.resize(np.array(values, dtype), (4, 6))
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tifffile.imwrite(path, values)
    return path


@pytest.fixture
def root(tmp_path):
    for name in "abcde":
        write_image(tmp_path / "images" / f"{name}.jpg")
        id_map(tmp_path / "labels" / f"{name}.png")
    return tmp_path


def test_id_maps(root):
    dataset = open_instances(root)
    assert (dataset.classes, names(dataset)) == (["object"], list("abcde"))
    assert dataset.image_ids.tolist() == [1, 2, 3, 4, 5]
    objects = dataset[0].objects
    assert (objects.ids.tolist(), objects.labels.tolist(), objects.areas.tolist()) == ([1, 300], [0, 0], [8, 8])
    assert dataset[0].class_map is None
    train, val = open_instance_splits(root, fraction=0.4, seed=1)
    assert sorted(names(train) + names(val)) == list("abcde")
    assert len(val) == 2
    train, val = open_instance_splits(root, val_pattern="[ab]*")
    assert (names(val), names(train)) == (["a", "b"], ["c", "d", "e"])
    assert default_split(root) is None
    assert task_of(root) == "instances"
    with pytest.raises(UserError, match="'val'"):
        open_instances(root, "val")
    with pytest.raises(UserError, match="fraction=1"):
        open_instance_splits(root, fraction=1)


@pytest.mark.parametrize(
    ("suffix", "dtype", "values"),
    [
        ("png", np.uint8, (0, 1, 255)),
        ("png", np.uint16, (0, 1, 65535)),
        ("tif", np.uint16, (0, 1, 65535)),
        ("tif", np.uint32, (0, 70_000, 2**31 - 1)),
        ("tif", np.int32, (0, 5, 2**31 - 1)),
    ],
)
def test_id_maps_of_any_bit_depth(tmp_path, suffix, dtype, values):
    write_image(tmp_path / "images" / "a.jpg")
    id_map(tmp_path / "labels" / f"a.{suffix}", values, dtype)
    objects = open_instances(tmp_path)[0].objects
    assert len(objects) == 2
    expected = np.resize(np.array(values, np.int64), (4, 6))
    for position, number in enumerate(values[1:]):
        assert (objects.bitmask(position).numpy() == (expected == number)).all()


def test_invalid_id_maps_are_named(root):
    tifffile.imwrite(root / "labels" / "f.tif", np.zeros((4, 6), np.float32))
    write_image(root / "images" / "f.jpg")
    with pytest.raises(UserError, match=r"f\.tif: .*float32"):
        open_instances(root)[5]
    id_map(root / "labels" / "f.tif", (0, -4), np.int32)
    with pytest.raises(UserError, match=r"f\.tif: .*-4"):
        open_instances(root)[5]
    write_image(root / "images" / "a.jpg", 6, 4)
    with pytest.raises(UserError, match=r"a\.png: is 6x4 pixels, but .*EXIF"):
        open_instances(root)[0]
    (root / "labels" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.jpg: .*labels/b\.png"):
        open_instances(root)


def test_splits_of_folders(tmp_path):
    for split, content in {"train": "ab", "valid": "c"}.items():
        for name in content:
            write_image(tmp_path / split / "images" / f"{name}.jpg")
            id_map(tmp_path / split / "labels" / f"{name}.png")
    write_image(tmp_path / "test" / "images" / "t.jpg")
    assert [names(part) for part in open_instance_splits(tmp_path)] == [["a", "b"], ["c"]]
    assert names(open_instances(tmp_path)) == ["a", "b", "c"]
    assert open_instances(tmp_path, "test")[0].objects is None
    assert default_split(tmp_path) == "test"


def test_class_maps(root):
    for name in "abcde":
        # object 1 is in columns 1 and 4, object 300 in 2 and 5; most pixels of object 300 have class 2
        label(root / "classes" / f"{name}.png", (0, 1, 2, 255, 1, 2))
    label(root / "classes" / "a.png", (0, 1, 2, 2, 1, 2, 0, 1, 1, 2, 255, 255))
    with pytest.raises(UserError, match=r"no classes\.txt"):
        open_instances(root)
    (root / "classes.txt").write_text("round\nflat\nlong\n")
    dataset = open_instances(root)
    assert dataset.classes == ["round", "flat", "long"]
    assert dataset[0].objects.labels.tolist() == [1, 2]
    (root / "classes.txt").write_text("Background\nflat\nlong\n")
    dataset = open_instances(root)
    assert dataset.classes == ["flat", "long"]
    assert dataset[1].objects.labels.tolist() == [0, 1]
    label(root / "classes" / "b.png", (0, 255, 2))
    with pytest.raises(UserError, match=r"b\.png: .*object 1 .*\(flat, long\)"):
        dataset[1]
    label(root / "classes" / "b.png", height=5)
    with pytest.raises(UserError, match=r"classes/b\.png: .*labels/b\.png.*6x5 and 6x4"):
        dataset[1]
    (root / "classes" / "b.png").unlink()
    with pytest.raises(UserError, match=r"classes/b\.png"):
        dataset[1]


def test_classes_of_id_maps_without_class_maps(root):
    (root / "classes.txt").write_text("cell\n")
    assert open_instances(root).classes == ["cell"]
    (root / "classes.txt").write_text("background\ncell\n")
    assert open_instances(root).classes == ["cell"]
    (root / "classes.txt").write_text("cell\ndirt\n")
    with pytest.raises(UserError, match=r"classes\.txt: .*2 classes"):
        open_instances(root)
    (root / "classes.txt").write_text("background\n")
    with pytest.raises(UserError, match=r"classes\.txt"):
        open_instances(root)


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ("train2017", "val2017")),
        (("instances_train2017.json", "instances_val2017.json"), ("images", "images")),
        (("instances_train.json", "instances_val.json"), ("images/train", "images/val")),
        (("annotations/instances_train.json", "annotations/instances_val.json"), ("train", "val")),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ("train", "valid")),
    ],
)
def test_layouts_of_coco(tmp_path, files, folders):
    for number, (file, folder) in enumerate(zip(files, folders, strict=True)):
        made = small(tmp_path / "made", f"{number}.json", (2 * number + 5, 2 * number + 4))
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        made.rename(tmp_path / file)
        for path in (tmp_path / "made" / "images").iterdir():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / folder / path.name)
    train, val = open_instance_splits(tmp_path)
    assert (names(train), names(val)) == (["4", "5"], ["6", "7"])
    assert [len(val[index].objects) for index in range(2)] == [0, 2]
    assert open_instances(tmp_path, "val").image_ids.tolist() == [6, 7]
    assert names(open_instances(tmp_path, "trainval")) == ["4", "5", "6", "7"]
    assert default_split(tmp_path) == "val"
    train, val = open_instance_splits(tmp_path, val_pattern="[47]")
    assert (train.image_ids.tolist(), val.image_ids.tolist()) == ([5, 6], [4, 7])
    assert [len(sample.objects) for sample in (val[0], val[1])] == [0, 2]
    with pytest.raises(UserError, match=r"'test'.* train, val"):
        open_instances(tmp_path, "test")
    (tmp_path / files[0]).write_text("")
    assert len(open_instances(tmp_path, "val")) == 2  # the file of the training split is not read


def test_coco_without_splits(tmp_path):
    path = small(tmp_path, "annotations/annotations.json")
    train, val = open_instance_splits(tmp_path, fraction=0.5)
    assert sorted(names(train) + names(val)) == ["3", "5"]
    assert image_ids(subset(open_instances(path), [1])).tolist() == [5]
    assert subset(open_instances(path), [1]).image_ids.tolist() == [5]  # type: ignore[attr-defined]
    assert (default_split(tmp_path), default_split(path)) == (None, None)
    assert task_of(tmp_path) == task_of(path) == "instances"


def test_coco_files_with_repeated_ids_other_categories_or_splits(tmp_path):
    small(tmp_path, "instances_train.json", (1, 2))
    small(tmp_path, "instances_val.json", (2, 3))
    pooled = open_instances(tmp_path)
    assert names(pooled) == ["1", "3", "train/2", "val/2"]
    assert pooled.image_ids.tolist() == [1, 2, 3, 4]  # id 2 is in both files
    write(tmp_path / "instances_val.json", [], [], CATEGORIES[:1])
    with pytest.raises(UserError, match=r"instances_val\.json: .*instances_train\.json"):
        open_instance_splits(tmp_path)
    small(tmp_path, "instances_val2017.json", (2, 3))
    with pytest.raises(UserError, match="the split 'val'"):
        open_instance_splits(tmp_path)


def test_voc(tmp_path):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, name in (("train", "t"), ("val", "v")):
        (lists / f"{split}.txt").write_text(f"{name}\n")
        write_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        label(tmp_path / "SegmentationObject" / f"{name}.png", (0, 1, 2, 255))
        label(tmp_path / "SegmentationClass" / f"{name}.png", (0, 20, 1, 255))
    train, val = open_instance_splits(tmp_path)
    assert (names(train), names(val)) == (["t"], ["v"])
    assert (len(train.classes), train.classes[0], train.classes[-1]) == (20, "aeroplane", "tvmonitor")
    objects = val[0].objects
    assert (objects.ids.tolist(), objects.labels.tolist()) == ([1, 2], [19, 0])
    assert not (objects.id_map == 255).any()
    assert task_of(tmp_path) == "semantic"


def test_scenes():
    train, val = open_instance_splits("scenes:10:3")
    assert (len(train), len(val), train.classes) == (10, 2, list(SHAPES))
    sample = train[4]
    assert sample.class_map is None
    assert len(sample.objects) > 1
    assert train.image_ids.tolist() == list(range(1, 11))
    assert not torch.equal(val[0].image, train[0].image)
    assert len(open_instances("scenes:5")) == 5
    with pytest.raises(UserError, match="val_pattern='a'"):
        open_instance_splits("scenes", val_pattern="a")


def test_other_sources_are_refused_with_the_layouts(tmp_path):
    with pytest.raises(UserError, match=r"missing: .*\n  COCO"):
        open_instances(tmp_path / "missing")
    with pytest.raises(UserError, match=r"\n  COCO"):
        open_instances(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="JSON"):
        open_instances(tmp_path / "a.txt")


def test_the_task_of_a_source(root, tmp_path):
    assert task_of("scenes") == "semantic"
    assert task_of(pairs(tmp_path / "semantic", "ab")) == "semantic"
    (root / "classes.txt").write_text("cell\n")
    assert task_of(root) == "instances"  # contains numbers above 255
    for path in (root / "labels").iterdir():
        id_map(path, (0, 1))
    assert task_of(root) == "instances"  # 1 is no class index
    (root / "classes.txt").write_text("background\ncell\n")
    assert task_of(root) == "semantic"
    (root / "classes.txt").unlink()
    assert task_of(root) == "instances"


@pytest.mark.skipif(not NUCLEI.exists(), reason="the shared nuclei are missing")
def test_nuclei():
    train, val = open_instance_splits(NUCLEI)
    assert (len(train), len(val), train.classes) == (456, 114, ["object"])
    with (NUCLEI / "index.csv").open() as file:
        known = {row["id"]: row for row in csv.DictReader(file)}
    for index in range(0, len(val), 6):
        sample = val[index]
        row = known[sample.name]
        assert sample.objects.size == (int(row["height"]), int(row["width"])) == sample.image.shape[1:]
        assert len(sample.objects) == int(row["nuclei"])
