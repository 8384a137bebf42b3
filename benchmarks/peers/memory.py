"""Measures the working memory of one side of a comparison in a separate process."""

from __future__ import annotations

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from peers.measure import THREADS, Row, fix_threads

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(row: Row, side: str | None, *, threads: int = THREADS) -> int | None:
    """Measure the peak memory of the first call of a side above the resident memory after preparation.

    Args:
        row: the row.
        side: name of our variant, or None for the peer.
        threads: number of threads of torch.

    Returns:
        Bytes, or None on systems other than Linux.
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
    CLEAR.write_text("5")  # resets the peak
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM")
    del result
    return max(0, peak - before)


def _resident(field: str) -> int:
    """Read a field of the process status in bytes, such as "VmHWM:	  123 kB"."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10
