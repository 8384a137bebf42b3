import json

import numpy as np
import pytest
from PIL import Image

from tests.data.coco_files import annotation, image, small, square, write
from tests.data.layouts import SHARED, write_image
from upscore.data.checks.instances import check_instances
from upscore.data.formats.coco.entries import crosses_itself
from upscore.errors import UserError


def kinds(report):
    return sorted((issue.kind, issue.annotation or 0) for issue in report.issues)


def test_a_coco_file_without_issues(tmp_path):
    report = check_instances(small(tmp_path))
    assert report.issues == []
    assert (report.layout, report.images, report.splits, report.objects) == ("COCO", 2, {}, 2)
    assert [(entry.name, entry.objects, entry.images) for entry in report.classes] == [("cat", 1, 1), ("dog", 1, 1)]
    assert report.per_image == (0, 1, 2)
    assert report.areas == {"small": 2, "medium": 0, "large": 0}
    assert report.sizes == {(30, 20): 2}
    assert report.notes == ["Images without objects: 1. They are used in training as images of background."]
    assert json.loads(json.dumps(report.as_dict()))["objects_per_image"] == [0, 1, 2]


def test_all_issues_of_a_coco_file(tmp_path):
    for number in (1, 2, 4):
        write_image(tmp_path / "images" / f"{number}.png", 20, 30)
    write_image(tmp_path / "images" / "4.png", 20, 31)
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    valid = [square(1, 1, 4)]
    annotations = [
        annotation(1, 1, valid, bbox=[28, 1, 4, 4]),
        annotation(2, 1, [[1, 1, 5, 5, 5, 1, 1, 5]]),
        annotation(3, 1, [*valid, [1, 1, 5, 5]]),
        annotation(4, 1, valid, area=0),
        annotation(5, 1, valid, bbox=[1, 1, 0, 4]),
        annotation(6, 1, [square(3, 3, 0)]),
        annotation(7, 1, valid, category_id=9),
        annotation(8, 8, valid),
        annotation(1, 1, valid),
        annotation(9, 1, []),
        annotation(10, 1, {"size": [20, 30], "counts": [5]}),
        annotation(11, 1, valid, bbox=[0, 0, 30.9, 20]),  # within the tolerance
    ]
    images = [image(1), image(2), image(3), image(4), image(1), image(5, "../5.png")]
    report = check_instances(write(tmp_path / "annotations.json", images, annotations))
    assert kinds(report) == [
        ("annotation id", 1),
        ("box outside", 1),
        ("category", 7),
        ("few points", 3),
        ("image id", 0),
        ("malformed", 0),
        ("malformed", 10),
        ("missing image", 0),
        ("no outline", 9),
        ("self-crossing", 2),
        ("size", 0),
        ("unlisted", 8),
        ("unreadable", 0),
        ("zero area", 4),
        ("zero area", 5),
        ("zero area", 6),
    ]
    for issue in report.issues:
        assert str(issue.path) in issue.message
        if issue.annotation is not None:
            assert f"annotation {issue.annotation} " in issue.message


def test_one_split_is_checked(tmp_path):
    small(tmp_path, "instances_train.json")
    (tmp_path / "instances_val.json").write_text("")
    assert check_instances(tmp_path, split="train").splits == {"train": 2}
    with pytest.raises(UserError, match=r"instances_val\.json"):
        check_instances(tmp_path)


@pytest.fixture
def cells(tmp_path):
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.png", 60, 60)
        ids = np.zeros((60, 60), np.uint16)
        ids[:40, :40], ids[50:, 50:] = 1, 400
        write_ids(tmp_path / "labels" / f"{name}.png", ids)
    return tmp_path


def write_ids(path, ids):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(ids).save(path)


def test_id_maps_without_issues(cells):
    report = check_instances(cells)
    assert (report.issues, report.notes) == ([], [])
    assert [(entry.name, entry.objects, entry.images) for entry in report.classes] == [("object", 6, 3)]
    assert report.areas == {"small": 3, "medium": 3, "large": 0}


def test_issues_of_id_maps(cells):
    write_image(cells / "images" / "a.png", 60, 61)
    (cells / "labels" / "b.png").write_bytes(b"")
    Image.new("RGB", (60, 60), (1, 2, 3)).save(cells / "labels" / "c.png")
    write_image(cells / "images" / "d.png")
    write_image(cells / "images" / "e.png", 60, 60)
    ids = np.zeros((60, 60), np.uint8)
    ids[0:4, 0:4] = ids[6:8, 0:4] = 1  # close together
    ids[20:24, 0:4] = ids[20:24, 50:54] = 2  # far apart
    write_ids(cells / "labels" / "e.png", ids)
    report = check_instances(cells)
    assert sorted((issue.kind, issue.path.name) for issue in report.issues) == [
        ("label values", "c.png"),
        ("missing label", "d.png"),
        ("size", "a.png"),
        ("unreadable", "b.png"),
    ]
    assert report.notes == [
        "Objects with parts that are far apart: 1. Check whether several objects have the same number."
    ]


def test_scenes():
    report = check_instances("scenes:3")
    assert (report.images, report.issues, len(report.classes)) == (3, [], 7)
    assert report.objects == sum(entry.objects for entry in report.classes) > 5


@pytest.mark.parametrize(
    ("points", "crosses"),
    [
        ([(0, 0), (2, 2), (2, 0), (0, 2)], True),
        ([(0, 0), (2, 0), (2, 2), (0, 2)], False),
        ([(0, 0), (2, 0), (1, 1)], False),
        ([(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)], False),  # a corner touches an edge
        ([(0, 0), (4, 0), (4, 4), (2, -1e-300), (0, 4)], True),  # and crosses it by less than the rounding error
        ([(0, 0), (9, 0), (9, 9), (0, 9), (0, 0), (3, 3), (6, 3), (6, 6), (3, 6), (3, 3)], False),  # a hole
        ([(1, 1)] * 5, False),
        ([(0, 0), (1, 0)], False),
    ],
)
def test_crossing_edges(points, crosses):
    points = np.array(points, np.float64)
    for equivalent in (points, points[::-1], np.roll(points, 2, axis=0), points[:, ::-1]):
        assert crosses_itself(equivalent) is crosses


def test_long_polygons():
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = 100 * np.stack([np.cos(angles), np.sin(angles)], 1)
    assert not crosses_itself(circle)
    circle[[1500, 1600]] = circle[[1600, 1500]]
    assert crosses_itself(circle)
    assert crosses_itself(np.tile(circle, (2, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "objects"), [("coco_mini", 1389), ("nuclei", 25087)])
def test_issues_of_the_shared_data(name, objects):
    if not (SHARED / name).exists():
        pytest.skip(f"the shared {name} are missing")
    report = check_instances(SHARED / name)
    assert report.objects == objects
    assert {issue.kind for issue in report.issues} <= {"self-crossing"}
    assert len(report.issues) <= 3
