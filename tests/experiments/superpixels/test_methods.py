"""Superpixel methods and features of segments."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from upscore.errors import UserError
from upscore.experiments.superpixels.methods import FEATURES, METHODS, segment, segment_features
from upscore.viz.overlays import borders

RED, BLUE = (200, 30, 30), (20, 60, 220)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_colors() -> np.ndarray:
    """Return an image that is red up to column 36 and blue from column 37 on."""
    image = np.empty((60, 80, 3), np.uint8)
    image[:, :37], image[:, 37:] = RED, BLUE
    return image


def check(segments: np.ndarray, size: tuple[int, int]) -> None:
    assert segments.shape == size
    assert segments.dtype == np.int32
    assert np.unique(segments).tolist() == list(range(int(segments.max()) + 1))


@pytest.mark.parametrize("method", METHODS)
def test_segments_do_not_cross_a_strong_edge(method):
    image = two_colors()
    for requested in (2, 12):
        segments = segment(image, method, requested)
        check(segments, (60, 80))
        assert segments.max() >= 1
        assert not set(np.unique(segments[:, :37])) & set(np.unique(segments[:, 37:]))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 2), (1, 30), (30, 1), (5, 5)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_images(method, size):
    for image in (noise(*size), np.full((*size, 3), 7, np.uint8)):
        for requested in (1, 3, 100):
            segments = segment(image, method, requested)
            check(segments, size)
            assert requested > 1 or segments.max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_segments_is_near_the_requested_one(method):
    y, x = np.mgrid[:96, :128]
    smooth = np.stack([y * 2, x, (y * 3 + x * 5) % 256], axis=-1).astype(np.uint8)
    image = smooth // 2 + noise(96, 128) // 8
    for requested in (20, 60):
        assert requested / 2 <= segment(image, method, requested).max() + 1 <= requested * 2


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_segments(method):
    image = noise(40, 50)
    assert np.array_equal(segment(image, method, 12, seed=3), segment(image, method, 12, seed=3))


def test_the_seed_changes_kmeans():
    image = noise(40, 50)
    assert not np.array_equal(segment(image, "kmeans", 12, seed=0), segment(image, "kmeans", 12, seed=1))


def test_kmeans_segments_are_colours():
    image = two_colors()
    image[20:30, 60:70] = RED
    segments = segment(image, "kmeans", 2)
    assert segments.max() == 1
    assert segments[25, 65] == segments[0, 0]


def test_segments_of_reduced_images_are_resized():
    image = two_colors().repeat(4, 0).repeat(4, 1)
    segments = segment(image, "slic", 12, max_side=80)
    assert np.array_equal(segments, segment(two_colors(), "slic", 12).repeat(4, 0).repeat(4, 1))
    assert borders(segment(image, "slic", 12, max_side=0), 1)[:, 147:149].all()


@pytest.mark.parametrize(("segments", "max_side", "seed"), [(0, 512, 0), (10_001, 512, 0), (9, -1, 0), (9, 0, -1)])
def test_invalid_options_are_refused(segments, max_side, seed):
    with pytest.raises(UserError, match=r"10,000|max_side="):
        segment(noise(4, 4), "slic", segments, max_side=max_side, seed=seed)


@pytest.mark.parametrize("method", METHODS)
def test_no_warnings(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(noise(30, 30), method, 20)


def test_features_match_a_calculation_by_hand():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 255
    segments = np.zeros((4, 8), np.int32)
    segments[:, 4:] = 1
    segments[2:, 4:] = 2
    table = segment_features(image, segments)
    assert table.shape == (3, len(FEATURES))
    column = dict(zip(FEATURES, table.T, strict=True))
    assert column["lightness"] == pytest.approx([0, 100, 100], abs=1e-3)
    assert column["spread of lightness"] == pytest.approx([0, 0, 0], abs=1e-2)
    assert column["logarithm of the share of the image"] == pytest.approx(np.log([1 / 2, 1 / 4, 1 / 4]))
    assert column["vertical position"] == pytest.approx([0.5, 0.25, 0.75])
    assert column["horizontal distance from the centre"] == pytest.approx([0.25] * 3)
    mixed = segment_features(image, np.zeros((4, 8), np.int32))
    assert mixed[0, FEATURES.index("spread of lightness")] == pytest.approx(50, abs=1e-2)
