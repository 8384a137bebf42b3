"""Timing of functions: interleaved comparisons, the choice of the fastest way (cached per machine), and a description
of the machine.

The choice serves "auto" settings that hardware flags do not decide, such as the number format of a network on a
processor with bfloat16 instructions.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch

import upscore
from upscore.files import cache_root, write_text
from upscore.progress import ProgressCallback, ignore_progress

PACKAGES = ("torch", "torchvision", "openvino", "onnxruntime", "numpy")

Key = TypeVar("Key", bound=Hashable)


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
    assert calls, "there is nothing to time"
    assert rounds > 0, "medians need a round"
    functions = list(calls.items())
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    total = (rounds + 1) * len(functions)
    for done in range(total):
        turn, place = divmod(done, len(functions))
        key, function = functions[(turn + place) % len(functions)]
        gc.collect()
        start = perf_counter()
        function()
        if turn:
            seconds[key].append(perf_counter() - start)
        progress(done + 1, total)
    return seconds


def describe_machine(threads: int) -> dict[str, str | int]:
    """Return the processor, the GPU if there is one, the numbers of cores and threads, and the package versions."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    versions = {package: found for package in PACKAGES if (found := _version(package))}
    return {
        "processor": processor_name(),
        **gpu,
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "upscore": upscore.__version__,
        "python": platform.python_version(),
        **versions,
    }


def describe(threads: int) -> str:
    """Return the values of `describe_machine` in one line."""
    facts = describe_machine(threads)
    cores = facts["cores"]
    versions = [f"{package} {facts[package]}" for package in PACKAGES if package in facts]
    return ", ".join([
        str(facts["processor"]),
        *([str(facts["gpu"])] if "gpu" in facts else []),
        f"{cores} core{'' if cores == 1 else 's'}",
        f"{threads} thread{'' if threads == 1 else 's'}",
        f"Python {facts['python']}",
        *versions,
    ])  # fmt: skip


def processor_name() -> str:
    """Return the name of the processor and its vector and matrix instruction sets."""
    import torch

    from upscore.inference.engines.openvino import available, core, has_bfloat16

    name, units = "", [torch.backends.cpu.get_cpu_capability()]
    if available():
        name = core().get_property("CPU", "FULL_DEVICE_NAME").strip()
        units += ["BF16"] if has_bfloat16() else []
    if getattr(torch.cpu, "_is_amx_tile_supported", bool)():  # torch has no public function for it
        units.append("AMX")
    return f"{name or platform.processor() or platform.machine()} ({', '.join(units)})"


def busy() -> str | None:
    """Return a warning if the load average of the last minute shows that other programs were running, else None."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5:
        return None
    return f"the machine was busy (load {load:.1f} before the first call): trust the ratios, not the milliseconds"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


ROUNDS = 3
"""Timed calls of each candidate, after one warm-up call; the shortest time counts."""

MARGIN = 0.05
"""Share of the first candidate's time that another candidate must save to be chosen."""

_lock = threading.Lock()
_measured: dict[str, dict[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Choice:
    """The name of the chosen candidate and the reason."""

    name: str
    reason: str
    """A phrase for messages, such as "measured 1.8 times as fast as float32 on this machine"."""
    is_automatic: bool = True
    """False where the user asked for it."""


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


def _measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the shortest time of each candidate in seconds.

    Rounds are interleaved, so that other load on the machine delays all candidates alike.
    """
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
