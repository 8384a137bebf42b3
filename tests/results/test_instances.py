"""Pixels, run lengths, polygons and label maps of instance results."""

import io
import subprocess
import sys

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco

from upscore.errors import UserError
from upscore.results import InstanceResult
from upscore.results import instances as module
from upscore.results.polygons import polygons_of_crop

SIZE = (97, 120)


def make_objects(boxes, size=SIZE, seed=0, mask_paste="exact", side=28):
    """Return objects with smooth random masks, which have holes and several parts."""
    generator = torch.Generator().manual_seed(seed)
    count = len(boxes)
    coarse = torch.rand(count, 1, 5, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].clamp(0, 1)
    return InstanceResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
        labels=np.arange(count) % 3,
        masks=list(masks.numpy()),
        size=size,
        classes=["cell", "nerve", "vessel"],
        mask_paste=mask_paste,
    )


BOXES = [
    (3.2, 4.1, 60.7, 50.9),
    (40.0, 20.0, 100.0, 97.0),
    (0.0, 0.0, 120.0, 97.0),
    (10.1, 10.2, 10.4, 10.3),
    (90.3, -20.0, 150.0, 130.0),
    (0.0, -30.0, 9.0, 140.0),
    (200.0, 200.0, 210.0, 210.0),
]


@pytest.fixture(params=["exact", "legacy"])
def objects(request):
    return make_objects(BOXES, mask_paste=request.param)


def filled(height, width, *boxes):
    """Return objects that fill their boxes."""
    objects = make_objects(boxes, (height, width))
    objects.masks = [np.ones_like(mask) for mask in objects.masks]
    return objects


def test_indexing_with_lists_arrays_and_slices(objects):
    assert len(objects) == 7
    for some in (objects[[0, 4]], objects[np.array([0, -3])], objects[np.isin(np.arange(7), [0, 4])], objects[::4][:2]):
        assert np.array_equal(some.bitmasks(), objects.bitmasks()[[0, 4]])
        assert np.array_equal(some.labels, objects.labels[[0, 4]])
    assert np.array_equal(objects[:2].boxes, objects.boxes[:2])
    assert objects[:2].mask_paste == objects.mask_paste
    assert len(objects[[]]) == 0
    assert objects.filter(score_threshold=float(objects.scores[3])).scores.tolist() == objects.scores[:4].tolist()
    assert len(objects.filter(score_threshold=1.0)) == 0


def test_indexing_with_an_integer_and_iteration(objects):
    bitmasks = objects.bitmasks()
    assert [one.position for one in objects] == list(range(7))
    for position, one in enumerate(objects):
        assert one.score == objects.scores[position]
        assert (one.label, one.class_name) == (position % 3, ["cell", "nerve", "vessel"][position % 3])
        assert one.box.tolist() == objects.boxes[position].tolist()
        assert one.area == bitmasks[position].sum()
        assert np.array_equal(one.bitmask, bitmasks[position])
        crop, top, left = one.crop
        assert np.array_equal(crop, bitmasks[position][top : top + crop.shape[0], left : left + crop.shape[1]])
    assert objects[-1].position == objects[np.int64(6)].position == objects[np.array(6)].position == 6
    assert objects[-1].polygon is None
    assert objects[0].polygon.area == max(polygon.area for polygon in objects[0].polygons)
    assert repr(objects[1]).startswith("InstanceObject(nerve, score 0.767, box (40.0, 20.0, 100.0, 97.0))")


@pytest.mark.parametrize(
    "index",
    [7, -8, True, 1.0, "a", None, [7], [True], np.zeros((2, 2), int), np.zeros(0, bool), np.array(7), [0.5], (0, 1, 9)],
)
def test_invalid_indices(objects, index):
    with pytest.raises(IndexError):
        objects[index]


def test_repr_counts_the_objects_of_each_class(objects):
    assert repr(objects) == "InstanceResult(7 objects in 120x97 pixels: 3 cell, 2 nerve, 2 vessel)"
    assert repr(objects[:0]) == "InstanceResult(0 objects in 120x97 pixels)"


def test_notebook_picture_with_and_without_the_image(objects):
    for objects.image in (None, np.zeros((*SIZE, 3), np.uint8)):
        with Image.open(io.BytesIO(objects._repr_png_())) as picture:
            assert picture.width >= 120
    assert objects.overlay().width >= 120
    objects.image = None
    with pytest.raises(UserError, match=r"result\.image"):
        objects.overlay()


def test_crops_are_parts_of_the_bitmasks(objects):
    for bitmask, (crop, top, left) in zip(objects.bitmasks(), objects.crops(), strict=True):
        inside = bitmask[top : top + crop.shape[0], left : left + crop.shape[1]]
        assert np.array_equal(inside, crop)
        assert bitmask.sum() == crop.sum()


