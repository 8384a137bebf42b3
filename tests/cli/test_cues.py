"""`upscore analyze cues`: reports, figures and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclopts import App
from PIL import Image

from tests.tiny import BACKBONE
from upscore.cli.cues import cues
from upscore.errors import UserError
from upscore.experiments.cues.conditions import CONDITIONS

FILES = ["bg_only.png", "cues.json", "cues.md", "cues.png", "fg_only.png", "mask_only.png"]


@pytest.mark.slow
def test_files_of_an_experiment(photos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = App()
    app.command(cues)
    command = ["cues", str(photos), "--model", str(run), "--images", "6", "--workers", "0", "--output", str(tmp_path)]
    command += ["--foreground", "square,triangle,star,disk"]
    assert app(command, result_action="return_value") == 0
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {*FILES, "run.json", "scores", "fg_only", "bg_only", "shape"}  # the reference is given
    report = json.loads((tmp_path / "cues.json").read_text(), parse_constant=pytest.fail)
    assert report["rows"].keys() == CONDITIONS.keys()
    assert report["foreground"] == ["disk", "square", "triangle", "star"]
    captured = capsys.readouterr()
    out, page = " ".join(captured.out.split()), (tmp_path / "cues.md").read_text()
    for sentence in report["advice"]:
        assert sentence in out
        assert sentence in page
    for row in report["rows"].values():
        assert row["title"] in out
        assert f"| {row['foreground_iu']:.1%} |" in page
    assert "warning" not in captured.err
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(tmp_path / name) as picture:
                assert picture.width > 800

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/**/*")}
    app(command, result_action="return_value")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/**/*")} == before
    assert "Training" not in capsys.readouterr().err
    with pytest.raises(UserError, match="--recipe: "):
        app([*command, "--crop", "16"], result_action="return_value")


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"foreground": "disk,cat"}, "--foreground cat .*background, disk"),
        ({"foreground": "disk"}, "disk .*--foreground"),
        ({"model": "nonsense"}, "--model nonsense .*fcn8s"),
        ({"images": 0}, "--images 0"),
        ({"epochs": 1, "images": 1}, "--images 1 .*--epochs 1"),
        ({"workers": -1}, "--workers -1"),
        ({"val_pattern": "x*"}, "scenes"),
    ],
)
def test_invalid_options_are_named_in_one_line(options: dict, values: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=values) as caught:
        cues("scenes:4", output=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_classes_without_background_need_foreground_names(photos: Path, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).symlink_to(photos / folder)
    names = ["sky", *(photos / "classes.txt").read_text().split()[1:]]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=r"sky.*--foreground.*sky, disk"):
        cues(str(tmp_path), output=tmp_path / "out")


def test_an_interrupted_experiment_can_be_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("upscore.experiments.cues.run.fit", fit)
    assert cues(str(photos), backbone=BACKBONE, weights="none", images=4, output=tmp_path / "out") == 130
    assert "run the same command" in capsys.readouterr().err
