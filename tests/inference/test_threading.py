"""Ordered processing of items in background threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from threading import Event

import pytest

from upscore.inference.threading import in_threads

WAIT = 20


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_are_in_order(threads: int, count: int) -> None:
    items = range(count)
    assert list(in_threads(items, lambda item: item * item, threads=threads)) == [(k, k * k) for k in items]


def test_items_are_processed_while_results_are_consumed() -> None:
    second = Event()

    def work(item: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        if item == 1:
            second.set()
        return item

    results = in_threads(range(4), work)
    with closing(results):
        next(results)
        assert second.wait(WAIT)


def test_the_number_of_pending_items_is_limited() -> None:
    requested, consumed, ahead = 0, 0, []

    def items() -> Iterator[int]:
        nonlocal requested
        for item in range(40):
            requested += 1
            ahead.append(requested - consumed)
            yield item

    for _ in in_threads(items(), lambda item: item, threads=2, waiting=3):
        consumed += 1
    assert consumed == 40
    assert max(ahead) <= 3 + 2  # one is consumed and one is requested


def test_pending_results_are_yielded_before_an_interruption() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    results = in_threads(items(), lambda item: item, waiting=8)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_an_error_is_raised_in_the_order_of_the_items() -> None:
    results = in_threads([1, 2, 0, 4], lambda item: 1 / item)
    assert [next(results) for _ in range(2)] == [(1, 1.0), (2, 0.5)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_cancels_pending_items_and_ends_the_threads() -> None:
    before, started, proceed = threading.active_count(), [], Event()

    def work(item: int) -> int:
        started.append(item)
        assert item == 0 or proceed.wait(WAIT)
        return item

    results = in_threads(range(100), work, threads=1, waiting=5)
    next(results)
    threading.Timer(0.05, proceed.set).start()
    results.close()
    assert len(started) <= 2
    assert threading.active_count() <= before + 1  # the thread of the timer


def test_chained_stages_have_bounded_memory() -> None:
    alive, peak, lock = set(), 0, threading.Lock()

    def begin(item: int) -> int:
        nonlocal peak
        with lock:
            alive.add(item)
            peak = max(peak, len(alive))
        return item

    def end(pair: tuple[int, int]) -> int:
        with lock:
            alive.discard(pair[0])
        return pair[0]

    first = in_threads(range(60), begin, threads=2, waiting=2)
    assert [result for _, result in in_threads(first, end, threads=2, waiting=2)] == list(range(60))
    assert peak <= 2 * (2 + 2)
