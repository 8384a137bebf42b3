"""Interleaved timing of functions, and a description of the machine."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Hashable, Mapping
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import TypeVar

import upscore
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
