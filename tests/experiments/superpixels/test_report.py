"""Figures and files of superpixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.tiny import scenes
from upscore.data.io.images import read_ids
from upscore.errors import UserError
from upscore.experiments.superpixels.comparison import compare
from upscore.experiments.superpixels.report import (
    PANEL,
    comparison_picture,
    draw_borders,
    mean_colors,
    refuse_overwriting_images,
    write_segments,
)


def test_mean_colors_match_a_calculation_by_hand():
    image = np.array([[[0, 0, 0], [10, 20, 30]], [[100, 0, 0], [100, 50, 7]]], np.uint8)
    drawn = mean_colors(image, np.array([[0, 0], [0, 1]]))
    assert drawn[0, 0].tolist() == drawn[1, 0].tolist() == [37, 7, 10]
    assert drawn[1, 1].tolist() == [100, 50, 7]


def test_lines_are_at_borders_only():
    image = np.full((60, 60, 3), 90, np.uint8)
    segments = np.zeros((60, 60), np.int32)
    segments[:, 30:] = 1
    changed = (np.asarray(draw_borders(image, segments)) != image).any(axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == [28, 29, 30, 31]
    assert np.array_equal(draw_borders(image, np.zeros_like(segments)), image)


def test_crowded_borders_are_not_drawn():
    image = np.full((60, 60, 3), 90, np.uint8)
    assert np.array_equal(draw_borders(image, np.indices((60, 60)).sum(axis=0) % 2), image)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (300, 200)])
def test_files_of_an_image(tmp_path, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    segments = (np.arange(size[0] * size[1]) % 3).reshape(size).astype(np.int32)
    write_segments(image, segments, tmp_path / "new" / "a.b", "a")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.b_ids.png", "a.b_segments.png"]
    assert np.array_equal(read_ids(tmp_path / "new/a.b_ids.png"), segments + 1)
    with Image.open(tmp_path / "new/a.b_segments.png") as picture:
        assert picture.width > picture.height / 2


def test_too_many_segments_for_16_bits(tmp_path):
    segments = np.arange(65_536, dtype=np.int32).reshape(256, 256)
    with pytest.raises(UserError, match="65,536"):
        write_segments(np.zeros((256, 256, 3), np.uint8), segments, tmp_path / "a", "a")
    assert not list(tmp_path.iterdir())


def test_images_are_not_overwritten(tmp_path):
    images = {"a": tmp_path / "a.png", "a_ids": tmp_path / "a_ids.png"}
    with pytest.raises(UserError, match=r"a_ids\.png"):
        refuse_overwriting_images(images, tmp_path)
    refuse_overwriting_images(images, tmp_path / "out")


def test_the_figure_has_a_row_for_each_example():
    comparison = compare(scenes(3), segments=10, pictures=2)
    picture = comparison_picture(comparison)
    assert picture.width > 5 * PANEL
    assert 2 * PANEL < picture.height < 3 * PANEL
    for example in comparison.examples:
        example.network = example.truth
    assert comparison_picture(comparison).width > 6 * PANEL
