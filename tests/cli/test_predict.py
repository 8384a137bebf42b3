from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import upscore as package
from tests.cli.command import sentence, upscore
from tests.tiny import outputs


@pytest.fixture
def mixed(tmp_path: Path, photos: Path) -> Path:
    """Folder with two images of different sizes, one in a subfolder, and a damaged one."""
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    first, second, *_ = sorted((photos / "images").iterdir())
    with Image.open(first) as image:
        image.crop((0, 0, 37, 64)).save(folder / "a.png")
    (folder / "b.png").write_bytes(first.read_bytes()[:700])
    with Image.open(second) as image:
        image.convert("L").resize((90, 50)).save(folder / "sub" / "c.jpg")
    return folder


def test_a_damaged_image_does_not_stop_the_others(
    trained: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in mixed.rglob("*.*")}
    output = tmp_path / "out"
    assert upscore(monkeypatch, "predict", trained, mixed, tmp_path / "gone.jpg", "--output", output, "--scores") == 1
    out, err = capsys.readouterr()
    model = package.load(trained)
    engine = f"by {model.engine} in {model.precision}"
    assert out.startswith(f"{output}: 2 of 4 images, 8 classes, {engine}")
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(mixed / "b.png"), str(tmp_path / "gone.jpg")]
    assert all(line.startswith("upscore: ") for line in err.splitlines())
    assert sorted(outputs(output)) == [
        *("a.png", "a_overlay.jpg", "a_scores.npz", "sub/c.png", "sub/c_overlay.jpg", "sub/c_scores.npz")
    ]
    assert {path: path.read_bytes() for path in mixed.rglob("*.*")} == before
    model.warmup((64, 37), (50, 90))  # as the command does, for sizes of at least half of the images
    for name, path, size in (("a", mixed / "a.png", (37, 64)), ("sub/c", mixed / "sub/c.jpg", (90, 50))):
        with Image.open(output / f"{name}.png") as mask:
            assert mask.size == size
            assert mask.mode == "P"
            assert np.array_equal(np.array(mask), model.predict(path).class_map)
        with np.load(output / f"{name}_scores.npz") as stored:
            assert stored["scores"].shape == (8, *size[::-1])


def test_outputs_in_the_image_folder_are_replaced_only_if_known(
    trained: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outputs are not inputs of the next run and may be replaced, but other files may not."""
    (mixed / "a.png").rename(mixed / "a.bmp")
    (mixed / "b.png").unlink()
    for flags in ((), ("--resume",), ()):
        assert upscore(monkeypatch, "predict", trained, mixed, "--output", mixed, *flags) == 0
        assert "2 of 2 images" in capsys.readouterr().out
    (mixed / "a_overlay.jpg").write_bytes(b"mine")
    run = ("predict", trained, mixed / "a.bmp", "--output", mixed)
    assert upscore(monkeypatch, *run) == 2
    assert "a_overlay.jpg" in sentence(capsys)


def test_an_unwritable_output_is_named(
    trained: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        assert upscore(monkeypatch, "predict", trained, mixed, "--output", output) == 2
        assert str(output) in sentence(capsys)


def test_images_are_never_overwritten(
    trained: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in mixed.rglob("*.*")}
    assert upscore(monkeypatch, "predict", trained, mixed, "--output", mixed) == 2
    assert "a.png" in sentence(capsys)
    assert {path: path.read_bytes() for path in mixed.rglob("*.*")} == before


def test_invalid_inputs_are_named(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert upscore(monkeypatch, "predict", trained, tmp_path / "empty", *output) == 2
    assert "empty" in sentence(capsys)
    assert upscore(monkeypatch, "predict", tmp_path / "none", photos, *output) == 2
    assert "none" in sentence(capsys)
    assert upscore(monkeypatch, "predict", photos, photos, *output) == 2
    assert "model.json" in sentence(capsys)
    assert upscore(monkeypatch, "predict", trained, photos, *output, "--engine", "fast") == 2
    assert "fast" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
