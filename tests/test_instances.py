"""Found objects as pixels, run lengths, contours and numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from skimage.draw import polygon2mask

from upscore import instances as module
from upscore.errors import UserError
from upscore.instances import Instances

SIZE = (97, 120)


def found(boxes, size=SIZE, seed=0, pasting="exact", side=28):
    """Blobs in boxes: noise with some coarse structure, so that there are holes and parts."""
    generator = torch.Generator().manual_seed(seed)
    count = len(boxes)
    coarse = torch.rand(count, 1, 5, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].clamp(0, 1)
    return Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.1, count),
        labels=torch.arange(count) % 3,
        masks=masks,
        size=size,
        pasting=pasting,
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
    return found(BOXES, pasting=request.param)


def full(height, width, *boxes):
    """Objects that fill their boxes."""
    objects = found(boxes, (height, width))
    objects.masks = torch.ones_like(objects.masks)
    return objects


def test_some_of_the_objects(objects):
    assert len(objects) == 7
    some = objects[torch.tensor([0, 4])]
    assert torch.equal(some.bitmasks(), objects.bitmasks()[[0, 4]])
    assert torch.equal(some.labels, objects.labels[[0, 4]])
    assert torch.equal(objects[:2].boxes, objects.boxes[:2])
    assert objects[:2].pasting == objects.pasting
    assert objects.at_least(float(objects.scores[3])).scores.tolist() == objects.scores[:4].tolist()
    assert len(objects.at_least(1.0)) == 0


def test_crops_are_the_bitmasks_in_their_places(objects):
    for bitmask, (crop, top, left) in zip(objects.bitmasks().numpy(), objects.crops(), strict=True):
        inside = bitmask[top : top + crop.shape[0], left : left + crop.shape[1]]
        assert np.array_equal(inside, crop)
        assert bitmask.sum() == crop.sum()


def test_areas_are_counts_of_pixels(objects):
    assert objects.areas().dtype == torch.int64
    assert torch.equal(objects.areas(), objects.bitmasks().sum((1, 2)))
    assert objects.areas()[2] > 1000
    assert objects.areas()[6] == 0


def test_the_threshold_is_the_objects_own(objects):
    objects.mask_threshold = 0.9
    strict = objects.areas()
    objects.mask_threshold = 0.3
    assert (objects.areas()[:3] > strict[:3]).all()


def test_run_lengths_are_those_of_pycocotools(objects):
    """Also of objects that touch the photo's edges, whose runs go on in the next column."""
    objects.masks[5] = 1
    bitmasks = objects.bitmasks().numpy().astype(np.uint8)
    assert (bitmasks[:, -1, :-1] & bitmasks[:, 0, 1:]).any()
    expected = coco.encode(np.asfortranarray(bitmasks.transpose(1, 2, 0)))
    assert objects.rle() == [{"size": list(SIZE), "counts": rle["counts"].decode()} for rle in expected]


@pytest.mark.parametrize("boxes", [[(0, 0, 7, 5)], [(0, 0, 1, 5)], [(6, 0, 7, 5)], [(2, 0, 5, 5)], [(2, 1, 5, 5)]])
def test_run_lengths_of_boxes_at_the_edges(boxes):
    objects = full(5, 7, *boxes)
    bitmask = np.asfortranarray(objects.bitmasks()[0].numpy().astype(np.uint8))
    assert objects.rle()[0]["counts"] == coco.encode(bitmask)["counts"].decode()


def test_numbers_of_objects_where_the_higher_score_wins(objects):
    id_map, bitmasks = objects.id_map(), objects.bitmasks().numpy()
    assert id_map.dtype == np.uint16
    expected = np.where(bitmasks.any(0), bitmasks.argmax(0) + 1, 0)
    assert np.array_equal(id_map, expected)
    assert (bitmasks.sum(0) > 1).any()


