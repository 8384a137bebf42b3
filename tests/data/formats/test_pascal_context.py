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


def test_every_class_has_its_category(root):
    read = list_files(root).read_label
    values = [category(ALIASES.get(name, name)) for name in CLASSES[1:]]
    mat(label(root), {"LabelMap": np.array([values], np.uint16)})
    assert read(label(root))[0].tolist() == list(range(1, 60))
    all_categories = np.arange(460, dtype=np.uint16)[None]
    mat(label(root), {"LabelMap": all_categories})
    assert np.count_nonzero(read(label(root))) == 59
    assert pickle.loads(pickle.dumps(read))(label(root)).shape == (1, 460)


def test_layouts(root):
    (root / "VOCdevkit").mkdir()
    (root / "VOC2010").rename(root / "VOCdevkit" / "VOC2010")
    assert names(open_dataset(root, "train")) == ["2008_000002"]
    (root / "VOCdevkit" / "VOC2010").rename(root / "VOC2010")
    for path in (root / "trainval", root / "labels.txt"):
        path.rename(root / "VOC2010" / path.name)
    for source in (root, root / "VOC2010"):
        assert names(open_dataset(source, "train")) == ["2008_000002"]


def test_missing_files_and_lists_are_named(root):
    label(root, "2008_000003").unlink()
    with pytest.raises(UserError, match=r"2008_000003\.mat: .*'val'"):
        open_splits(root)
    (root / "VOC2010" / "ImageSets" / "Main" / "train.txt").unlink()
    (root / "VOC2010" / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"Main: .*train\.txt"):
        open_splits(root)
    (root / "VOC2010").rename(root / "elsewhere")
    with pytest.raises(UserError, match="VOC2010/"):
        open_splits(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"/labels\.txt: "),
        ("", r"labels\.txt: .*aeroplane"),
        ("\n".join(f"{number}: {name}" for number, name in enumerate(category_names(), 1) if name != "bedclothes"),
         "'bedclothes'.*'bedcloth'"),
        ("1: bed\nno number", "'no number'"),
        ("99999999999: bed", "'99999999999: bed'"),
    ],
)  # fmt: skip
def test_invalid_lists_of_categories_are_named(root, text, message):
    (root / "labels.txt").unlink()
    if text is None:
        (root / "59_labels.txt").write_text("1: aeroplane")
    else:
        (root / "labels.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(root, "train")


def test_invalid_labels_are_named(root):
    for content, message in [
        ({"LabelMap": resized([460], dtype=np.uint16)}, "0 to 459.* 460 "),
        ({"LabelMap": resized([1], (4, 5))}, "5x4.*jpg.*6x4"),
        ({"Labels": resized([1])}, "LabelMap"),
    ]:
        mat(label(root), content)
        with pytest.raises(UserError, match=rf"2008_000002\.mat: .*{message}"):
            open_dataset(root, "train")[0]
    label(root).write_bytes(label(root).read_bytes()[:150])
    with pytest.raises(UserError, match=r"2008_000002\.mat: "):
        open_dataset(root, "train")[0]
    assert [issue.path for issue in check(root).issues] == [label(root)]
