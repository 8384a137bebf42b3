from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import upscore as package
from tests.cli.command import sentence, upscore
from tests.tiny import outputs, scenes
from upscore.cli.predict import _targets


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TIFF of 2 x 3 scenes."""
    pixels = [scenes(6, seed=3, side=160)[index].image.permute(1, 2, 0).numpy() for index in range(6)]
    path = tmp_path_factory.mktemp("huge") / "field.tif"
    tifffile.imwrite(path, np.concatenate([np.concatenate(pixels[:3], 1), np.concatenate(pixels[3:], 1)]))
    return path


@pytest.mark.slow
def test_tiled_class_maps(
    trained: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("predict", trained, image, "--output", tmp_path / "out", "--precision", "float32")
    assert upscore(monkeypatch, *run, "--tiled", "--tile-size", "256") == 0
    assert f"{tmp_path / 'out/field.tif'}: 8 classes, by openvino in float32" in capsys.readouterr().out
    found = tifffile.imread(tmp_path / "out/field.tif")
    model = package.load(trained, precision="float32")
    model.max_side = 0
    assert (found == model.predict(image).class_map).mean() > 0.9999  # the order of summation differs
    assert set(outputs(tmp_path / "out")) == {"field.tif", "field_overlay.jpg"}
    written = (tmp_path / "out/field.tif").stat().st_mtime_ns
    assert upscore(monkeypatch, *run, "--tiled", "--tile-size", "256") == 0
    assert f"{tmp_path / 'out/field.tif'}: already exists, skipped" in capsys.readouterr().out
    assert (tmp_path / "out/field.tif").stat().st_mtime_ns == written
    assert upscore(monkeypatch, *run, "--tiled", "--tile-size", "512", "--resume") == 2
    message = sentence(capsys)
    assert "tile_size 256" in message
    assert "512" in message
    assert upscore(monkeypatch, *run, "--tiled", "--tile-size", "512") == 0
    assert "8 classes" in capsys.readouterr().out
    assert upscore(monkeypatch, *run, "--tiled", "--tile-size", "100") == 2
    assert "multiple of 256" in sentence(capsys)


def test_names_of_tiled_outputs(tmp_path: Path) -> None:
    names = ("2024.05.01_a.tif", "2024.05.01_b.tif", "c.png", "c.jpg", "slide.ome.tif", "map.ome.zarr")
    targets = _targets([tmp_path / name for name in (*names, names[0])], tmp_path / "out")
    assert {source.name: target.name for source, target in targets.values()} == {
        "2024.05.01_a.tif": "2024.05.01_a.tif",
        "2024.05.01_b.tif": "2024.05.01_b.tif",
        "c.png": "c_png.tif",
        "c.jpg": "c_jpg.tif",
        "slide.ome.tif": "slide.tif",
        "map.ome.zarr": "map.zarr",
    }


@pytest.mark.slow
def test_tiled_objects(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    missing = image.with_name("missing.tif")
    run = ("predict", "nuclei", image, "--output", output, "--tiled", "--tile-size", "256", "--score-threshold", "0.05")
    assert upscore(monkeypatch, *run[:2], missing, *run[2:]) == 1
    assert "missing.tif" in sentence(capsys)
    ids, results = tifffile.imread(output / "field.tif"), json.loads((output / "field_instances.json").read_text())
    assert ids.shape == (320, 480)
    assert ids.max() <= len(results)
    assert len(results) > 0
    assert {result["file_name"] for result in results} <= {"field.tif"}
    assert set(outputs(output)) == {"field.tif", "field_overlay.jpg", "field_instances.json"}
    capsys.readouterr()
    assert upscore(monkeypatch, *run) == 0
    assert capsys.readouterr().out == f"{output / 'field.tif'}: already exists, skipped\n"
    assert upscore(monkeypatch, *run[:-1], "0.5") == 0
    assert "object" in capsys.readouterr().out
    assert upscore(monkeypatch, *run[:-1], "1.5") == 2
    assert "--score-threshold" in sentence(capsys)
    assert upscore(monkeypatch, "predict", "nuclei", image, "--output", output, "--tiled", "--tile-size", "0") == 2
    assert "--tile-size 0 is invalid" in sentence(capsys)


def test_invalid_options_are_named(
    trained: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("predict", trained, image, "--output", tmp_path / "out")
    for flags, value in (
        (("--tile-size", "256"), "--tiled"),
        (("--workers", "2"), "--ray"),
        (("--tiled", "--scores"), "--scores"),
        (("--tiled", "--tile-size", "100"), "--tile-size 100 is invalid: use a multiple of 256 pixels"),
        (("",), 'the path "" is empty'),
    ):
        assert upscore(monkeypatch, *run, *flags) == 2
        assert value in sentence(capsys)
    assert upscore(monkeypatch, "predict", trained, image, "--output", "") == 2
    assert '--output "" is empty' in sentence(capsys)
    assert upscore(monkeypatch, "predict", trained, image.parent, "--output", tmp_path / "out", "--tiled") == 2
    assert str(image.parent) in sentence(capsys)
