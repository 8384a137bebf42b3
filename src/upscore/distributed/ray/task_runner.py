"""Task runner, which processes items on the workers of a Ray cluster and yields one row for each item.

Ray Data repeats a task when its process dies. A repeated task processes one item at a time, and an item on which
processes keep dying is abandoned with a row of its own. Attempts are counted in an actor on the driver's machine.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from upscore.distributed.ray.cluster import Workers, connected, plan_workers, read_model
from upscore.errors import UserError

MAX_DEATHS = 2
"""Number of process deaths on a single item after which it is abandoned."""

IN_FLIGHT = 2
"""Tasks assigned to a worker at a time: one runs and the next one waits, so that the worker is never idle."""

TASKS_PER_WORKER = 16
"""Smallest number of tasks per worker if there are enough items; limits the idle time at the end to one task."""

MAX_ITEMS = 64
"""Largest number of items in a task; limits the work repeated after the death of a process."""

Row = dict[str, Any]
"""Input or result of an item; all rows of a run have the same keys."""


class Worker(Protocol):
    """Interface of workers; each process creates one instance."""

    def do(self, item: Row) -> Row:
        """Process an item and return its row; several threads call this method."""
        ...

    def lost(self, item: Row) -> Row:
        """Return the row of an abandoned item."""
        ...


def run_on_cluster(
    model: str,
    items: Sequence[Row],
    worker: type[Worker],
    arguments: dict[str, Any],
    *,
    address: str | None,
    workers: int | None,
    cpus: int | None,
    threads: int | None = None,
) -> Generator[Row, None, None]:
    """Connect to a cluster, send a model to its workers and yield the rows of all items; see `run`.

    Without items, no connection is made. Close the generator to release the workers.

    Args:
        model: source of the model, see `upscore.load`. Workers receive it as the argument `files`, for `load_files`.
        items, worker, arguments, threads: see `run`. Rows have a field `error`, which is empty on success.
        address: address of the cluster; None uses RAY_ADDRESS, or else this machine.
        workers: number of worker processes; None uses the capacity of the cluster.
        cpus: number of CPUs of each worker.

    Raises:
        UserError: there is no cluster or model, no worker can be started, or a row has an error.
    """
    if not items:
        return
    with connected(address) as ray:
        arguments = {"files": read_model(model), **arguments}
        plan = plan_workers(ray, workers, cpus)
        with closing(run(ray, items, worker, arguments, plan, threads=threads)) as rows:
            for row in rows:
                if row["error"]:
                    raise UserError(row["error"])
                yield row


def run(
    ray: Any,
    items: Sequence[Row],
    worker: type[Worker],
    arguments: dict[str, Any],
    workers: Workers,
    *,
    threads: int | None = None,
) -> Generator[Row, None, None]:
    """Yield the rows of all items in order of completion, each with the `number` of its item.

    Ray limits the tasks in flight by the available memory. Close the generator to release the workers.

    Args:
        ray: the connected module.
        items: dictionaries with the same keys; workers receive them with their position added as `number`.
        worker: class that each process instantiates with `arguments`.
        arguments: keyword arguments of `worker`, which are sent to each machine once.
        workers: number and size of the workers.
        threads: items that a worker processes in parallel; None uses its number of CPUs plus 1, so that the network
            rarely waits for input and output.

    Raises:
        UserError: no worker can be started.
    """
    if not items:
        return
    size = max(1, min(MAX_ITEMS, len(items) // (TASKS_PER_WORKER * workers.number)))
    tasks = -(-len(items) // size)
    numbered = [{**item, "number": number} for number, item in enumerate(items)]
    dataset = ray.data.from_items(numbered, override_num_blocks=tasks)
    dataset.context.enable_progress_bars = False
    references = {name: ray.put(value) for name, value in arguments.items()}
    counter, log = _start_counter(ray)
    rows = dataset.map_batches(
        _Tasks,
        batch_size=None,
        fn_constructor_args=(worker, references, counter, threads or workers.cpus + 1),
        compute=ray.data.ActorPoolStrategy(size=min(workers.number, tasks), max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        yield from rows.iter_rows()
    except ray.exceptions.RayActorError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"the cluster cannot start workers: install upscore on all machines ({reason})") from error
    finally:
        ray.kill(counter)
        log.unlink(missing_ok=True)


class AttemptCounter:
    """Counter of tasks and items that were started but not finished, over all processes.

    Args:
        log: file with all events, which a restarted counter reads.
    """

    def __init__(self, log: Path) -> None:
        self._begun: Counter[str] = Counter()
        for line in log.read_text(encoding="utf-8").splitlines():
            event, _, name = line.partition(" ")
            self._count(event, name)
        self._log = log.open("a", encoding="utf-8")

    def begin(self, name: str) -> int:
        """Record the start of a task or item and return its number of unfinished attempts."""
        self._write("begin", name)
        return self._begun[name]

    def end(self, name: str) -> None:
        """Record the end of a task or item and reset its count."""
        self._write("end", name)

    def _write(self, event: str, name: str) -> None:
        self._log.write(f"{event} {name}\n")
        self._log.flush()
        self._count(event, name)

    def _count(self, event: str, name: str) -> None:
        if event == "begin":
            self._begun[name] += 1
        else:
            self._begun.pop(name, None)


def _start_counter(ray: Any) -> tuple[Any, Path]:
    """Start an `AttemptCounter` as a restartable actor on the driver's machine; also return the path of its log."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    handle, name = tempfile.mkstemp(prefix="upscore-attempts-")
    os.close(handle)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(AttemptCounter)
    return remote.remote(Path(name)), Path(name)


class _Tasks:
    """Adapter between Ray's column batches and the items and rows of a worker."""

    def __init__(self, worker: type[Worker], references: dict[str, Any], counter: Any, threads: int) -> None:
        import ray

        self.worker = worker(**{name: ray.get(reference) for name, reference in references.items()})
        self.counter = counter
        self.threads = ThreadPoolExecutor(threads)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        items = _transposed(columns)
        task = f"task {items[0]['number']}"
        repeated = self._count("begin", task) > 1
        if repeated:
            rows = [self._process_alone(item) for item in items]
        else:
            rows = list(self.threads.map(self.worker.do, items))
        self._count("end", task)
        return {"number": [item["number"] for item in items], **{key: [row[key] for row in rows] for key in rows[0]}}

    def _process_alone(self, item: Row) -> Row:
        name = f"item {item['number']}"
        abandoned = self._count("begin", name) > MAX_DEATHS
        row = self.worker.lost(item) if abandoned else self.worker.do(item)
        if not abandoned:
            self._count("end", name)
        return row

    def _count(self, event: str, name: str) -> int:
        import ray

        return ray.get(getattr(self.counter, event).remote(name))


def _transposed(columns: dict[str, np.ndarray]) -> list[Row]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]
