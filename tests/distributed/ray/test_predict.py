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
from upscore.distributed.ray.predict import predict_on_ray
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
    (folder / "1" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found as Linux lists them")
def test_a_worker_that_is_killed_loses_nothing(cluster: Any, finder: Path, many: Path, tmp_path: Path) -> None:
    """One of two is killed after the third photo: the files and `instances.json` are those of a single process."""
    calls: list[tuple[int, int]] = []
    pids: list[set[int]] = []

    def watch(done: int, total: int) -> None:
        calls.append((done, total))
        pids.append(set(workers()))
        if done == 3:
            os.kill(min(pids[-1]), signal.SIGKILL)

    outcome = predict_on_ray(str(finder), [many], tmp_path / "ray", progress=watch, **TWO)
    assert calls == [(number, 25) for number in range(1, 26)]
    assert len(pids[2]) == 2
    assert len(set.union(*pids)) > 2, "no other process took the killed one's place"
    assert outcome.images == 25
    assert [failure.partition(":")[0] for failure in outcome.failures] == [str(many / "1" / "bad.jpg")]
    list(predict_folder(load(finder, **TORCH), find_images([many]), tmp_path / "alone"))
    alone = outputs(tmp_path / "alone")
    assert len(alone) == 2 * 24 + 1
    assert outputs(tmp_path / "ray") == alone
    results = json.loads(alone["instances.json"])
    assert outcome.objects == len(results) > 24


@pytest.mark.slow
def test_two_runs_into_one_output_and_resuming(
    cluster: Any, trained: Path, finder: Path, photos: Path, tmp_path: Path
) -> None:
    """A run that begins and ends while another is going on deletes nothing of it."""
    images, output = sorted((photos / "images").iterdir()), tmp_path / "out"
    others = []

    def second(done: int, total: int) -> None:
        if done == 1:
            others.append(predict_on_ray(str(trained), images[4:], output, **TWO))
            with pytest.raises(UserError, match="--output"):
                predict_on_ray(str(finder), images[4:], output, **TWO)

    first = predict_on_ray(str(trained), images[:4], output, progress=second, **TWO)
    assert [first.failures, others[0].failures] == [[], []]
    assert len(outputs(output)) == 2 * len(images)
    (output / f"{images[0].stem}.png").unlink()
    expected = outputs(output)
    calls: list[tuple[int, int]] = []
    again = predict_on_ray(str(trained), images, output, resume=True, progress=lambda *done: calls.append(done), **TWO)
    assert (again.before, calls, again.failures) == (7, [(8, 8)], [])
    assert expected.items() < outputs(output).items()
    with pytest.raises(UserError, match=r"model .*trained.*finder"):
        predict_on_ray(str(finder), images, output, resume=True, **TWO)
    with pytest.raises(UserError, match=r"overlays.*True.*False"):
        predict_on_ray(str(trained), images, output, resume=True, overlays=False, **TWO)


@pytest.mark.slow
def test_a_store(cluster: Any, trained: Path, photos: Path, tmp_path: Path) -> None:
    """Photos and output in a store that speaks S3; the model is on this machine alone."""
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
        with pytest.raises(UserError, match=r"would be overwritten"):
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


def test_invalid_arguments_are_rejected(trained: Path, finder: Path, photos: Path, tmp_path: Path) -> None:
    """Errors are raised before any worker is started."""
    images = photos / "images"
    for model, paths, output, options, message in (
        (trained, [tmp_path], tmp_path / "out", {}, "no images found"),
        (tmp_path, [images], tmp_path / "out", {}, "model.json"),
        (trained, [images], images, {}, "would be overwritten"),
        (trained, [images.as_uri()], images.as_uri(), {}, "would be overwritten"),
        (
            trained,
            [images],
            tmp_path / "out",
            {"score_threshold": 0.5},
            "--score-threshold",
        ),
        (finder, [images], tmp_path / "out", {"scores": True}, "--scores"),
        (trained, [images], tmp_path / "out", {"depth": tmp_path}, "--depth"),
        (trained, [images], tmp_path / "out", {"engine": "fast"}, "no engine is called 'fast'"),
        (trained, ["s3:///key"], tmp_path / "out", {}, "s3:///key has no bucket"),
        (trained, ["warp://x/y"], tmp_path / "out", {}, "warp://x/y.*Unrecognized"),
    ):
        with pytest.raises(UserError, match=message):
            predict_on_ray(str(model), paths, output, **options)
    assert not (tmp_path / "out").exists()
