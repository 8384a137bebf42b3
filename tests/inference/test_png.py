from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscore.inference import png
from upscore.inference.png import write_png


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 5), (200, 3), (61, 83)])
@pytest.mark.parametrize("block", [1, 1000, png.BLOCK])
def test_pixels_are_read_back(size: tuple[int, int], block: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(png, "BLOCK", block)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    write_png(pixels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        read.verify()
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == "RGB"
        assert np.array_equal(np.array(read), pixels)


def test_smooth_pictures_become_smaller(tmp_path: Path) -> None:
    y, x = np.mgrid[:200, :300]
    pixels = np.stack([y, x // 2, (x + y) // 3], -1).astype(np.uint8)
    write_png(pixels, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < pixels.nbytes / 4
