from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import upscore
from tests.cli.command import sentence
from tests.cli.command import upscore as command
from tests.tiny import scenes
from upscore.checkpoints import load_model
from upscore.errors import UserError
from upscore.inference import Predictor
from upscore.inference.agreement import agreement
from upscore.inference.calibration import quantize


@pytest.fixture(scope="module")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for int8 is written into it."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("calibration") / "model"))


@pytest.mark.slow
def test_calibrating_from_the_command_line(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="upscore calibrate"):
        upscore.load(model, precision="int8")
    assert command(monkeypatch, "calibrate", model, photos / "images", "--data", "scenes:3") == 0
    out = capsys.readouterr().out
    assert "agreement with float32" in out
    assert "mean IU" in out
    report = json.loads((model / "int8/report.json").read_text())
    assert report["calibrated on"] == 8
    assert 0.5 < report["agreement"] <= 1
    assert {*report["scores"]} == {"float32", "int8"}

    photo = scenes(1, seed=9)[0].image
    reference = upscore.load(model, precision="float32")
    found = []
    for _ in range(2):  # compiled, and read from the cache
        predictor = upscore.load(model, precision="int8")
        assert predictor.engine.precision == "int8"
        found.append(predictor.predict(photo))
    assert agreement(*found) == 1
    assert 0.5 < agreement(reference.predict(photo), found[0]) < 1  # another network, but not much
    assert upscore.load(model).engine.precision != "int8"

    copy = tmp_path / "copy"
    assert command(monkeypatch, "calibrate", model, photos / "images", "--output", copy) == 0
    assert {path.name for path in copy.iterdir()} == {"model.json", "model.safetensors", "int8"}
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="made of other weights"):
        upscore.load(model, precision="int8")


@pytest.mark.slow
def test_objects_in_int8() -> None:
    net, card = load_model("nuclei")
    photos = [scenes(1, seed=seed, side=128)[0].image for seed in range(2)]
    parts = quantize(net, photos)
    assert {*parts} >= {"dense", "box"}
    predictor = Predictor(net, "openvino", "int8", quantized=parts, max_side=card.max_side)
    assert predictor.predict(photos[0], min_score=0).instances is not None
    for side in (544, 608):  # at which OpenVINO crashed with asymmetric ranges
        assert predictor.predict(np.zeros((side, side, 3), np.uint8), min_score=0).instances is not None


def test_what_cannot_be_calibrated(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "calibrate", "nuclei", photos) == 2
    assert "give --output" in sentence(capsys)
    assert command(monkeypatch, "calibrate", "nowhere", photos) == 2
    assert "nowhere" in sentence(capsys)
