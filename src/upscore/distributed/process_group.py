"""The processes that train one network together, each on its share of every batch; torchrun starts them.

One process alone is a team too, for which nothing here does anything.
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

PATIENCE = timedelta(hours=3)
"""How long processes wait for one another: the first one counts, scores and draws for all."""


class _End(IntEnum):
    """How a process came out of what all of them did."""

    WELL, INTERRUPTED, USER_ERROR, FAULT = range(4)


EXIT_CODES = {_End.USER_ERROR: 2, _End.FAULT: 1}


def accelerator() -> Accelerator:
    """The device of this process, and its connection to the others."""
    return Accelerator(
        cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),  # or each process would be on its own
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """Of several processes that go through a view together: which one this is."""

    index: int = 0
    of: int = 1


SINGLE_PROCESS = ShardInfo()


@contextmanager
def connected() -> Iterator[None]:
    """Where another process is gone, this one has nothing to tell but that.

    Raises:
        UserError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error):
            raise UserError("another process of this training has ended: what it said tells why") from None
        raise


class ProcessGroup:
    """This process and those beside it."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        self.index, self.size = accelerator.process_index, accelerator.num_processes

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.index == 0

    @property
    def share(self) -> ShardInfo:
        """Which images of a batch are this process's."""
        return ShardInfo(self.index, self.size)

    def block(self, length: int) -> range:
        """This process's part of so many images, such that the parts one after another are all of them."""
        return range(length * self.index // self.size, length * (self.index + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size == 1:
            return values
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """The largest height and the largest width of all processes' images."""
        sides = torch.tensor([height, width], device=self.device)
        if self.size > 1:
            dist.all_reduce(sides, dist.ReduceOp.MAX)
        height, width = sides.tolist()
        return height, width

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.sum(torch.tensor(float(here))) > 0)

    def gather(self, value: T) -> list[T]:
        """All processes' values in their order, for the leading one; nothing for the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main_process else None
        dist.gather_object(value, values)
        return values or []

    def from_lead(self, work: Callable[[], T]) -> T:
        """What the leading process alone works out."""
        with self.synchronized():
            answer: Any = work() if self.is_main_process else None
        if self.size > 1:
            shared = [answer]
            dist.broadcast_object_list(shared)
            answer = shared[0]
        return answer

    @contextmanager
    def synchronized(self) -> Iterator[None]:
        """Wait for all processes at the end; an error of one ends all, and that one tells it.

        Inside, no process may wait for another.

        Raises:
            KeyboardInterrupt: one of them was interrupted.
        """
        if self.size == 1:
            yield
            return
        failure, end = None, _End.WELL
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            failure, end = error, _end_by(error)
        ends = torch.zeros(self.size)
        ends[self.index] = end
        ends = [_End(int(number)) for number in self.sum(ends).tolist()]
        failed = next((index for index, how in enumerate(ends) if how in EXIT_CODES), None)
        if failed is not None:
            raise failure if failure and failed == self.index else SystemExit(EXIT_CODES[ends[failed]])
        if _End.INTERRUPTED in ends:
            raise KeyboardInterrupt

    def told_once(self, error: UserError) -> BaseException:
        """What to raise where all processes come to the same error."""
        return error if self.is_main_process else SystemExit(EXIT_CODES[_End.USER_ERROR])


def _end_by(error: BaseException) -> _End:
    if isinstance(error, KeyboardInterrupt):
        return _End.INTERRUPTED
    return _End.USER_ERROR if isinstance(error, UserError) else _End.FAULT
