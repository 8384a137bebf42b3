"""Writer of COCO results files, and ids of images and categories."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from upscore.errors import UserError
from upscore.results import InstanceResult
from upscore.results.writers.coco import RESULTS, require_results, write_results

OBJECT = {
    "image_id": 1,
    "file_name": "a.jpg",
    "category_id": 1,
    "category_name": "cell",
    "bbox": [0, 0, 1, 1],
    "score": 0.5,
    "segmentation": {"size": [2, 2], "counts": "04"},
}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_object_is_on_its_own_line(count: int, tmp_path: Path) -> None:
    path = tmp_path / "out" / RESULTS
    write_results((OBJECT for _ in range(count)), path)
    assert json.loads(path.read_text()) == [OBJECT] * count
    assert path.read_text().count("\n") == (count + 2 if count else 1)
    assert [file.name for file in path.parent.iterdir()] == [RESULTS]
    require_results(path)


def interrupted_after_one_object():
    yield OBJECT
    raise KeyboardInterrupt


def test_an_interrupted_writer_keeps_the_old_file(tmp_path: Path) -> None:
    write_results([OBJECT], tmp_path / RESULTS)
    with pytest.raises(KeyboardInterrupt):
        write_results(interrupted_after_one_object(), tmp_path / RESULTS)
    assert json.loads((tmp_path / RESULTS).read_text()) == [OBJECT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"images": [], "annotations": [], "categories": []}',
        json.dumps([{key: value for key, value in OBJECT.items() if key != "category_name"}]),
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}], indent=1),
        "[\n1\n]\n",
    ],
)
def test_files_of_other_programs_are_not_overwritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    require_results(path)
    path.write_text(text)
    with pytest.raises(UserError, match=r"instances\.json"):
        require_results(path)


def test_an_output_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=RESULTS):
        write_results([], tmp_path / "file" / RESULTS)


def make_result(count, classes, **options):
    boxes = np.array([[4.1 * k, 3.3, 4.1 * k + 3, 9] for k in range(count)], np.float32).reshape(-1, 4)
    return InstanceResult(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        labels=np.arange(count) % len(classes),
        masks=[np.ones((28, 28), np.float32)] * count,
        size=(16, 40),
        classes=classes,
        **options,
    )


def test_category_ids_default_to_those_of_the_model():
    result = make_result(3, ["cat", "dog"])
    assert [entry["category_id"] for entry in result.to_coco()] == [1, 2, 1]
    assert [entry["category_id"] for entry in result.to_coco(category_ids=[90, 0])] == [90, 0, 90]
    result = make_result(3, ["cat", "dog"], category_ids=[7, 5])
    entries = result.to_coco(image_id=31)
    assert [(entry["category_id"], entry["category_name"]) for entry in entries] == [(7, "cat"), (5, "dog"), (7, "cat")]
    assert [entry["image_id"] for entry in entries] == [31] * 3
    assert "file_name" not in entries[0]
    assert result.to_coco(file_name="a.png")[0]["file_name"] == "a.png"
    with pytest.raises(UserError, match=r"category_ids .*3.*2 classes"):
        result.to_coco(category_ids=[1, 2, 3])
    with pytest.raises(UserError, match=r"category_ids .*0.*2 classes"):
        result.to_coco(category_ids=[])
    assert [entry["category_id"] for entry in result.to_coco(category_ids=np.array([4, 2]))] == [4, 2, 4]
    assert make_result(0, ["cat"]).to_coco() == []


def test_boxes_scores_and_areas_are_not_rounded():
    result = make_result(3, ["cat"])
    for entry, box, score, area in zip(result.to_coco(), result.boxes, result.scores, result.areas(), strict=True):
        x, y, width, height = json.loads(json.dumps(entry["bbox"]))
        assert (np.float32(x), np.float32(y)) == (box[0], box[1])
        assert (np.float32(x + width), np.float32(y + height)) == (box[2], box[3])
        assert np.float32(entry["score"]) == score
        assert entry["area"] == area
