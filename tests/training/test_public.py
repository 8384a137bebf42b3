"""`upscore.train` and `upscore.evaluate`: data sets, callbacks, resumption, unusable data and limited machines."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import upscore
from tests.tiny import BACKBONE, QUICK, metrics, scenes, write_photos
from upscore.annotations import ObjectAnnotations
from upscore.data.datasets import same_source
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.training.callbacks import Callback
from upscore.training.loader import GUARD_EXIT, ValidationView, batches

OPTIONS: dict[str, Any] = {
    "backbone": BACKBONE,
    "weights": "none",
    "epochs": 1,
    "changes": QUICK,
    "precision": "float32",
    "workers": 0,
}


class Recorder(Callback):
    """Records the names of the called methods in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_start(self, folder: Any) -> None:
        self.calls.append(f"start {folder.path.name}")

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.calls.append(f"step {step}/{total_steps}")

    def on_epoch_end(self, records: list[dict[str, Any]], scores: object, is_best: bool) -> None:
        self.calls.append(f"epoch {len(records)} {is_best}")

    def on_train_end(self) -> None:
        self.calls.append("end")


def test_train_and_evaluate_take_data_sets(tmp_path: Path) -> None:
    recorder = Recorder()
    progress = upscore.train(scenes(6), tmp_path / "run", validation=scenes(2, seed=1), callbacks=[recorder], **OPTIONS)
    assert progress.epoch == 1
    assert recorder.calls == ["start run", "step 1/2", "step 2/2", "epoch 1 True", "end"]
    assert (tmp_path / "run/curves.png").exists()
    model = upscore.load(tmp_path / "run", engine="torch", precision="float32")
    scores = upscore.evaluate(model, scenes(2, seed=1))
    assert json.loads(json.dumps(scores.to_json()))["mean_iu"] == pytest.approx(progress.best, abs=1e-6)
    assert upscore.evaluate(tmp_path / "run", "scenes:10:3").to_json().keys() == scores.to_json().keys()
    with pytest.raises(UserError, match="val"):
        upscore.evaluate(model, scenes(2), split="val")


def test_a_fifth_of_a_data_set_is_used_for_validation(tmp_path: Path) -> None:
    upscore.train(scenes(6), tmp_path / "run", **OPTIONS)
    asked = json.loads((tmp_path / "run/run.json").read_text())
    assert (asked["train_images"], asked["validation_images"]) == (5, 1)
    with pytest.raises(UserError, match="val_pattern"):
        upscore.train(scenes(6), tmp_path / "other", val_pattern="a*", **OPTIONS)
    with pytest.raises(UserError, match="validation"):
        upscore.train("scenes:4", tmp_path / "other", validation=scenes(2), **OPTIONS)


def test_callbacks_end_when_training_fails(tmp_path: Path) -> None:
    class Fail(Callback):
        def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
            raise ZeroDivisionError

    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        upscore.train(scenes(6), tmp_path / "run", callbacks=[recorder, Fail()], **OPTIONS)
    assert recorder.calls == ["start run", "step 1/2", "end"]


# resuming with the same data


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with the folder data/ and its finished run in run/."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "data", 5)
    upscore.train("data", "run", **OPTIONS)
    return tmp_path


def resumed() -> int:
    return upscore.train("data", "run", resume=True, **OPTIONS).epoch


def test_paths_are_compared_after_resolution(finished_run: Path) -> None:
    for spelling in ("data/", "./data", finished_run / "data", "run/../data"):
        assert upscore.train(spelling, "run", resume=True, **OPTIONS).epoch == 1
    shutil.move("data", "moved")
    assert upscore.train("moved", "run", resume=True, **OPTIONS).epoch == 1


@pytest.mark.parametrize("change", ["exchanged", "renamed", "touched", "edited"])
def test_changed_data_is_refused(change: str, finished_run: Path) -> None:
    assert resumed() == 1
    image, label = (sorted((finished_run / "data" / part).iterdir())[0] for part in ("images", "labels"))
    if change == "exchanged":
        other = sorted((finished_run / "data/images").iterdir())[1]
        shutil.copy2(other, image)
    elif change == "renamed":
        image.rename(image.with_stem("zz"))
        label.rename(label.with_stem("zz"))
    elif change == "touched":
        os.utime(image, (1, 1))
    else:
        label.write_bytes(label.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"/data .*run.*--output"):
        resumed()


