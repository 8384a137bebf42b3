import os
import pickle
import re

import pytest
import torch

from tests.data.layouts import SHARED, label, names, pairs, write_image
from upscore.data.datasets import FileDataset, open_dataset, open_splits, subset
from upscore.data.formats.folder import Pair, list_folder
from upscore.data.io.images import LabelError
from upscore.errors import UserError


@pytest.fixture
def root(tmp_path):
    return pairs(tmp_path / "data", ["b", "a", "c", "d", "e"])


def test_unsplit_folder(root):
    dataset = open_dataset(root)
    assert names(dataset) == ["a", "b", "c", "d", "e"]
    assert dataset.classes == ["class_0", "class_1"]
    sample = dataset[2]
    assert sample.image.shape == (3, 4, 6)
    assert sample.class_map is not None
    assert sample.class_map.dtype == torch.uint8
    assert sample.class_map[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert sample.path == root / "images" / "c.jpg"
    with pytest.raises(IndexError):
        dataset[5]
    with pytest.raises(UserError, match="'val'"):
        open_dataset(root, "val")


@pytest.mark.parametrize("labels", ["labels", "masks", "annotations", "Masks"])
def test_names_of_label_folders(tmp_path, labels):
    assert len(open_dataset(pairs(tmp_path, "ab", labels=labels))) == 2


@pytest.mark.parametrize("inside", [True, False])
def test_splits_above_or_below_images(tmp_path, inside):
    for split, content in {"train": "ab", "val": "c", "test": "def"}.items():
        folders = (f"{split}/images", f"{split}/labels") if inside else (f"images/{split}", f"labels/{split}")
        pairs(tmp_path, content, *folders)
    train, val = open_splits(tmp_path)
    assert (names(train), names(val)) == (["a", "b"], ["c"])
    assert names(open_dataset(tmp_path, "test")) == ["d", "e", "f"]
    assert names(open_dataset(tmp_path, "trainval")) == ["a", "b", "c"]
    assert names(open_dataset(tmp_path)) == list("abcdef")
    with pytest.raises(UserError, match=r"'x'.* train, val, test"):
        open_dataset(tmp_path, "x")
    # the test split is in neither
    train, val = open_splits(tmp_path, val_pattern="b*")
    assert (names(train), names(val)) == (["a", "c"], ["b"])


@pytest.mark.parametrize("inside", [True, False])
def test_a_test_split_may_have_no_labels(tmp_path, inside):
    pairs(tmp_path, "ab", *(("train/images", "train/labels") if inside else ("images/train", "labels/train")))
    write_image(tmp_path / ("test/images" if inside else "images/test") / "t.jpg")
    assert open_dataset(tmp_path, "test")[0].class_map is None
    assert names(open_dataset(tmp_path)) == ["a", "b"]


def test_other_names_of_splits(tmp_path):
    pairs(tmp_path, "ab", "Training/images", "Training/masks")
    pairs(tmp_path, "c", "valid/images", "valid/masks")
    assert [len(part) for part in open_splits(tmp_path)] == [2, 1]
    pairs(tmp_path, "d", "val/images", "val/masks")
    with pytest.raises(UserError, match=r"valid: .*the split 'val'"):
        open_splits(tmp_path)


def test_images_outside_the_splits_are_issues(tmp_path):
    pairs(tmp_path, "ab", "images/train", "labels/train")
    write_image(tmp_path / "images" / "stray.jpg")
    with pytest.raises(UserError, match=r"stray\.jpg"):
        open_dataset(tmp_path)


def test_nested_folders_and_equal_names(tmp_path):
    pairs(tmp_path, ["berlin/1", "paris/1"])
    assert names(open_dataset(tmp_path)) == ["berlin/1", "paris/1"]
    train, val = open_splits(tmp_path, val_pattern="paris/*")
    assert (names(train), names(val)) == (["berlin/1"], ["paris/1"])
    other = tmp_path / "split"
    pairs(other, "ab", "train/images", "train/labels")
    pairs(other, "b", "val/images", "val/labels")
    assert names(open_dataset(other)) == ["a", "train/b", "val/b"]


def test_label_endings_upper_case_suffixes_and_other_files(tmp_path):
    for image, mask in [
        ("a.JPG", "a_mask.png"),
        ("b.tiff", "b_label.PNG"),
        ("c.webp", "c_L.bmp"),
        ("d.x.png", "d.x.png"),
    ]:
        write_image(tmp_path / "images" / image)
        label(tmp_path / "labels" / mask)
    for other in ("Thumbs.db", ".DS_Store", "._a.jpg", "desktop.ini", ".hidden/z.jpg", "readme.txt"):
        path = tmp_path / "images" / other
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"other")
    assert names(open_dataset(tmp_path)) == ["a", "b", "c", "d.x"]


