from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import upscore as package
from tests.cli.command import sentence, upscore
from upscore.checkpoints import load_model, save_model
from upscore.data import open_dataset
from upscore.data.datasets import open_splits
from upscore.evaluation.class_matching import ClassMatchWarning
from upscore.inference import evaluate
from upscore.inference.evaluate import TrainingImagesWarning

KEYS = {"pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu", "per_class", "images"}


def test_scores_are_printed_and_written(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ("--json", tmp_path / "new/scores.json", "--plots", tmp_path / "plots")
    assert upscore(monkeypatch, "evaluate", trained, photos, *written) == 0
    report = json.loads((tmp_path / "new/scores.json").read_text(), parse_constant=pytest.fail)
    assert set(report) >= KEYS
    expected = evaluate(package.load(trained), open_dataset(photos))
    assert report["images"] == 8
    for key in KEYS - {"images"}:
        assert report[key] == getattr(expected, key), key
    assert list(report["per_class"]) == package.load(trained).classes
    defined = [value for value in report["per_class"].values() if value is not None]
    assert report["mean_iu"] == pytest.approx(math.fsum(defined) / len(defined))
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["confusion.png", "per_class.png"]
    out = capsys.readouterr().out
    assert f"mean IoU               {report['mean_iu']:.1%}" in out
    assert all(name in out for name in report["per_class"])


def test_invalid_inputs_are_named(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upscore(monkeypatch, "evaluate", trained, tmp_path / "missing") == 2
    assert "missing" in capsys.readouterr().err
    assert upscore(monkeypatch, "evaluate", tmp_path / "missing", photos) == 2
    assert "missing" in sentence(capsys)
    assert upscore(monkeypatch, "evaluate", trained, photos, "--split", "val") == 2
    assert "'val'" in sentence(capsys)
    (tmp_path / "file").touch()
    assert upscore(monkeypatch, "evaluate", trained, photos, "--json", tmp_path / "file/scores.json") == 2
    out, err = capsys.readouterr()
    assert out == ""  # refused before the images are read
    assert err.startswith("upscore: ")
    assert "--json" in err


def test_training_images_are_warned_about(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net, config = load_model(trained)
    save_model(tmp_path / "model", net, classes=config.classes, training={"data": str(photos)})
    with pytest.warns(TrainingImagesWarning, match="was trained on"):
        assert upscore(monkeypatch, "evaluate", tmp_path / "model", photos) == 0
    assert "8 images" in capsys.readouterr().out
    assert upscore(monkeypatch, "evaluate", trained, photos) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("split", [(), ("--split", "val")])
def test_only_the_held_out_images_of_the_training_folder_are_scored(
    split: tuple[str, ...], run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(TrainingImagesWarning, match="only the 2 images that were held out"):
        assert upscore(monkeypatch, "evaluate", run, photos, *split) == 0
    assert "photos, val: 2 images" in " ".join(capsys.readouterr().out.split())
    _, held_out = open_splits(photos)
    model = package.load(run)
    with pytest.warns(TrainingImagesWarning):
        scores = evaluate(model, photos)
    assert scores.to_json() == evaluate(model, held_out).to_json()


def test_all_images_are_scored_if_one_was_exchanged_since_the_training(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of images is the same, so the split may be another."""
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(photos, data)  # keeps the modification times
    net, config = load_model(run / "best")
    save_model(model, net, classes=config.classes, training={**config.training, "data": str(data)})
    arguments = ("evaluate", model, data, "--json", tmp_path / "scores.json")
    with pytest.warns(TrainingImagesWarning, match="held out"):
        assert upscore(monkeypatch, *arguments) == 0
    first = min((data / "images").iterdir())
    Image.fromarray(255 - np.array(Image.open(first))).save(first)
    os.utime(first, (0, 0))
    with pytest.warns(TrainingImagesWarning, match="higher"):
        assert upscore(monkeypatch, *arguments) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 8


def test_data_without_class_names(trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for path in sorted((photos / part).iterdir())[:3]:
            pixels = np.array(Image.open(path))
            if part == "labels":
                pixels[pixels == 7] = 0
                pixels[0, 0] = 6
            Image.fromarray(pixels).save(tmp_path / "data" / part / path.name)
    with pytest.warns(ClassMatchWarning, match="background, disk"):
        assert upscore(monkeypatch, "evaluate", trained, tmp_path / "data", "--json", tmp_path / "scores.json") == 0
    report = json.loads((tmp_path / "scores.json").read_text())
    assert list(report["per_class"]) == package.load(trained).classes
