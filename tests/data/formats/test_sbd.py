import numpy as np
import pytest

from tests.data.layouts import names
from tests.data.published import mat, messages, resized, sbd
from upscore.data.checks.instances import check_instances
from upscore.data.checks.semantic import check
from upscore.data.datasets import open_dataset, open_splits
from upscore.data.formats.voc import CLASSES
from upscore.data.instance_datasets import open_instance_splits, open_instances
from upscore.errors import UserError


@pytest.fixture
def home(tmp_path):
    return sbd(tmp_path / "benchmark_RELEASE" / "dataset")


@pytest.mark.parametrize("up", [0, 1, 2])
def test_splits_and_labels(home, up):
    root = [home, *home.parents][up]
    train, val = open_splits(root)
    assert (names(train), names(val)) == (["s1", "v1"], ["s2"])
    assert train.classes == CLASSES
    assert train[0].class_map[0].tolist() == [0, 15, 8, 15, 0, 15]
    assert messages(check(root)) == []


def test_objects(home):
    train, val = open_instance_splits(home)
    assert (names(train), names(val)) == (["s1", "v1"], ["s2"])
    assert train.classes == CLASSES[1:]
    objects = train[0].objects
    assert [train.classes[label] for label in objects.labels] == ["person", "cat", "person"]
    assert objects.areas.tolist() == [6, 6, 6]
    report = check_instances(home)
    assert (messages(report), report.objects) == ([], 9)


def test_an_image_without_objects(home):
    content = {"Segmentation": resized([0], dtype=np.uint8), "Categories": np.zeros((0, 1), np.uint8)}
    mat(home / "inst" / "s1.mat", {"GTinst": content})
    assert len(open_instances(home, "train")[0].objects) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Segmentation": resized([3]), "Categories": [[1], [2]]}, r"3.* GTinst\.Categories .*2"),
        ({"Segmentation": resized([1]), "Categories": [[21]]}, r"GTinst\.Categories .*1 to 20.* 21"),
        ({"Segmentation": resized([1]), "Categories": [[0]]}, "1 to 20.* 0 "),
        ({"Segmentation": resized([-1]), "Categories": [[1]]}, "0 to 255.* -1 "),
        ({"Segmentation": resized([1], (4, 5)), "Categories": [[1]]}, "5x4.*6x4"),
        ({"Segmentation": resized([1])}, "GTinst .*Categories"),
    ],
)
def test_invalid_objects_are_named(home, content, message):
    mat(home / "inst" / "s1.mat", {"GTinst": content})
    with pytest.raises(UserError, match=rf"s1\.mat: .*{message}"):
        open_instances(home, "train")[0]
    (issue,) = check_instances(home).issues
    assert issue.path == home / "inst" / "s1.mat"


def test_missing_files_lists_and_invalid_labels_are_named(home):
    (home / "inst" / "v1.mat").unlink()
    open_splits(home)
    with pytest.raises(UserError, match=r"inst/v1\.mat: .*'train'"):
        open_instance_splits(home)
    mat(home / "cls" / "s1.mat", {"GTcls": {"Segmentation": resized([22])}})
    with pytest.raises(UserError, match=r"s1\.mat: .*22 \(24 pixels\).*21 classes"):
        open_dataset(home, "train")[0]
    (home / "cls" / "s1.mat").write_bytes((home / "cls" / "s1.mat").read_bytes()[:150])
    with pytest.raises(UserError, match=r"s1\.mat: "):
        open_dataset(home, "train")[0]
    (home / "train.txt").unlink()
    assert names(open_dataset(home, "val")) == ["s2"]
    (home / "val.txt").unlink()
    with pytest.raises(UserError, match=r"train\.txt or val\.txt"):
        open_dataset(home)
