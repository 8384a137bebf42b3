from __future__ import annotations

import json
from pathlib import Path

import pytest

from upscore.errors import UserError
from upscore.results.writers.coco import PART, RESULTS, ResultsFile, write_results


def found(name: str, image_id: int, count: int = 2) -> list[dict]:
    return [{"image_id": image_id, "file_name": name, "score": k / 10} for k in range(count)]


def read(output: Path) -> list[tuple[str, int]]:
    return [(result["file_name"], result["image_id"]) for result in json.loads((output / RESULTS).read_text())]


def test_photos_are_added_one_by_one(tmp_path: Path) -> None:
    photos = [found("a.jpg", 1), found("b.jpg", 2, 0), found("c.jpg", 3, 1)]
    with ResultsFile(tmp_path / "one") as file:
        for photo in photos:
            file.add(photo)
            assert not (tmp_path / "one" / RESULTS).exists()
    write_results([result for photo in photos for result in photo], tmp_path / "all")
    text = (tmp_path / "one" / RESULTS).read_text()
    assert text == (tmp_path / "all" / RESULTS).read_text()
    assert text.count("\n") == 3 + 2
    assert [path.name for path in (tmp_path / "one").iterdir()] == [RESULTS]


def test_an_interruption_keeps_what_was_added(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    file.add(found("a.jpg", 1))
    file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert read(tmp_path) == [("a.jpg", 1)] * 2


def test_earlier_objects_are_kept_under_new_ids(tmp_path: Path) -> None:
    write_results(found("a.jpg", 1) + found("b.jpg", 2) + found("c.jpg", 3, 1), tmp_path)
    with ResultsFile(tmp_path, keep={"a.jpg": 7, "c.jpg": 9, "d.jpg": 10}) as file:
        assert file.kept == {"a.jpg": 2, "c.jpg": 1}
        file.add(found("d.jpg", 10))
    assert read(tmp_path) == [("a.jpg", 7)] * 2 + [("c.jpg", 9)] + [("d.jpg", 10)] * 2


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_of_a_killed_run_the_last_photo_is_not_trusted(cut: int, tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    for number, name in enumerate("abc", start=1):
        file.add(found(name, number))
    text = (tmp_path / PART).read_text()  # as it is where the process is killed now
    (tmp_path / PART).write_text(text[: len(text) - cut])
    with ResultsFile(tmp_path, keep={"a": 1, "b": 2, "c": 3}) as resumed:
        assert resumed.kept == {"a": 2, "b": 2}
        resumed.add(found("c", 3))
    assert read(tmp_path) == [("a", 1)] * 2 + [("b", 2)] * 2 + [("c", 3)] * 2


@pytest.mark.parametrize("text", [None, "", "[]\n", '[{"image_id": 1}]', "[\n{]\n"])
def test_a_file_without_objects_by_line_is_begun_anew(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / RESULTS).write_text(text)
    with ResultsFile(tmp_path, keep={"a.jpg": 1}) as file:
        assert not file.kept
    assert read(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"instances\.json: can't be written"):
        ResultsFile(tmp_path / "file")
