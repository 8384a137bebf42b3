import pytest

from tests.data.layouts import names, pairs
from upscore.data.datasets import open_dataset, open_splits
from upscore.data.formats.camvid import CLASSES
from upscore.errors import UserError


@pytest.fixture
def root(tmp_path):
    for split, content in {"train": "ab", "val": "c", "test": "de"}.items():
        pairs(tmp_path, content, split, f"{split}annot", values=(0, 10, 11))
    return tmp_path


def test_splits_classes_and_void(root):
    train, val = open_splits(root)
    assert (names(train), names(val), names(open_dataset(root, "test"))) == (["a", "b"], ["c"], ["d", "e"])
    assert train.classes == CLASSES
    assert len(CLASSES) == 11
    class_map = train[0].class_map
    assert class_map is not None
    assert class_map.unique().tolist() == [0, 10, 255]


def test_classes_txt_replaces_camvids_classes(root):
    (root / "classes.txt").write_text("\n".join(f"class {index}" for index in range(12)))
    dataset = open_dataset(root, "val")
    class_map = dataset[0].class_map
    assert class_map is not None
    assert class_map.unique().tolist() == [0, 10, 11]
    assert len(dataset.classes) == 12


def test_a_missing_label_is_named(root):
    (root / "valannot" / "c.png").rename(root / "valannot" / "x.png")
    with pytest.raises(UserError, match=r"val/c\.jpg: .*valannot/c\.png"):
        open_splits(root)
