"""Measures a row."""

from __future__ import annotations

from datetime import datetime

from peers.measure import REPEATS, THREADS, Row, compare, fix_threads
from peers.memory import peak_memory
from peers.results import Result, SideResult
from upscore.inference.machine import busy, describe
from upscore.progress import ProgressCallback


def run(
    row: Row, repeats: int = REPEATS, *, threads: int = THREADS, progress: ProgressCallback | None = None
) -> Result:
    """Measure the memory of each side in a separate process, and then the times of all sides in this one.

    Raises:
        UserError: a peer or an extra of upscore is not installed.
    """
    warning = busy()
    fix_threads(threads)
    ours, peer = row.prepare()
    assert not (unknown := {*row.target, *row.memory} - set(ours)), f"{row.name} has no side {unknown}"
    memory = {side: peak_memory(row, side, threads=threads) for side in (None, *row.memory)} if row.memory else {}
    comparison = compare(ours, peer, repeats, threads=threads, progress=progress)
    sides = []
    for side in ours:
        low, high = comparison.spread(side)
        sides.append(
            SideResult(
                name=side,
                seconds=comparison.seconds(side),
                ratio=comparison.ratio(side),
                low=low,
                high=high,
                target=row.target.get(side),
                memory=memory.get(side),
                memory_share=row.memory.get(side),
            )
        )
    return Result(
        name=row.name,
        work=row.work,
        peer_name=row.peer_name,
        peer_seconds=comparison.peer_seconds,
        peer_memory=memory.get(None),
        sides=sides,
        repeats=repeats,
        environment=describe(threads),
        warning=warning,
        date=datetime.now().astimezone().isoformat(timespec="minutes"),
    )
