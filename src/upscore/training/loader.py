"""Loads training and validation batches in a deterministic order.

Order and augmentation depend only on the seed, the epoch and the position in the epoch. No random state is kept between
steps, so a run that is resumed at any step continues exactly as if it had not been interrupted.
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
"""Function that resizes an image and its labels to the network's input size; it must be picklable."""


def derive_seed(*parts: int) -> int:
    """Derive a 63-bit seed from several numbers by splitmix64; consecutive numbers give unrelated seeds."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def epoch_order(length: int, *, replacement: bool, seed: int, epoch: int) -> np.ndarray:
    """Return the image indices of an epoch in order, (N,) int64, where N is `length`.

    Args:
        length: number of images.
        replacement: draw each index independently instead of shuffling all of them.
        seed: seed of the run.
        epoch: epoch, from 0.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    if replacement:
        return torch.randint(length, (length,), generator=generator).numpy()
    return torch.randperm(length, generator=generator).numpy()


class TrainingView:
    """Augmented samples of one epoch in training order, from position `start` on."""

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
            # no larger than the image, so that small images are not padded
            crop=(min(crop, sample.image.shape[-2]), min(crop, sample.image.shape[-1])) if crop else None,
            flip=self.recipe.flip,
            min_visible=self.recipe.min_visible,
            colour=self.recipe.colour,
        )
        sample = augmentation(sample, derive_seed(self.seed, self.epoch, position))
        return keep_patches(sample, self.recipe.patches, derive_seed(self.seed, self.epoch, position, 1))


class ValidationView:
    """Samples resized to the network's input size, without augmentation; all of them, or those `within` a range."""

    def __init__(self, dataset: Dataset, *, resize: Resize, within: range | None = None) -> None:
        self.dataset, self.resize = dataset, resize
        self.within = range(len(dataset)) if within is None else within

    def __len__(self) -> int:
        return len(self.within)

    def __getitem__(self, index: int) -> Sample:
        return self.resize(self.dataset[self.within[index]])


class _DistributedBatchSampler(Sampler[list[int]]):
    """Yields the positions of one process's images for each batch; consecutive images go to different processes.

    If the last batch has fewer images than there are processes, a process without an image repeats the first one, so
    that all processes take the same number of steps.
    """

    def __init__(self, length: int, batch_size: int, shard: ShardInfo) -> None:
        self.length, self.shard = length, shard
        self.global_batch_size = batch_size * shard.of

    def __len__(self) -> int:
        return math.ceil(self.length / self.global_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.length, self.global_batch_size):
            own = range(start + self.shard.index, min(start + self.global_batch_size, self.length), self.shard.of)
            yield list(own) or [start]

    def is_duplicate(self, number: int) -> bool:
        """Return whether a batch only repeats an image of another process, and so must not count."""
        return number * self.global_batch_size + self.shard.index >= self.length


class _ErrorsAsValues(TorchDataset):
    """Wraps a view and returns `UserError`s as values; torch would add a worker's traceback to the message."""

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


class _TensorPickler(pickle.Pickler):
    """Pickles tensors as arrays; torch's own pickling uses shared memory, which is scarce in containers."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return torch.from_numpy, (obj.numpy(),)
        return NotImplemented


def _collate_to_bytes(samples: list[Sample | UserError]) -> bytes:
    """Collate samples and serialise the batch, to be sent through a pipe."""
    buffer = io.BytesIO()
    _TensorPickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(_collate(samples))
    return buffer.getvalue()


GUARD_EXIT = 78
"""Exit status of a loader worker that runs the user's script again."""


def refuse_reading_process() -> None:
    """Exit if this process is a loader worker that runs the user's script again, since it has no main guard.

    Under the start methods "spawn" and "forkserver" a new process imports the script first; the parent process then
    reports the missing guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(GUARD_EXIT)


@contextmanager
def reading_failures() -> Iterator[None]:
    """Convert the errors that torch raises when a loader worker ended.

    Raises:
        UserError: a loader worker ended.
    """
    try:
        yield
    except (RuntimeError, BrokenPipeError) as error:
        if not isinstance(error, BrokenPipeError) and not str(error).startswith("DataLoader worker"):
            raise
        if multiprocessing.get_start_method() != "fork":
            raise UserError(
                "a loader worker ended at its start: put the training code of your script under "
                'if __name__ == "__main__":, or set workers=0'
            ) from None
        reason = str(error).splitlines()[0]
        raise UserError(
            f"a loader worker ended ({reason}); it may have run out of memory: set --workers 0 or lower --batch-size "
            "(in a container, raise the memory limit; --shm-size has no effect)"
        ) from None


def batches(
    view: TrainingView | ValidationView, batch_size: int, workers: int, shard: ShardInfo = SINGLE_PROCESS
) -> Generator[Batch, None, None]:
    """Yield the batches of a view in order; close the generator to end the workers.

    Args:
        view: the samples.
        batch_size: number of images per process.
        workers: number of processes that read ahead; 0 reads in this process.
        shard: this process's part of each batch. A yielded batch without names repeats an image of another process
            and must not count.

    Raises:
        UserError: a sample can't be read.
    """
    sampler = _DistributedBatchSampler(len(view), batch_size, shard)
    loader = DataLoader(
        _ErrorsAsValues(view),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate_to_bytes if workers else _collate,
        worker_init_fn=_initialize_worker,
        prefetch_factor=4 if workers else None,
    )
    for number, batch in enumerate(loader):
        if isinstance(batch, bytes):
            batch = pickle.loads(batch)
        if isinstance(batch, UserError):
            raise batch
        yield replace(batch, names=[]) if sampler.is_duplicate(number) else batch


def default_workers() -> int:
    """Return the default number of loader workers: half of the cores of this process, from 1 to 4.

    The cores of a machine are divided equally between its torchrun processes.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, (os.cpu_count() or 1) // processes // 2))


def _initialize_worker(_worker: int) -> None:
    """Make a worker end with its parent process, but not by the signals that end the parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    sys.excepthook = _report_unless_parent_ended


def _end_with_parent() -> None:
    """End this process when its parent was killed; its main thread may be blocked writing into a full pipe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _ignore_once(number: int, _frame: FrameType | None) -> None:
    # The first signal goes to the whole process group, and the parent saves its state; the next comes from the parent.
    signal.signal(number, signal.SIG_DFL)


def _report_unless_parent_ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # Raised in the thread that sends batches if the parent was killed while receiving one.
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
