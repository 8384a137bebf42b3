"""The training loop: epochs of steps, validations between them, and a state on disk from which it goes on."""

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
from upscore.training.optimizer import rate_factor
from upscore.training.recipes import Recipe
from upscore.training.run_folder import RunFolder
from upscore.training.tasks import Network
from upscore.training.trainer import Progress, Trainer
from upscore.training.validation import Scores

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

SAVE_EVERY = 300.0
"""Seconds between states where no validation comes first: the most that a kill costs."""


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
    """Train `net` by `recipe` into `folder`; with `resume`, from the state there.

    Larger photos are reduced to `max_side`, 0 for never, unless the network has a size of its own for each photo.

    Where torchrun has started several processes, each has a batch of its own in every step; the main process alone
    writes files and calls the callbacks.

    Raises:
        DivergedError: the loss is not finite; the best model so far stays.
        UserError: a file can't be written, or a process that reads images ended; the last saved state stays.
        KeyboardInterrupt: after the state was saved.
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
        while (at := trainer.progress).epoch < run.epochs and not _out_of_patience(at, recipe):
            trainer.train_mode()
            view = TrainingView(train, recipe, resize=resize, seed=seed, epoch=at.epoch, start=at.position)
            with _interrupts_held() as interrupted:
                with closing(batches(view, recipe.batch_size, workers, process_group.share)) as feed:
                    run.epoch(feed, interrupted)
                rate = rate_factor(recipe, run.steps_done() - 1, run.steps)
                scores, is_best = None, False
                if (at.epoch + 1) % recipe.validate_every and at.epoch + 1 < run.epochs:
                    _record(trainer, rate)
                else:
                    begun = time.monotonic()
                    own = ValidationView(val, resize=resize, within=process_group.block(len(val)))
                    try:
                        with closing(batches(own, 1, workers)) as feed:
                            loss, scores = trainer.validate(_until(interrupted, feed))
                    except KeyboardInterrupt:
                        run.save()
                        raise
                    is_best = _record_validated(trainer, rate, loss, scores, time.monotonic() - begun)
                    with process_group.synchronized():
                        for model in (
                            [folder.last, *([folder.best] if is_best else [])] if process_group.is_main_process else ()
                        ):
                            save_model(
                                model,
                                trainer.result,
                                classes=train.classes,
                                max_side=max_side,
                                training={**(provenance or {}), "epoch": at.epoch},
                                scores={"validation": scores.to_json()},
                            )
                run.close_epoch(scores, is_best, interrupted)
                if process_group.any(interrupted()):
                    raise KeyboardInterrupt
    except OSError as error:
        if isinstance(error, WriteError) or error.errno in NO_SPACE:
            raise UserError(f"{error}; the last saved state stays: free some space, then add --resume") from error
        raise
    finally:
        callback.on_train_end()
    return trainer.progress


class _Run:
    """How far a run is, and its callbacks."""

    def __init__(self, trainer: Trainer, folder: RunFolder, callback: Callback, epochs: int, length: int) -> None:
        self.trainer, self.folder, self.callback = trainer, folder, callback
        self.epochs, self.length = epochs, length
        self.steps = epochs * count_steps(trainer.recipe, length, trainer.process_group.size)
        self.saved = time.monotonic()

    def steps_done(self) -> int:
        """Of `steps`: by the images that are behind us, for the number of processes may have been another one."""
        at, recipe, processes = self.trainer.progress, self.trainer.recipe, self.trainer.process_group.size
        in_epoch = count_steps(recipe, self.length, processes)
        whole = at.position // (recipe.batch_size * recipe.accumulate * processes)
        return at.epoch * in_epoch + (whole if at.position < self.length else in_epoch)

    def epoch(self, feed: Iterator[Batch], interrupted: Callable[[], bool]) -> None:
        """Take all steps that the feed is good for.

        Raises:
            KeyboardInterrupt: after the state was saved.
        """
        at, process_group = self.trainer.progress, self.trainer.process_group
        started, spent = time.monotonic(), at.seconds
        while True:
            with process_group.synchronized():
                group = list(islice(feed, self.trainer.recipe.accumulate))
            if not group:
                return
            loss = self.trainer.step(group, rate_factor(self.trainer.recipe, self.steps_done(), self.steps))
            at.seconds = spent + time.monotonic() - started
            with process_group.synchronized():
                self.callback.on_step_end(self.steps_done(), self.steps, loss)
            stopping = process_group.any(interrupted())
            with process_group.synchronized():
                if stopping or time.monotonic() - self.saved > SAVE_EVERY:
                    self.save()
            if stopping:
                raise KeyboardInterrupt

    def close_epoch(self, scores: Scores | None, is_best: bool, interrupted: Callable[[], bool]) -> None:
        """Write the records and call the callbacks."""
        records = self.trainer.progress.records
        with self.trainer.process_group.synchronized():
            if self.trainer.process_group.is_main_process:
                self.folder.write_metrics(records)
            self.callback.on_epoch_end(records, scores, is_best)
            if scores or interrupted() or time.monotonic() - self.saved > SAVE_EVERY:
                self.save()  # last, so that a resumed run lacks nothing of what comes before

    def save(self) -> None:
        """Write the state, in one process for all, which have the same."""
        if self.trainer.process_group.is_main_process:
            self.folder.save_state(self.trainer.state())
        self.saved = time.monotonic()


def count_epochs(recipe: Recipe, length: int) -> int:
    """Passes over `length` images that make up the recipe's number of images."""
    return min(recipe.max_epochs, math.ceil(recipe.images / length))


def count_steps(recipe: Recipe, length: int, processes: int = 1) -> int:
    """Optimiser steps in an epoch, each with `batch_size` images for every process."""
    return math.ceil(math.ceil(length / (recipe.batch_size * processes)) / recipe.accumulate)


def _record(trainer: Trainer, rate: float, **measured: float | None) -> None:
    """Close the epoch."""
    at = trainer.progress
    at.epoch += 1
    steps = max(1, len(at.losses))
    at.records.append(
        {
            "epoch": at.epoch,
            "step": at.step,
            "train_loss": sum(at.losses) / steps,
            **{f"{name}_loss": total / steps for name, total in at.parts.items()},
            "learning_rate": trainer.recipe.learning_rate * rate,
            "seconds": round(at.seconds, 3),
            **measured,
        }
    )
    at.position, at.losses, at.parts, at.seconds = 0, [], {}, 0.0


def _record_validated(trainer: Trainer, rate: float, val_loss: float, scores: Scores, seconds: float) -> bool:
    """Close the epoch; returns whether it is the best so far."""
    at = trainer.progress
    found = trainer.task.record(scores)
    score = found[trainer.task.primary] or 0.0
    is_best = score > at.best
    _record(trainer, rate, val_loss=val_loss, **found, validation_seconds=round(seconds, 3))
    if is_best:
        at.best, at.best_epoch = score, at.epoch
    return is_best


def _out_of_patience(at: Progress, recipe: Recipe) -> bool:
    validated = bool(at.records) and "val_loss" in at.records[-1]
    return bool(recipe.patience) and validated and at.epoch - at.best_epoch >= recipe.patience


def _until(interrupted: Callable[[], bool], feed: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, as long as nobody interrupts."""
    for batch in feed:
        if interrupted():
            raise KeyboardInterrupt
        yield batch


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C and termination until it is time to save; a second Ctrl-C is not held."""
    received = False

    def hold(number: int, _frame: Any) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = True

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield lambda: False
        return
    earlier = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
