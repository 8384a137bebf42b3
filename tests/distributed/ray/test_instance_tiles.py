from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.cli.command import upscore
from tests.distributed.ray.processes import workers
from tests.tiny import outputs, scenes
from upscore.distributed.ray.tiles import predict_objects_on_ray
from upscore.errors import UserError
from upscore.inference import load
from upscore.inference.tiled.instances import predict_objects

TORCH: dict[str, Any] = {"engine": "torch", "precision": "float32"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 2 x 3 scenes, which is 3 x 5 tiles of 160 pixels."""
    pixels = [scenes(6, seed=3, side=160)[index].image.permute(1, 2, 0).numpy() for index in range(6)]
    path = tmp_path_factory.mktemp("huge") / "field.tif"
    whole = np.concatenate([np.concatenate(pixels[:3], 1), np.concatenate(pixels[3:], 1)])
    tifffile.imwrite(path, whole, photometric="rgb", tile=(64, 64))
    return path


class StoppedError(Exception):
    pass


def stop(done: int, _: int) -> None:
    if done == 4:
        raise StoppedError


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found as Linux lists them")
def test_two_workers_of_which_one_is_killed_go_on(cluster: Any, finder: Path, source: Path, tmp_path: Path) -> None:
    """With what one process has begun; files and objects are those of one process, to the last bit."""
    model, output = load(finder, **TORCH), tmp_path / "ray" / "field.tif"
    with pytest.raises(StoppedError):
        predict_objects(model, source, output, tile=160, progress=stop)
    told: list[tuple[int, int]] = []
    pids: list[set[int]] = []

    def watch(done: int, total: int) -> None:
        told.append((done, total))
        pids.append(set(workers()))
        if done == 6:
            os.kill(min(pids[-1]), signal.SIGKILL)

    found = predict_objects_on_ray(str(finder), source, output, workers=2, cpus=1, tile=160, progress=watch, **TORCH)
    alone = predict_objects(model, source, tmp_path / "alone" / "field.tif", tile=160)
    assert told == [(number, 15) for number in range(5, 16)]
    assert len(pids[1]) == 2
    assert len(found) == len(alone) > 15
    for name in ("boxes", "scores", "labels"):
        assert np.array_equal(getattr(found, name), getattr(alone, name))
    assert all(np.array_equal(one, other) for one, other in zip(found.masks, alone.masks, strict=True))
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "alone")
    assert sorted(outputs(tmp_path / "ray")) == ["field.tif", "field_instances.json", "field_overlay.jpg"]


@pytest.mark.slow
def test_the_command(cluster: Any, finder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes with --ray what it writes without."""
    run = ("predict", finder, source, "--tiled", "--tile-size", "256", "--engine", "torch", "--precision", "float32")
    assert upscore(monkeypatch, *run, "--output", tmp_path / "ray", "--ray", "--workers", "1") == 0
    assert upscore(monkeypatch, *run, "--output", tmp_path / "alone") == 0
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "alone")
    assert sorted(outputs(tmp_path / "ray")) == ["field.tif", "field_instances.json", "field_overlay.jpg"]


def test_what_cannot_be_found(trained: Path, finder: Path, source: Path, tmp_path: Path) -> None:
    """All of it is told before anything is started."""
    for model, image, output, options, sentence in (
        (finder, "s3://scans/1.tif", "ids.tif", {}, "tiles are read and kept on a file system that all machines share"),
        (finder, source.with_name("none.tif"), "ids.tif", {}, "none.tif"),
        (trained, source, "ids.tif", {}, "this model classifies pixels"),
        (finder, source, "ids.png", {}, "ids.png: .* is a TIFF or Zarr"),
        (finder, source, "ids.tif", {"factor": 0}, "factor=0: tiles are seen at a factor above 0"),
        (finder, source, "ids.tif", {"tile": 1}, "tiles of 1 px: choose at least 2"),
    ):
        with pytest.raises(UserError, match=sentence):
            predict_objects_on_ray(str(model), image, tmp_path / output, **options, **TORCH)
    assert not list(tmp_path.iterdir())
