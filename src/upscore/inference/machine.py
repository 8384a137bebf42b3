"""Describe the machine that measurements are made on: processor, GPU, cores, package versions and load."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import upscore
from upscore.inference.engines.openvino import available, core, has_bfloat16

PACKAGES = ("torch", "torchvision", "openvino", "onnxruntime", "numpy")


def describe_machine(threads: int) -> dict[str, str | int]:
    """Return the processor, the GPU if there is one, the numbers of cores and threads, and the package versions."""
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
    machine = describe_machine(threads)
    cores = machine["cores"]
    versions = [f"{package} {machine[package]}" for package in PACKAGES if package in machine]
    return ", ".join([
        str(machine["processor"]),
        *([str(machine["gpu"])] if "gpu" in machine else []),
        f"{cores} core{'' if cores == 1 else 's'}",
        f"{threads} thread{'' if threads == 1 else 's'}",
        f"Python {machine['python']}",
        *versions,
    ])  # fmt: skip


def processor_name() -> str:
    """Return the name of the processor and its vector and matrix instruction sets."""
    name, units = "", [torch.backends.cpu.get_cpu_capability()]
    if available():
        name = core().get_property("CPU", "FULL_DEVICE_NAME").strip()
        units += ["BF16"] if has_bfloat16() else []
    if getattr(torch.cpu, "_is_amx_tile_supported", bool)():  # torch has no public function for it
        units.append("AMX")
    return f"{name or platform.processor() or platform.machine()} ({', '.join(units)})"


def busy() -> str | None:
    """Return a warning if the load average of the last minute shows that other programs are running, else None."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5:
        return None
    return f"the machine was busy (load {load:.1f} before the first call): trust the ratios, not the milliseconds"


def _version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
