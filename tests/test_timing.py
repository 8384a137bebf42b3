from __future__ import annotations

from functools import partial

import pytest
import torch

from upscore import timing
from upscore.timing import describe, describe_machine, time_interleaved


def test_functions_take_turns_and_a_different_one_begins() -> None:
    calls: list[str] = []
    told: list[tuple[int, int]] = []
    seconds = time_interleaved(
        {name: partial(calls.append, name) for name in "abc"}, 3, progress=lambda *at: told.append(at)
    )
    assert ["".join(calls[start : start + 3]) for start in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert told == [(done, 12) for done in range(1, 13)]


def test_the_first_round_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, durations = [0.0], {"a": iter([99.0, 1.0, 2.0]), "b": iter([99.0, 3.0, 4.0])}
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])

    def work(name: str) -> None:
        now[0] += next(durations[name])

    assert time_interleaved({name: partial(work, name) for name in "ab"}, 2) == {"a": [1, 2], "b": [3, 4]}


def test_the_machine() -> None:
    facts = describe_machine(threads=2)
    assert facts["threads"] == 2
    assert facts["torch"] == torch.__version__.split("+")[0]
    line = describe(threads=2)
    assert "\n" not in line
    assert str(facts["processor"]) in line
    assert "2 threads" in line
    assert f"torch {facts['torch']}" in line
