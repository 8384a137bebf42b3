"""Working memory of one side of a comparison, in a process of its own."""

from __future__ import annotations

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from peers.measure import THREADS, Row, fix_threads

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(row: Row, side: str | None, *, threads: int = THREADS) -> int | None:
    """The most bytes that the first call of a side takes over those that were resident once all sides were prepared.

    Args:
        side: one of ours, or None for the peer.

    Returns:
        None where the system does not tell (it is asked as Linux does).
    """
    if not (STATUS.exists() and CLEAR.exists()):
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, row, side, threads).result()


def _peak(row: Row, side: str | None, threads: int) -> int:
    fix_threads(threads)
    ours, peer = row.prepare()
    call = peer if side is None else ours[side]
    gc.collect()
    CLEAR.write_text("5")  # forgets the peak so far
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM")
    del result
    return max(0, peak - before)


def _resident(kind: str) -> int:
    """Bytes, by a line of the process's status such as "VmHWM:	  123 kB"."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) << 10
