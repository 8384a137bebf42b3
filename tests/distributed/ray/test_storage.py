"""Locations of files, and their transfer to and from object stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from upscore.distributed.storage import Location, delivered, fetched, parse_location
from upscore.errors import UserError


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_location("a b/c.jpg").local == tmp_path / "a b" / "c.jpg"
    assert parse_location((tmp_path / "a b" / "ü#.jpg").as_uri()).local == tmp_path / "a b" / "ü#.jpg"
    secret = parse_location("s3://key:secret@images/2024/?region=eu-west-1")
    assert secret.local is None
    assert secret.path == "images/2024"
    assert str(secret.below("a b.jpg")) == "s3://images/2024/a b.jpg"
    assert secret.below("x").store == secret.store
    assert str(parse_location("gs://images")) == "gs://images"
    with pytest.raises(UserError, match=r"s3:///key"):
        parse_location("s3:///key")


def _interrupted(output: Location, staging: Path) -> None:
    with delivered(output, staging) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("second, trunc")
        raise RuntimeError


def test_files_are_delivered_completely_or_not_at_all(tmp_path: Path) -> None:
    output, staging = parse_location(tmp_path / "out"), tmp_path / "out" / ".upscore" / "run"
    with delivered(output, staging) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("first")
        assert not (tmp_path / "out" / "sub").exists()
    with pytest.raises(RuntimeError):
        _interrupted(output, staging)
    assert (tmp_path / "out" / "sub" / "a.txt").read_text() == "first"
    assert not list(staging.iterdir())


def test_an_unwritable_output_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    output = parse_location(tmp_path / "out")
    with pytest.raises(UserError, match=r"/out\b"), delivered(output, tmp_path / "out" / "run"):
        pass


def test_local_files_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with fetched(parse_location(tmp_path / "a.txt")) as path:
        assert path == tmp_path / "a.txt"
    assert path.exists()