def test_areas_count_pixels(objects):
    assert objects.areas().dtype == np.int64
    assert np.array_equal(objects.areas(), objects.bitmasks().sum((1, 2)))
    assert objects.areas()[2] > 1000
    assert objects.areas()[6] == 0


def test_a_lower_mask_threshold_gives_larger_areas(objects):
    objects.mask_threshold = 0.9
    strict = objects.areas()
    objects.mask_threshold = 0.3
    assert (objects.areas()[:3] > strict[:3]).all()


def test_run_lengths_equal_those_of_pycocotools(objects):
    """The runs of an object at the image's border continue in the next column."""
    objects.masks[5][:] = 1
    bitmasks = objects.bitmasks().astype(np.uint8)
    assert (bitmasks[:, -1, :-1] & bitmasks[:, 0, 1:]).any()
    expected = coco.encode(np.asfortranarray(bitmasks.transpose(1, 2, 0)))
    assert objects.rle() == [{"size": list(SIZE), "counts": rle["counts"].decode()} for rle in expected]


@pytest.mark.parametrize("boxes", [[(0, 0, 7, 5)], [(0, 0, 1, 5)], [(6, 0, 7, 5)], [(2, 0, 5, 5)], [(2, 1, 5, 5)]])
def test_run_lengths_of_boxes_at_the_border(boxes):
    objects = filled(5, 7, *boxes)
    bitmask = np.asfortranarray(objects.bitmasks()[0].astype(np.uint8))
    assert objects.rle()[0]["counts"] == coco.encode(bitmask)["counts"].decode()


def test_the_label_map_has_the_object_with_the_highest_score(objects):
    id_map, bitmasks = objects.label_map(), objects.bitmasks()
    assert id_map.dtype == np.uint16
    expected = np.where(bitmasks.any(0), bitmasks.argmax(0) + 1, 0)
    assert np.array_equal(id_map, expected)
    assert (bitmasks.sum(0) > 1).any()


@pytest.mark.slow
def test_the_label_map_has_32_bits_for_more_than_65535_objects():
    many = filled(300, 300, (0, 0, 1, 1))[np.zeros(65_536, np.int64)]
    at = np.arange(65_536)
    corners = np.stack([at % 300, at // 300], 1).astype(np.float32)
    many.boxes = np.concatenate([corners, corners + 1], 1)
    assert many[:65_535].label_map().dtype == np.uint16
    assert np.array_equal(many.label_map().ravel()[:65_536], np.arange(1, 65_537))


def pixels_of(polygons, size):
    """Return the pixels whose centres lie in polygons with holes."""
    rows, columns = np.indices(size)
    mask = np.zeros(size, bool)
    for polygon in polygons:
        shape = shapely.Polygon(polygon.exterior, polygon.holes)
        assert shape.is_valid
        assert shape.area == pytest.approx(polygon.area)
        mask |= shapely.contains_xy(shape, columns + 0.5, rows + 0.5)
    return mask


def test_polygons_contain_exactly_the_pixels(objects):
    for bitmask, polygons in zip(objects.bitmasks(), objects.polygons(), strict=True):
        assert all(polygon.exterior.dtype == np.float32 for polygon in polygons)
        assert np.array_equal(pixels_of(polygons, SIZE), bitmask)
    assert max(map(len, objects.polygons())) > 1


def test_holes_and_regions_inside_holes():
    objects = filled(40, 40, (5, 5, 33, 33))
    mask = objects.masks[0]
    mask[4:20, 4:20], mask[8:14, 8:14], mask[10, 10], mask[:, 24:26] = 0, 1, 0, 0
    polygons = objects.polygons()[0]
    # the frame, the strip beside the gap, and the island in the hole of the frame, each with its own holes
    assert [len(polygon.holes) for polygon in polygons] == [1, 0, 1]
    assert polygons[0].exterior.min(0).tolist() == [5, 5]
    assert polygons[0].exterior.max(0).tolist() == [29, 33]
    assert np.array_equal(pixels_of(polygons, (40, 40)), objects.bitmasks()[0])


def test_pixels_that_touch_at_a_corner_are_separate_parts():
    pixels = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0]], bool)
    polygons = polygons_of_crop(pixels, 10, 20)
    assert [polygon.exterior.min(0).tolist() for polygon in polygons] == [[21, 11], [20, 10]]
    around = ~np.eye(3, dtype=bool)  # the centre touches the outside only at corners
    around[0, 0] = around[2, 2] = True
    assert [len(polygon.holes) for polygon in polygons_of_crop(around)] == [1]
    around[0, 0] = False
    assert [len(polygon.holes) for polygon in polygons_of_crop(around)] == [0]
    assert polygons_of_crop(np.zeros((0, 4), bool)) == []


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_of_random_pixels(pixels):
    assert np.array_equal(pixels_of(polygons_of_crop(pixels), pixels.shape), pixels)


