"""Names of output files, and files of semantic segmentation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upscore.errors import UserError
from upscore.inference.outputs import find_images, refuse_overwriting, write_prediction
from upscore.results import SemanticResult

CLASSES = ["background", "ring", "bar"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def prediction(*, scores: bool = False) -> SemanticResult:
    return SemanticResult(
        class_map=np.array([[0, 1, 2], [2, 1, 0]], np.uint8),
        classes=CLASSES,
        image=np.full((2, 3, 3), 90, np.uint8),
        scores=np.full((3, 2, 3), 1 / 3, np.float16) if scores else None,
    )


def test_images_in_folders_and_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "sub/a.png", "sub/dotted.name.tif", "notes.txt", ".hidden.png")
    found = find_images([tmp_path])
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "a": "a.png",
        "b": "b.JPG",
        "sub/a": "sub/a.png",
        "sub/dotted.name": "sub/dotted.name.tif",
    }


def test_images_with_the_same_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png", "one/b.jpg", "two/b.jpg")
    assert set(find_images([tmp_path / "a.jpg", tmp_path / "a.png"])) == {"a_jpg", "a_png"}
    with pytest.raises(UserError, match=r"two/b\.jpg and .*one/b\.jpg "):
        find_images([tmp_path / "one", tmp_path / "two"])


def test_a_missing_image_is_kept(tmp_path: Path) -> None:
    assert find_images([tmp_path / "missing.jpg"]) == {"missing": tmp_path / "missing.jpg"}


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no images.*\.jpg"):
        find_images([touch(tmp_path, "notes.txt")])


def test_input_images_are_not_overwritten(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.jpg", "b_overlay.jpg", "c/a.jpg", "c/a_geometric.jpg")
    refuse_overwriting({"a": tmp_path / "a.png"}, tmp_path / "out")
    with pytest.raises(UserError, match=r"a\.png.*--output"):
        refuse_overwriting({"a": tmp_path / "a.png"}, tmp_path / "c" / "..")
    with pytest.raises(UserError, match=r"b_overlay\.jpg"):
        refuse_overwriting(find_images([tmp_path / "b.jpg", tmp_path / "b_overlay.jpg"]), tmp_path)
    with pytest.raises(UserError, match=r"a_geometric\.png"):
        refuse_overwriting(find_images([tmp_path / "c"]), tmp_path / "out", geometric=True)
    refuse_overwriting(find_images([tmp_path / "c"]), tmp_path / "out")


def test_files_of_other_programs_are_not_overwritten(tmp_path: Path) -> None:
    images = {"a": tmp_path / "a.bmp"}
    write_prediction(prediction(scores=True), tmp_path / "a")
    refuse_overwriting(images, tmp_path)
    for name in ("a.png", "a_overlay.jpg", "a_scores.npz"):
        kept = (tmp_path / name).read_bytes()
        if name.endswith(".npz"):
            np.savez(tmp_path / name, mine=np.ones(3))
        else:
            Image.new("L", (3, 2)).save(tmp_path / name)
        with pytest.raises(UserError, match=re.escape(name)):
            refuse_overwriting(images, tmp_path)
        (tmp_path / name).write_bytes(kept)


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder = touch(tmp_path / "photos", "own.png")
    elsewhere = touch(tmp_path / "elsewhere", "a.png", "sub/b.png")
    (folder / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "self").symlink_to(folder / "self")
    found = find_images([folder], output=tmp_path / "out")
    assert set(found) == {"loop", "more/a", "more/sub/b", "own"}
    refuse_overwriting(found, tmp_path / "out")
    assert set(find_images([folder], output=elsewhere)) == {"loop", "own"}
    data = touch(tmp_path / "data", "classes.txt")
    for name in ("images", "labels"):
        (data / name).symlink_to(elsewhere)
    assert set(find_images([data])) == {"images/a", "images/sub/b", "images/back/own", "images/back/loop"}


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".ipynb_checkpoints/a-checkpoint.png", ".b.png", "sub/.thumbnails/c.png")
    assert set(find_images([tmp_path])) == {"a"}
    assert set(find_images([tmp_path / ".ipynb_checkpoints"])) == {"a-checkpoint"}


def test_names_are_normalised_unicode(tmp_path: Path) -> None:
    touch(tmp_path, "Mu\u0308ller.jpg", "Caf\u00e9.jpg")
    assert set(find_images([tmp_path])) == {"M\u00fcller", "Caf\u00e9"}
    touch(tmp_path, "Cafe\u0301.jpg")
    with pytest.raises(UserError, match="Caf"):
        find_images([tmp_path])


def test_a_repeated_image_occurs_once(tmp_path: Path) -> None:
    image = touch(tmp_path, "a.b.png") / "a.b.png"
    assert find_images([image, image]) == {"a.b": image}


def test_the_longest_possible_names(tmp_path: Path) -> None:
    name = "n" * (255 - len("_overlay.jpg"))
    write_prediction(prediction(), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}_overlay.jpg"}
    with pytest.raises(UserError, match="nnn"):
        write_prediction(prediction(), tmp_path / ("n" * 250))


def test_files_of_a_prediction(tmp_path: Path) -> None:
    write_prediction(prediction(scores=True), tmp_path / "sub" / "v1.0")
    assert sorted(path.name for path in tmp_path.rglob("v*")) == ["v1.0.png", "v1.0_overlay.jpg", "v1.0_scores.npz"]
    with Image.open(tmp_path / "sub/v1.0.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), prediction().class_map)
        colours = np.array(mask.convert("RGB"))
        assert len({tuple(colour) for colour in colours.reshape(-1, 3)}) == 3
    with np.load(tmp_path / "sub/v1.0_scores.npz", allow_pickle=False) as stored:
        assert stored["scores"].shape == (3, 2, 3)
        assert stored["scores"].dtype == np.float16
        assert stored["classes"].tolist() == CLASSES


def test_scores_are_optional(tmp_path: Path) -> None:
    write_prediction(prediction(), tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_overlay.jpg"]


def test_an_output_below_a_file_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    with pytest.raises(UserError, match=r"file/a\.png"):
        write_prediction(prediction(), tmp_path / "file" / "a")


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    """A limit on the size of files simulates the full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a\.png"):
            write_prediction(prediction(), tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
