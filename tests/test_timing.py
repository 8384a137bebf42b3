from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from upscore import timing
from upscore.timing import fastest, time_interleaved


def test_rounds_are_interleaved_and_their_order_rotates() -> None:
    calls: list[str] = []
    progress: list[tuple[int, int]] = []
    seconds = time_interleaved(
        {name: partial(calls.append, name) for name in "abc"}, 3, progress=lambda *counts: progress.append(counts)
    )
    assert ["".join(calls[start : start + 3]) for start in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert progress == [(done, 12) for done in range(1, 13)]


def test_the_first_round_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, durations = [0.0], {"a": iter([99.0, 1.0, 2.0]), "b": iter([99.0, 3.0, 4.0])}
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])

    def work(name: str) -> None:
        now[0] += next(durations[name])

    assert time_interleaved({name: partial(work, name) for name in "ab"}, 2) == {"a": [1, 2], "b": [3, 4]}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], None]:
    """Replace the clock by one that a test moves, and use an empty cache."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "_measured", {})
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


def test_measurements_are_cached_per_key_and_processor(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []

    def prepare(name: str) -> Callable[[], None]:
        prepared.append(name)
        return lambda: clock({"a": 2.0, "b": 1.0}[name])

    for _ in range(2):
        assert fastest(["a", "b"], prepare, key=["net"]).name == "b"
    monkeypatch.setattr(timing, "_measured", {})  # another process
    assert fastest(["a", "b"], prepare, key=["net"]).name == "b"
    assert prepared == ["a", "b"]
    fastest(["a", "b"], prepare, key=["other net"])
    monkeypatch.setattr(timing, "processor", lambda: "another processor")
    fastest(["a", "b"], prepare, key=["net"])
    assert prepared == ["a", "b"] * 3


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": 0, "b": 1}', '{"a": "?", "b": 1}'])
def test_damaged_cache_files_are_replaced(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    seconds = {"a": 2.0, "b": 1.0}
    fastest(["a", "b"], lambda name: lambda: clock(seconds[name]), key=[])
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    monkeypatch.setattr(timing, "_measured", {})
    assert fastest(["a", "b"], lambda name: lambda: clock(seconds[name]), key=[]).name == "b"


def test_concurrent_threads_measure_once_without_a_writable_cache(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
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
