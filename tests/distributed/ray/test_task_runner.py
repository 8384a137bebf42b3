"""Task runner: repeated and abandoned items, and the attempt counter."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.ray.processes import command, descendants
from upscore.distributed.ray.cluster import Workers
from upscore.distributed.ray.task_runner import MAX_DEATHS, AttemptCounter, _start_counter, run


class FatalItemWorker:
    """Worker that logs its items and whose process dies on one of them."""

    def __init__(self, folder: str, fatal: int) -> None:
        self.folder, self.fatal = Path(folder), fatal

    def do(self, item: dict[str, Any]) -> dict[str, Any]:
        with (self.folder / str(item["number"])).open("a") as file:
            file.write("done\n")
        if item["number"] == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"name": item["name"], "lost": False}

    def lost(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"name": item["name"], "lost": True}


@pytest.mark.slow
def test_only_an_item_that_kills_its_workers_is_abandoned(cluster: Any, tmp_path: Path) -> None:
    """Tasks have three items here; the other items of its task are processed."""
    items = [{"name": f"item {number}"} for number in range(100)]
    arguments = {"folder": str(tmp_path), "fatal": 49}
    rows = list(run(cluster, items, FatalItemWorker, arguments, Workers(2, 1, 0)))
    assert sorted(row["number"] for row in rows) == list(range(100))
    assert all(row["name"] == f"item {row['number']}" for row in rows)
    assert [row["number"] for row in rows if row["lost"]] == [49]
    assert len((tmp_path / "49").read_text().splitlines()) == 1 + MAX_DEATHS
    assert all((tmp_path / str(number)).is_file() for number in range(100))


def test_no_items() -> None:
    assert list(run(None, [], FatalItemWorker, {}, Workers(1, 1, 0))) == []


def test_a_restarted_counter_continues(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    counter = AttemptCounter(log)
    assert [counter.begin("task 1"), counter.begin("task 1"), counter.begin("item 3")] == [1, 2, 1]
    counter.end("task 1")
    again = AttemptCounter(log)
    assert [again.begin("task 1"), again.begin("item 3")] == [1, 2]


@pytest.mark.slow
def test_the_counter_survives_the_death_of_its_process(cluster: Any) -> None:
    counter, log = _start_counter(cluster)
    assert cluster.get(counter.begin.remote("item 1")) == 1
    (pid,) = (pid for pid in descendants() if "AttemptCounter" in command(pid))
    os.kill(pid, signal.SIGKILL)
    assert cluster.get(counter.begin.remote("item 1")) == 2
    cluster.kill(counter)
    log.unlink()
