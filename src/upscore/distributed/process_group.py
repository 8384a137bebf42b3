"""Process group of distributed data-parallel training, started by torchrun.

A single process forms a group of size 1, for which all collective operations are no-ops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from upscore.errors import UserError

T = TypeVar("T")

TIMEOUT = timedelta(hours=3)
"""Timeout of collective operations, long enough for work that only the main process does."""


class _Status(IntEnum):
    """Outcome of a synchronized block in one process."""

    OK, INTERRUPTED, USER_ERROR, FAILED = range(4)


EXIT_CODES = {_Status.USER_ERROR: 2, _Status.FAILED: 1}


def accelerator() -> Accelerator:
    """Return the accelerator, which holds the device of this process and the connection to the other processes."""
    return Accelerator(
        cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),  # otherwise gloo is not initialised
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """Index of a process among the processes that share a data set."""

    index: int = 0
    of: int = 1
    """Number of processes."""


SINGLE_PROCESS = ShardInfo()


@contextmanager
def connected() -> Iterator[None]:
    """Convert errors of collective operations after the end of another process.

    Raises:
        UserError: another process of the group has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error):
            raise UserError("another process of this training has ended: see its error message") from None
        raise


class ProcessGroup:
    """Processes of a training, and the index of this one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        self.index, self.size = accelerator.process_index, accelerator.num_processes

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.index == 0

    @property
    def share(self) -> ShardInfo:
        """Part of each batch that this process trains on."""
        return ShardInfo(self.index, self.size)

    def block(self, length: int) -> range:
        """Return the indices of this process; the ranges of all processes partition `range(length)` in order."""
        return range(length * self.index // self.size, length * (self.index + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size == 1:
            return values
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """Return the maximum height and the maximum width over all processes."""
        sides = torch.tensor([height, width], device=self.device)
        if self.size > 1:
            dist.all_reduce(sides, dist.ReduceOp.MAX)
        height, width = sides.tolist()
        return height, width

    def any(self, here: bool) -> bool:
        """Return whether the condition holds in any process."""
        return bool(self.sum(torch.tensor(float(here))) > 0)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes in order in the main process, and an empty list in the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main_process else None
        dist.gather_object(value, values)
        return values or []

    def from_main_process(self, work: Callable[[], T]) -> T:
        """Run a function in the main process and return its result in all processes."""
        with self.synchronized():
            result: Any = work() if self.is_main_process else None
        if self.size > 1:
            shared = [result]
            dist.broadcast_object_list(shared)
            result = shared[0]
        return result

    @contextmanager
    def synchronized(self) -> Iterator[None]:
        """Wait for all processes at the end of the block; an error in one process ends all of them.

        The first process that failed raises its error, the others raise `SystemExit`. Collective operations are not
        allowed inside the block.

        Raises:
            KeyboardInterrupt: a process was interrupted.
        """
        if self.size == 1:
            yield
            return
        failure, status = None, _Status.OK
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            failure, status = error, _status_of(error)
        codes = torch.zeros(self.size)
        codes[self.index] = status
        statuses = [_Status(int(code)) for code in self.sum(codes).tolist()]
        failed = next((index for index, other in enumerate(statuses) if other in EXIT_CODES), None)
        if failed is not None:
            raise failure if failure and failed == self.index else SystemExit(EXIT_CODES[statuses[failed]])
        if _Status.INTERRUPTED in statuses:
            raise KeyboardInterrupt

    def error_of_main_process(self, error: UserError) -> BaseException:
        """Return the exception to raise for an error that occurs in all processes, so that it is printed once."""
        return error if self.is_main_process else SystemExit(EXIT_CODES[_Status.USER_ERROR])


def _status_of(error: BaseException) -> _Status:
    if isinstance(error, KeyboardInterrupt):
        return _Status.INTERRUPTED
    return _Status.USER_ERROR if isinstance(error, UserError) else _Status.FAILED
