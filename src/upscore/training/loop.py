"""Training loop: epochs, validation, and the state on disk that a run resumes from."""

from __future__ import annotations

import errno
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import torch

from upscore.checkpoints import save_model
from upscore.data.datasets import Dataset
from upscore.data.transforms import Batch
from upscore.distributed.process_group import accelerator, connected
from upscore.errors import UserError
from upscore.files import WriteError
from upscore.training.callbacks import Callback, CallbackList
from upscore.training.loader import TrainingView, ValidationView, batches, reading_failures, refuse_reading_process
from upscore.training.optimizer import learning_rate_factor
from upscore.training.recipes import Recipe
from upscore.training.run_folder import RunFolder
from upscore.training.tasks import Network
from upscore.training.trainer import Progress, Trainer
from upscore.training.validation import Scores

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

SAVE_EVERY = 300.0
"""Longest time in seconds between two saved states; the state is also saved after each validation."""


@connected()
@reading_failures()
def fit(
    net: Network,
    train: Dataset,
    val: Dataset,
    recipe: Recipe,
    folder: RunFolder,
    *,
    max_side: int,
    dtype: torch.dtype = torch.float32,
    head_only: bool = False,
    seed: int = 0,
    workers: int = 0,
    resume: bool = False,
    provenance: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Progress:
    """Train a network into a run folder.

    Under torchrun, each process has its own batch in every step; only the main process writes files and calls the
    callbacks.

    Args:
        net: the network, trained in place.
        train: training data.
        val: validation data.
        recipe: optimiser, schedule and augmentation.
        folder: run folder.
        max_side: longest side of an image in pixels; larger images are reduced, 0 means never. Mask R-CNN ignores it,
            as it has its own resize rule.
        dtype: number format of the convolutions.
        head_only: keep the backbone as it is.
        seed: seed of order, augmentation and sampling.
        workers: number of loader workers.
        resume: continue from the state in `folder`.
        provenance: entries for the field `training` of model.json.
        callbacks: receive losses and scores.

    Returns:
        The epochs, steps and records of the run.

    Raises:
        DivergedError: the loss is not finite; the best model so far is kept.
        UserError: a file can't be written, or a loader worker ended; the last saved state is kept.
        KeyboardInterrupt: the run was interrupted; the state was saved.
    """
    refuse_reading_process()
    trainer = Trainer(net, recipe, accelerator(), dtype=dtype, head_only=head_only, seed=seed)
    process_group = trainer.process_group
    if resume:
        with process_group.synchronized():
            trainer.restore(folder.load_state())
    callback = CallbackList(tuple(callbacks) if process_group.is_main_process else ())
    run = _Run(trainer, folder, callback, count_epochs(recipe, len(train)), len(train))
    resize = trainer.task.resize(net, max_side)

    callback.on_train_start(folder)
    try:
        while (progress := trainer.progress).epoch < run.epochs and not _out_of_patience(progress, recipe):
            trainer.train_mode()
            view = TrainingView(train, recipe, resize=resize, seed=seed, epoch=progress.epoch, start=progress.position)
            with _defer_interrupts() as interrupted:
                with closing(batches(view, recipe.batch_size, workers, process_group.share)) as loader:
                    run.train_epoch(loader, interrupted)
                rate = learning_rate_factor(recipe, run.steps_done() - 1, run.steps)
                scores, is_best = None, False
                if (progress.epoch + 1) % recipe.validate_every and progress.epoch + 1 < run.epochs:
                    _record(trainer, rate)
                else:
                    started = time.monotonic()
                    val_view = ValidationView(val, resize=resize, within=process_group.block(len(val)))
                    try:
                        with closing(batches(val_view, 1, workers)) as loader:
                            loss, scores = trainer.validate(_until_interrupted(loader, interrupted))
                    except KeyboardInterrupt:
                        run.save()
                        raise
                    is_best = _record_validated(trainer, rate, loss, scores, time.monotonic() - started)
                    with process_group.synchronized():
                        for model in (
                            [folder.last, *([folder.best] if is_best else [])] if process_group.is_main_process else ()
                        ):
                            save_model(
                                model,
                                trainer.result,
                                classes=train.classes,
                                max_side=max_side,
                                training={**(provenance or {}), "epoch": progress.epoch},
                                scores={"validation": scores.to_json()},
                            )
                run.end_epoch(scores, is_best, interrupted)
                if process_group.any(interrupted()):
                    raise KeyboardInterrupt
    except OSError as error:
        if isinstance(error, WriteError) or error.errno in NO_SPACE:
            raise UserError(
                f"{error}; the last saved state is kept: free some space, then add --resume (in Python: resume=True)"
            ) from error
        raise
    finally:
        callback.on_train_end()
    return trainer.progress


class _Run:
    """Counts the steps of a run, saves its state and calls its callbacks."""

    def __init__(self, trainer: Trainer, folder: RunFolder, callback: Callback, epochs: int, length: int) -> None:
        self.trainer, self.folder, self.callback = trainer, folder, callback
        self.epochs, self.length = epochs, length
        self.steps = epochs * count_steps(trainer.recipe, length, trainer.process_group.size)
        self.saved = time.monotonic()

    def steps_done(self) -> int:
        """Return the number of `steps` done, computed from images since the number of processes may have changed."""
        progress, recipe, processes = self.trainer.progress, self.trainer.recipe, self.trainer.process_group.size
        in_epoch = count_steps(recipe, self.length, processes)
        complete = progress.position // (recipe.batch_size * recipe.accumulate * processes)
        return progress.epoch * in_epoch + (complete if progress.position < self.length else in_epoch)

    def train_epoch(self, loader: Iterator[Batch], interrupted: Callable[[], bool]) -> None:
        """Train on all batches of a loader.

        Raises:
            KeyboardInterrupt: the run was interrupted; the state was saved.
        """
        progress, process_group = self.trainer.progress, self.trainer.process_group
        started, spent = time.monotonic(), progress.seconds
        while True:
            with process_group.synchronized():
                group = list(islice(loader, self.trainer.recipe.accumulate))
            if not group:
                return
            loss = self.trainer.step(group, learning_rate_factor(self.trainer.recipe, self.steps_done(), self.steps))
            progress.seconds = spent + time.monotonic() - started
            with process_group.synchronized():
                self.callback.on_step_end(self.steps_done(), self.steps, loss)
            stopping = process_group.any(interrupted())
            with process_group.synchronized():
                if stopping or time.monotonic() - self.saved > SAVE_EVERY:
                    self.save()
            if stopping:
                raise KeyboardInterrupt

    def end_epoch(self, scores: Scores | None, is_best: bool, interrupted: Callable[[], bool]) -> None:
        """Write the records, call the callbacks and save the state."""
        records = self.trainer.progress.records
        with self.trainer.process_group.synchronized():
            if self.trainer.process_group.is_main_process:
                self.folder.write_metrics(records)
            self.callback.on_epoch_end(records, scores, is_best)
            if scores or interrupted() or time.monotonic() - self.saved > SAVE_EVERY:
                self.save()  # last, so that a resumed run does not skip the records and callbacks

    def save(self) -> None:
        """Write the state in the main process; it is the same in all processes."""
        if self.trainer.process_group.is_main_process:
            self.folder.save_state(self.trainer.state())
        self.saved = time.monotonic()


def count_epochs(recipe: Recipe, length: int) -> int:
    """Return the number of epochs over `length` images that the recipe's number of images amounts to."""
    return min(recipe.max_epochs, math.ceil(recipe.images / length))


def count_steps(recipe: Recipe, length: int, processes: int = 1) -> int:
    """Return the number of optimiser steps in an epoch over `length` images."""
    return math.ceil(math.ceil(length / (recipe.batch_size * processes)) / recipe.accumulate)


def _record(trainer: Trainer, rate: float, **measured: float | None) -> None:
    """Append the record of the current epoch and advance to the next."""
    progress = trainer.progress
    progress.epoch += 1
    steps = max(1, len(progress.losses))
    progress.records.append(
        {
            "epoch": progress.epoch,
            "step": progress.step,
            "train_loss": sum(progress.losses) / steps,
            **{f"{name}_loss": total / steps for name, total in progress.parts.items()},
            "learning_rate": trainer.recipe.learning_rate * rate,
            "seconds": round(progress.seconds, 3),
            **measured,
        }
    )
    progress.position, progress.losses, progress.parts, progress.seconds = 0, [], {}, 0.0


def _record_validated(trainer: Trainer, rate: float, val_loss: float, scores: Scores, seconds: float) -> bool:
    """Append the record of the current epoch with its scores; returns whether it is the best so far."""
    progress = trainer.progress
    values = trainer.task.record(scores)
    score = values[trainer.task.primary] or 0.0
    is_best = score > progress.best
    _record(trainer, rate, val_loss=val_loss, **values, validation_seconds=round(seconds, 3))
    if is_best:
        progress.best, progress.best_epoch = score, progress.epoch
    return is_best


def _out_of_patience(progress: Progress, recipe: Recipe) -> bool:
    validated = bool(progress.records) and "val_loss" in progress.records[-1]
    return bool(recipe.patience) and validated and progress.epoch - progress.best_epoch >= recipe.patience


def _until_interrupted(loader: Iterator[Batch], interrupted: Callable[[], bool]) -> Iterator[Batch]:
    """Yield batches, and raise `KeyboardInterrupt` once the run is interrupted."""
    for batch in loader:
        if interrupted():
            raise KeyboardInterrupt
        yield batch


@contextmanager
def _defer_interrupts() -> Iterator[Callable[[], bool]]:
    """Record SIGINT and SIGTERM instead of raising, so that the state can be saved; a second Ctrl-C raises at once."""
    received = False

    def handle(number: int, _frame: Any) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = True

    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield lambda: False
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
