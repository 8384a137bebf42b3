from __future__ import annotations

from pathlib import Path

import pytest

from upscore.distributed.storage import Place, delivered, fetched, place
from upscore.errors import UserError


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("a b/c.jpg").local == tmp_path / "a b" / "c.jpg"
    assert place((tmp_path / "a b" / "ü#.jpg").as_uri()).local == tmp_path / "a b" / "ü#.jpg"
    secret = place("s3://key:secret@photos/2024/?region=eu-west-1")
    assert secret.local is None
    assert secret.path == "photos/2024"
    assert str(secret.below("a b.jpg")) == "s3://photos/2024/a b.jpg"
    assert secret.below("x").store == secret.store
    assert str(place("gs://photos")) == "gs://photos"
    with pytest.raises(UserError, match=r"s3:///key"):
        place("s3:///key")


def _interrupted(output: Place, staging: Path) -> None:
    with delivered(output, staging) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("second, cut sh")
        raise RuntimeError


def test_files_are_delivered_whole_or_not_at_all(tmp_path: Path) -> None:
    output, staging = place(tmp_path / "out"), tmp_path / "out" / ".upscore" / "run"
    with delivered(output, staging) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("first")
        assert not (tmp_path / "out" / "sub").exists()
    with pytest.raises(RuntimeError):
        _interrupted(output, staging)
    assert (tmp_path / "out" / "sub" / "a.txt").read_text() == "first"
    assert not list(staging.iterdir())


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    output = place(tmp_path / "out")
    with pytest.raises(UserError, match=r"out: can't be written \("), delivered(output, tmp_path / "out" / "run"):
        pass


def test_local_files_are_read_in_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with fetched(place(tmp_path / "a.txt")) as path:
        assert path == tmp_path / "a.txt"
    assert path.exists()
