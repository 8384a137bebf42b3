"""Ordered processing of items in background threads, and control of torch's number of threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Default number of threads; few suffice, since decoding and encoding are faster than the network."""


def in_threads(
    items: Iterable[Item], work: Callable[[Item], Result], *, threads: int = THREADS, waiting: int | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Apply `work` to items in background threads and yield (item, result) in order.

    At most `waiting` results (default: `threads` + 1) are pending, and items are taken in the caller's thread, so that
    calls can be chained with bounded memory. An exception of the iterator of items, including an interruption, is
    raised after all pending results. Closing the generator stops the threads after their current items.
    """
    waiting = threads + 1 if waiting is None else waiting
    pending: deque[tuple[Item, Future[Result]]] = deque()
    stop: BaseException | None = None
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while stop is None:
                try:
                    item = next(source)
                    pending.append((item, pool.submit(work, item)))
                except BaseException as error:
                    stop = error
                while pending and (stop is not None or len(pending) > waiting):
                    item, future = pending.popleft()
                    yield item, future.result()
        finally:
            for _, future in pending:
                future.cancel()
    if not isinstance(stop, StopIteration):
        raise stop


_lock = threading.Lock()
_original_threads: list[int] = []
"""torch's original number of threads, one entry for each active `one_torch_thread` block."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread while an engine uses its own threads.

    The setting applies to the whole process: of overlapping blocks in several threads, the first one sets it and the
    last one restores it.
    """
    with _lock:
        _original_threads.append(_original_threads[0] if _original_threads else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            threads = _original_threads.pop()
            if not _original_threads:
                torch.set_num_threads(threads)


def usual_torch_threads() -> int:
    """Return torch's number of threads outside of `one_torch_thread`."""
    with _lock:
        return _original_threads[0] if _original_threads else torch.get_num_threads()