def test_links_are_followed_once(tmp_path):
    pairs(tmp_path / "real", "ab")
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(tmp_path / "real" / "images")
    (data / "labels").symlink_to(tmp_path / "real" / "labels")
    (tmp_path / "real" / "images" / "loop").symlink_to(tmp_path / "real" / "images")
    assert names(open_dataset(data)) == ["a", "b"]


def test_issues_name_the_file(root):
    (root / "labels" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.jpg: .*labels/b\.png"):
        open_dataset(root)
    label(root / "labels" / "b.png")
    label(root / "labels" / "z.png")
    with pytest.raises(UserError, match=r"z\.png: .*images/z\.jpg"):
        open_dataset(root)
    (root / "labels" / "z.png").unlink()
    write_image(root / "images" / "a.png")
    with pytest.raises(UserError, match=r"a\.png: .*a\.jpg"):
        open_splits(root)


def test_labels_of_other_sizes_and_values_are_named(root):
    (root / "classes.txt").write_text("sky\nroad\n")
    label(root / "labels" / "a.png", (0, 5, 9))
    label(root / "labels" / "b.png", height=6, width=4)
    label(root / "labels" / "c.png", height=3, width=3)
    dataset = open_dataset(root)
    with pytest.raises(LabelError, match=r"a\.png: .*5, 9 \(16 pixels\).*2 classes.*classes\.txt"):
        dataset[0]
    with pytest.raises(UserError, match=r"b\.png: .*4x6.*b\.jpg.*6x4.*EXIF"):
        dataset[1]
    with pytest.raises(UserError, match=r"c\.png: .*3x3.*c\.jpg.*6x4"):
        dataset[2]
    assert dataset[3].name == "d"


def test_classes_file(root):
    path = root / "classes.txt"
    path.write_bytes("\ufeffsky \r\n\r\n road\r\n".encode())
    assert open_dataset(root).classes == ["sky", "road"]
    for content, message in [
        (b"sky\nroad\nsky\n", "'sky'"),
        (b"\n\n", "0 classes"),
        ("\n".join(map(str, range(256))).encode(), "256 classes"),
        (b"caf\xe9\n", "UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"classes\.txt: .*{message}"):
            open_dataset(root)


def test_classes_file_of_the_splits(tmp_path):
    for split in ("train", "val"):
        pairs(tmp_path, "ab", f"{split}/images", f"{split}/labels")
        (tmp_path / split / "classes.txt").write_text("sky\nroad\n")
    assert open_dataset(tmp_path).classes == ["sky", "road"]
    (tmp_path / "val" / "classes.txt").write_text("road\nsky\n")
    with pytest.raises(UserError, match=r"val/classes\.txt: .*train/classes\.txt"):
        open_dataset(tmp_path)
    (tmp_path / "val" / "classes.txt").unlink()
    (tmp_path / "train" / "classes.txt").rename(tmp_path / "classes.txt")
    assert open_dataset(tmp_path / "val").classes == ["sky", "road"]  # the classes.txt above is found


def test_classes_from_the_labels(tmp_path):
    pairs(tmp_path, "ab", "train/images", "train/labels", values=(0, 1, 255))
    pairs(tmp_path, "c", "val/images", "val/labels", values=(0, 3))
    for split in ("train", "val", None):  # the same classes for each split
        assert open_dataset(tmp_path, split).classes == ["class_0", "class_1", "class_2", "class_3"]


def test_binary_masks(tmp_path):
    pairs(tmp_path, "ab", values=(0, 255))
    pairs(tmp_path, "c", values=(255,))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ["background", "foreground"]
    assert dataset[0].class_map is not None
    assert dataset[0].class_map.unique().tolist() == [0, 1]
    pickle.loads(pickle.dumps(dataset))[2]  # as sent to workers


def test_labels_with_only_void_are_refused(tmp_path):
    with pytest.raises(UserError, match="255"):
        open_dataset(pairs(tmp_path, "ab", values=(255,)))


def test_random_validation_split(root):
    train, val = open_splits(root, fraction=0.4, seed=3)
    assert len(val) == 2
    assert sorted(names(train) + names(val)) == list("abcde")
    again = open_splits(root, fraction=0.4, seed=3)
    assert names(again[1]) == names(val)
    assert len({tuple(names(open_splits(root, fraction=0.4, seed=seed)[1])) for seed in range(10)}) > 1
    for fraction, expected in [(0.01, 1), (0.99, 4)]:
        assert len(open_splits(root, fraction=fraction)[1]) == expected
    with pytest.raises(UserError, match="fraction=1"):
        open_splits(root, fraction=1)


def test_a_random_validation_split_needs_two_images(tmp_path):
    with pytest.raises(UserError, match="1 image"):
        open_splits(pairs(tmp_path, "a"))


def test_validation_by_file_name_pattern(root):
    for pattern in ("a", "a.jpg", "[a]*"):
        train, val = open_splits(root, val_pattern=pattern)
        assert (names(train), names(val)) == (list("bcde"), ["a"])
    with pytest.raises(UserError, match=r"val_pattern='x\*': .*none of the 5"):
        open_splits(root, val_pattern="x*")
    with pytest.raises(UserError, match="all of the 5"):
        open_splits(root, val_pattern="*")


def test_other_sources_are_refused(tmp_path):
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "labels").mkdir()
    (tmp_path / "empty" / "images" / "a.heic").touch()
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "half" / "images").mkdir(parents=True)
    for source, message in {
        "missing": ".*images/ and labels/",
        "file": "file: .*images/ and labels/",
        "other": "images/ and labels/",
        "empty": r"images: .*\(only \.heic\)",
        "half": "half: .*labels/",
    }.items():
        with pytest.raises(UserError, match=f"(?s){message}"):
            open_dataset(tmp_path / source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read all folders")
def test_unreadable_folders(root):
    for folder in (root / "images", root):
        folder.chmod(0)
        try:
            with pytest.raises(UserError, match=re.escape(str(folder))):
                open_dataset(root)
        finally:
            folder.chmod(0o755)


def test_scenes():
    assert len(open_dataset("scenes")) == 400
    assert torch.equal(open_dataset("scenes:5:7")[4].image, open_dataset("scenes:9:7", "train")[4].image)
    train, val = open_splits("scenes:4:7", fraction=0.5)
    assert (len(train), len(val)) == (4, 2)
    train_images = [train[index].image for index in range(4)]
    assert not any(torch.equal(val[index].image, image) for index in range(2) for image in train_images)
    for source in ("scenes:", "scenes:0", "scenes:-1", "scenes:2:x", "scenes:1:2:3"):
        with pytest.raises(UserError, match="scenes:COUNT"):
            open_dataset(source)
    with pytest.raises(UserError, match=r"^scenes: "):
        open_dataset("./scenes")


def test_subset(root):
    part = subset(open_dataset(root), [3, 0])
    assert names(part) == ["d", "a"]
    assert part.classes == ["class_0", "class_1"]


def test_file_dataset_without_labels(root):
    dataset = FileDataset([Pair("a", root / "images" / "a.jpg", None)], ["sky"])
    assert dataset.names == ["a"]
    assert dataset[0].class_map is None


def test_listing_does_not_read_files(tmp_path):
    count = 3000
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        (tmp_path / folder).mkdir()
        for number in range(count):
            os.mknod(tmp_path / folder / f"{number}.{suffix}")
    listing = list_folder(tmp_path)  # the files are empty: reading one would fail
    assert listing is not None
    assert len(listing.splits[""]) == count


def test_real_data():
    if not SHARED.exists():
        pytest.skip("the shared data (../shared/data) is missing")
    train, val = open_splits(SHARED / "camvid", val_pattern="0006R0*")
    assert (len(train), len(val)) == (367, 101)
    assert len(open_dataset(SHARED / "camvid", "train")) == 367
    assert val[0].name.startswith("0006R0")
    assert val.classes[3] == "Road"
