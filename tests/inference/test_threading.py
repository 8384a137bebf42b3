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


def test_work_goes_on_beside_who_takes_its_results() -> None:
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


def test_no_more_is_begun_than_may_wait() -> None:
    asked, taken, ahead = 0, 0, []

    def items() -> Iterator[int]:
        nonlocal asked
        for item in range(40):
            asked += 1
            ahead.append(asked - taken)
            yield item

    for _ in in_threads(items(), lambda item: item, threads=2, waiting=3):
        taken += 1
    assert taken == 40
    assert max(ahead) <= 3 + 2  # one is with who takes them, one is asked for


def test_what_was_begun_is_given_out_before_an_interruption() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    results = in_threads(items(), lambda item: item, waiting=8)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_an_error_of_the_work_is_raised_in_its_place() -> None:
    results = in_threads([1, 2, 0, 4], lambda item: 1 / item)
    assert [next(results) for _ in range(2)] == [(1, 1.0), (2, 0.5)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_drops_what_waits_and_ends_the_threads() -> None:
    before, begun, go = threading.active_count(), [], Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or go.wait(WAIT)
        return item

    results = in_threads(range(100), work, threads=1, waiting=5)
    next(results)
    threading.Timer(0.05, go.set).start()
    results.close()
    assert len(begun) <= 2
    assert threading.active_count() <= before + 1  # the timer's


def test_stages_in_a_row_stay_bounded() -> None:
    alive, most, lock = set(), 0, threading.Lock()

    def begin(item: int) -> int:
        nonlocal most
        with lock:
            alive.add(item)
            most = max(most, len(alive))
        return item

    def end(pair: tuple[int, int]) -> int:
        with lock:
            alive.discard(pair[0])
        return pair[0]

    first = in_threads(range(60), begin, threads=2, waiting=2)
    assert [result for _, result in in_threads(first, end, threads=2, waiting=2)] == list(range(60))
    assert most <= 2 * (2 + 2)
