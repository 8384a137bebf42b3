"""Time functions in interleaved rounds, and choose the fastest of several implementations, cached per machine.

The choice serves "auto" settings that hardware flags do not decide, such as the number format of a network on a
processor with bfloat16 instructions.
"""

from __future__ import annotations

import gc
import hashlib
import json
import platform
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch

from upscore.files import cache_root, write_text
from upscore.progress import ProgressCallback, ignore_progress

Key = TypeVar("Key", bound=Hashable)

ROUNDS = 3
"""Timed calls of each candidate, after one warm-up call; the shortest time counts."""

MARGIN = 0.05
"""Share of the first candidate's time that another candidate must save to be chosen."""

_lock = threading.Lock()
_measured: dict[str, dict[str, float]] = {}


def time_interleaved(
    calls: Mapping[Key, Callable[[], object]], rounds: int, *, progress: ProgressCallback = ignore_progress
) -> dict[Key, list[float]]:
    """Measure the seconds that each function takes, in interleaved rounds.

    Each function is called once per round, so that other load on the machine delays all of them alike. An additional
    first round is a warm-up. The order rotates from round to round.

    Args:
        calls: the functions, by any keys.
        rounds: number of timed rounds, 1 or more.
        progress: called with the number of finished calls and of all calls.

    Returns:
        The seconds of each round, by key.
    """
    assert calls, "no functions to time"
    assert rounds > 0, "at least one round is needed"
    functions = list(calls.items())
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    total = (rounds + 1) * len(functions)
    for done in range(total):
        round_number, position = divmod(done, len(functions))
        key, function = functions[(round_number + position) % len(functions)]
        gc.collect()
        start = perf_counter()
        function()
        if round_number:
            seconds[key].append(perf_counter() - start)
        progress(done + 1, total)
    return seconds


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidate and the reason for the choice."""

    name: str
    """The name of the candidate."""
    reason: str
    """A phrase for messages, such as "measured 1.8 times as fast as float32 on this machine"."""
    is_automatic: bool = True
    """Whether the choice was measured or derived; False if the user made it."""


def fastest(
    names: Sequence[str], prepare: Callable[[str], Callable[[], object]], *, key: Sequence[object], rounds: int = ROUNDS
) -> Choice:
    """Return the fastest of several candidates, by a measurement that is cached.

    The cache entry depends on `key`, the processor model and the number of torch threads. It is kept in memory and, if
    the cache folder is writable, on disk. Concurrent calls from several threads measure only once.

    Args:
        names: the candidates, the preferred one first: another must be faster by `MARGIN`.
        prepare: returns the function to time for a name; called only if a measurement is needed.
        key: values that the times depend on, such as the architecture of the network and the versions of libraries.
        rounds: timed calls of each candidate.
    """
    with _lock:
        parts = [*map(str, key), *names, processor(), str(torch.get_num_threads())]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        seconds = _measured.get(digest) or _read(digest, names)
        if seconds is None:
            seconds = _measure({name: prepare(name) for name in names}, rounds)
            _write(digest, seconds)
        _measured[digest] = seconds
    first, best = names[0], min(names, key=seconds.__getitem__)
    if seconds[best] > (1 - MARGIN) * seconds[first]:
        best = first
    if best == first:
        others = ", ".join(f"{name} {seconds[name] / seconds[first]:.2g}" for name in names[1:])
        return Choice(first, f"measured on this machine: times relative to {first}: {others}")
    return Choice(best, f"measured {seconds[first] / seconds[best]:.2g} times as fast as {first} on this machine")


def _measure(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the shortest time of each candidate in seconds.

    Rounds are interleaved, so that other load on the machine delays all candidates alike.
    """
    for function in candidates.values():
        function()
    seconds = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, function in candidates.items():
            start = perf_counter()
            function()
            seconds[name] = min(seconds[name], perf_counter() - start)
    return seconds


def _path(digest: str) -> Path:
    """Return the cache file of a measurement."""
    return cache_root() / "measured" / f"{digest}.json"


def _read(digest: str, names: Sequence[str]) -> dict[str, float] | None:
    """Return cached times; None without a valid cache file."""
    try:
        saved = json.loads(_path(digest).read_text(encoding="utf-8"))
        seconds = {name: float(saved[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return seconds if all(value > 0 for value in seconds.values()) else None


def _write(digest: str, seconds: dict[str, float]) -> None:
    """Write times to the cache, if it is writable."""
    try:
        write_text(_path(digest), json.dumps(seconds))
    except (OSError, RuntimeError):  # without a writable cache folder, nothing is cached
        return


@cache
def processor() -> str:
    """Return the model and the instruction sets of this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
