from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscore.cli.superpixels import _trained_on, superpixels
from upscore.data import open_dataset
from upscore.data.io.images import read_ids
from upscore.errors import UserError
from upscore.inference import evaluate, load


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder of RGB, grey and RGBA images without labels."""
    random = np.random.default_rng(0)
    folder = tmp_path / "some"
    (folder / "below").mkdir(parents=True)
    Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "color.jpg")
    Image.fromarray(random.integers(0, 256, (40, 50), dtype=np.uint8)).save(folder / "grey.png")
    Image.fromarray(random.integers(0, 256, (3, 2, 4), dtype=np.uint8)).save(folder / "below/clear.png")
    return folder


def test_images_are_segmented(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert superpixels([str(images)], output=tmp_path / "out", segments=6) == 0
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    stems = ("below/clear", "color", "grey")
    assert names == [f"{stem}{ending}" for stem in stems for ending in ("_ids.png", "_segments.png")]
    ids = read_ids(tmp_path / "out/color_ids.png")
    assert tuple(ids.shape) == (40, 50)
    assert int(ids.min()) == 1
    assert "3 of 3 images" in capsys.readouterr().out


def test_a_damaged_image_does_not_stop_the_others(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.png").write_bytes(b"garbage")
    assert superpixels([str(images)], output=tmp_path / "out", method="kmeans", segments=4) == 1
    out, err = capsys.readouterr()
    assert "3 of 4 images" in out
    assert "bad.png" in err
    assert (tmp_path / "out/grey_ids.png").exists()
    assert not (tmp_path / "out/bad_ids.png").exists()


def test_labelled_data_with_a_network(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        superpixels([str(photos)], output=tmp_path, method="watershed", segments=30, model=str(trained), pictures=1)
        == 0
    )
    endings = ("_oracle.png", ".json", ".md", ".png")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"watershed{ending}" for ending in endings)
    report = json.loads((tmp_path / "watershed.json").read_text(), parse_constant=pytest.fail)
    expected = evaluate(load(str(trained)), open_dataset(photos))
    assert report["network"] == json.loads(json.dumps(expected.to_json()))
    assert [oracle["requested"] for oracle in report["oracle"]] == [3, 9, 30, 95]
    assert report["images"] == 8
    out = capsys.readouterr().out
    assert "unsupervised" in out
    assert "FCN, trained" in out
    assert f"{report['unsupervised']['mean_iu']:.1%}" in (tmp_path / "watershed.md").read_text()


def test_a_part_of_the_data_without_figure(photos: Path, tmp_path: Path) -> None:
    superpixels([str(photos)], output=tmp_path, segments=9, limit=2, pictures=0, sweep=False, val_pattern="*3")
    report = json.loads((tmp_path / "slic.json").read_text())
    assert (report["images"], report["network"], len(report["oracle"])) == (1, None, 1)
    assert not (tmp_path / "slic.png").exists()


def test_invalid_options_are_named(photos: Path, images: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="--model"):
        superpixels([str(images)], output=out, model=str(trained))
    with pytest.raises(UserError, match=r"--split val .*--val-pattern \*3"):
        superpixels([str(photos)], output=out, split="val", val_pattern="*3")
    with pytest.raises(UserError, match="--limit 0"):
        superpixels([str(photos)], output=out, limit=0)
    with pytest.raises(UserError, match=r"--segments 0 .*10,000"):
        superpixels([str(images)], output=out, segments=0)
    (images / "color_ids.png").write_bytes((images / "grey.png").read_bytes())
    with pytest.raises(UserError, match=r"color_ids\.png"):
        superpixels([str(images)], output=images)
    with pytest.raises(UserError, match=r"grey\.png"):
        superpixels([str(photos)], output=images / "grey.png", segments=4, sweep=False)
    assert not out.exists()


@pytest.mark.parametrize(
    ("split", "val_pattern", "trained_holdout", "is_trained_on"),
    [
        ("val", None, None, False),
        ("train", None, None, True),
        (None, None, None, True),
        ("val", None, "a*", True),
        ("test", None, "a*", False),
        (None, "a*", "a*", False),
        (None, "b*", "a*", True),
        (None, "b*", None, True),
    ],
)
def test_models_trained_on_the_scored_images_are_recognized(
    split: str | None, val_pattern: str | None, trained_holdout: str | None, is_trained_on: bool, tmp_path: Path
) -> None:
    training = {"data": str(tmp_path / "x/.."), "val_pattern": trained_holdout}
    assert _trained_on(training, str(tmp_path), split, val_pattern) is is_trained_on
    assert not _trained_on(training, str(tmp_path / "other"), split, val_pattern)
    assert not _trained_on({}, str(tmp_path), split, val_pattern)


def test_nothing_heavy_is_imported() -> None:
    heavy = ("torch", "numpy", "skimage", "PIL")
    script = f"import sys, upscore.cli.superpixels; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
