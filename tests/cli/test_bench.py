"""`upscore bench` on a small trained network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from upscore.cli.bench import bench
from upscore.errors import UserError


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_setting_is_measured(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(
        str(trained),
        engine=["torch"],
        precision=["float32", "bfloat16"],
        batch_size=[1, 3],
        image_size=["64x48", "96x96"],
        rounds=2,
        threads=1,
        json=tmp_path / "new" / "bench.json",
    )
    report = json.loads((tmp_path / "new" / "bench.json").read_text())
    speeds = report["speeds"]
    settings = {(s["engine"], s["precision"], s["batch_size"], s["height"], s["width"]) for s in speeds}
    assert settings == {
        ("torch", precision, batch_size, *size)
        for precision in ("float32", "bfloat16")
        for batch_size in (1, 3)
        for size in ((48, 64), (96, 96))
    }
    assert len(speeds) == 8
    for speed in speeds:
        assert len(speed["seconds"]) == 2
        assert speed["images_per_second"] == pytest.approx(speed["batch_size"] / np.median(speed["seconds"]))
        assert speed["objects"] is None
    assert report["machine"]["threads"] == 1
    assert report["machine"]["torch"] in capsys.readouterr().out
    assert report["left_out"] == []


def test_images_and_unavailable_settings(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    bench(
        str(trained),
        [tmp_path / "a.png"],
        engine=["openvino"],
        precision=["float32", "int8"],
        rounds=1,
        json=tmp_path / "bench.json",
    )
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [(s["engine"], s["precision"], s["height"], s["width"]) for s in report["speeds"]] == [
        ("openvino", "float32", 40, 50)
    ]
    (left_out,) = report["left_out"]
    assert (left_out["engine"], left_out["precision"]) == ("openvino", "int8")
    assert "upscore calibrate" in left_out["reason"]
    assert "int8" in capsys.readouterr().err


def test_bfloat16_is_left_out_without_its_instructions(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("upscore.inference.benchmark.has_bfloat16", lambda engine: False)
    bench(str(trained), engine=["torch"], image_size=["64x48"], rounds=1)
    out, err = capsys.readouterr()
    assert "bfloat16" not in out
    assert "left out: torch bfloat16: this machine has no bfloat16 instructions" in err


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"batch_size": [0]}, "--batch-size 0"),
        ({"rounds": 0}, "--rounds 0"),
        ({"threads": 0}, "--threads 0"),
        ({"image_size": ["640"]}, "--image-size 640"),
        ({"image_size": ["0x10"]}, "--image-size 0x10"),
        ({"images": [Path("a.png")], "image_size": ["64x64"]}, "--image-size 64x64"),
        ({"engine": ["torch"], "precision": ["int8"]}, "int8"),
    ],
)
def test_invalid_options_are_named(trained: Path, options: dict, value: str) -> None:
    with pytest.raises(UserError, match=value):
        bench(str(trained), options.pop("images", None), **options)


def test_an_unwritable_file_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        bench("no such model", json=tmp_path / "file" / "bench.json")
