"""`upscore analyze ceiling`: files and advice for labels on disk."""

import json

import numpy as np
import pytest
from PIL import Image

from upscore.cli.ceiling import ceiling
from upscore.errors import UserError

FILES = ["ceiling.json", "ceiling.md", "ceiling.png", "per_class.png"]


def write_streets(root, *, side=96, count=2):
    """Write images of a street with a pole 3 pixels wide, and a class that does not occur."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    label = np.zeros((side, side), np.uint8)
    label[: side // 2] = 1
    label[:, 20:23] = 2
    for number in range(count):
        Image.new("RGB", (side, side)).save(root / "images" / f"{number}.jpg")
        Image.fromarray(label).save(root / "labels" / f"{number}.png")
    (root / "classes.txt").write_text("road\nsky\npole\nunicorn\n")
    return root


def test_files_and_advice(tmp_path, capsys):
    data = write_streets(tmp_path / "streets")
    ceiling(str(data), output=tmp_path / "new/out")
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == FILES
    report = json.loads((tmp_path / "new/out/ceiling.json").read_text(), parse_constant=pytest.fail)
    assert report["images"] == 2
    assert report["reduced"] == 0
    assert report["pixels"] == {"road": 2 * 48 * 93, "sky": 2 * 48 * 93, "pole": 2 * 96 * 3, "unicorn": 0}
    assert report["per_class"]["bilinear"]["32"]["pole"] == 0
    assert report["per_class"]["bilinear"]["32"]["unicorn"] is None
    out, page = " ".join(capsys.readouterr().out.split()), (tmp_path / "new/out/ceiling.md").read_text()
    for sentence in report["advice"]:
        assert sentence in out
        assert sentence in page
    assert "576 pixels in 2 images" in out


def test_labels_are_reduced_as_in_training(tmp_path):
    data = write_streets(tmp_path / "streets")
    ceiling(str(data), output=tmp_path / "out", max_side=48)
    report = json.loads((tmp_path / "out/ceiling.json").read_text())
    assert report["reduced"] == 2
    assert sum(report["pixels"].values()) == 2 * 48 * 48
    assert any("2 of 2 images" in sentence and "--max-side" in sentence for sentence in report["advice"])


def test_generated_scenes(tmp_path, capsys):
    ceiling("scenes:2", output=tmp_path)
    assert "background" in capsys.readouterr().out
    assert (tmp_path / "per_class.png").exists()


def test_labels_of_objects_are_refused(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(tmp_path / "labels/a.png")
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        ceiling(str(tmp_path), output=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_invalid_options_are_named(tmp_path):
    data = str(write_streets(tmp_path / "streets"))
    with pytest.raises(UserError, match="'val'"):
        ceiling(data, split="val", output=tmp_path / "out")
    with pytest.raises(UserError, match="max_side=-1"):
        ceiling(data, max_side=-1, output=tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        ceiling(data, output=tmp_path / "file/out")
