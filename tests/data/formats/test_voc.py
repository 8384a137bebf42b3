import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.data.layouts import names, write_image
from upscore.data.datasets import open_dataset, open_splits
from upscore.data.formats.voc import CLASSES
from upscore.errors import UserError

LISTS = {"train": ["t1", "t2"], "val": ["v2", "v1", "v3"], "trainval": ["t1", "t2", "v1", "v2", "v3"], "test": ["x1"]}


def palette_label(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.resize(np.array(values, np.uint8), (4, 6))).convert("P")
    image.putdata(np.resize(np.array(values, np.uint8), 24).tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, content in LISTS.items():
        (lists / f"{split}.txt").write_text("\n".join(content) + "\n")
        for name in content:
            write_image(root / "JPEGImages" / f"{name}.jpg")
            if split != "test":
                palette_label(root / "SegmentationClass" / f"{name}.png", (0, 20, 255))
    write_image(root / "JPEGImages" / "only_boxes.jpg")
    return root


@pytest.fixture
def sbd(tmp_path):
    root = tmp_path / "benchmark_RELEASE" / "dataset"
    (root / "cls").mkdir(parents=True)
    (root / "train.txt").write_text("s1\nv1\n")
    for name in ("s1", "v1"):
        write_image(root / "img" / f"{name}.jpg")
        labels = np.resize(np.array([0, 7], np.uint8), (4, 6))
        savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": [1]}})
    return root


@pytest.mark.parametrize("up", [0, 1, 2])
def test_splits_and_labels_below_any_root(voc, up):
    root = [voc, *voc.parents][up]
    train, val = open_splits(root)
    assert (names(train), names(val)) == (["t1", "t2"], ["v1", "v2", "v3"])
    assert names(open_dataset(root, "trainval")) == LISTS["trainval"]
    assert names(open_dataset(root)) == LISTS["trainval"]
    assert open_dataset(root, "test")[0].class_map is None
    class_map = train[0].class_map
    assert class_map is not None
    assert class_map.unique().tolist() == [0, 20, 255]
    assert train.classes == CLASSES
    assert len(CLASSES) == 21


@pytest.mark.parametrize("up", [0, 1, 2])
def test_sbds_training_images_are_not_in_the_validation_split(voc, sbd, up):
    folder = [sbd, *sbd.parents][up]
    train, val = open_splits(voc, sbd=folder)
    assert (names(train), names(val)) == (["s1", "v1"], ["v2", "v3"])
    class_map = train[0].class_map
    assert class_map is not None
    assert class_map.shape == (4, 6)
    assert class_map.unique().tolist() == [0, 7]
    assert names(open_dataset(voc, "val", sbd=folder)) == ["v2", "v3"]
    assert names(open_dataset(voc, sbd=folder)) == ["s1", "v1", "v2", "v3"]


def test_missing_files_and_lists_are_named(voc, sbd, tmp_path):
    (sbd / "cls" / "s1.mat").write_bytes(b"no mat")
    with pytest.raises(UserError, match=r"s1\.mat: "):
        open_dataset(voc, "train", sbd=sbd)[0]
    with pytest.raises(UserError, match=rf"{voc}: .*SBD"):
        open_dataset(voc, sbd=voc)
    with pytest.raises(UserError, match="SBD"):
        open_dataset(sbd, sbd=sbd)
    (voc / "SegmentationClass" / "t2.png").unlink()
    with pytest.raises(UserError, match=r"t2\.png: .*'train'"):
        open_splits(voc)
    for path in (voc / "ImageSets" / "Segmentation").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"Segmentation: .*train\.txt"):
        open_splits(voc)


def test_names_outside_the_folder_are_not_read(voc):
    write_image(voc / "secret.jpg")
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("../secret\n")
    with pytest.raises(UserError, match=r"JPEGImages/\.\./secret\.jpg"):
        open_splits(voc)


def test_trainval_alone_is_split_at_random(voc):
    for split in ("train", "val"):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").unlink()
    train, val = open_splits(voc, fraction=0.4)
    assert (len(train), len(val)) == (3, 2)
