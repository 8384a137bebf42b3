"""What the network is fed, as a function of the seed and the place in the run alone.

Nothing random is remembered between steps, so a run can be taken up at any step and goes on as if it had not stopped.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from upscore.data.datasets import Dataset
from upscore.data.samples import Sample
from upscore.data.transforms import Augmentation, Batch, collate, keep_patches
from upscore.distributed.process_group import SINGLE_PROCESS, ShardInfo
from upscore.errors import UserError
from upscore.training.recipes import Recipe

Resize = Callable[[Sample], Sample]
"""A photo and its labels at the size at which the network sees them; goes to other processes by pickle."""


def seed_of(*parts: int) -> int:
    """One 63-bit seed out of several numbers, such that neighbours have nothing in common."""
    state = 0
    for part in parts:  # splitmix64
        state = (state + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def epoch_order(length: int, *, replacement: bool, seed: int, epoch: int) -> np.ndarray:
    """(N,) int64: the order in which an epoch goes through `length` images."""
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    if replacement:
        return torch.randint(length, (length,), generator=generator).numpy()
    return torch.randperm(length, generator=generator).numpy()


class TrainingView:
    """The samples of one epoch from one place on, in order and augmented."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, resize: Resize, seed: int, epoch: int, start: int = 0
    ) -> None:
        self.dataset, self.recipe, self.resize = dataset, recipe, resize
        self.seed, self.epoch, self.start = seed, epoch, start
        self.order = epoch_order(len(dataset), replacement=recipe.replacement, seed=seed, epoch=epoch)

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __getitem__(self, position: int) -> Sample:
        position += self.start
        sample = self.resize(self.dataset[int(self.order[position])])
        crop = self.recipe.crop
        augmentation = Augmentation(
            scale=self.recipe.scale,
            # no larger than the photo, so that small photos are not padded
            crop=(min(crop, sample.image.shape[-2]), min(crop, sample.image.shape[-1])) if crop else None,
            flip=self.recipe.flip,
            min_visible=self.recipe.min_visible,
            colour=self.recipe.colour,
        )
        sample = augmentation(sample, seed_of(self.seed, self.epoch, position))
        return keep_patches(sample, self.recipe.patches, seed_of(self.seed, self.epoch, position, 1))


class ValidationView:
    """The samples as they are, at the size at which the network sees them; all of them, or those `within` a range."""

    def __init__(self, dataset: Dataset, *, resize: Resize, within: range | None = None) -> None:
        self.dataset, self.resize = dataset, resize
        self.within = range(len(dataset)) if within is None else within

    def __len__(self) -> int:
        return len(self.within)

    def __getitem__(self, index: int) -> Sample:
        return self.resize(self.dataset[self.within[index]])


class _DistributedBatchSampler(Sampler[list[int]]):
    """Where one process's part of each batch is in a view: of every `of` images in a row it takes one.

    Where the last images are too few for every process, one without takes another's, so that all go as many steps.
    """

    def __init__(self, length: int, batch_size: int, share: ShardInfo) -> None:
        self.length, self.share = length, share
        self.whole = batch_size * share.of

    def __len__(self) -> int:
        return math.ceil(self.length / self.whole)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.length, self.whole):
            own = range(start + self.share.index, min(start + self.whole, self.length), self.share.of)
            yield list(own) or [start]

    def stands_in(self, number: int) -> bool:
        """Whether that batch is another process's."""
        return number * self.whole + self.share.index >= self.length


class _Reader(TorchDataset):
    """A view whose errors are values, for torch puts the traceback of a worker's exception into its message."""

    def __init__(self, view: TrainingView | ValidationView) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Sample | UserError:
        try:
            return self.view[index]
        except UserError as error:
            return error


def _collate(samples: list[Sample | UserError]) -> Batch | UserError:
    error = next((sample for sample in samples if isinstance(sample, UserError)), None)
    return error or collate([sample for sample in samples if isinstance(sample, Sample)])


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays: torch's own way puts them into shared memory, which containers have little of."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return torch.from_numpy, (obj.numpy(),)
        return NotImplemented


def _packed(samples: list[Sample | UserError]) -> bytes:
    """A collated batch as bytes, which go through a pipe."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(_collate(samples))
    return buffer.getvalue()


GUARD_EXIT = 78
"""Exit status of a reading process that ran the user's script again."""


def refuse_reading_process() -> None:
    """End a reading process that runs the user's script again, because it has no main guard.

    Under the start methods "spawn" and "forkserver" a new process imports the script first; the parent process then
    reports the missing guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(GUARD_EXIT)


@contextmanager
def reading_failures() -> Iterator[None]:
    """Turn the death of a reading process into an error that says what to do.

    Raises:
        UserError: a reading process ended.
    """
    try:
        yield
    except (RuntimeError, BrokenPipeError) as error:
        if not isinstance(error, BrokenPipeError) and not str(error).startswith("DataLoader worker"):
            raise
        if multiprocessing.get_start_method() != "fork":
            raise UserError(
                "a process that reads images ended at its start: put the code of your script that trains under "
                'if __name__ == "__main__":, or set workers=0'
            ) from None
        reason = str(error).splitlines()[0]
        raise UserError(
            f"a process that reads images ended ({reason}); it may have run out of memory: set --workers 0, or lower "
            "--batch-size (in a container, raise its memory limit; --shm-size has no effect)"
        ) from None


def batches(
    view: TrainingView | ValidationView, batch_size: int, workers: int, share: ShardInfo = SINGLE_PROCESS
) -> Generator[Batch, None, None]:
    """Go through a view in order, read ahead by `workers` processes; close it to let them go.

    With a share, batches have `batch_size` images for each of the processes, and these are one's own of them. A batch
    without names is not to count: it is there because the others have one.

    Raises:
        UserError: a sample can't be read.
    """
    turns = _DistributedBatchSampler(len(view), batch_size, share)
    loader = DataLoader(
        _Reader(view),
        batch_sampler=turns,
        num_workers=workers,
        collate_fn=_packed if workers else _collate,
        worker_init_fn=_follow_the_parent,
        prefetch_factor=4 if workers else None,
    )
    for number, batch in enumerate(loader):
        if isinstance(batch, bytes):
            batch = pickle.loads(batch)
        if isinstance(batch, UserError):
            raise batch
        yield replace(batch, names=[]) if turns.stands_in(number) else batch


def default_workers() -> int:
    """Reading processes: one for small machines, where the network needs the rest, and four at most.

    Training processes on the same machine, which torchrun counts, have equal parts of it.
    """
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, (os.cpu_count() or 1) // beside // 2))


def _follow_the_parent(_worker: int) -> None:
    """A reader ends when its parent lets it go, or is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    sys.excepthook = _tell_unless_parent_gone


def _end_with_parent() -> None:
    """End this process when its parent was killed; its main thread may wait for ever to write into a full pipe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _ignore_once(number: int, _frame: FrameType | None) -> None:
    # who ends a whole group of processes ends the parent too, which first saves; what comes then is the parent's own
    signal.signal(number, signal.SIG_DFL)


def _tell_unless_parent_gone(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # in a reader, called by the thread that hands tensors over: the parent was killed while it took one
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
