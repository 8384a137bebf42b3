from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from upscore.errors import UserError
from upscore.memory import free_memory, memory_errors

GB = 10**9


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """The procfs of a machine with 8 GB of available memory."""
    write(tmp_path / "proc", {"meminfo": f"MemTotal: 1 kB\nMemAvailable:  {8 * GB // 1024} kB\n", "self/status": ""})
    return tmp_path / "proc"


CASES = {
    "no container": ({}, "", 8 * GB // 1024 * 1024),
    "version 2, no limit": ({"memory.max": "max\n", "memory.current": f"{GB}"}, "0::/\n", 8 * GB // 1024 * 1024),
    "version 2": (
        {"memory.max": f"{3 * GB}", "memory.current": f"{2 * GB}", "memory.stat": f"anon 5\ninactive_file {GB // 2}\n"},
        "0::/\n",
        1.5 * GB,
    ),
    "limit of a parent group": (
        {
            "a/b/memory.max": "max",
            "a/b/memory.current": "1",
            "a/memory.max": f"{2 * GB}",
            "a/memory.current": f"{GB}",
        },
        "0::/a/b\n",
        GB,
    ),
    "version 1": (
        {
            "memory/docker/memory.limit_in_bytes": f"{4 * GB}",
            "memory/docker/memory.usage_in_bytes": f"{GB}",
            "memory/docker/memory.stat": f"total_inactive_file {GB}\n",
        },
        "12:cpu,cpuacct:/docker\n9:memory:/docker\n",
        4 * GB,
    ),
    "limit exceeded": ({"memory.max": "5", "memory.current": "7"}, "0::/", 0),
    "not readable": ({"memory.max": "?", "memory.current": "7"}, "garbage:x:y", 8 * GB // 1024 * 1024),
}


@pytest.mark.parametrize("case", CASES)
def test_limits_of_control_groups(proc: Path, tmp_path: Path, case: str) -> None:
    files, groups, expected = CASES[case]
    write(proc, {"self/cgroup": groups})
    write(tmp_path / "cgroup", files)
    assert free_memory(proc, tmp_path / "cgroup") == expected


def test_without_procfs_memory_is_unlimited(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) >= 2**62


def test_limit_of_the_address_space() -> None:
    script = (
        "import resource; from upscore.memory import free_memory\n"
        "size = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize:')).split()[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 10**8, resource.RLIM_INFINITY))\n"
        "print(free_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert 0 < int(done.stdout) <= 1.01e8
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY or free_memory() > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("Check 'ptr' failed at cpu_memory.cpp:257: Failed to allocate 2887680000 bytes of memory"),
        RuntimeError("std::bad_alloc"),
        IndexError("vector::_M_range_check: __n (which is 0) >= this->size() (which is 0)"),
    ],
)
def test_out_of_memory_errors_become_user_errors(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"an image of 9x7 pixels .*reduce it") as caught,
        memory_errors("an image of 9x7 pixels", "reduce it"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), IndexError("list index out of range"), KeyError()])
def test_other_errors_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)), memory_errors("an image", "reduce it"):
        raise error
