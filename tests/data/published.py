"""Helpers that write small versions of published data sets in their original layouts."""

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.data.layouts import label, write_image
from upscore.data.formats.pascal_context import ALIASES, CLASSES
from upscore.data.formats.sift_flow import SCENES

SIZE = 4, 6
"""Height and width."""


def resized(values, size=SIZE, dtype=np.float64):
    """Return a map whose rows repeat `values`."""
    return np.resize(np.array(values), size).astype(dtype)


def mat(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)
    return path


def write_list(path, names, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(end.join([*names, ""]), newline="")
    return path


def sift_flow(home, train="ab", test="c", size=SIZE):
    """The list of test images has Windows paths and line ends, like the published one."""
    for name in (*train, *test):
        write_image(home / "Images" / SCENES / f"{name}.jpg", *size)
        mat(home / "SemanticLabels" / SCENES / f"{name}.mat", {"S": resized((0, 1, 33), size), "names": ["x"]})
        mat(home / "GeoLabels" / SCENES / f"{name}.mat", {"S": resized((-1, 0, 1, 3), size, np.int8)})
    write_list(home / "TestSet1.txt", [f"{SCENES}\\{name}.jpg" for name in test], "\r\n")
    return home


LISTS = {"train": ["5001", "5003"], "val": ["5002"], "test": ["5004"]}


def nyud(home, lists=LISTS, size=SIZE):
    rng = np.random.default_rng(0)
    for name in (name for names in lists.values() for name in names):
        write_image(home / "data" / "images" / f"img_{name}.png", *size)
        for folder in ("hha", "depth"):
            (home / "data" / folder).mkdir(exist_ok=True)
        hha = np.full((*size, 3), (10, 20, 30), np.uint8)
        hha[0] = 200, 100, 0
        Image.fromarray(hha).save(home / "data" / "hha" / f"img_{name}.png")
        millimetres = rng.integers(500, 9000, size, dtype=np.uint16)
        millimetres[0, :3] = 0, 1000, 2718
        Image.fromarray(millimetres).save(home / "data" / "depth" / f"img_{name}.png")
        mat(home / "segmentation" / f"img_{name}.mat", {"segmentation": resized((0, 1, 40), size, np.uint8)})
    for split, names in lists.items():
        write_list(home / f"{split}.txt", names)
    return home


def category_names():
    """Return 459 names of categories, with those of the 59 classes."""
    named = [ALIASES.get(name, name) for name in CLASSES[1:]]
    return sorted([*(f"thing {number}" for number in range(459 - len(named))), *named])


def category(name):
    return category_names().index(name) + 1


def pascal_context(root, lists=None, size=SIZE):
    """Labels with bed, table and a category that is none of the 59 classes, and VOC2010."""
    lines = [f"{number}: {name}" for number, name in enumerate(category_names(), start=1)]
    write_list(root / "labels.txt", [line.replace("pottedplant", "potted plant") for line in lines])
    values = category("bed"), category("table"), category("thing 7")
    for split, names in (lists or {"train": ["2008_000002"], "val": ["2008_000003", "2008_000004"]}).items():
        for name in names:
            write_image(root / "VOC2010" / "JPEGImages" / f"{name}.jpg", *size)
            mat(root / "trainval" / f"{name}.mat", {"LabelMap": resized(values, size, np.uint16)})
        write_list(root / "VOC2010" / "ImageSets" / "Main" / f"{split}.txt", names)
    return root


def sbd(home, lists=None, size=SIZE):
    """Each image has a cat (class 8) and two persons (15)."""
    for split, names in (lists or {"train": ["s1", "v1"], "val": ["s2"]}).items():
        for name in names:
            write_image(home / "img" / f"{name}.jpg", *size)
            ids = resized((0, 1, 2, 3), size, np.uint8)
            classes = np.array([0, 15, 8, 15], np.uint8)
            mat(home / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": classes[ids], "Boundaries": [1]}})
            content = {"Segmentation": ids, "Boundaries": [1], "Categories": classes[1:, None]}
            mat(home / "inst" / f"{name}.mat", {"GTinst": content})
        write_list(home / f"{split}.txt", names)
    return home


def voc(home, lists=None, size=SIZE):
    """The test split has no labels."""
    for split, names in (lists or {"train": ["t1"], "val": ["v1", "v2"], "test": ["x1"]}).items():
        for name in names:
            write_image(home / "JPEGImages" / f"{name}.jpg", *size)
            if split != "test":
                label(home / "SegmentationClass" / f"{name}.png", (0, 15, 255), *size)
        write_list(home / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    return home


def messages(report):
    return [issue.message for issue in report.issues]
