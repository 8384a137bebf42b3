"""What the network is fed, as a function of the seed and the place in the run alone.

Nothing random is remembered between steps, so a run can be taken up at any step and goes on as if it had not stopped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from upscore.data.datasets import Dataset
from upscore.data.patches import keep_patches
from upscore.data.transforms import Augmentation, Batch, collate
from upscore.errors import UserError
from upscore.structures import Sample
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


def epoch_order(length: int, *, replacement: bool, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch goes through `length` images."""
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    if replacement:
        return torch.randint(length, (length,), generator=generator).tolist()
    return torch.randperm(length, generator=generator).tolist()


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
        sample = self.resize(self.dataset[self.order[position]])
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
    """The samples as they are, at the size at which the network sees them."""

    def __init__(self, dataset: Dataset, *, resize: Resize) -> None:
        self.dataset, self.resize = dataset, resize

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.resize(self.dataset[index])


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


def batches(view: TrainingView | ValidationView, batch_size: int, workers: int) -> Generator[Batch, None, None]:
    """Go through a view in order, read ahead by `workers` processes; close it to let them go.

    Raises:
        UserError: a sample can't be read.
    """
    loader = DataLoader(
        _Reader(view),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_leave_interrupts_to_the_parent,
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def default_workers() -> int:
    """Reading processes: one for small machines, where the network needs the rest, and four at most."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's, which only takes note
