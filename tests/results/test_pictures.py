"""Writers of label maps and overlays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from upscore.results.writers import pictures
from upscore.results.writers.pictures import is_own_picture, save_labels, save_overlay


def test_labels_are_read_back(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 65536, (61, 83), np.uint16)
    save_labels(Image.fromarray(labels), tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), labels)


def test_overlays_are_compressed_with_a_small_error(tmp_path: Path) -> None:
    y, x = np.mgrid[:200, :300]
    pixels = np.stack([y, x // 2, (x + y) // 3], -1).astype(np.uint8)
    save_overlay(Image.fromarray(pixels), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").stat().st_size < pixels.nbytes / 10
    difference = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - pixels
    assert np.abs(difference).mean() < 2


def test_overlays_larger_than_the_limit_of_jpeg_are_downscaled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "MAX_JPEG_SIDE", 100)
    picture = Image.new("RGB", (400, 50))
    save_overlay(picture, tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").width == 100
    assert picture.size == (400, 50)


def test_pictures_of_upscore_are_recognised(tmp_path: Path) -> None:
    picture = Image.new("L", (4, 4))
    save_labels(picture, tmp_path / "own.png")
    save_overlay(picture, tmp_path / "own.jpg")
    picture.save(tmp_path / "other.png")
    picture.save(tmp_path / "other.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    assert {path.name for path in tmp_path.iterdir() if is_own_picture(path)} == {"own.png", "own.jpg"}
