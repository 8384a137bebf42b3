from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from upscore import autotune
from upscore.autotune import fastest


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], None]:
    """A clock that is moved by hand, a cache of the test's own, and no memory of earlier measurements."""
    now = [0.0]
    monkeypatch.setattr(autotune, "perf_counter", lambda: now[0])
    monkeypatch.setattr(autotune, "_measured", {})
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path))

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time


@pytest.mark.parametrize(("slow", "fast", "best"), [(2, 1, "fast"), (1, 2, "slow"), (1, 0.97, "slow"), (1, 1, "slow")])
def test_the_fastest_is_chosen(clock: Callable[[float], None], slow: float, fast: float, best: str) -> None:
    seconds = {"slow": slow, "fast": fast}
    choice = fastest(["slow", "fast"], lambda name: lambda: clock(seconds[name]), key=["net", slow, fast])
    assert choice.name == best
    assert str(f"{slow / fast if best == 'fast' else fast / slow:.2g}") in choice.reason


def test_it_is_measured_once_per_key_and_machine(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []

    def prepare(name: str) -> Callable[[], None]:
        prepared.append(name)
        return lambda: clock({"a": 2.0, "b": 1.0}[name])

    for _ in range(2):
        assert fastest(["a", "b"], prepare, key=["net"]).name == "b"
    monkeypatch.setattr(autotune, "_measured", {})  # another process
    assert fastest(["a", "b"], prepare, key=["net"]).name == "b"
    assert prepared == ["a", "b"]
    fastest(["a", "b"], prepare, key=["other net"])
    monkeypatch.setattr(autotune, "processor", lambda: "another processor")
    fastest(["a", "b"], prepare, key=["net"])
    assert prepared == ["a", "b"] * 3


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": 0, "b": 1}', '{"a": "?", "b": 1}'])
def test_a_damaged_file_is_measured_anew(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    seconds = {"a": 2.0, "b": 1.0}
    fastest(["a", "b"], lambda name: lambda: clock(seconds[name]), key=[])
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    monkeypatch.setattr(autotune, "_measured", {})
    assert fastest(["a", "b"], lambda name: lambda: clock(seconds[name]), key=[]).name == "b"


def test_threads_measure_once_and_an_unwritable_cache_is_none(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "file"))
    prepared: list[str] = []

    def prepare(name: str) -> Callable[[], None]:
        prepared.append(name)
        return lambda: clock({"a": 2.0, "b": 1.0}[name])

    threads = [threading.Thread(target=fastest, args=(["a", "b"], prepare), kwargs={"key": []}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert prepared == ["a", "b"]
