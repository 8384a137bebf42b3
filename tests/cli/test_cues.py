"""`upscore analyze cues`, from labelled photos to a page, pictures and advice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclopts import App
from PIL import Image

from tests.tiny import BACKBONE
from upscore.cli.cues import cues
from upscore.errors import UserError
from upscore.experiments.cues.conditions import ROWS

FILES = ["bg_only.png", "cues.json", "cues.md", "cues.png", "fg_only.png", "mask_only.png"]


@pytest.mark.slow
def test_a_run_becomes_a_page_and_pictures(
    photos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App()
    app.command(cues)
    command = ["cues", str(photos), "--model", str(run), "--images", "6", "--workers", "0", "--output", str(tmp_path)]
    command += ["--foreground", "square,triangle,star,disk"]
    assert app(command, result_action="return_value") == 0
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {*FILES, "run.json", "scores", "fg_only", "bg_only", "shape"}  # the reference is given
    report = json.loads((tmp_path / "cues.json").read_text(), parse_constant=pytest.fail)
    assert report["rows"].keys() == ROWS.keys()
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
    with pytest.raises(UserError, match="was started with recipe="):
        app([*command, "--crop", "16"], result_action="return_value")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foreground": "disk,cat"}, "--foreground cat: there is no such class; there are background, disk"),
        ({"foreground": "disk"}, "disk is the only foreground class"),
        ({"model": "nonsense"}, "neither a folder nor a network's name"),
        ({"images": 0}, "--images 0"),
        ({"epochs": 1, "images": 1}, "give one of the two"),
        ({"workers": -1}, "--workers -1"),
        ({"val_pattern": "x*"}, "scenes have no file names"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        cues("scenes:4", output=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_classes_without_a_background_need_names(photos: Path, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).symlink_to(photos / folder)
    names = ["sky", *(photos / "classes.txt").read_text().split()[1:]]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=r"the first class is sky, not background: .* out of sky, disk"):
        cues(str(tmp_path), output=tmp_path / "out")


def test_an_interrupted_analysis_says_how_to_go_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("upscore.experiments.cues.run.fit", fit)
    assert cues(str(photos), backbone=BACKBONE, weights="none", images=4, output=tmp_path / "out") == 130
    assert "run the same command" in capsys.readouterr().err
