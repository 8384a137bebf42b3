"""Freed memory stays with the process where that is asked for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from upscore.training.allocator import VARIABLE

SIZE = 200 << 20
SCRIPT = f"""
import ctypes
from upscore.training.allocator import keep_memory_if_asked

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))

asked = keep_memory_if_asked()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
before = resident()
block = library.malloc(ctypes.c_size_t({SIZE}))
ctypes.memset(block, 1, {SIZE})
library.free(block)
print(asked, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("value", ["1", "0", None])
def test_what_is_freed_stays_if_asked(value: str | None) -> None:
    environment = {name: v for name, v in os.environ.items() if name != VARIABLE}
    if value is not None:
        environment[VARIABLE] = value
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    asked, kept = done.stdout.split()
    assert asked == str(value == "1")
    assert int(kept) > 0.9 * SIZE if value == "1" else int(kept) < 0.1 * SIZE
