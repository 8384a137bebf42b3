"""Threads: work on one item after the other beside whoever takes the results, and torch's own number of threads."""

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
"""Decoding and encoding a photo take less than a network on the same cores: few are enough."""


def in_threads(
    items: Iterable[Item], work: Callable[[Item], Result], *, threads: int = THREADS, waiting: int | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Go through items in order, each with what `work` makes of it in one of the threads.

    At most `waiting` results (by default one more than threads) are begun or done and not yet taken; the next item is
    asked for, in the caller's thread, when there is room. So what one call yields may be the items of the next one, and
    memory stays bounded. Should the items end in an exception, an interruption too, it is raised once all that was
    begun has been taken. Close it to let the threads go: what they have begun they finish, what waits is dropped.
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
"""The number of torch's threads before, once for each block of `one_torch_thread` that is entered."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread, for work in which it does little beside an engine's own threads.

    The number belongs to the whole process: of blocks that overlap in several threads, the first one sets it and the
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
    """The number of torch's threads outside of `one_torch_thread`."""
    with _limit:
        return _limits[0] if _limits else torch.get_num_threads()
