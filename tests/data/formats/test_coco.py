"""COCO files: masks equal those of pycocotools, and invalid entries are reported."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.data.coco_files import annotation, image, small, square, write
from tests.data.layouts import SHARED, names, write_image
from upscore.data.formats.coco.reader import draw_layers, read_coco
from upscore.data.instance_datasets import open_instance_splits, open_instances
from upscore.errors import UserError
from upscore.results.rle import decode_runs, runs_of_polygons

MINI = SHARED / "coco_mini"


def runs_of(mask):
    """Return the uncompressed run lengths of a bitmask."""
    flat = np.concatenate([[0], np.asarray(mask, np.int8).ravel(order="F")])
    return np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()


def compressed(mask):
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def bitmasks(objects):
    return [objects.bitmask(position).numpy() for position in range(len(objects))]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_run_lengths_decode_as_in_pycocotools(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    runs = decode_runs(compressed(mask))
    assert runs.tolist() == runs_of(mask)
    # overlapping objects stay complete
    others = [mask, ~mask, np.ones_like(mask), mask]
    layers = draw_layers((np.array(runs_of(other)) for other in others), height, width, max_pixels=10**6)
    for number, other in enumerate(others, start=1):
        assert ((layers == number).any(0) == other).all()
        assert len({layer for layer in range(len(layers)) if (layers[layer] == number).any()}) <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-20, 60, allow_nan=False).map(lambda v: round(v, 2)), min_size=6, max_size=24).map(
            lambda values: values[: len(values) // 2 * 2]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_filled_as_in_pycocotools(polygons):
    height, width = 23, 37
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    runs = runs_of_polygons([np.array(polygon) for polygon in polygons], (height, width))
    assert runs.sum() == height * width
    assert (draw_layers([runs], height, width, max_pixels=10**6)[0] == expected).all()


@pytest.mark.parametrize("text", ["p", "P", "/", "oooooooooo0"])
def test_damaged_run_lengths_are_refused(text):
    with pytest.raises(ValueError, match="damaged"):
        decode_runs(text)


def test_the_number_of_layers_is_limited():
    full = np.array([0, 100])
    with pytest.raises(UserError, match=r"3 objects.*10x10"):
        draw_layers([full] * 4, 10, 10, max_pixels=300)


def test_objects_of_a_coco_file(tmp_path):
    dataset = open_instances(small(tmp_path))
    assert names(dataset) == ["3", "5"]
    assert dataset.image_ids.tolist() == [3, 5]
    assert (dataset.classes, dataset.category_ids) == (["cat", "dog"], [2, 7])
    empty, sample = dataset[0].objects, dataset[1]
    assert (len(empty), empty.size, empty.boxes.shape) == (0, (20, 30), (0, 4))
    assert sample.class_map is None
    assert sample.objects.labels.tolist() == [1, 0]
    assert sample.objects.boxes.tolist() == [[2, 2, 10.5, 10], [1, 1, 5, 5]]  # as annotated, not as measured
    assert sample.objects.areas.tolist() == [64, 16]
    assert sample.objects.id_map.shape == (2, 20, 30)
    first, second = bitmasks(sample.objects)
    assert (first[2:10, 2:10].all(), first.sum()) == (True, 64)
    assert (second[6:14, 6:14].all(), second.sum()) == (True, 64)
    assert pickle.loads(pickle.dumps(dataset))[1].objects.labels.tolist() == [1, 0]


def test_segmentation_types_and_missing_fields(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[3:9, 4:7] = mask[15, 20] = True
    write_image(tmp_path / "1.png", 20, 30)
    size = [20, 30]
    annotations = [
        annotation(1, 1, {"size": size, "counts": runs_of(mask)}, iscrowd=1),
        annotation(2, 1, {"size": size, "counts": compressed(mask)}, bbox=None, area=None),
        annotation(3, 1, [square(20, 2, 3), square(25, 9, 4), [1, 1, 5, 5]]),
        annotation(4, 1, [square(8, 8, 0)]),
    ]
    del annotations[2]["area"], annotations[2]["iscrowd"]
    objects = open_instances(write(tmp_path / "annotations.json", [image(1)], annotations))[0].objects
    masks = bitmasks(objects)
    assert (masks[0] == mask).all()
    assert (masks[1] == mask).all()
    assert masks[2].sum() == 9 + 16
    assert masks[3].sum() == 0  # kept, because COCO's evaluation counts it
    assert objects.crowd.tolist() == [True, False, False, False]
    assert objects.boxes.tolist() == [[1, 1, 5, 5], [4, 3, 21, 16], [1, 1, 5, 5], [1, 1, 5, 5]]
    assert objects.areas.tolist() == [16, 19, 25, 16]
    assert len(objects.transformed(lambda id_map: id_map[:, :12])) == 3  # objects without pixels are dropped


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"category_id": 3}, "annotation 1 .*category_id 3,.* 2, 7"),
        ({"category_id": "dog"}, "annotation 1 .*'category_id'"),
        ({"image_id": 9}, "annotation 1 .*image_id 9"),
        ({"id": None}, "'id'"),
        ({"bbox": [1, 2, 3]}, r"annotation 1 .*box \[1, 2, 3\]"),
        ({"area": "large"}, "annotation 1 .*area large"),
        ({"segmentation": []}, "annotation 1 .*'segmentation'"),
        ({"segmentation": 7}, "annotation 1 .*'segmentation'"),
        ({"segmentation": [5, 6, 7, 8, 9, 1]}, "annotation 1 .*x1, y1"),
        ({"segmentation": [["a"] * 6]}, "annotation 1 .*x1, y1"),
        ({"segmentation": [[10**400] * 6]}, "annotation 1 .*x1, y1"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "annotation 1 .*7 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e9]]}, "1e.09.* 30x20 pixels"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, r"'size' \[30, 20\]"),
        ({"segmentation": {"size": [20, 30], "counts": [601]}}, "annotation 1 .*601 .*600"),
        ({"segmentation": {"size": [20, 30], "counts": [700, -100]}}, "annotation 1 .*run lengths"),
        ({"segmentation": {"size": [20, 30], "counts": "oooo"}}, "annotation 1 .*run lengths"),
        ({"segmentation": {"size": [20, 30], "counts": "é"}}, "annotation 1 .*run lengths"),
        ({"segmentation": {"size": [20, 30]}}, "annotation 1 .*run lengths"),
    ],
)
def test_invalid_annotations_are_named(tmp_path, changes, words):
    write_image(tmp_path / "images" / "1.png", 20, 30)
    valid = annotation(2, 1, [square(1, 1, 4)])
    path = write(tmp_path / "annotations.json", [image(1)], [annotation(1, 1, [square(1, 1, 4)]) | changes, valid])
    with pytest.raises(UserError, match=words):
        open_instances(path)
    assert read_coco(path).ids.tolist() == [2]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"file_name": "../secret.png"}, "'file_name'"),
        ({"file_name": "a/../../secret.png"}, "'file_name'"),
        ({"file_name": "/etc/secret.png"}, "'file_name'"),
        ({"file_name": "..\\secret.png"}, "'file_name'"),
        ({"file_name": "C:\\secret.png"}, "'file_name'"),
        ({"file_name": None}, "'file_name'"),
        ({"width": 10**6, "height": 10**6}, "'width' .* 'height'"),
        ({"width": 0}, "'width' .* 'height'"),
        ({"id": "1"}, "'id'"),
        ({"id": 2}, "image 2: "),
        ({"file_name": "2.png"}, r"2\.png"),
        ({"file_name": "gone.png"}, r"gone\.png: .*annotations\.json"),
    ],
)
def test_invalid_images_are_named(tmp_path, entry, words):
    for name in ("images/1.png", "images/2.png", "secret.png"):
        write_image(tmp_path / name, 20, 30)
    path = write(tmp_path / "annotations.json", [image(2), image(1) | entry], [])
    with pytest.raises(UserError, match=words):
        open_instances(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "annotations.json: "),
        ("[" * 100_000, "annotations.json: "),
        ("[]", "'images'"),
        ('{"images": [], "annotations": {}, "categories": []}', "'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', r"annotations\.json: .*categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "'id' .*'name'"),
    ],
)
def test_invalid_json_files_are_named(tmp_path, text, words):
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(UserError, match=words):
        open_instances(tmp_path)


def test_category_ids_must_be_unique(tmp_path):
    path = write(tmp_path / "a.json", [], [], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])
    with pytest.raises(UserError, match=r"a\.json: .*id 1"):
        open_instances(path)


def test_an_image_of_another_size_is_named(tmp_path):
    path = small(tmp_path)
    write_image(tmp_path / "images" / "5.png", 30, 20)
    with pytest.raises(UserError, match=r"5\.png: .*20x30.*30x20.*EXIF"):
        open_instances(path)[1]


def test_sizes_refer_to_the_image_with_its_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "1.jpg", exif=exif)
    stored = write(tmp_path / "stored.json", [image(1, "1.jpg")], [])
    with pytest.raises(UserError, match="EXIF"):
        open_instances(stored)[0]
    upright = write(tmp_path / "upright.json", [image(1, "1.jpg", 30, 20)], [])
    assert open_instances(upright)[0].objects.size == (30, 20)


@pytest.mark.skipif(not MINI.exists(), reason="the shared COCO subset is missing")
def test_coco_annotations_equal_those_of_pycocotools(capsys):
    train, val = open_instance_splits(MINI)
    assert (len(train), len(val), len(val.classes)) == (92, 66, 80)
    reference = COCO(str(MINI / "instances_val2017.json"))
    layers = compared = 0
    for index in range(0, len(val), 3):
        objects = val[index].objects
        annotations = reference.loadAnns(reference.getAnnIds(int(val.image_ids[index])))
        assert len(objects) == len(annotations)
        layers = max(layers, len(objects.id_map))
        for position, entry in enumerate(annotations):
            assert (objects.bitmask(position).numpy() == reference.annToMask(entry)).all()
            assert val.category_ids[objects.labels[position]] == entry["category_id"]
            assert bool(objects.crowd[position]) == bool(entry["iscrowd"])
            x, y, width, height = entry["bbox"]
            assert torch.allclose(objects.boxes[position], torch.tensor([x, y, x + width, y + height]).float())
            assert objects.areas[position].item() == pytest.approx(entry["area"])
            compared += 1
    assert layers > 1
    assert compared > 100


def test_nan_is_read_as_not_annotated(tmp_path):
    path = small(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["area"] = float("nan")
    path.write_text(json.dumps(content))
    assert open_instances(path)[1].objects.areas.tolist() == [64, 16]  # measured