@pytest.mark.slow
def test_more_objects_than_sixteen_bits_number():
    many = full(300, 300, (0, 0, 1, 1))[torch.zeros(65_536, dtype=torch.int64)]
    at = torch.arange(65_536)
    corners = torch.stack([at % 300, at // 300], 1).float()
    many.boxes = torch.cat([corners, corners + 1], 1)
    assert many[:65_535].id_map().dtype == np.uint16
    assert np.array_equal(many.id_map().ravel()[:65_536], np.arange(1, 65_537))


def test_contours_have_the_pixels_inside(objects):
    for bitmask, contours in zip(objects.bitmasks().numpy(), objects.polygons(), strict=True):
        assert all(contour.dtype == np.float32 and contour.shape[1] == 2 for contour in contours)
        filled = np.zeros(SIZE, bool)
        for contour in contours:
            filled |= polygon2mask(SIZE, contour[:, ::-1] - 0.5)
        assert (filled | ~bitmask).all()
        background = ~bitmask
        outside, _ = _reached(background)
        assert np.array_equal(filled, ~outside)


def _reached(background):
    """The background that is joined to the photo's border by corners or edges, and the rest: holes."""
    from scipy import ndimage

    parts, _ = ndimage.label(np.pad(background, 1, constant_values=True), np.ones((3, 3)))
    outside = (parts == parts[0, 0])[1:-1, 1:-1]
    return outside, background & ~outside


def test_a_hole_is_no_contour():
    objects = full(40, 40, (5, 5, 33, 33))
    objects.masks[0, 10:15, 10:15] = 0
    (contour,) = objects.polygons()[0]
    assert contour.min(0).tolist() == [5, 5]
    assert contour.max(0).tolist() == [33, 33]


def test_another_size_of_the_photo(objects):
    twice = objects.resized((SIZE[0] * 2, SIZE[1] * 3))
    assert twice.size == (194, 360)
    assert torch.equal(twice.boxes[0], objects.boxes[0] * torch.tensor([3, 2, 3, 2]))
    assert twice.boxes[4].tolist() == pytest.approx([270.9, 0, 360, 194])
    assert twice.areas()[0] == pytest.approx(6 * int(objects.areas()[0]), rel=0.05)


def test_no_objects():
    none = found([])
    assert len(none) == 0
    assert none.bitmasks().shape == (0, *SIZE)
    assert none.rle() == []
    assert none.polygons() == []
    assert none.areas().shape == (0,)
    assert not none.id_map().any()
    assert len(none.resized((5, 5)).at_least(0.1)) == 0


def test_bitmasks_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(module, "MAX_BITMASKS", 7 * 97 * 120 - 1)
    with pytest.raises(UserError, match=r"7 objects in a photo of 120x97 pixels .* take crops\(\) or rle\(\) instead"):
        found(BOXES).bitmasks()


def memory_of(call):
    """Megabytes that a call on 300 objects in a photo of 12 megapixels takes on top of the photo and the objects.

    Measured as the peak of a process of its own; ten of the objects fill most of the photo.
    """
    script = f"""
import resource
import numpy as np, torch
import pycocotools.mask
from upscore.instances import Instances
from upscore.structures import Prediction
torch.manual_seed(0)
boxes = torch.rand(300, 4) * torch.tensor([3700, 2700, 300, 300])
boxes[:, 2:] += boxes[:, :2]
boxes[:10] = torch.tensor([0.0, 0, 4000, 3000])
def objects(boxes, size):
    n = len(boxes)
    return Instances(boxes=boxes, scores=torch.linspace(1, 0, n), labels=torch.zeros(n, dtype=torch.int64),
        masks=torch.rand(n, 7, 7), size=size)
def run(objects, photo):
    {call}
run(objects(boxes[20:22] / 15, (200, 300)), np.zeros((200, 300, 3), np.uint8))  # what is loaded on demand
photo = np.full((3000, 4000, 3), 90, np.uint8)
many = objects(boxes, (3000, 4000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(many, photo)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is measured in Linux's units")
@pytest.mark.parametrize(
    "call",
    [
        "objects.rle()",
        "objects.areas()",
        "objects.id_map()",
        "Prediction(instances=objects, classes=['a'], image=photo).overlay()",
    ],
)
def test_memory_of_many_objects_in_a_large_photo(call):
    assert memory_of(call) < 100


def test_an_object_found_twice_is_kept_once():
    boxes = [(10, 10, 50, 50), (12, 12, 52, 52), (10, 10, 50, 29), (48, 10, 90, 50), (10, 60, 50, 90)]
    objects = full(*SIZE, *boxes)
    objects.labels = torch.zeros(5, dtype=torch.int64)
    kept = objects.distinct()
    assert kept.boxes.tolist() == [list(boxes[0]), list(boxes[3]), list(boxes[4])]  # less than half of 3 is hidden
    other = full(*SIZE, *boxes)
    other.labels = torch.tensor([0, 1, 2, 0, 0])
    assert len(other.distinct()) == 5  # of another class it is another object, as a tie is on a shirt


def test_what_hides_an_object_may_be_several_and_what_was_dropped_hides_nothing():
    objects = full(*SIZE, (0, 0, 40, 40), (40, 0, 80, 40), (20, 0, 60, 40), (52, 0, 92, 40), (200, 200, 210, 210))
    objects.labels = torch.zeros(5, dtype=torch.int64)
    # the third is hidden by the first two together; the fourth by the second alone, to 70%; the last is outside
    assert objects.distinct().boxes[:, 0].tolist() == [0, 40]
    objects.boxes[3] = torch.tensor([62.0, 0.0, 102.0, 40.0])
    assert objects.distinct().boxes[:, 0].tolist() == [0, 40, 62]


def test_none_are_distinct():
    assert len(found([]).distinct()) == 0


def test_distinct_at_a_threshold_are_the_distinct_above_it(objects):
    objects.labels = torch.zeros(len(objects), dtype=torch.int64)
    whole = objects.distinct()
    for score in objects.scores.tolist():
        assert torch.equal(objects.at_least(score).distinct().boxes, whole.at_least(score).boxes)
