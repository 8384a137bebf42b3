"""Order of calls, medians and ratios; peak memory of a separate process."""

from functools import partial
from itertools import cycle

import pytest

from peers.measure import Comparison, Row, compare
from peers.memory import CLEAR, peak_memory
from upscore import timing

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _restore_threads():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_each_round_starts_with_another_side():
    calls = []
    sides = {name: partial(calls.append, name) for name in ("a", "b")}
    found = compare(sides, partial(calls.append, "peer"), repeats=3, threads=1)
    rounds = ["".join(name[0] for name in calls[start : start + 3]) for start in range(0, 12, 3)]
    assert rounds == ["pab", "abp", "bpa", "pab"]  # the first round is a warm-up
    assert {side: len(times) for side, times in found.ours.items()} == {"a": 3, "b": 3}
    assert len(found.peer) == 3


def test_times_are_assigned_to_their_sides(monkeypatch):
    clock, durations = [0.0], {"peer": cycle([99, 8, 4, 6]), "ours": cycle([99, 1, 2, 4])}
    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])

    def call(side):
        clock[0] += next(durations[side])

    found = compare({"ours": partial(call, "ours")}, partial(call, "peer"), repeats=3, threads=1)
    assert found == Comparison(ours={"ours": [1, 2, 4]}, peer=[8, 4, 6])
    assert found.peer_seconds == 6
    assert found.seconds("ours") == 2
    assert found.ratio("ours") == 3
    assert found.spread("ours") == (1.5, 8)


def test_progress_counts_every_call():
    calls = []
    compare({"ours": int}, int, repeats=2, threads=1, progress=lambda *at: calls.append(at))
    assert calls == [(done, 6) for done in range(1, 7)]


def test_torch_has_the_requested_threads():
    import torch

    for threads in (1, 2):
        counts = []
        compare({"ours": lambda counts=counts: counts.append(torch.get_num_threads())}, int, repeats=1, threads=threads)
        assert counts == [threads, threads]


def allocate(mebibytes):
    """Return so many MiB, whose pages are written."""
    return bytes(bytearray(b"x") * (mebibytes * MIB))


def prepare():
    """Allocate and free 50 MiB, which do not count as memory of a side."""
    allocate(50)
    return {"small": partial(allocate, 20)}, partial(allocate, 100)


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR.exists(), reason="the peak memory of a process cannot be reset on this system")
def test_peak_memory_of_each_side():
    row = Row(name="bytes", work="bytes", peer_name="more", target={}, prepare=prepare, memory={"small": 0.5})
    peer, small = (peak_memory(row, side, threads=1) for side in (None, "small"))
    assert peer is not None
    assert small is not None
    assert 20 * MIB <= small < 60 * MIB  # at most a bytearray and its copy
    assert 100 * MIB <= peer < 240 * MIB
    assert 3 < peer / small < 7
