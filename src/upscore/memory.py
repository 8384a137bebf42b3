"""Free memory of the process, and conversion of out-of-memory errors to `UserError`.

Free memory is the minimum of the machine's available memory, the limits of control groups (containers) and the limit
of the address space (`ulimit -v`).
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upscore.errors import UserError

_OUT_OF_MEMORY = re.compile(
    r"allocat|bad_?alloc|(out of|not enough|insufficient) memory|could not create a primitive|failed to map segment"
    r"|vector::_M|_Map_base::at",
    re.IGNORECASE,
)
"""Messages of allocators, engines and the dynamic linker without memory; the last two are of C++ containers."""


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process can still allocate; `sys.maxsize` if unknown.

    Args:
        proc: mount point of procfs.
        cgroups: mount point of the file system of control groups.
    """
    limits = [_available(proc), *_left_in_cgroups(proc, cgroups), _left_of_address_space(proc)]
    return max(0, min(limits))


def _available(proc: Path) -> int:
    """Return the available memory of the machine in bytes."""
    return 1024 * _field(proc / "meminfo", "MemAvailable:")


def _left_of_address_space(proc: Path) -> int:
    """Return the bytes left below RLIMIT_AS."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, OSError, ValueError):
        return sys.maxsize
    used = 1024 * _field(proc / "self/status", "VmSize:", 0)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - used


def _left_in_cgroups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the bytes left in each control group (v1 and v2) of the process; inactive page cache counts as free."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            mount = cgroups
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = cgroups / "memory"
        else:
            continue
        group = Path(path.strip("/"))
        for folder in (mount / group, *(mount / parent for parent in group.parents)):
            limit, used = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and used is not None:
                yield limit - used + _field(folder / "memory.stat", names[2], 0)


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is none."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max"
        return None


def _field(file: Path, name: str, default: int = sys.maxsize // 1024) -> int:
    """Return the number after a name in a file with one name per line."""
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            if (words := line.split()) and words[0] == name:
                return int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    return default


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception was raised because memory is exhausted, according to its type and message."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | IndexError | ImportError) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def memory_errors(what: str, remedy: str) -> Iterator[None]:
    """Convert out-of-memory errors of allocators and engines to `UserError`; other errors pass through.

    Args:
        what: the operation, the subject of the message.
        remedy: advice for the user.
    """
    try:
        yield
    except (MemoryError, RuntimeError, IndexError, ImportError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{what} needs more memory than is free: {remedy}") from error


def megabytes(size: float) -> str:
    """Format a number of bytes, for example as 350 MB or 2.5 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
