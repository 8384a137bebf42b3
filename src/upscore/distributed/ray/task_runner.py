"""Task runner: items over the workers of a Ray cluster, with one row for each item.

Ray Data sends a task again when its process dies. A task that is sent again is done one item at a time, and an item at
which processes keep dying is given up and has a row, too. The attempts are counted on the driver's machine, without
which there is no run.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from upscore.distributed.ray.cluster import Workers
from upscore.errors import UserError

DEATHS = 2
"""Of processes, at one item alone, before it is given up."""

IN_FLIGHT = 2
"""Tasks at a worker: the one it does and the next one, so that it never waits."""

SHARES = 16
"""Tasks of each worker at least, where there are so many items: the last ones to finish differ by one task."""

MOST_ITEMS = 64
"""Of one task: what is done again after a death."""

Row = dict[str, Any]


class Worker(Protocol):
    """Made once in each process. Rows are dictionaries of the same keys."""

    def do(self, item: Row) -> Row:
        """The row of an item; called from several threads."""
        ...

    def lost(self, item: Row) -> Row:
        """The row of an item that was given up."""
        ...


def run(
    ray: Any,
    items: Sequence[Row],
    worker: type[Worker],
    arguments: dict[str, Any],
    workers: Workers,
    *,
    threads: int | None = None,
) -> Generator[Row, None, None]:
    """The rows of all items as they are done, in any order, each with the `number` of its item.

    Tasks are sent as workers and memory have room for them and their rows. Close it to let the workers go.

    Args:
        items: dictionaries of the same keys; workers get them with their `number`, the position, added.
        worker: made in each process with `arguments`.
        threads: items that a worker does side by side; by default one more than its processors, so that the network
            seldom waits for reading and writing.

    Raises:
        UserError: no process can be started.
    """
    if not items:
        return
    size = max(1, min(MOST_ITEMS, len(items) // (SHARES * workers.number)))
    tasks = -(-len(items) // size)
    numbered = [{**item, "number": number} for number, item in enumerate(items)]
    dataset = ray.data.from_items(numbered, override_num_blocks=tasks)
    dataset.context.enable_progress_bars = False
    counter, counts = _start_counter(ray)
    rows = dataset.map_batches(
        _Tasks,
        batch_size=None,
        fn_constructor_args=(worker, arguments, counter, threads or workers.cpus + 1),
        compute=ray.data.ActorPoolStrategy(size=min(workers.number, tasks), max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        yield from rows.iter_rows()
    except ray.exceptions.RayActorError as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"the cluster can't start workers; is upscore installed on all machines? {reason}") from error
    finally:
        ray.kill(counter)
        counts.unlink(missing_ok=True)


class AttemptCounter:
    """Counts how often something was begun and not ended, by whichever process.

    Args:
        log: a file of all that was counted; a counter that is started again reads it.
    """

    def __init__(self, log: Path) -> None:
        self._begun: Counter[str] = Counter()
        for line in log.read_text(encoding="utf-8").splitlines():
            change, _, what = line.partition(" ")
            self._count(change, what)
        self._log = log.open("a", encoding="utf-8")

    def begin(self, what: str) -> int:
        """Count one more; returns the count."""
        self._write("begin", what)
        return self._begun[what]

    def end(self, what: str) -> None:
        """Forget it: no process died."""
        self._write("end", what)

    def _write(self, change: str, what: str) -> None:
        self._log.write(f"{change} {what}\n")
        self._log.flush()
        self._count(change, what)

    def _count(self, change: str, what: str) -> None:
        if change == "begin":
            self._begun[what] += 1
        else:
            self._begun.pop(what, None)


def _start_counter(ray: Any) -> tuple[Any, Path]:
    """An `AttemptCounter` as an actor on the driver's machine, which Ray starts again if its process dies; its log."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    handle, name = tempfile.mkstemp(prefix="upscore-attempts-")
    os.close(handle)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(AttemptCounter)
    return remote.remote(Path(name)), Path(name)


class _Tasks:
    """Between Ray's columns and the items and rows of a worker."""

    def __init__(self, worker: type[Worker], arguments: dict[str, Any], counter: Any, threads: int) -> None:
        self.work = worker(**arguments)
        self.counter = counter
        self.threads = ThreadPoolExecutor(threads)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        items = _transposed(columns)
        task = f"task {items[0]['number']}"
        again = self._tell("begin", task) > 1
        rows = [self._alone(item) for item in items] if again else list(self.threads.map(self.work.do, items))
        self._tell("end", task)
        return {"number": [item["number"] for item in items], **{key: [row[key] for row in rows] for key in rows[0]}}

    def _alone(self, item: Row) -> Row:
        what = f"item {item['number']}"
        lost = self._tell("begin", what) > DEATHS
        row = self.work.lost(item) if lost else self.work.do(item)
        if not lost:
            self._tell("end", what)
        return row

    def _tell(self, change: str, what: str) -> int:
        import ray

        return ray.get(getattr(self.counter, change).remote(what))


def _transposed(columns: dict[str, np.ndarray]) -> list[Row]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]