def test_resized(objects):
    twice = objects.resized((SIZE[0] * 2, SIZE[1] * 3))
    assert twice.size == (194, 360)
    assert np.array_equal(twice.boxes[0], objects.boxes[0] * np.array([3, 2, 3, 2], np.float32))
    assert twice.boxes[4].tolist() == pytest.approx([270.9, 0, 360, 194])
    assert twice.areas()[0] == pytest.approx(6 * int(objects.areas()[0]), rel=0.05)


def test_empty_result():
    empty = make_objects([])
    assert len(empty) == 0
    assert empty.bitmasks().shape == (0, *SIZE)
    assert empty.rle() == []
    assert empty.polygons() == []
    assert empty.areas().shape == (0,)
    assert not empty.label_map().any()
    assert len(empty.resized((5, 5)).filter(score_threshold=0.1)) == 0


def test_bitmasks_larger_than_the_limit_are_an_error(monkeypatch):
    monkeypatch.setattr(module, "MAX_BITMASKS", 7 * 97 * 120 - 1)
    with pytest.raises(UserError, match=r"7 objects .* 120x97"):
        make_objects(BOXES).bitmasks()


def memory_of(call):
    """Return the megabytes that a call on 300 objects in an image of 12 megapixels needs beside these.

    The peak memory of a separate process is measured. Ten of the objects fill most of the image.
    """
    script = f"""
import resource
import numpy as np
import pycocotools.mask
from upscore.results import InstanceResult
random = np.random.default_rng(0)
boxes = (random.random((300, 4)) * np.array([3700, 2700, 300, 300])).astype(np.float32)
boxes[:, 2:] += boxes[:, :2]
boxes[:10] = [0, 0, 4000, 3000]
def objects(boxes, size):
    n = len(boxes)
    return InstanceResult(boxes=boxes, scores=np.linspace(1, 0, n, dtype=np.float32), labels=np.zeros(n, np.int64),
        masks=list(random.random((n, 7, 7), np.float32)), size=size, classes=["a"])
def run(objects, image):
    objects.image = image
    {call}
run(objects(boxes[20:22] / 15, (200, 300)), np.zeros((200, 300, 3), np.uint8))  # loads what is imported on demand
image = np.full((3000, 4000, 3), 90, np.uint8)
many = objects(boxes, (3000, 4000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(many, image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
@pytest.mark.parametrize(
    "call",
    [
        "objects.rle()",
        "objects.areas()",
        "objects.label_map()",
        "objects.overlay()",
    ],
)
def test_memory_for_many_objects_in_a_large_image(call):
    assert memory_of(call) < 100


def test_mask_nms_removes_duplicates():
    boxes = [(10, 10, 50, 50), (12, 12, 52, 52), (10, 10, 50, 29), (48, 10, 90, 50), (10, 60, 50, 90)]
    objects = filled(*SIZE, *boxes)
    objects.labels = np.zeros(5, np.int64)
    kept = objects.mask_nms()
    assert kept.boxes.tolist() == [
        list(boxes[0]),
        list(boxes[3]),
        list(boxes[4]),
    ]  # half of the fourth is visible
    other = filled(*SIZE, *boxes)
    other.labels = np.array([0, 1, 2, 0, 0])
    assert len(other.mask_nms()) == 5  # objects of other classes do not suppress, such as a tie on a shirt


def test_mask_nms_counts_several_covering_objects_and_no_removed_ones():
    objects = filled(*SIZE, (0, 0, 40, 40), (40, 0, 80, 40), (20, 0, 60, 40), (52, 0, 92, 40), (200, 200, 210, 210))
    objects.labels = np.zeros(5, np.int64)
    # The first two together cover the third, the second covers 70% of the fourth, the last is outside the image.
    assert objects.mask_nms().boxes[:, 0].tolist() == [0, 40]
    objects.boxes[3] = [62.0, 0.0, 102.0, 40.0]
    assert objects.mask_nms().boxes[:, 0].tolist() == [0, 40, 62]


def test_mask_nms_of_an_empty_result():
    assert len(make_objects([]).mask_nms()) == 0


def test_mask_nms_and_filter_commute(objects):
    objects.labels = np.zeros(len(objects), np.int64)
    whole = objects.mask_nms()
    for score in objects.scores.tolist():
        some = objects.filter(score_threshold=score).mask_nms()
        assert np.array_equal(some.boxes, whole.filter(score_threshold=score).boxes)
