from __future__ import annotations

import json
from pathlib import Path

import pytest

from upscore.errors import UserError
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
def test_an_object_a_line(count: int, tmp_path: Path) -> None:
    path = tmp_path / "out" / RESULTS
    write_results((OBJECT for _ in range(count)), path)
    assert json.loads(path.read_text()) == [OBJECT] * count
    assert path.read_text().count("\n") == (count + 2 if count else 1)
    assert [file.name for file in path.parent.iterdir()] == [RESULTS]
    require_results(path)


def fail_half_way():
    yield OBJECT
    raise KeyboardInterrupt


def test_an_interruption_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_results([OBJECT], tmp_path / RESULTS)
    with pytest.raises(KeyboardInterrupt):
        write_results(fail_half_way(), tmp_path / RESULTS)
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


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        write_results([], tmp_path / "file" / RESULTS)
