"""Prediction of folders and object stores on Ray, compared with a single process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.distributed.ray.processes import workers
from tests.tiny import outputs
from upscore.distributed.ray import predict
from upscore.distributed.ray.predict import predict_on_ray
from upscore.distributed.storage import FileInfo, parse_location
from upscore.errors import UserError
from upscore.inference import load
from upscore.inference.folder import predict_folder
from upscore.inference.outputs import find_images

TORCH: dict[str, Any] = {"engine": "torch", "precision": "float32"}
TWO: dict[str, Any] = {"workers": 2, "cpus": 1, **TORCH}


@pytest.fixture(scope="module")
def many(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder tree of 25 images, one of them damaged."""
    folder = tmp_path_factory.mktemp("data") / "many"
    for number in range(24):
        source = sorted((photos / "images").iterdir())[number % 8]
        target = folder / f"{number % 3}" / f"{number:02}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as image:
            image.resize((480 + number, 360)).save(target)
    (folder / "1" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads processes from /proc")
def test_the_work_of_a_killed_worker_is_repeated(cluster: Any, detector: Path, many: Path, tmp_path: Path) -> None:
    """One of two workers is killed after the third image; the files equal those of a single process."""
    calls: list[tuple[int, int]] = []
    pids: list[set[int]] = []

    def watch(done: int, total: int) -> None:
        calls.append((done, total))
        pids.append(set(workers()))
        if done == 3:
            os.kill(min(pids[-1]), signal.SIGKILL)

    outcome = predict_on_ray(str(detector), [many], tmp_path / "ray", progress=watch, **TWO)
    assert calls == [(number, 25) for number in range(1, 26)]
    assert len(pids[2]) == 2
    assert len(set.union(*pids)) > 2, "the killed worker was not replaced"
    assert outcome.images == 25
    assert [failure.partition(":")[0] for failure in outcome.failures] == [str(many / "1" / "bad.jpg")]
    list(predict_folder(load(detector, **TORCH), find_images([many]), tmp_path / "alone"))
    alone = outputs(tmp_path / "alone")
    assert len(alone) == 2 * 24 + 1
    assert outputs(tmp_path / "ray") == alone
    results = json.loads(alone["instances.json"])
    assert outcome.objects == len(results) > 24


@pytest.mark.slow
def test_concurrent_runs_into_one_output_and_resuming(
    cluster: Any, trained: Path, detector: Path, photos: Path, tmp_path: Path
) -> None:
    """A run that starts and ends during another run does not delete its files."""
    images, output = sorted((photos / "images").iterdir()), tmp_path / "out"
    others = []

    def second(done: int, total: int) -> None:
        if done == 1:
            others.append(predict_on_ray(str(trained), images[4:], output, **TWO))
            with pytest.raises(UserError, match="--output"):
                predict_on_ray(str(detector), images[4:], output, **TWO)

    first = predict_on_ray(str(trained), images[:4], output, progress=second, **TWO)
    assert [first.failures, others[0].failures] == [[], []]
    assert len(outputs(output)) == 2 * len(images)
    (output / f"{images[0].stem}.png").unlink()
    expected = outputs(output)
    calls: list[tuple[int, int]] = []
    again = predict_on_ray(str(trained), images, output, resume=True, progress=lambda *done: calls.append(done), **TWO)
    assert (again.before, calls, again.failures) == (7, [(8, 8)], [])
    assert expected.items() < outputs(output).items()
    with pytest.raises(UserError, match=r"model .*trained.*detector"):
        predict_on_ray(str(detector), images, output, resume=True, **TWO)
    with pytest.raises(UserError, match=r"overlays.*True.*False"):
        predict_on_ray(str(trained), images, output, resume=True, overlays=False, **TWO)


@pytest.mark.slow
def test_images_and_output_in_an_object_store(cluster: Any, trained: Path, photos: Path, tmp_path: Path) -> None:
    """The model is on this machine only."""
    from tests.distributed.ray.s3 import serving

    some = sorted((photos / "images").iterdir())[:3]
    stored = {f"shots/{path.name}": path.read_bytes() for path in some}
    stored |= {"shots/sub dir/ü.jpg": b"broken", "notes.txt": b"-", "shots/out/old.png": b"earlier"}
    with serving("data", stored) as server:
        source = f"s3://key:secret@data/shots?{server.options}"
        target = f"s3://key:secret@data/shots/out?{server.options}"
        outcome = predict_on_ray(str(trained), [source], target, **TWO)
        again = predict_on_ray(str(trained), [source], target, resume=True, **TWO)
        assert (again.before, len(again.failures)) == (3, 1)
        with pytest.raises(UserError, match=r"s3://data/none"):
            predict_on_ray(str(trained), [f"s3://key:secret@data/none?{server.options}"], tmp_path, **TWO)
        with pytest.raises(UserError, match=r"s3://data/shots"):
            predict_on_ray(str(trained), [source], source, **TWO)
        written = {
            key.removeprefix("shots/out/"): data for key, data in server.files().items() if key.startswith("shots/out/")
        }
    with pytest.raises(UserError, match=r"s3://data/shots.*Unexpected query parameter"):
        predict_on_ray(str(trained), [f"{source}&speed=high"], tmp_path, **TWO)
    assert outcome.images == 4
    assert len(outcome.failures) == 1
    assert outcome.failures[0].startswith("s3://data/shots/sub dir/ü.jpg: is not ")
    list(predict_folder(load(trained, **TORCH), find_images(some), tmp_path / "alone"))
    assert written.pop("old.png") == b"earlier"
    assert {name: data for name, data in written.items() if ".upscore" not in name} == outputs(tmp_path / "alone")


def test_names_of_images_in_an_object_store_are_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are normalised Unicode; equal names get the suffix, and equal output files are an error."""
    names = ["a.jpg", "a.png", "sub/b.png", "Mu\u0308ller.jpg", ".hidden/c.png", "notes.txt"]
    monkeypatch.setattr(predict, "list_files", lambda _: {name: FileInfo(1, 0) for name in names})
    output = parse_location("s3://data/out")
    images, _ = predict.list_images(["s3://data/in"], output)
    assert set(images) == {"a_jpg", "a_png", "sub/b", "M\u00fcller"}
    names.append("M\u00fcller.jpg")
    with pytest.raises(UserError, match="ller"):
        predict.list_images(["s3://data/in"], output)


def test_invalid_arguments_are_errors(trained: Path, detector: Path, photos: Path, tmp_path: Path) -> None:
    """Errors are raised before any worker is started."""
    images = photos / "images"
    for model, paths, output, options, message in (
        (trained, [tmp_path], tmp_path / "out", {}, "no images"),
        (tmp_path, [images], tmp_path / "out", {}, "model.json"),
        (trained, [images], images, {}, r"--output"),
        (trained, [images.as_uri()], images.as_uri(), {}, r"--output"),
        (
            trained,
            [images],
            tmp_path / "out",
            {"score_threshold": 0.5},
            "--score-threshold",
        ),
        (detector, [images], tmp_path / "out", {"scores": True}, "--scores"),
        (trained, [images], tmp_path / "out", {"depth": tmp_path}, "--depth"),
        (trained, [images], tmp_path / "out", {"engine": "fast"}, "fast"),
        (trained, ["s3:///key"], tmp_path / "out", {}, "s3:///key"),
        (trained, ["warp://x/y"], tmp_path / "out", {}, "warp://x/y.*Unrecognized"),
    ):
        with pytest.raises(UserError, match=message):
            predict_on_ray(str(model), paths, output, **options)
    assert not (tmp_path / "out").exists()
