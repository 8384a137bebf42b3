"""Choose the fastest of several ways to compute the same thing by a short measurement, cached per machine.

"auto" settings use it where hardware flags do not tell the answer, such as the number format of a network on a
processor with bfloat16 instructions.
"""

from __future__ import annotations

import hashlib
import json
import platform
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

from upscore.files import cache_root, write_text

ROUNDS = 3
"""Timed calls of each way, after one that is not timed; the shortest counts."""

MARGIN = 0.05
"""The share of time that a later way must save over the first one to be chosen."""

_lock = threading.Lock()
_measured: dict[str, dict[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why."""

    name: str
    reason: str
    """A phrase for messages, such as "measured 1.8 times as fast as float32 on this machine"."""
    is_automatic: bool = True
    """False where the user asked for it."""


def fastest(
    names: Sequence[str], prepare: Callable[[str], Callable[[], object]], *, key: Sequence[object], rounds: int = ROUNDS
) -> Choice:
    """The fastest of several ways, by measurement at the first call and from the cache after that.

    A measurement belongs to its key, this kind of processor and the number of torch's threads. It is kept for the
    process and, where the folder for caches can be written, on disk. Threads that ask at the same time measure once.

    Args:
        names: the ways, the preferred one first: a later one must be faster by `MARGIN`.
        prepare: from a name to the function to time; called for each name only if a measurement is needed.
        key: what the times depend on, such as the network's architecture and the versions of libraries.
        rounds: timed calls of each way.
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


def _measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The shortest time of each way in seconds; rounds are interleaved, so that a busy machine delays all alike."""
    for way in ways.values():
        way()
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = perf_counter()
            way()
            seconds[name] = min(seconds[name], perf_counter() - start)
    return seconds


def _path(digest: str) -> Path:
    return cache_root() / "measured" / f"{digest}.json"


def _read(digest: str, names: Sequence[str]) -> dict[str, float] | None:
    try:
        saved = json.loads(_path(digest).read_text(encoding="utf-8"))
        seconds = {name: float(saved[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return seconds if all(value > 0 for value in seconds.values()) else None


def _write(digest: str, seconds: dict[str, float]) -> None:
    try:
        write_text(_path(digest), json.dumps(seconds))
    except (OSError, RuntimeError):  # a cache that can't be written is none
        return


@cache
def processor() -> str:
    """The model and the instruction sets of this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
