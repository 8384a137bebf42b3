"""Each way of clustering gives a full partition, of any photo, that keeps to what is plain to see."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from upscore.errors import UserError
from upscore.experiments.superpixels.methods import FEATURES, METHODS, describe, segment
from upscore.viz.overlays import borders

RED, BLUE = (200, 30, 30), (20, 60, 220)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_colors() -> np.ndarray:
    """Red, then blue from column 37."""
    photo = np.empty((60, 80, 3), np.uint8)
    photo[:, :37], photo[:, 37:] = RED, BLUE
    return photo


def check(segments: np.ndarray, size: tuple[int, int]) -> None:
    assert segments.shape == size
    assert segments.dtype == np.int32
    assert np.unique(segments).tolist() == list(range(int(segments.max()) + 1))


@pytest.mark.parametrize("method", METHODS)
def test_no_segment_crosses_a_plain_edge(method):
    photo = two_colors()
    for wanted in (2, 12):
        found = segment(photo, method, wanted)
        check(found, (60, 80))
        assert found.max() >= 1
        assert not set(np.unique(found[:, :37])) & set(np.unique(found[:, 37:]))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 2), (1, 30), (30, 1), (5, 5)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_photos(method, size):
    for photo in (noise(*size), np.full((*size, 3), 7, np.uint8)):
        for wanted in (1, 3, 100):
            found = segment(photo, method, wanted)
            check(found, size)
            assert wanted > 1 or found.max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_number_is_aimed_at(method):
    y, x = np.mgrid[:96, :128]
    smooth = np.stack([y * 2, x, (y * 3 + x * 5) % 256], axis=-1).astype(np.uint8)
    photo = smooth // 2 + noise(96, 128) // 8
    for wanted in (20, 60):
        assert wanted / 2 <= segment(photo, method, wanted).max() + 1 <= wanted * 2


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_segments(method):
    photo = noise(40, 50)
    assert np.array_equal(segment(photo, method, 12, seed=3), segment(photo, method, 12, seed=3))


def test_the_seed_matters_to_kmeans():
    photo = noise(40, 50)
    assert not np.array_equal(segment(photo, "kmeans", 12, seed=0), segment(photo, "kmeans", 12, seed=1))


def test_colors_of_kmeans_are_one_segment_wherever_they_are():
    photo = two_colors()
    photo[20:30, 60:70] = RED
    found = segment(photo, "kmeans", 2)
    assert found.max() == 1
    assert found[25, 65] == found[0, 0]


def test_large_photos_are_reduced_and_segments_brought_back():
    photo = two_colors().repeat(4, 0).repeat(4, 1)
    found = segment(photo, "slic", 12, max_side=80)
    assert np.array_equal(found, segment(two_colors(), "slic", 12).repeat(4, 0).repeat(4, 1))
    assert borders(segment(photo, "slic", 12, max_side=0), 1)[:, 147:149].all()


@pytest.mark.parametrize(("segments", "max_side", "seed"), [(0, 512, 0), (10_001, 512, 0), (9, -1, 0), (9, 0, -1)])
def test_what_cannot_be_aimed_at(segments, max_side, seed):
    with pytest.raises(UserError, match=r"aims at 1 to 10,000|negative"):
        segment(noise(4, 4), "slic", segments, max_side=max_side, seed=seed)


@pytest.mark.parametrize("method", METHODS)
def test_no_warnings(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(noise(30, 30), method, 20)


def test_features_say_what_is_there():
    photo = np.zeros((4, 8, 3), np.uint8)
    photo[:, 4:] = 255
    segments = np.zeros((4, 8), np.int32)
    segments[:, 4:] = 1
    segments[2:, 4:] = 2
    table = describe(photo, segments)
    assert table.shape == (3, len(FEATURES))
    column = dict(zip(FEATURES, table.T, strict=True))
    assert column["lightness"] == pytest.approx([0, 100, 100], abs=1e-3)
    assert column["spread of lightness"] == pytest.approx([0, 0, 0], abs=1e-2)
    assert column["logarithm of the share of the photo"] == pytest.approx(np.log([1 / 2, 1 / 4, 1 / 4]))
    assert column["height in the photo"] == pytest.approx([0.5, 0.25, 0.75])
    assert column["distance from the middle"] == pytest.approx([0.25] * 3)
    mixed = describe(photo, np.zeros((4, 8), np.int32))
    assert mixed[0, FEATURES.index("spread of lightness")] == pytest.approx(50, abs=1e-2)
