"""Items over the workers of a cluster, one row back for each: nothing lost, nothing twice.

Ray Data sends a task again when the process that had it dies. What is done again is done one item at a time, and an
item at which processes keep dying is given up, so that it takes no others with it and comes out as a row, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from upscore.errors import UserError
from upscore.scale.cluster import Workers

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
    ledger = ray.remote(num_cpus=0)(_Ledger).remote()
    dataset = ray.data.from_items(numbered, override_num_blocks=tasks)
    dataset.context.enable_progress_bars = False
    rows = dataset.map_batches(
        _Tasks,
        batch_size=None,
        fn_constructor_args=(worker, arguments, ledger, threads or workers.cpus + 1),
        compute=ray.data.ActorPoolStrategy(size=min(workers.number, tasks), max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        yield from rows.iter_rows()
    except ray.exceptions.RayActorError as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"the cluster can't start workers; is upscore installed on all machines? {reason}") from error


class _Ledger:
    """How often something was begun and not ended, by whichever process."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, what: str) -> int:
        """The times so far, this one included."""
        self.begun[what] += 1
        return self.begun[what]

    def end(self, what: str) -> None:
        """Nobody died of it."""
        del self.begun[what]


class _Tasks:
    """Between Ray's columns and the items and rows of a worker."""

    def __init__(self, worker: type[Worker], arguments: dict[str, Any], ledger: Any, threads: int) -> None:
        self.work = worker(**arguments)
        self.ledger = ledger
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

        return ray.get(getattr(self.ledger, change).remote(what))


def _transposed(columns: dict[str, np.ndarray]) -> list[Row]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]