def test_same_source_compares_resolved_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()
    for other in ("camvid/", "./camvid", str(tmp_path / "camvid"), tmp_path / "camvid"):
        assert same_source("camvid", other)
    assert same_source("scenes", "scenes:400:0")
    assert not same_source("scenes:4", "scenes:5")
    assert not same_source("camvid", "camvid2")
    assert not same_source("scenes:4", "camvid")
    assert not same_source(None, "camvid")


# data without labels


class Void:
    """Scenes with void pixels only."""

    classes = scenes().classes

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return replace(scenes()[index], class_map=torch.full((64, 64), VOID, dtype=torch.uint8))


class Regions:
    """Scenes with crowds only, or without objects."""

    classes = scenes().classes[1:]

    def __init__(self, *, crowds: bool) -> None:
        self.crowds = crowds

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        sample = scenes()[index]
        assert sample.objects is not None
        crowd = torch.ones_like(sample.objects.crowd)
        objects = replace(sample.objects, crowd=crowd) if self.crowds else sample.objects[crowd.logical_not()]
        return replace(sample, objects=objects)


@pytest.mark.parametrize(
    ("data", "options", "cause"),
    [
        (Void(), {}, r"3 images to train on .*255"),
        (Regions(crowds=True), {"model": "mask_rcnn"}, r"3 images .*all \d+ .*iscrowd"),
        (Regions(crowds=True), {"model": "mask_rcnn", "max_detections": 100}, r"3 images .*all \d+ .*iscrowd"),
        (Regions(crowds=False), {"model": "mask_rcnn"}, "3 images .*object"),
    ],
)
def test_data_without_labels_is_a_user_error(data: Any, options: dict[str, Any], cause: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=cause):
        upscore.train(data, tmp_path / "run", validation=data, **{**OPTIONS, "changes": None, **options})
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"3 images to validate on .*255"):
        upscore.train(scenes(2), tmp_path / "run", validation=Void(), **OPTIONS)


# the machine


def test_batches_of_workers_use_no_shared_memory() -> None:
    view = ValidationView(scenes(4), resize=lambda sample: sample)
    for batch, expected in zip(batches(view, 2, 1), batches(view, 2, 0), strict=True):
        assert not batch.images.is_shared()
        assert torch.equal(batch.images, expected.images)
        assert batch.class_maps is not None
        assert expected.class_maps is not None
        assert torch.equal(batch.class_maps, expected.class_maps)
        assert batch.objects is not None
        assert expected.objects is not None
        for one, other in zip(batch.objects, expected.objects, strict=True):
            assert isinstance(one, ObjectAnnotations)
            assert torch.equal(one.id_map, other.id_map)
        assert batch.names == expected.names
        batch.images += 1  # the tensor is writable


def python(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment, **options)


@pytest.mark.slow
def test_a_script_without_a_main_guard_gets_one_error(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"""
import multiprocessing, sys
multiprocessing.set_start_method("spawn", force=True)
import upscore
upscore.train("scenes:4", {str(tmp_path / "run")!r}, **{ {**OPTIONS, "workers": 1}!r})
""")
    done = python(str(tmp_path / "script.py"))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("upscore.errors.UserError: ")
    assert '__name__ == "__main__"' in last
    assert done.stderr.count("Traceback") == 1
    assert not (tmp_path / "run").exists()
    assert GUARD_EXIT not in (0, 1, 2)


def limited() -> None:
    """Limit files to 100 kB, which acts like a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
def test_a_run_resumes_after_the_disk_was_full(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "data", 5)
    arguments = ["train", str(data), "--output", str(tmp_path / "run"), "--backbone", BACKBONE, "--weights", "none"]
    arguments += ["--epochs", "1", "--workers", "0", "--precision", "float32", "--crop", "48"]
    program = str(tmp_path / "program.py")
    Path(program).write_text("from upscore.cli import main\nif __name__ == '__main__':\n    main()\n")
    done = python(program, *arguments, preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "run") in done.stderr
    assert "--resume" in done.stderr
    done = python(program, *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(metrics(tmp_path / "run")) == 1
