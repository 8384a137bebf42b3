"""Callbacks of the training loop: the base class, a progress bar for the terminal, and the plots of a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn

from upscore.console import Console, Progress, TextColumn
from upscore.evaluation.instances import InstanceScores
from upscore.files import write_text
from upscore.training.run_folder import Records, RunFolder
from upscore.training.validation import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Callback:
    """Base class of training callbacks; every method does nothing unless a subclass overrides it.

    `train` and `fit` call the methods in the order in which the callbacks are listed. With several processes, only the
    main process calls them. An exception raised by a callback ends the training.
    """

    def on_log(self, message: str) -> None:
        """Receive one line of text, such as a setting that was derived from the data."""

    def on_progress(self, task: str, done: int, total: int) -> None:
        """Receive the progress of work outside of training, such as counting the objects of a data set.

        Args:
            task: a short title.
            done: items done so far, 1 to `total`.
            total: number of items.
        """

    def on_train_start(self, folder: RunFolder) -> None:
        """Training into `folder` starts or resumes; in staged training this is called once per stage."""

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        """Optimiser step `step` of `total_steps` is done; `loss` is the mean over its batches."""

    def on_epoch_end(self, records: Records, scores: Scores | None, is_best: bool) -> None:
        """An epoch is done.

        Args:
            records: one dictionary per epoch so far, as in `metrics.jsonl`; the last one is of this epoch.
            scores: the validation scores of this epoch; None if it was not validated.
            is_best: whether these scores are the best so far.
        """

    def on_train_end(self) -> None:
        """Training ended: it is complete, was interrupted, or failed; called once per `on_train_start`."""


class TerminalProgress(Callback):
    """Shows a progress bar with the time left, and prints a line after each epoch.

    Args:
        console: where to print; standard error by default.
        title: the bar's title; the name of the run folder by default.
    """

    def __init__(self, console: Console | None = None, title: str | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.title = title
        self._bar: Progress | None = None

    def on_log(self, message: str) -> None:
        self.console.print(message, soft_wrap=True)

    def on_progress(self, task: str, done: int, total: int) -> None:
        if self.console.is_terminal:
            end = "\n" if done == total else "\r"
            self.console.print(f"{task}: {done} of {total} images", end=end)

    def on_train_start(self, folder: RunFolder) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(self.title or folder.path.name, total=None, loss="")

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        assert self._bar is not None
        if not self._bar.live.is_started:
            self._bar.start()
        self._bar.update(self._task, completed=step, total=total_steps, loss=f"{loss:.3g}")

    def on_epoch_end(self, records: Records, scores: Scores | None, is_best: bool) -> None:
        last = records[-1]
        validated = "" if scores is None else f" / {last['val_loss']:.4g} val  {_summary(scores)}"
        self.console.print(
            f"epoch {last['epoch']:>3}  loss {last['train_loss']:.4g}{validated}  {last['seconds']:.0f} s"
            f"{'  best' if is_best else ''}",
            soft_wrap=True,
        )

    def on_train_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _summary(scores: Scores) -> str:
    if isinstance(scores, InstanceScores):
        return f"AP {scores.AP:.1%}  AP50 {scores.AP50:.1%}  F1 {scores.f1['0.5']:.1%}"
    return f"pixel accuracy {scores.pixel_accuracy:.1%}  mean IoU {scores.mean_iu:.1%}"


class RunFolderWriter(Callback):
    """Writes TensorBoard events, the learning curves, and the scores and plots of the best epoch to the run folder."""

    NOT_PLOTTED = ("epoch", "step", "seconds", "validation_seconds")

    def __init__(self) -> None:
        self._events: SummaryWriter | None = None

    def on_train_start(self, folder: RunFolder) -> None:
        self._folder = folder.path

    def on_epoch_end(self, records: Records, scores: Scores | None, is_best: bool) -> None:
        from upscore.viz.plots import plot_curves

        last = records[-1]
        events = self._open_events(last["epoch"])
        for name, value in last.items():
            if name not in self.NOT_PLOTTED and value is not None:
                events.add_scalar(name, value, last["epoch"])
        events.flush()
        if scores is None:
            return
        plot_curves(records, self._folder / "curves.png")
        if is_best:
            write_text(self._folder / "scores.json", json.dumps(scores.to_json(), indent=2, allow_nan=False) + "\n")
            plot_scores(scores, self._folder)

    def on_train_end(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open_events(self, epoch: int) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        if self._events is None:  # a resumed run replaces the events after the epoch that it resumes from
            self._events = SummaryWriter(self._folder / "tensorboard", purge_step=epoch)
        return self._events


def plot_scores(scores: Scores, folder: Path) -> None:
    """Plot the precision-recall curve, or the confusion matrix and the scores per class, into a folder."""
    import torch

    from upscore.viz.plots import plot_confusion, plot_per_class, plot_precision_recall

    if isinstance(scores, InstanceScores):
        plot_precision_recall(scores, folder / "precision_recall.png")
    else:
        plot_confusion(torch.tensor(scores.confusion), list(scores.per_class), folder / "confusion.png")
        plot_per_class(scores, folder / "per_class.png")


class CallbackList(Callback):
    """Calls each of several callbacks in turn."""

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        self.callbacks = callbacks

    def on_log(self, message: str) -> None:
        for callback in self.callbacks:
            callback.on_log(message)

    def on_progress(self, task: str, done: int, total: int) -> None:
        for callback in self.callbacks:
            callback.on_progress(task, done, total)

    def on_train_start(self, folder: RunFolder) -> None:
        for callback in self.callbacks:
            callback.on_train_start(folder)

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        for callback in self.callbacks:
            callback.on_step_end(step, total_steps, loss)

    def on_epoch_end(self, records: Records, scores: Scores | None, is_best: bool) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(records, scores, is_best)

    def on_train_end(self) -> None:
        for callback in self.callbacks:
            callback.on_train_end()
