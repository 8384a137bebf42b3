"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "openvino", "onnxruntime", "numpy")
CPU_INFO = Path("/proc/cpuinfo")
UNITS = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_bf16": "AMX"}
"""What decides how fast a number format is, by the flags of Linux."""


def describe(threads: int) -> str:
    """One line: the processor, cores, threads and versions."""
    versions = [f"{package} {found}" for package in PACKAGES if (found := _version(package))]
    cores = os.cpu_count() or 1
    return ", ".join([
        processor(),
        f"{cores} core{'' if cores == 1 else 's'}",
        f"{threads} thread{'' if threads == 1 else 's'}",
        f"Python {platform.python_version()}",
        *versions,
    ])  # fmt: skip


def processor() -> str:
    """Its name and the units of it that matter here."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = fields.get("flags", "").split()
    units = [name for flag, name in UNITS.items() if flag in flags]
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(units)})" if units else name


def busy() -> str | None:
    """A warning where the machine has been doing other work in the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5:
        return None
    return f"the machine was busy (load {load:.1f} before the first call): trust the ratios, not the milliseconds"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
