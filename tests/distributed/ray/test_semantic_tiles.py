"""Tiled semantic segmentation on Ray, compared with a single process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.distributed.ray.processes import workers
from tests.tiny import scenes, tiny_net
from upscore.checkpoints import save_model
from upscore.distributed.ray.tiles import predict_raster_on_ray
from upscore.errors import UserError
from upscore.inference import load
from upscore.inference.tiled.semantic import predict_raster

TORCH: dict[str, Any] = {"engine": "torch", "precision": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, tiny_net(), classes=scenes().classes)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads processes from /proc")
def test_the_work_of_a_killed_worker_is_repeated(cluster: Any, model: Path, tmp_path: Path) -> None:
    """The files are bit-identical to those of one process."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    source = tmp_path / "scan.tif"
    tifffile.imwrite(source, pixels, photometric="rgb", tile=(256, 256))
    calls: list[tuple[int, int]] = []
    killed: list[int] = []

    def watch(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 3:
            killed.append(min(workers()))
            os.kill(killed[0], signal.SIGKILL)

    options: dict[str, Any] = {"tile_size": 256, **TORCH}
    written = predict_raster_on_ray(
        str(model), source, tmp_path / "ray" / "map.tif", workers=2, cpus=1, progress=watch, **options
    )
    alone = predict_raster(load(model, **TORCH), source, tmp_path / "alone" / "map.tif", tile_size=256)
    assert killed
    assert calls == [(number, 12) for number in range(1, 13)]
    assert [path.name for path in written] == [path.name for path in alone] == ["map.tif", "map_overlay.jpg"]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in alone]
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == ["map.tif", "map_overlay.jpg"]


def test_invalid_arguments_raise_an_error(model: Path, detector: Path, photos: Path, tmp_path: Path) -> None:
    image = next((photos / "images").iterdir())
    with pytest.raises(UserError, match="s3://"):
        predict_raster_on_ray(str(model), "s3://scans/1.tif", tmp_path / "map.tif", **TORCH)
    with pytest.raises(UserError, match="predict_objects"):
        predict_raster_on_ray(str(detector), image, tmp_path / "map.tif", **TORCH)
    with pytest.raises(UserError, match=r"map\.png"):
        predict_raster_on_ray(str(model), image, tmp_path / "map.png", **TORCH)
