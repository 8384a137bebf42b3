from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscore.errors import UserError
from upscore.inference.outputs import find_photos, refuse_overwriting, write_prediction
from upscore.structures import Prediction

CLASSES = ["background", "ring", "bar"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def prediction(*, scores: bool = False) -> Prediction:
    return Prediction(
        class_map=np.array([[0, 1, 2], [2, 1, 0]], np.uint8),
        classes=CLASSES,
        image=np.full((2, 3, 3), 90, np.uint8),
        scores=np.full((3, 2, 3), 1 / 3, np.float16) if scores else None,
    )


def test_photos_in_and_below_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "sub/a.png", "sub/dotted.name.tif", "notes.txt", ".hidden.png")
    found = find_photos([tmp_path])
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "a": "a.png",
        "b": "b.JPG",
        "sub/a": "sub/a.png",
        "sub/dotted.name": "sub/dotted.name.tif",
    }


def test_photos_that_share_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png", "one/b.jpg", "two/b.jpg")
    assert set(find_photos([tmp_path / "a.jpg", tmp_path / "a.png"])) == {"a_jpg", "a_png"}
    with pytest.raises(UserError, match=r"two/b\.jpg and .*one/b\.jpg would be written to the same files"):
        find_photos([tmp_path / "one", tmp_path / "two"])


def test_a_photo_that_is_missing_is_kept_for_the_report(tmp_path: Path) -> None:
    assert find_photos([tmp_path / "missing.jpg"]) == {"missing": tmp_path / "missing.jpg"}


def test_no_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no photos in .*: they end in .*\.jpg"):
        find_photos([touch(tmp_path, "notes.txt")])


def test_outputs_never_take_the_place_of_photos(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.jpg", "b_overlay.png", "c/a.jpg", "c/a_overlay.jpg")
    refuse_overwriting({"a": tmp_path / "a.png"}, tmp_path / "out")
    with pytest.raises(UserError, match=r"a\.png is a photo and would be overwritten: choose another --output"):
        refuse_overwriting({"a": tmp_path / "a.png"}, tmp_path / "c" / "..")
    with pytest.raises(UserError, match=r"b_overlay\.png is a photo"):
        refuse_overwriting(find_photos([tmp_path / "b.jpg", tmp_path / "b_overlay.png"]), tmp_path)
    with pytest.raises(UserError, match=r"would both be written to .*a_overlay\.png"):
        refuse_overwriting(find_photos([tmp_path / "c"]), tmp_path / "out")


def test_files_of_a_prediction(tmp_path: Path) -> None:
    write_prediction(prediction(scores=True), tmp_path / "sub" / "v1.0")
    assert sorted(path.name for path in tmp_path.rglob("v*")) == ["v1.0.png", "v1.0_overlay.png", "v1.0_scores.npz"]
    with Image.open(tmp_path / "sub/v1.0.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), prediction().class_map)
        colours = np.array(mask.convert("RGB"))
        assert len({tuple(colour) for colour in colours.reshape(-1, 3)}) == 3
    with np.load(tmp_path / "sub/v1.0_scores.npz", allow_pickle=False) as stored:
        assert stored["scores"].shape == (3, 2, 3)
        assert stored["scores"].dtype == np.float16
        assert stored["classes"].tolist() == CLASSES


def test_no_scores_unless_asked_for(tmp_path: Path) -> None:
    write_prediction(prediction(), tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_overlay.png"]


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    with pytest.raises(UserError, match=r"file/a: can't be written"):
        write_prediction(prediction(), tmp_path / "file" / "a")
