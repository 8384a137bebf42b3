"""Tests of instance overlays by their pixels."""

import numpy as np
import pytest

from upscore.errors import UserError
from upscore.results import InstanceResult
from upscore.viz.instance_overlay import instance_overlay, object_colors


def found(*boxes, size=(300, 400), labels=None):
    count = len(boxes)
    return InstanceResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.95, 0.5, count, dtype=np.float32),
        labels=np.zeros(count, np.int64) if labels is None else np.array(labels),
        masks=[np.ones((28, 28), np.float32)] * count,
        size=size,
        classes=["cell"],
    )


PHOTO = np.full((300, 400, 3), 120, np.uint8)
LEFT, RIGHT = (40, 60, 160, 220), (160, 60, 290, 220)


def test_every_object_has_its_own_colour_and_the_rest_is_the_image():
    picture = np.array(instance_overlay(PHOTO, found(LEFT, RIGHT), ["cell"], legend=False))
    assert picture.shape == PHOTO.shape
    left, right, beside = picture[180, 100], picture[180, 230], picture[20, 20]
    assert np.abs(left.astype(int) - right).sum() > 60
    assert (beside == 120).all()
    assert np.abs(left.astype(int) - 120).sum() > 30


def test_neighbours_are_never_of_the_same_colour():
    grid = np.array([[x, y, x + 11, y + 11] for y in range(0, 200, 10) for x in range(0, 200, 10)], np.float64)
    colors = object_colors(grid)
    for index, box in enumerate(grid):
        near = (np.abs(grid[:, :2] - box[:2]) <= 10).all(1)
        near[index] = False
        assert not (colors[near] == colors[index]).all(1).any()


def test_a_small_object_is_seen_in_front_of_a_large_one_of_a_higher_score():
    around, inside = (20, 20, 380, 280), (200, 150, 250, 200)
    both = np.array(instance_overlay(PHOTO, found(around, inside), ["cell"], legend=False))
    alone = np.array(instance_overlay(PHOTO, found(around), ["cell"], legend=False))
    changed = (both != alone).any(-1)
    assert changed[152:198, 202:248].all()
    changed[149:201, 199:251] = False
    assert not changed.any()


def test_an_object_with_room_carries_a_label_and_a_small_one_does_not():
    large = np.array(instance_overlay(PHOTO, found((40, 60, 360, 280)), ["cell"], legend=False))
    middle, corner = large[150:200, 150:250], large[60:80, 40:120]
    assert len(np.unique(middle.reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(corner.reshape(-1, 3), axis=0)) > 5
    small = np.array(instance_overlay(PHOTO, found((40, 60, 60, 80)), ["cell"], legend=False))
    assert len(np.unique(small[60:80, 40:60].reshape(-1, 3), axis=0)) <= 3


def test_the_legend_counts_the_objects_beneath_the_photo():
    none = instance_overlay(PHOTO, found(), ["cell", "nerve"])
    some = instance_overlay(PHOTO, found(LEFT, RIGHT, labels=[1, 0]), ["cell", "nerve"])
    assert none.width == some.width == 400
    assert some.height > 300
    assert np.array_equal(np.array(none)[:300], PHOTO)


def test_small_photos_are_enlarged_for_their_legend():
    picture = instance_overlay(PHOTO[:64, :64], found((5, 5, 30, 30), size=(64, 64)), ["cell"])
    assert picture.width == 256


def test_a_result_draws_its_overlay():
    result = found(LEFT)
    result.image = PHOTO
    assert np.array_equal(np.array(result.overlay()), np.array(instance_overlay(PHOTO, found(LEFT), ["cell"])))


def test_invalid_arguments_are_rejected():
    with pytest.raises(UserError, match="resized"):
        instance_overlay(PHOTO[:100], found(LEFT), ["cell"])
    with pytest.raises(UserError, match="opacity"):
        instance_overlay(PHOTO, found(LEFT), ["cell"], opacity=2)
