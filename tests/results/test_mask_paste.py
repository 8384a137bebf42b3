"""Mask pasting, compared with torchvision and with sampling the whole image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, paste_masks_in_image

from upscore.results import mask_paste
from upscore.results.mask_paste import paste, paste_soft

SIZE = (60, 83)
BOXES = [
    (3.0, 4.0, 40.0, 31.0),
    (-20.3, -7.9, 25.5, 40.2),
    (70.1, 50.6, 120.7, 90.0),
    (-500.0, -400.0, 900.5, 700.25),
    (10.4, 20.4, 10.6, 20.6),
    (10.45, 20.3, 10.55, 44.0),
    (82.0, 59.0, 83.0, 60.0),
    (0.0, 0.0, 83.0, 60.0),
    (0.5, 0.5, 1.5, 1.5),
    (30.0, 30.0, 30.0, 30.0),
]


def whole(crop, top, left, size=SIZE):
    """Return a crop in an image of zeros."""
    image = np.zeros(size, crop.dtype)
    height, width = crop.shape
    assert 0 <= top <= top + height <= size[0]
    assert 0 <= left <= left + width <= size[1]
    image[top : top + height, left : left + width] = crop
    return image


def random_mask(seed, side=28):
    return torch.rand(side, side, generator=torch.Generator().manual_seed(seed)).numpy()


def sampled(mask, box, size=SIZE):
    """Return the mask at every pixel of the image in double precision, by the definition of the exact rule."""
    x1, y1, x2, y2 = (float(value) for value in box)
    y = (torch.arange(size[0], dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(size[1], dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    mask = torch.from_numpy(mask).double()[None, None]
    return F.grid_sample(mask, grid, padding_mode="zeros", align_corners=False)[0, 0].numpy()


def pasted_by_torchvision(mask, box, size=SIZE):
    mask, box = torch.from_numpy(mask), torch.from_numpy(box)
    return paste_masks_in_image(mask[None, None], box[None], size)[0, 0].numpy()


@pytest.mark.parametrize("box", BOXES[:-1])
@pytest.mark.parametrize("side", [7, 14, 28])
def test_exact_rule_samples_at_pixel_centres(box, side):
    box, mask = np.array(box, np.float32), random_mask(side, side)
    expected = sampled(mask, box)
    assert np.allclose(whole(*paste_soft(mask, box, SIZE, "exact")), expected, atol=1e-5)
    assert np.array_equal(whole(*paste(mask, box, SIZE, "exact")), expected >= 0.5)
    assert np.array_equal(whole(*paste(mask, box, SIZE, "exact", 0.1)), expected >= 0.1)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("side", [7, 14, 28])
def test_legacy_rule_equals_torchvision(box, side):
    box, mask = np.array(box, np.float32), random_mask(side, side)
    expected = pasted_by_torchvision(mask, box)
    assert np.allclose(whole(*paste_soft(mask, box, SIZE, "legacy")), expected, atol=1e-6)
    assert np.array_equal(whole(*paste(mask, box, SIZE, "legacy")), expected >= 0.5)


@pytest.mark.parametrize("rule", ["exact", "legacy"])
def test_pasting_in_batches_equals_pasting_one_by_one(rule):
    boxes = np.random.default_rng(0).permutation(np.array(BOXES * 4, np.float32))
    masks = [random_mask(seed, 14 if seed % 5 == 3 else 28) for seed in range(40)]
    assert len(boxes) > 2 * mask_paste.BATCH_SIZE
    for k, (crop, top, left) in enumerate(mask_paste.paste_all(masks, boxes, SIZE, rule)):
        alone = paste(masks[k], boxes[k], SIZE, rule)
        assert (top, left) == alone[1:]
        assert np.array_equal(crop, alone[0])
    assert list(mask_paste.paste_all(masks[:0], boxes[:0], SIZE, rule)) == []


LENGTHS = st.one_of(st.floats(0.0625, 3, width=32), st.floats(1, 300, width=32))


@settings(max_examples=200, deadline=None)
@given(st.floats(-100, 120, width=32), st.floats(-100, 120, width=32), LENGTHS, LENGTHS, st.integers(0, 99))
def test_random_boxes(x1, y1, width, height, seed):
    box, mask = np.array([x1, y1, x1 + width, y1 + height], np.float32), random_mask(seed)
    x1, y1, x2, y2 = box.tolist()
    if x2 > x1 and y2 > y1:
        assert np.allclose(whole(*paste_soft(mask, box, SIZE, "exact")), sampled(mask, box), atol=1e-4)
    pasted = whole(*paste_soft(mask, box, SIZE, "legacy"))
    left, top, right, bottom = expand_boxes(torch.from_numpy(box)[None], 30 / 28).long()[0].tolist()
    if right >= 0 and bottom >= 0 and left < SIZE[1] and top < SIZE[0]:
        assert np.allclose(pasted, pasted_by_torchvision(mask, box), atol=1e-6)
    else:  # torchvision's slices interpret negative ends as counted from the other side
        assert not pasted.any()


@pytest.mark.parametrize("rule", ["exact", "legacy"])
@pytest.mark.parametrize("box", [(-90, 5, -40, 30), (100, 5, 140, 30), (5, -90, 30, -40), (5, 1e9, 30, 2e9)])
def test_a_box_outside_the_image_has_no_pixels(box, rule):
    crop, _, _ = paste(np.ones((28, 28), np.float32), np.array(box, np.float32), SIZE, rule)
    assert crop.size == 0 or not crop.any()


@pytest.mark.parametrize("rule", ["exact", "legacy"])
def test_the_crop_of_a_huge_box_is_limited_to_the_image(rule):
    mask = np.zeros((28, 28), np.float32)
    mask[:, 14:] = 1
    crop, top, left = paste(mask, np.array([-1e8, -1e8, 1e8, 1e8], np.float32), SIZE, rule)
    assert crop.shape[0] <= SIZE[0]
    assert crop.shape[1] <= SIZE[1]
    assert (top, left) == (0, 0)


def test_an_empty_box_has_no_pixels():
    assert not paste(np.ones((28, 28), np.float32), np.array([5.5, 5.5, 5.5, 9.0], np.float32), SIZE, "exact")[0].size


@pytest.mark.parametrize("rule", ["exact", "legacy"])
def test_a_probability_equal_to_the_threshold_belongs_to_the_object(rule):
    """The weights add up to exactly 1, so that a constant mask stays constant."""
    box = np.array([3.3, 4.7, 50.1, 55.9], np.float32)
    crop, top, left = paste(np.full((28, 28), 0.5, np.float32), box, SIZE, rule)
    assert whole(crop, top, left)[8:52, 7:46].all()


def test_a_full_mask_in_a_box_on_whole_pixels_fills_exactly_the_box():
    crop = whole(*paste(np.ones((28, 28), np.float32), np.array([3.0, 4.0, 40.0, 31.0], np.float32), SIZE, "exact"))
    expected = np.zeros(SIZE, bool)
    expected[4:31, 3:40] = True
    assert np.array_equal(crop, expected)


@pytest.mark.parametrize("rule", ["exact", "legacy"])
def test_the_block_size_does_not_change_the_result(rule, monkeypatch):
    mask, box = random_mask(1), np.array([3.3, -4.7, 50.1, 55.9], np.float32)
    expected = paste(mask, box, SIZE, rule)
    monkeypatch.setattr(mask_paste, "BLOCK", 100)
    crop, top, left = paste(mask, box, SIZE, rule)
    assert np.array_equal(crop, expected[0])
    assert (top, left) == expected[1:]
