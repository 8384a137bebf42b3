from __future__ import annotations

from pathlib import Path

import pytest

from upscore.files import atomic_folder, atomic_path, write_text


def test_files_appear_when_they_are_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folders" / "a.b.png"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "one"
    write_text(target, "zwölf")
    assert target.read_bytes() == "zwölf".encode()
    assert [path.name for path in target.parent.iterdir()] == ["a.b.png"]


def write_and_fail(path: Path, failure: type[BaseException]) -> None:
    path.write_text("half")
    raise failure


def test_a_failed_writer_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        write_and_fail(temporary, RuntimeError)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "new" / "model") as temporary:
            (temporary / content).write_text(content)
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["model", "two"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_writer_keeps_the_old_folder(tmp_path: Path, failure: type[BaseException]) -> None:
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "old").touch()
    with pytest.raises(failure), atomic_folder(tmp_path / "model") as temporary:
        write_and_fail(temporary / "half", failure)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "old"]


def test_an_interruption_between_renames_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "old").touch()
    replace = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if path.suffix == ".new":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "old"]
