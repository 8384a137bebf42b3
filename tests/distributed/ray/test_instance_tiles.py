"""Tiled object detection on Ray, compared with a single process."""

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
    """Image of 2 x 3 scenes, which has 3 x 5 tiles of 160 pixels."""
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
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads processes from /proc")
def test_the_work_of_a_killed_worker_is_repeated(cluster: Any, detector: Path, source: Path, tmp_path: Path) -> None:
    """The run resumes tiles of a single process; files and objects are bit-identical to those of one process."""
    model, output = load(detector, **TORCH), tmp_path / "ray" / "field.tif"
    with pytest.raises(StoppedError):
        predict_objects(model, source, output, tile_size=160, progress=stop)
    calls: list[tuple[int, int]] = []
    pids: list[set[int]] = []

    def watch(done: int, total: int) -> None:
        calls.append((done, total))
        pids.append(set(workers()))
        if done == 6:
            os.kill(min(pids[-1]), signal.SIGKILL)

    found = predict_objects_on_ray(
        str(detector), source, output, workers=2, cpus=1, tile_size=160, progress=watch, **TORCH
    )
    alone = predict_objects(model, source, tmp_path / "alone" / "field.tif", tile_size=160)
    assert calls == [(number, 15) for number in range(5, 16)]
    assert len(pids[1]) == 2
    assert len(found) == len(alone) > 15
    for name in ("boxes", "scores", "labels"):
        assert np.array_equal(getattr(found, name), getattr(alone, name))
    assert all(np.array_equal(one, other) for one, other in zip(found.masks, alone.masks, strict=True))
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "alone")
    assert sorted(outputs(tmp_path / "ray")) == ["field.tif", "field_instances.json", "field_overlay.jpg"]


@pytest.mark.slow
def test_the_command_writes_identical_files_with_and_without_ray(
    cluster: Any, detector: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("predict", detector, source, "--tiled", "--tile-size", "256", "--engine", "torch", "--precision", "float32")
    assert upscore(monkeypatch, *run, "--output", tmp_path / "ray", "--ray", "--workers", "1") == 0
    assert upscore(monkeypatch, *run, "--output", tmp_path / "alone") == 0
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "alone")
    assert sorted(outputs(tmp_path / "ray")) == ["field.tif", "field_instances.json", "field_overlay.jpg"]


def test_invalid_arguments_raise_before_the_first_tile(
    trained: Path, detector: Path, source: Path, tmp_path: Path
) -> None:
    """Errors are raised before any file is written."""
    for model, image, output, options, message in (
        (detector, "s3://scans/1.tif", "ids.tif", {}, "s3://scans/1.tif"),
        (detector, source.with_name("none.tif"), "ids.tif", {}, "none.tif"),
        (trained, source, "ids.tif", {}, "Mask R-CNN"),
        (detector, source, "ids.png", {}, r"ids\.png"),
        (detector, source, "ids.tif", {"factor": 0}, "factor=0"),
        (detector, source, "ids.tif", {"tile_size": 1}, "tile_size=1"),
    ):
        with pytest.raises(UserError, match=message):
            predict_objects_on_ray(str(model), image, tmp_path / output, **options, **TORCH)
    assert not list(tmp_path.iterdir())
