import pickle

import numpy as np
import pytest

from tests.data.layouts import names
from tests.data.published import category, category_names, mat, messages, pascal_context, resized
from upscore.data.checks.semantic import check
from upscore.data.datasets import default_split, list_files, open_dataset, open_splits
from upscore.data.formats.pascal_context import ALIASES, CLASSES
from upscore.errors import UserError


@pytest.fixture
def root(tmp_path):
    return pascal_context(tmp_path)


def label(root, name="2008_000002"):
    return root / "trainval" / f"{name}.mat"


def test_splits_and_classes(root):
    train, val = open_splits(root)
    assert (names(train), names(val)) == (["2008_000002"], ["2008_000003", "2008_000004"])
    assert default_split(root) == "val"
    assert train.classes == CLASSES
    assert (len(CLASSES), CLASSES[0], CLASSES[1], CLASSES[59]) == (60, "background", "aeroplane", "wood")
    bed, table = CLASSES.index("bed"), CLASSES.index("diningtable")
    assert train[0].class_map[0].tolist() == [bed, table, 0, bed, table, 0]
    assert messages(check(root)) == []


def test_every_class_is_found_by_name(root):
    read = list_files(root).read_label
    values = [category(ALIASES.get(name, name)) for name in CLASSES[1:]]
    mat(label(root), {"LabelMap": np.array([values], np.uint16)})
    assert read(label(root))[0].tolist() == list(range(1, 60))
    everything = np.arange(460, dtype=np.uint16)[None]
    mat(label(root), {"LabelMap": everything})
    assert np.count_nonzero(read(label(root))) == 59
    assert pickle.loads(pickle.dumps(read))(label(root)).shape == (1, 460)


def test_homes(root, tmp_path):
    (root / "VOCdevkit").mkdir()
    (root / "VOC2010").rename(root / "VOCdevkit" / "VOC2010")
    assert names(open_dataset(root, "train")) == ["2008_000002"]
    (root / "VOCdevkit" / "VOC2010").rename(root / "VOC2010")
    for path in (root / "trainval", root / "labels.txt"):
        path.rename(root / "VOC2010" / path.name)
    for source in (root, root / "VOC2010"):
        assert names(open_dataset(source, "train")) == ["2008_000002"]


def test_faults(root):
    label(root, "2008_000003").unlink()
    with pytest.raises(UserError, match=r"2008_000003\.mat: is listed in the split 'val' but missing"):
        open_splits(root)
    (root / "VOC2010" / "ImageSets" / "Main" / "train.txt").unlink()
    (root / "VOC2010" / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"Main: has no train\.txt"):
        open_splits(root)
    (root / "VOC2010").rename(root / "elsewhere")
    with pytest.raises(UserError, match="VOC2010/ beside"):
        open_splits(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"labels\.txt: is missing"),
        ("", "names no category"),
        ("\n".join(f"{number}: {name}" for number, name in enumerate(category_names(), 1) if name != "bedclothes"),
         "no category 'bedclothes', of which class 'bedcloth' is made"),
        ("1: bed\nrubbish", "has the line 'rubbish'"),
        ("99999999999: bed", "has the line '99999999999: bed'"),
    ],
)  # fmt: skip
def test_a_list_of_categories_that_is_none(root, text, message):
    (root / "labels.txt").unlink()
    if text is None:
        (root / "59_labels.txt").write_text("1: aeroplane")
    else:
        (root / "labels.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(root, "train")


def test_labels_that_are_none(root):
    for content, message in [
        ({"LabelMap": resized([460], dtype=np.uint16)}, "whole numbers from 0 to 459, but 460"),
        ({"LabelMap": resized([1], (4, 5))}, "is 5x4 pixels, but .*jpg is 6x4"),
        ({"Labels": resized([1])}, "holds no variable LabelMap"),
    ]:
        mat(label(root), content)
        with pytest.raises(UserError, match=rf"2008_000002\.mat: .*{message}"):
            open_dataset(root, "train")[0]
    label(root).write_bytes(label(root).read_bytes()[:150])
    with pytest.raises(UserError, match=r"2008_000002\.mat: is damaged"):
        open_dataset(root, "train")[0]
    assert [issue.path for issue in check(root).issues] == [label(root)]
