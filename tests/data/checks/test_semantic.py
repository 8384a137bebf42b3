import numpy as np
import pytest
from PIL import Image

from tests.data.layouts import label, pairs, write_image
from upscore.data.checks.semantic import check
from upscore.errors import UserError


@pytest.fixture
def root(tmp_path):
    pairs(tmp_path, ["a", "b", "c", "d"], values=(0, 0, 1))
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def kinds(report):
    return sorted((issue.kind, issue.path.name) for issue in report.issues)


def test_a_data_set_without_issues(root):
    label(root / "labels" / "a.png", (0, 1, 255))
    write_image(root / "images" / "b.jpg", 2, 12)
    label(root / "labels" / "b.png", (1,), 2, 12)
    report = check(root)
    assert report.issues == []
    assert (report.images, report.splits) == (4, {})
    assert [(entry.name, entry.pixels, entry.images) for entry in report.classes] == [
        ("sky", 8 + 16 + 16, 3),
        ("road", 8 + 24 + 8 + 8, 4),
        ("car", 0, 0),
    ]
    assert [entry.share for entry in report.classes] == [40 / 88, 48 / 88, 0]
    assert (report.void.pixels, report.void.share, report.void.images) == (8, 8 / 96, 1)
    assert report.sizes == {(6, 4): 3, (12, 2): 1}
    assert report.size_range() == {"width": (6, 6, 12), "height": (2, 4, 4)}
    assert report.notes == ["1 of 3 classes never occur: car."]


def test_all_issues_of_a_data_set(root):
    (root / "images" / "a.jpg").write_bytes(b"")
    label(root / "labels" / "b.png", (1, 3, 200))
    label(root / "labels" / "c.png", (0,), 6, 4)
    label(root / "labels" / "d.png", (255,))
    write_image(root / "images" / "e.jpg")
    label(root / "labels" / "f.png")
    write_image(root / "images" / "a.png")
    for name, values in {"g": [0, 700], "h": [0, 1]}.items():
        write_image(root / "images" / f"{name}.png")
        Image.fromarray(np.resize(np.array(values, np.uint16), (4, 6))).save(root / "labels" / f"{name}.png")
    (root / "labels" / "h.png").write_bytes((root / "labels" / "h.png").read_bytes()[:50])
    report = check(root)
    assert kinds(report) == [
        ("duplicate", "a.png"),
        ("empty label", "d.png"),
        ("label values", "b.png"),
        ("label values", "g.png"),
        ("missing image", "f.png"),
        ("missing label", "e.jpg"),
        ("size", "c.png"),
        ("unreadable", "a.jpg"),
        ("unreadable", "h.png"),
    ]
    assert all(str(issue.path) in issue.message for issue in report.issues)


def test_several_issues_of_one_pair(root):
    write_image(root / "images" / "a.jpg", 5, 5)
    label(root / "labels" / "a.png", (7,))
    assert kinds(check(root)) == [("label values", "a.png"), ("size", "a.png")]


def test_without_classes_file(root):
    (root / "classes.txt").unlink()
    report = check(root)
    assert [entry.name for entry in report.classes] == ["class_0", "class_1"]
    assert "classes.txt" in report.notes[0]


def test_binary_masks_have_no_void(tmp_path):
    pairs(tmp_path, "ab", values=(0, 255))
    pairs(tmp_path, "c", values=(255,))
    report = check(tmp_path)
    assert report.issues == []
    assert [(entry.name, entry.pixels, entry.images) for entry in report.classes] == [
        ("background", 24, 2),
        ("foreground", 48, 3),
    ]
    assert report.void.pixels == 0
    assert any("background and foreground" in note for note in report.notes)


def test_16_bit_images_with_12_bit_values_are_noted(root):
    for name, top in (("a", 4095), ("b", 65535)):
        (root / "images" / f"{name}.jpg").unlink()
        Image.fromarray(np.linspace(0, top, 24).astype(np.uint16).reshape(4, 6)).save(root / "images" / f"{name}.png")
    write_image(root / "images" / "c.jpg", value=3)  # dark, but 8 bits
    notes = check(root).notes
    assert "12 bits): 1." in notes[-1]


def test_splits(tmp_path):
    pairs(tmp_path, "ab", "train/images", "train/labels")
    pairs(tmp_path, "c", "val/images", "val/labels")
    write_image(tmp_path / "test" / "images" / "t.jpg")
    assert check(tmp_path).splits == {"test": 1, "train": 2, "val": 1}
    assert check(tmp_path, split="val").images == 1
    assert "Images of the test split without labels: 1." in check(tmp_path).notes
    with pytest.raises(UserError, match="'x'"):
        check(tmp_path, split="x")


def test_scenes():
    report = check("scenes:3")
    assert report.images == 3
    assert report.issues == []
    assert sum(entry.pixels for entry in report.classes) == 3 * 160 * 160
    assert report.sizes == {(160, 160): 3}


def test_a_data_set_of_unreadable_files(tmp_path):
    pairs(tmp_path, "ab")
    for path in tmp_path.glob("*/*"):
        path.write_bytes(b"no image")
    report = check(tmp_path)
    assert len(report.issues) == 4
    assert (report.classes, report.size_range()) == ([], {})
