"""Background threads that process items in order, and control of torch's number of threads."""

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
    begun: deque[tuple[Item, Future[Result]]] = deque()
    ended: BaseException | None = None
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while ended is None:
                try:
                    item = next(source)
                    begun.append((item, pool.submit(work, item)))
                except BaseException as error:
                    ended = error
                while begun and (ended is not None or len(begun) > waiting):
                    item, future = begun.popleft()
                    yield item, future.result()
        finally:
            for _, future in begun:
                future.cancel()
    if not isinstance(ended, StopIteration):
        raise ended


_limit = threading.Lock()
_limits: list[int] = []
"""torch's original number of threads, one entry for each active `one_torch_thread` block."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread while an engine uses its own threads.

    The setting applies to the whole process: of overlapping blocks in several threads, the first one sets it and the
    last one restores it.
    """
    with _limit:
        _limits.append(_limits[0] if _limits else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _limit:
            threads = _limits.pop()
            if not _limits:
                torch.set_num_threads(threads)


def usual_torch_threads() -> int:
    """Return torch's number of threads outside of `one_torch_thread`."""
    with _limit:
        return _limits[0] if _limits else torch.get_num_threads()
